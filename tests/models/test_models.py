"""The nine networks: one contract, the paper's sizes, attention as published."""

import math
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rhseg_lib.errors import StudyError
from rhseg_lib.models import MODELS, build_model
from rhseg_lib.models.aspp import ASPP
from rhseg_lib.models.base import SegmentationModel
from rhseg_lib.models.blocks import resize
from rhseg_lib.models.ema import EMA

PARAMETERS = {
    "fcn_resnet50": 32_947_779,
    "unet_vgg16": 24_891_267,
    "deeplabv3plus_xception": 54_708_931,
    "deeplabv3plus_mobilenetv2": 5_813_523,
    "deeplabv3plus_mobilenetv2_ema": 5_829_683,
    "deeplabv3plus_mobilenetv2_ds": 3_856_083,
    "deeplabv3plus_mobilenetv2_ds_ema": 3_872_243,
    "deeplabv3plus_mobilenetv2_lite": 2_730_403,
    "deeplabv3plus_mobilenetv2_fast": 2_049_123,
}


def build_seeded(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(name)


def images_of(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="class", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="class")
def model(name: str) -> SegmentationModel:
    return build_seeded(name)


class TestEveryModel:
    def test_parameter_count(self, name: str, model: SegmentationModel) -> None:
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]

    def test_starts_undecided_and_gradients_reach_every_parameter(self, model: SegmentationModel) -> None:
        model.train().zero_grad()
        logits = model(images_of(2, 64, 64))
        assert logits.shape == (2, 3, 64, 64)
        loss = F.cross_entropy(logits, torch.arange(3).repeat_interleave(22)[:64].expand(2, 64, 64))
        assert loss.item() == pytest.approx(math.log(3), abs=0.1)
        loss.backward()
        for path, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), path
            # A bias in front of a norm has no effect; every filter and every norm has.
            if parameter.ndim > 1:
                assert parameter.grad.abs().max() > 0, path

    def test_evaluation_at_an_odd_size_is_deterministic_and_image_by_image(self, model: SegmentationModel) -> None:
        model.eval()
        images = images_of(2, 65, 97)
        with torch.no_grad():
            logits = model(images)
            assert logits.shape == (2, 3, 65, 97)
            assert torch.equal(logits, model(images))
            # Relative to the largest: with running statistics of one step, the scale of the logits is arbitrary.
            tolerance = 1e-3 * logits.abs().max().item()
            torch.testing.assert_close(model(images[1:]), logits[1:], rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("num_classes", "size"), [(2, (16, 16)), (5, (17, 31))])
    def test_output_shape(self, name: str, num_classes: int, size: tuple[int, int]) -> None:
        with torch.device("meta"):  # shapes without the arithmetic
            logits = build_model(name, num_classes).train()(torch.empty(2, 3, *size))
        assert logits.shape == (2, num_classes, *size)

    def test_training_batch_of_one_is_explained(self, model: SegmentationModel) -> None:
        with pytest.raises(StudyError, match="batch of one"):
            model.train()(images_of(1, 64, 64))

    def test_tiny_image_is_explained(self, model: SegmentationModel) -> None:
        with pytest.raises(StudyError, match="15 x 64"):
            model.eval()(images_of(2, 15, 64))

    def test_weights_follow_the_seed_and_survive_a_file(self, name: str, model: SegmentationModel, tmp_path) -> None:
        file = tmp_path / "weights.safetensors"
        save_file(build_seeded(name).state_dict(), file)
        model.load_state_dict(load_file(file))
        loaded = model.state_dict()
        for path, tensor in build_seeded(name).state_dict().items():
            assert torch.equal(tensor, loaded[path]), path


def test_resizing_aligns_the_corners() -> None:
    row = torch.tensor([[[[0.0, 1.0, 3.0]]]])
    assert resize(row, (1, 5)).tolist() == [[[[0, 0.5, 1, 2, 3]]]]
    assert resize(row, (1, 3)) is row


def test_xceptions_fine_features_are_taken_before_their_relu() -> None:
    """As in the original; all that follows is as timm computes it."""
    model = build_seeded("deeplabv3plus_xception").eval()
    theirs = timm.create_model("xception65", features_only=True, output_stride=16).eval()
    theirs.load_state_dict(model.encoder.model.state_dict())
    images = images_of(1, 32, 32)
    with torch.no_grad():
        *_, fine, _, _, deep = model.encoder(images)
        expected = theirs(images)
    assert fine.min() < 0
    torch.testing.assert_close(fine.relu(), expected[1], rtol=0, atol=0)
    torch.testing.assert_close(deep, expected[-1], rtol=0, atol=0)


def test_another_random_state_gives_other_weights() -> None:
    first = build_seeded("deeplabv3plus_mobilenetv2_lite")
    second = build_model("deeplabv3plus_mobilenetv2_lite")
    for (path, before), after in zip(first.named_parameters(), second.parameters(), strict=True):
        assert before.ndim == 1 or not torch.equal(before, after), path


def test_names_are_those_of_the_profile() -> None:
    from rhseg_lib.catalogue import MODEL_NAMES

    assert tuple(MODELS) == tuple(MODEL_NAMES)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(StudyError, match="unet_vgg16"):
        build_model("segformer")


def test_one_class_is_refused() -> None:
    with pytest.raises(StudyError, match="two classes"):
        build_model("unet_vgg16", num_classes=1)


@pytest.mark.parametrize("name", ["fcn_resnet50", "unet_vgg16", "deeplabv3plus_mobilenetv2"])
def test_missing_download_is_explained(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(request: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.device("meta"), pytest.raises(StudyError, match="could not be downloaded") as caught:
        build_model(name, pretrained=True)
    assert "pretrained=False" in caught.value.fix


def test_pretrained_keeps_the_encoder_and_initialises_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_marked(name: str, **options: object) -> nn.Module:
        pretrained = options.pop("pretrained", False)
        network = create_model(name, **options)
        if pretrained:
            for parameter in network.parameters():
                nn.init.constant_(parameter, 0.25)
        return network

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_marked)
    model = build_model("deeplabv3plus_mobilenetv2_ema", pretrained=True)
    assert all((parameter == 0.25).all() for parameter in model.encoder.parameters())
    assert all((bias == 0).all() for path, bias in model.aspp.named_parameters() if path.endswith("bias"))


@pytest.mark.parametrize("separable", [False, True])
def test_aspp_image_branch_sees_the_mean_alone(separable: bool) -> None:
    torch.manual_seed(0)
    aspp = ASPP(6, 4, separable=separable).eval()
    x = torch.randn(2, 6, 5, 7)
    seen = []
    aspp.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert aspp(x).shape == (2, 4, 5, 7)
    aspp(x.mean(dim=(2, 3), keepdim=True).expand_as(x))
    branches, flat = seen
    assert branches.shape == (2, 5 * 4, 5, 7)
    torch.testing.assert_close(branches[:, -4:], flat[:, -4:])
    assert not torch.allclose(branches[:, :-4], flat[:, :-4])


def global_mean(channel: list[list[float]]) -> float:
    """Equation 2."""
    return sum(sum(row) for row in channel) / (len(channel) * len(channel[0]))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def looped_attention(ema: EMA, group: list[list[list[float]]]) -> list[list[float]]:
    """One group's weights, pixel by pixel, after section 2.4 and Ouyang et al. 2023, section 3."""
    C, H, W = range(len(group)), range(len(group[0])), range(len(group[0][0]))
    mix, shift = ema.conv1x1.weight.flatten(1).tolist(), ema.conv1x1.bias.tolist()
    kernel, offset = ema.conv3x3.weight.tolist(), ema.conv3x3.bias.tolist()
    scale, bias = ema.norm.weight.tolist(), ema.norm.bias.tolist()

    row_mean = [[sum(group[c][i][j] for j in W) / len(W) for i in H] for c in C]
    column_mean = [[sum(group[c][i][j] for i in H) / len(H) for j in W] for c in C]
    row_gate = [[sigmoid(shift[c] + sum(mix[c][k] * row_mean[k][i] for k in C)) for i in H] for c in C]
    column_gate = [[sigmoid(shift[c] + sum(mix[c][k] * column_mean[k][j] for k in C)) for j in W] for c in C]

    narrow = []
    for c in C:
        gated = [[group[c][i][j] * row_gate[c][i] * column_gate[c][j] for j in W] for i in H]
        mean = global_mean(gated)
        spread = math.sqrt(global_mean([[(value - mean) ** 2 for value in row] for row in gated]) + 1e-5)
        narrow.append([[(value - mean) / spread * scale[c] + bias[c] for value in row] for row in gated])

    wide = [[[offset[c] for _ in W] for _ in H] for c in C]
    for c in C:
        for i in H:
            for j in W:
                for k in C:
                    for di in (-1, 0, 1):
                        for dj in (-1, 0, 1):
                            if i + di in H and j + dj in W:
                                wide[c][i][j] += kernel[c][k][di + 1][dj + 1] * group[k][i + di][j + dj]

    of_wide = softmax([global_mean(narrow[c]) for c in C])
    of_narrow = softmax([global_mean(wide[c]) for c in C])
    return [
        [sigmoid(sum(of_wide[c] * wide[c][i][j] + of_narrow[c] * narrow[c][i][j] for c in C)) for j in W] for i in H
    ]


@pytest.fixture
def ema() -> EMA:
    torch.manual_seed(0)
    ema = EMA(6, groups=2).double()
    nn.init.normal_(ema.norm.weight)
    nn.init.normal_(ema.norm.bias)
    return ema.requires_grad_(False)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (1, 6, 3, 1), (1, 6, 1, 4)])
def test_ema_is_the_published_formula(ema: EMA, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    groups = x.unflatten(1, (2, 3))
    expected = torch.tensor(
        [[looped_attention(ema, group) for group in image] for image in groups.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(ema.attention(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ema(x), (groups * expected[:, :, None]).reshape(shape), rtol=1e-10, atol=1e-12)


def test_ema_groups_share_weights_and_do_not_mix(ema: EMA) -> None:
    first, second = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    ordered, swapped = torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)
    torch.testing.assert_close(ema.attention(ordered).flip(1), ema.attention(swapped))


def test_ema_norm_fixes_the_weights_of_the_wide_branch(ema: EMA) -> None:
    """The mean of a normalised channel is the norm's bias: one of the two cross-spatial weights ignores the image."""
    pooled = ema.norm(torch.randn(4, 3, 5, 5, dtype=torch.float64)).mean(dim=(2, 3))
    torch.testing.assert_close(pooled, ema.norm.bias.expand(4, 3), rtol=0, atol=1e-12)


def test_ema_costs_16160_parameters_on_320_channels() -> None:
    assert sum(parameter.numel() for parameter in EMA(320, groups=8).parameters()) == 16_160
