"""Shared by all networks: checks of the input, output size, encoders, initialisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from rhseg_lib.errors import StudyError
from rhseg_lib.models.blocks import resize

SMALLEST_SIDE = 16  # pixels: one pixel at output stride 16


class SegmentationModel(nn.Module):
    """Encoder -> decoder -> classifier -> resize to the input's size.

    A subclass sets `encoder`, `decoder` and `classifier`, and defines `logits`.
    """

    encoder: Any  # a Module; those of segmentation-models-pytorch also have `out_channels`
    decoder: nn.Module
    classifier: nn.Conv2d

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K, h, w)` of images `(B, 3, H, W)`, at the decoder's output size."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Map float images `(B, 3, H, W)` to logits `(B, K, H, W)`, before any softmax.

        StudyError if a side is shorter than 16 pixels, or if a training batch holds a single image.
        """
        batch, _, height, width = images.shape
        if min(height, width) < SMALLEST_SIDE:
            raise StudyError(
                f"An image of {height} x {width} pixels is too small to segment.",
                where=type(self).__name__,
                fix=f"give images whose sides have {SMALLEST_SIDE} pixels or more",
            )
        # Required of every network, also of those that could train on one image, so that all see the same batches.
        if self.training and batch == 1:
            raise StudyError(
                "A training batch of one image: batch normalisation has nothing to average over after the ASPP's "
                "image pooling.",
                where=type(self).__name__,
                fix="train with at least two images per batch, and drop a last batch of one",
            )
        return resize(self.logits(images), (height, width))  # (B, K, H, W)


def imagenet_encoder(name: str, *, depth: int, output_stride: int, pretrained: bool) -> nn.Module:
    """An encoder of segmentation-models-pytorch; its output is the list of feature maps from fine to coarse."""
    imagenet = True if name.startswith("tu-") else "imagenet"  # timm's encoders take a flag, the others a name
    with explained_download(name):
        return get_encoder(name, depth=depth, output_stride=output_stride, weights=imagenet if pretrained else None)


@contextmanager
def explained_download(name: str) -> Iterator[None]:
    """Turn a failed download of ImageNet weights into a StudyError."""
    try:
        yield
    except OSError as error:  # base class of the errors that urllib and huggingface_hub raise without a network
        raise StudyError(
            f"The ImageNet weights of the encoder {name} could not be downloaded: {error}",
            where="pretrained=True",
            fix="connect to the network once (the weights are cached), or train from scratch with pretrained=False; "
            "HF_HUB_OFFLINE=1 in the environment skips the retries",
        ) from error


def initialise(model: SegmentationModel, *, keep_encoder: bool) -> None:
    """Initialise all networks alike, in place: Kaiming normal convolutions, identity norms, a near-zero classifier.

    The variance is set by a filter's inputs (`fan_in`): only this is right for depthwise filters too, and it keeps the
    signal's power from layer to layer where no norm does (U-Net). `keep_encoder` leaves ImageNet weights as they are.
    """
    for name, child in model.named_children():
        if keep_encoder and name == "encoder":
            continue
        for module in child.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.classifier.weight, std=0.01)  # near-equal logits: the first loss is close to ln K
