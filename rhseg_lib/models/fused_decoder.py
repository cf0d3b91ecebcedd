"""DeepLabv3+'s decoder with a third of the network's multiplications left out: the same function, for prediction.

The decoder's first 3x3 convolution acts on a context that was enlarged four times. Enlarging and convolving are both
linear, so the products with the kernel's nine taps can be taken before the enlargement, where there is a sixteenth of
the pixels. Enlarging by rows and by columns, each together with its three shifts, is then a matrix product.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rhseg_lib.models.blocks import resize
from rhseg_lib.models.deeplabv3plus import DeepLabV3Plus


def lightened(network: nn.Module) -> nn.Module:
    """A copy with the lighter decoder, in evaluation mode; of a network without that 3x3 convolution, a plain copy."""
    network = copy.deepcopy(network).eval()
    if isinstance(network, DeepLabV3Plus):
        decoder: Any = network.decoder
        if isinstance(decoder.fuse[0][0], nn.Conv2d):
            network.decoder = LighterDecoder(decoder)
    return network


class LighterDecoder(nn.Module):
    """A `deeplabv3plus.Decoder` without separable convolutions, in evaluation mode; see the module's docstring."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        convolution, norm, *first = decoder.fuse[0]
        convolution = fuse_conv_bn_eval(convolution, norm)
        out, channels = convolution.out_channels, convolution.in_channels - decoder.reduce[0].out_channels
        self.reduce = decoder.reduce
        self.taps = nn.Conv2d(channels, 9 * out, 1, bias=False)
        self.fine = nn.Conv2d(decoder.reduce[0].out_channels, out, 3, padding="same")
        self.rest = nn.Sequential(*first, *decoder.fuse[1])
        with torch.no_grad():
            of_context, of_fine = convolution.weight.split([channels, self.fine.in_channels], dim=1)
            # (out, C, 3 rows, 3 columns) -> (out * 3 columns * 3 rows, C, 1, 1)
            self.taps.weight.copy_(of_context.permute(0, 3, 2, 1).reshape(9 * out, channels, 1, 1))
            self.fine.weight.copy_(of_fine)
        self.fine.bias = convolution.bias

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        """Fuse `(B, C, H, W)` and `(B, 256, h, w)` to `(B, 256, H, W)`."""
        (height, width), (h, w) = fine.shape[-2:], context.shape[-2:]
        taps = self.taps(context).unflatten(1, (-1, 3)).flatten(2, 3)  # (B, 256 * 3, 3h, w)
        rows = enlarging(h, height, taps) @ taps  # (B, 256 * 3, H, w)
        rows = rows.unflatten(1, (-1, 3)).transpose(2, 3).flatten(3)  # (B, 256, H, 3w)
        enlarged = rows @ enlarging(w, width, taps).T  # (B, 256, H, W)
        return self.rest(enlarged + self.fine(self.reduce(fine)))


def enlarging(length: int, size: int, like: Tensor) -> Tensor:
    """Matrix (size, 3 * length) that resizes an axis, shifted by one place down, by none and up, with zeros outside."""
    axis = torch.eye(length, dtype=like.dtype, device=like.device)[None, None]
    matrix = F.pad(resize(axis, (size, length))[0, 0], (0, 0, 1, 1))  # (size + 2, length)
    return torch.cat([matrix[:-2], matrix[1:-1], matrix[2:]], dim=1)
