"""DeepLabv3+ (Chen et al. 2018, arXiv 1802.02611) and the paper's variants of it (section 2.1, Figure 1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rhseg_lib.models.aspp import ASPP
from rhseg_lib.models.base import SegmentationModel, imagenet_encoder
from rhseg_lib.models.blocks import conv_bn_relu, resize
from rhseg_lib.models.ema import EMA


class DeepLabV3Plus(SegmentationModel):
    """Encoder at output stride 16, attention, ASPP, and a decoder that fuses features of stride 4.

    `backbone` names the encoder, `tu-xception65` (the original) or `tu-mobilenetv2_100` (section 2.2); `pretrained`
    gives it ImageNet weights. `attention` is efficient multi-scale attention on the deepest features (section 2.4).
    `separable_aspp` and `separable_decoder` make the 3x3 convolutions there depthwise-separable (section 2.3).
    `width` is the number of channels of ASPP and decoder.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        pretrained: bool,
        backbone: str,
        attention: bool,
        separable_aspp: bool,
        separable_decoder: bool,
        width: int,
    ) -> None:
        super().__init__()
        self.encoder = imagenet_encoder(backbone, depth=5, output_stride=16, pretrained=pretrained)
        if backbone == "tu-xception65":
            take_fine_features_before_relu(self.encoder.model.blocks_1.stack)
        fine, deep = self.encoder.out_channels[2], self.encoder.out_channels[-1]
        self.attention = EMA(deep, groups=8) if attention else nn.Identity()
        self.aspp = ASPP(deep, width, separable=separable_aspp)
        self.decoder = Decoder(fine, width, separable=separable_decoder)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K, H/4, W/4)` of images `(B, 3, H, W)`."""
        features = self.encoder(images)
        fine, deep = features[2], features[-1]  # (B, 24 or 256, H/4, W/4), (B, 320 or 2048, H/16, W/16)
        context = self.aspp(self.attention(deep))  # (B, width, H/16, W/16)
        return self.classifier(self.decoder(fine, context))


def take_fine_features_before_relu(stack: nn.Sequential) -> None:
    """Give the decoder Xception's features of stride 4 before their ReLU, as the original does.

    timm returns the output of `act3`. That layer becomes an identity, and the next convolution applies the ReLU.
    """
    stack.act3.__class__ = nn.Identity  # in place: timm's hook stays on it
    stack.get_submodule("conv3").register_forward_pre_hook(lambda _, inputs: (F.relu(inputs[0]),))


class Decoder(nn.Module):
    """Refine the ASPP's context by the encoder's fine features: two 3x3 convolutions at output stride 4."""

    def __init__(self, fine_channels: int, channels: int, *, separable: bool) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(fine_channels, 48, 1)  # few, so that they do not outweigh the context
        self.fuse = nn.Sequential(
            conv_bn_relu(channels + 48, channels, 3, separable=separable, dropout=0.5),
            conv_bn_relu(channels, channels, 3, separable=separable, dropout=0.1),
        )

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        """Fuse `(B, C, H/4, W/4)` and `(B, width, H/16, W/16)` to `(B, width, H/4, W/4)`."""
        context = resize(context, fine.shape[-2:])  # (B, width, H/4, W/4)
        return self.fuse(torch.cat([context, self.reduce(fine)], dim=1))  # (B, width + 48, H/4, W/4) -> width
