"""What all networks share: the contract of input and output, the encoders, the initialisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from rhseg_lib.errors import StudyError
from rhseg_lib.models.blocks import resize

SMALLEST_SIDE = 16  # pixels; four halvings leave one


class SegmentationModel(nn.Module):
    """Encoder -> decoder -> classifier -> the input's size.

    A subclass sets `encoder`, `decoder`, `classifier` and writes `logits`.
    """

    encoder: Any  # a Module; smp's add `out_channels`
    decoder: nn.Module
    classifier: nn.Conv2d

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K, h, w)` of images `(B, 3, H, W)`, at whatever size the network works out."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Segment a batch.

        Parameters
        ----------
        images : Tensor
            Float, `(B, 3, H, W)`, both sides 16 pixels or more.

        Returns
        -------
        Tensor
            Logits `(B, K, H, W)`, before any softmax.

        Raises
        ------
        StudyError
            A side is shorter than 16 pixels, or a training batch holds a single image.
        """
        batch, _, height, width = images.shape
        if min(height, width) < SMALLEST_SIDE:
            raise StudyError(
                f"An image of {height} x {width} pixels is too small to segment.",
                where=type(self).__name__,
                fix=f"give images whose sides have {SMALLEST_SIDE} pixels or more",
            )
        # Asked of every network, also of those that could do it, so that all train under the same batches.
        if self.training and batch == 1:
            raise StudyError(
                "A training batch of one image: batch normalisation has nothing to average over "
                "where the ASPP pools the image to one pixel.",
                where=type(self).__name__,
                fix="train with two images or more per batch, and drop a last batch of one",
            )
        return resize(self.logits(images), (height, width))  # (B, K, H, W)


def imagenet_encoder(name: str, *, depth: int, output_stride: int, pretrained: bool) -> nn.Module:
    """An encoder of segmentation-models-pytorch; its output is the list of features from fine to coarse."""
    imagenet = True if name.startswith("tu-") else "imagenet"  # timm's encoders take a flag, the others a name
    with explained_download(name):
        return get_encoder(name, depth=depth, output_stride=output_stride, weights=imagenet if pretrained else None)


@contextmanager
def explained_download(name: str) -> Iterator[None]:
    """Turn a failed download of ImageNet weights into a StudyError."""
    try:
        yield
    except OSError as error:  # the common base of what urllib and huggingface_hub raise without a network
        raise StudyError(
            f"The ImageNet weights of the encoder {name} could not be downloaded: {error}",
            where="pretrained=True",
            fix="connect to the network once (the weights are kept), or train from scratch with pretrained=False; "
            "HF_HUB_OFFLINE=1 in the environment spares the retries",
        ) from error


def initialise(model: SegmentationModel, *, keep_encoder: bool) -> None:
    """Give all networks the same start: Kaiming normal convolutions, neutral norms, an undecided classifier.

    The spread is set by the inputs of a filter (`fan_in`): this alone is right for depthwise filters too, and it
    keeps the signal's power from layer to layer where no norm does (U-Net).

    Parameters
    ----------
    model : SegmentationModel
        Changed in place, drawing from torch's random state.
    keep_encoder : bool
        Leave the encoder as it is (it holds ImageNet weights).
    """
    for name, part in model.named_children():
        if keep_encoder and name == "encoder":
            continue
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.classifier.weight, std=0.01)  # near-equal scores: the first loss is close to ln K
