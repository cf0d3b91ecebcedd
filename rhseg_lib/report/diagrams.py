"""Diagrams of the architectures, drawn from the live models (Figures 1 to 4)."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from rhseg_lib.catalogue import SHORT
from rhseg_lib.report.figures import ACCENT, GREY, subplots


def block_diagram(
    boxes: list[tuple[str, str]],
    *,
    places: list[tuple[int, int]] | None = None,
    arrows: list[tuple[int, int]] | None = None,
    skips: dict[tuple[int, int], str] | None = None,
    highlight: set[int] | frozenset[int] = frozenset(),
) -> Figure:
    """Boxes, each a name and a detail such as a shape, with arrows between them.

    `places` gives the column and row of each box (default: one row), `arrows` the numbers of two boxes (default: each
    box to the next), `skips` the arrows that pass over boxes, with labels; the boxes in `highlight` are orange.
    """
    places = places or [(number, 0) for number in range(len(boxes))]
    arrows = arrows or [(number, number + 1) for number in range(len(boxes) - 1)]
    columns, rows = (1 + max(place[axis] for place in places) for axis in (0, 1))
    above = 0.5 if skips else 0
    figure, (axis,) = subplots((1.75 * columns, 1.35 * rows + 0.9 * above))
    corners = [(2 * column, -1.5 * row) for column, row in places]
    patches = []
    for number, ((name, detail), (x, y)) in enumerate(zip(boxes, corners, strict=True)):
        face, edge = ("#fff1e6", ACCENT) if number in highlight else ("#f6f8fa", GREY)
        patches.append(FancyBboxPatch((x, y), 1.6, 1, boxstyle="round,pad=0.04", fc=face, ec=edge, lw=1.2))
        axis.add_patch(patches[-1])
        axis.text(x + 0.8, y + 0.82, name, ha="center", va="center", fontsize=9, weight="bold")
        axis.text(x + 0.8, y + 0.34, detail, ha="center", va="center", fontsize=8, linespacing=1.3)
    style = {"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 0}
    for source, target in arrows:  # from centre to centre, clipped to the edges of the boxes
        (x, y), (to_x, to_y) = corners[source], corners[target]
        bend = "arc3" if x == to_x or y == to_y else "angle,angleA=-90,angleB=180"
        ends = {"connectionstyle": bend, "patchA": patches[source], "patchB": patches[target]}
        axis.annotate("", (to_x + 0.8, to_y + 0.5), (x + 0.8, y + 0.5), arrowprops=style | ends)
    for (source, target), label in (skips or {}).items():
        (x, y), (to_x, _) = corners[source], corners[target]
        left, right, high = x + 0.8, to_x + 0.8, y + 1.3
        axis.plot([left, left, right], [y + 1.04, high, high], color=GREY, lw=1)
        axis.annotate("", (right, y + 1.05), (right, high), arrowprops=style)
        axis.text((left + right) / 2, high + 0.04, label, ha="center", va="bottom", fontsize=8)
    axis.set(xlim=(-0.1, 2 * columns - 0.3), ylim=(-1.5 * (rows - 1) - 0.1, 1.1 + above))
    axis.set_axis_off()
    figure.set_layout_engine("tight", pad=0.2)
    return figure


def stage_diagram(stages: pd.DataFrame, *, changed: set[str]) -> Figure:
    """Figure 1: the stages of a network with output shape, parameters and multiply-accumulates."""
    boxes = [("image", "3 × 512 × 512")]
    for row in stages.itertuples():
        shape = " × ".join(map(str, row.output_shape))
        boxes.append((row.stage, f"{shape}\n{row.parameters:,} parameters\n{row.macs / 1e9:.2f} GMAC"))
    number_of = {name: number for number, (name, _) in enumerate(boxes)}
    skips = {(number_of["encoder"], number_of["decoder"]): "low-level features"}
    return block_diagram(boxes, skips=skips, highlight={number_of[name] for name in changed})


def work_bars(work: dict[str, dict[str, int]]) -> Figure:
    """Multiply-accumulates of each stage, stacked, one bar per model; `work` maps model -> module path -> count."""
    stages = ["encoder", "attention", "aspp", "decoder", "classifier"]
    table = pd.DataFrame(work).reindex(stages).fillna(0).rename(columns=SHORT) / 1e9
    figure, (axis,) = subplots((10, 0.55 * len(work) + 1.3))
    table.T.plot.barh(stacked=True, ax=axis, color=sns.color_palette("colorblind", len(stages)), width=0.7)
    axis.grid(visible=False)
    for place, total in enumerate(table.sum()):
        axis.text(total, place, f" {total:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="GMAC at 512×512", xlim=(0, 1.1 * table.sum().max()))
    axis.legend(ncols=len(stages), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def residual_diagram(encoder: nn.Module, side: int) -> Figure:
    """Figure 2: the steps of the encoder's first shape-preserving inverted residual, read from the live block."""
    block: Any = next(m for m in encoder.modules() if type(m).__name__ == "InvertedResidual" and m.has_skip)
    channels = block.conv_pw.in_channels
    steps = {"1×1 widens": block.conv_pw, "3×3 depthwise": block.conv_dw, "1×1 narrows": block.conv_pwl}
    boxes = [("input", f"{channels} × {side} × {side}")]
    for (name, conv), activation in zip(steps.items(), ("BN, ReLU6", "BN, ReLU6", "BN, linear"), strict=True):
        count = sum(p.numel() for p in conv.parameters())
        boxes.append((name, f"{conv.out_channels} × {side} × {side}\n{count:,} weights\n{activation}"))
    boxes.append(("+ input", f"{channels} × {side} × {side}\nresidual"))
    return block_diagram(boxes, skips={(0, 4): "identity"}, highlight={2})


def separable_bars(ratios: pd.DataFrame) -> Figure:
    """Figure 3: work of the two steps of a separable convolution, as a share of a standard one's."""
    figure, (axis,) = subplots((9, 2.8))
    names = [f"{row.M} → {row.N}, {row.D_K}×{row.D_K}" for row in ratios.itertuples()]
    depthwise = 100 / ratios["N"]
    axis.barh(names, depthwise, color="#0ea5e9", label="depthwise, 1/N")
    axis.barh(names, 100 * ratios["counted"] - depthwise, left=depthwise, color="#f59e0b", label="pointwise, 1/D_K²")
    axis.set(xlabel="% of the standard convolution’s multiply-accumulates")
    axis.invert_yaxis()
    axis.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1))
    return figure


def ema_diagram(channels: int, groups: int, side: int) -> Figure:
    """Figure 4: steps and shapes of the two branches of EMA, for (channels, side, side) features."""
    width, area = channels // groups, f"{side} × {side}"
    steps = {  # name -> detail, column and row
        "features": (f"{channels} × {area}", (0, 0)),
        "split": (f"{groups} groups of\n{width} × {area}", (1, 0)),
        "row, column means": (f"{width} × ({side} + {side})", (2, 0)),
        "1×1, sigmoid": (f"two gates\n{width} × {side}", (3, 0)),
        "gate, GroupNorm": (f"1×1 branch\n{width} × {area}", (4, 0)),
        "3×3": (f"3×3 branch\n{width} × {area}", (2, 1)),
        "global means": (f"Eq. 2, softmax\n{width} per branch", (4, 1)),
        "cross-spatial": (f"each weights the other\n1 × {area}", (4, 2)),
        "sum, sigmoid": (f"{groups} maps\n1 × {area}", (3, 2)),
        "× features": (f"{channels} × {area}", (2, 2)),
    }
    return block_diagram(
        [(name, detail) for name, (detail, _) in steps.items()],
        places=[place for _, place in steps.values()],
        arrows=[(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (4, 6), (5, 6), (6, 7), (7, 8), (8, 9)],
        highlight={6},
    )
