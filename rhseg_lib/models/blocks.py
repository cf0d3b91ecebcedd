"""The layers that the networks are made of."""

from torch import Tensor, nn
from torch.nn import functional as F


def resize(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize of `(B, C, h, w)` to `(B, C, *size)`, the centres of the corner pixels aligned as in DeepLab."""
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)


class SeparableConv2d(nn.Sequential):
    """Depthwise, then pointwise convolution, keeping the map's size (paper section 2.3, Figure 3).

    Nothing stands between the two, so that the cost is that of Equation 1 exactly.

    Parameters
    ----------
    in_channels, out_channels : int
        M and N of Equation 1.
    kernel_size : int
        D_K of Equation 1; odd.
    dilation : int
        Spacing of the depthwise taps in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=in_channels,
            bias=False,
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
    """Convolution keeping the map's size, batch norm, ReLU, and dropout where its rate is not zero.

    The convolution keeps its bias, idle before a norm: the paper's parameter counts include it.
    """
    if separable:
        conv: nn.Module = SeparableConv2d(in_channels, out_channels, kernel_size, dilation)
    else:
        padding = dilation * (kernel_size // 2)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation)
    block = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
    if dropout > 0:
        block.append(nn.Dropout(dropout))
    return block
