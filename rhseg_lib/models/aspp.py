"""Atrous spatial pyramid pooling (Chen et al. 2018, arXiv 1802.02611; paper section 2.3)."""

import torch
from torch import Tensor, nn

from rhseg_lib.models.blocks import conv_bn_relu

DILATIONS = (6, 12, 18)  # for output stride 16


class ASPP(nn.Module):
    """Five parallel branches, fused by a 1x1 convolution: a 1x1, three dilated 3x3 and image pooling.

    `separable` replaces the standard 3x3 convolutions (the paper's tables) by depthwise-separable ones (its text).
    """

    def __init__(self, in_channels: int, out_channels: int = 256, *, separable: bool = False) -> None:
        super().__init__()
        self.pointwise = conv_bn_relu(in_channels, out_channels, 1)
        self.dilated = nn.ModuleList(
            conv_bn_relu(in_channels, out_channels, 3, dilation=dilation, separable=separable) for dilation in DILATIONS
        )
        self.pooled = conv_bn_relu(in_channels, out_channels, 1)
        self.project = conv_bn_relu((2 + len(DILATIONS)) * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H/16, W/16)` to `(B, out_channels, H/16, W/16)`."""
        image = self.pooled(x.mean(dim=(2, 3), keepdim=True))  # (B, out, 1, 1)
        branches = [self.pointwise(x), *(branch(x) for branch in self.dilated), image.expand(-1, -1, *x.shape[2:])]
        return self.project(torch.cat(branches, dim=1))  # (B, 5 * out, H/16, W/16) -> (B, out, H/16, W/16)
