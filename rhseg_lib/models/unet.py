"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) on a VGG-16 encoder, as counted in the paper's Table 3."""

import torch
from torch import Tensor, nn

from rhseg_lib.models.base import SegmentationModel, imagenet_encoder
from rhseg_lib.models.blocks import resize


class UNet(SegmentationModel):
    """Five VGG stages, four bilinear upsampling steps, no batch norm; `pretrained`: ImageNet weights in the encoder."""

    def __init__(self, num_classes: int, *, pretrained: bool) -> None:
        super().__init__()
        self.encoder = imagenet_encoder("vgg16", depth=4, output_stride=32, pretrained=pretrained)
        self.decoder = Decoder(self.encoder.out_channels)
        self.classifier = nn.Conv2d(64, num_classes, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K, H, W)` of images `(B, 3, H, W)`."""
        return self.classifier(self.decoder(self.encoder(images)))


class Decoder(nn.Module):
    """From the deepest features: resize, concatenate the skip, two 3x3 convolutions to the skip's channels.

    `encoder_channels` are those of the encoder's features, fine to coarse.
    """

    def __init__(self, encoder_channels: list[int]) -> None:
        super().__init__()
        *skips, channels = encoder_channels
        self.steps = nn.ModuleList()
        for skip in reversed(skips):
            self.steps.append(
                nn.Sequential(
                    nn.Conv2d(channels + skip, skip, 3, padding=1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(skip, skip, 3, padding=1),
                    nn.ReLU(inplace=True),
                )
            )
            channels = skip

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map features of strides 1, 2, 4, 8, 16 to `(B, 64, H, W)`."""
        *skips, x = features  # x: (B, 512, H/16, W/16)
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = resize(x, skip.shape[-2:])  # twice the size, or one pixel more if the skip's side is odd
            x = step(torch.cat([skip, x], dim=1))  # 512, 256, 128, 64 channels
        return x
