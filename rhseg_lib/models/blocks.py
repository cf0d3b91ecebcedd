"""Layers shared by the networks."""

from torch import Tensor, nn
from torch.nn import functional as F


def resize(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize of `(B, C, h, w)` to `(B, C, *size)`, with aligned corners as in DeepLab."""
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)


class SeparableConv2d(nn.Sequential):
    """Depthwise, then pointwise convolution, keeping the map's size (paper section 2.3, Figure 3).

    There is no norm or activation between the two, so that the cost is exactly that of Equation 1, in which
    `in_channels` is M, `out_channels` N and `kernel_size`, an odd number, D_K.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding="same", dilation=dilation, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    dilation: int = 1,
    separable: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolution that keeps the map's size, batch norm, ReLU and, at a rate above zero, dropout.

    The convolution has a bias, although the norm cancels it: the paper's parameter counts include it.
    """
    if separable:
        conv: nn.Module = SeparableConv2d(in_channels, out_channels, kernel_size, dilation)
    else:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding="same", dilation=dilation)
    block = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
    if dropout > 0:
        block.append(nn.Dropout(dropout))
    return block
