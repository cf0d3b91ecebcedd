"""Efficient multi-scale attention (Ouyang et al. 2023, arXiv 2305.13563; paper section 2.4, Figure 4)."""

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Weight every pixel of every channel group, from two branches with different receptive fields.

    The C `channels`, a multiple of G, are split into G `groups`, which share the weights of both branches. The 1x1
    branch gates the group by its row and column means; the 3x3 branch convolves it. Each branch's global means
    (Equation 2), after a softmax over the channels, weight the *other* branch's channels: cross-spatial learning. As
    published, the 1x1 branch ends in a norm per channel, which fixes its global means at the norm's biases: the weights
    it gives to the 3x3 branch are learned, but the same for every image.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        width = channels // groups
        self.groups = groups
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.norm = nn.GroupNorm(width, width)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def attention(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to one weight in (0, 1) per group and pixel, `(B, G, H, W)`."""
        batch, channels, height, width = x.shape
        x = x.reshape(batch * self.groups, channels // self.groups, height, width)  # (B*G, C/G, H, W)

        row_means = x.mean(dim=3, keepdim=True)  # (B*G, C/G, H, 1)
        column_means = x.mean(dim=2, keepdim=True)  # (B*G, C/G, 1, W)
        # One convolution mixes the channels of both encodings, so they are concatenated.
        strip = torch.cat([row_means, column_means.transpose(2, 3)], dim=2)  # (B*G, C/G, H + W, 1)
        row_gates, column_gates = self.conv1x1(strip).sigmoid().split([height, width], dim=2)
        local = self.norm(x * row_gates * column_gates.transpose(2, 3))  # (B*G, C/G, H, W)
        wide = self.conv3x3(x)  # (B*G, C/G, H, W)

        scores = average_channels(local, of=wide) + average_channels(wide, of=local)  # (B*G, H * W)
        return scores.sigmoid().reshape(batch, self.groups, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Weight features `(B, C, H, W)`; the shape is unchanged."""
        grouped = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        return (grouped * self.attention(x).unsqueeze(2)).flatten(1, 2)  # (B, C, H, W)


def average_channels(weighting: Tensor, *, of: Tensor) -> Tensor:
    """Average the channels of one `(N, C, H, W)` map, weighted by the other's global means: `(N, H * W)`."""
    weights = weighting.mean(dim=(2, 3)).softmax(dim=1)  # (N, C), Equation 2
    return torch.bmm(weights.unsqueeze(1), of.flatten(2)).squeeze(1)  # (N, 1, C) @ (N, C, H * W)
