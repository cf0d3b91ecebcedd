"""Slag thickness of every tube in a mask: where the band's edges and the tube's sides are, in pixels.

The thickness is the distance between the upper and the lower edge of the slag band along the tube's axis, averaged
over equally spaced columns across the central 96 % of the tube's width. Where slag has flaked off, the edge is
interpolated. Drips are included; the thickness without drips is given beside it. Tubes stand upright in the image, up
to a lean of about 30 degrees.

In steps: narrow gaps in a class, such as a cable's, are closed; each connected piece of slag proposes a tube; a line is
fitted to each side on the rows that show bare tube (`sides`), the axis is their bisector; in each column along the axis
the outermost slag is an edge if bare tube lies beyond it; dents and columns without an edge are bridged.
"""

import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from rhseg_lib.thickness.sides import MARGIN, Line, Runs, find_sides

OTHER, TUBE, SLAG, OUTSIDE = range(4)  # classes of a mask in this module
LARGEST = 1024  # pixels: a mask with a longer side is reduced to it
GAP = 0.021  # of the shorter side of the mask: gaps up to this width are closed
SMALLEST = 0.0005  # of the mask: smaller pieces of slag propose no tube
COLUMNS, WIDTH_SHARE = 96, 0.96  # columns along the axis, and the central share of the width that they cover
WINDOW, QUANTILE = 61, 0.6  # columns of the robust course of an edge, and its outward quantile
DENT = 0.005, 0.15  # of the shorter side, plus of the thickness: an edge further inwards is a dent
DRIP = 0.012  # of the shorter side: a lower edge further outwards is a drip
BEYOND = 0.006  # of the shorter side: bare tube must be visible within this distance beyond an edge
CRUST = 1.15  # half widths: slag may extend this far from the axis
REST = 0.12  # of the shorter side: maximum height of a bar that hides the band from side to side
LEAST_SEEN = 0.5  # of the columns on which an edge must be seen
MOST_TAPER = 0.14  # by which the slopes of the sides may differ

SIDE_HIDDEN = "a side of the tube is not seen"
SIDE_CUT = "a side of the tube is cut by the frame"
SIDE_OF_BAR = "a side of the tube may be the edge of a bar"
NOT_PARALLEL = "the sides of the tube are not parallel"
MERGED = "two tubes cannot be told apart"
BAND_CUT = "the slag band is cut by the frame"
NOT_BEYOND = "no bare tube is seen beyond an edge of the slag band"
COVERED = "the slag band is covered"


@dataclass(frozen=True)
class Measurement:
    """One tube of a mask; lengths in pixels of the mask, NaN where `problem` says why there is none."""

    x: float  # where the axis crosses the middle of the slag band
    y: float
    roll: float = math.nan  # degrees, of the axis against the vertical; its lower end leans to the right if positive
    diameter_px: float = math.nan  # between the sides, on the level of the band
    thickness_px: float = math.nan
    drip_free_px: float = math.nan  # thickness without the drips below the band
    seen: float = math.nan  # share of the width on which both edges of the band were seen
    problem: str = ""
    # For drawing, x and y: upper and lower edge (2, N, 2); ends of the axis at the band (2, 2); left and right side.
    edges: np.ndarray = field(default_factory=lambda: np.zeros((2, 0, 2)), compare=False)
    axis: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)), compare=False)
    sides: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 2)), compare=False)


@dataclass(frozen=True)
class _Axis:
    """Coordinates of a tube: `across` its axis, to the right, and `along` it, downwards; pixels from `origin`."""

    origin: np.ndarray  # (2,) x, y
    across: np.ndarray  # unit vectors
    along: np.ndarray

    def points(self, across: np.ndarray, along: np.ndarray) -> np.ndarray:
        """(...) and (...) -> (..., 2) x, y."""
        return self.origin + np.multiply.outer(across, self.across) + np.multiply.outer(along, self.along)

    def meets(self, line: Line) -> float:
        """Where the perpendicular through the origin meets a side, across."""
        return (line.x(self.origin[1]) - self.origin[0]) / (self.across[0] - line.slope * self.across[1])


@dataclass(frozen=True)
class _Pieces:
    """The connected pieces of slag in a mask, the largest first."""

    labels: np.ndarray  # (H, W) int32
    boxes: np.ndarray  # (N, 5) left, top, width, height, area by label
    centres: np.ndarray  # (N, 2) x, y
    order: list[int]


def measure(mask: np.ndarray, *, tube: int = 1, slag: int = 2) -> list[Measurement]:
    """Measure every tube that shows slag in a mask (H, W) of class indices, from left to right.

    `tube` and `slag` are the indices of bare tube and of slag on it. A tube that shows slag but cannot be measured is
    listed with its problem; a mask without slag on a tube gives an empty list.
    """
    reduced, scale = mask, max(1.0, max(mask.shape) / LARGEST)
    if scale > 1:
        size = tuple(max(1, round(side / scale)) for side in mask.shape[::-1])
        reduced = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    grid = _close_gaps(reduced, tube, slag)
    band = (grid == SLAG).astype(np.uint8)
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(band, connectivity=8)
    least = max(SMALLEST * grid.size, 4)
    order = [int(k) for k in np.argsort(-boxes[1:, cv2.CC_STAT_AREA]) + 1 if boxes[k, cv2.CC_STAT_AREA] >= least]
    pieces, runs, found, used = _Pieces(labels, boxes, centres, order), Runs(grid > OTHER, band), [], set[int]()
    for seed in order:
        if seed not in used and _touches_tube(grid, labels, boxes[seed], seed):
            found.append(_measure_one(grid, pieces, seed, runs, used))
    found = _deduplicated(found, grid)
    return [_enlarged(one, scale) for one in sorted(found, key=lambda one: one.x)]


def _close_gaps(mask: np.ndarray, tube: int, slag: int) -> np.ndarray:
    """Classes `TUBE`, `SLAG` and `OTHER`, with narrow gaps between pixels of one class closed.

    A gap becomes slag only where neither class was: bare tube between drips stays what it is.
    """
    side = max(3, round(GAP * min(mask.shape)) | 1)
    band = (mask == slag).astype(np.uint8)
    body = band | (mask == tube)
    closed, closed_band = (_closed(binary, side) for binary in (body, band))
    return np.where(body, body + band, closed + (closed & closed_band)).astype(np.uint8)


def _closed(binary: np.ndarray, side: int) -> np.ndarray:
    """Morphological closing by a square, as if the image went on beyond its frame."""
    padded = cv2.copyMakeBorder(binary, side, side, side, side, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return closed[side:-side, side:-side]


def _touches_tube(grid: np.ndarray, labels: np.ndarray, box: np.ndarray, label: int) -> bool:
    """Whether at least a tenth of the pixels around a piece of slag are bare tube."""
    left, top, width, height = box[:4]
    here = np.s_[max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2]
    piece = (labels[here] == label).astype(np.uint8)
    around = cv2.dilate(piece, np.ones((5, 5), np.uint8)) > piece
    return bool((grid[here][around] == TUBE).mean() >= 0.1) if around.any() else False


def _measure_one(grid: np.ndarray, pieces: _Pieces, seed: int, runs: Runs, used: set[int]) -> Measurement:
    """Measure the tube that a piece of slag is on; adds the pieces on that tube to `used`."""
    used.add(seed)
    centre, box = pieces.centres[seed], pieces.boxes[seed]
    sides = find_sides(runs, (float(centre[0]), float(centre[1])))
    left, right = sides.left, sides.right
    if left is None or right is None:
        margin = max(2, MARGIN * runs.shorter)
        cut = box[0] < margin or box[0] + box[2] > grid.shape[1] - margin
        return Measurement(float(centre[0]), float(centre[1]), problem=SIDE_CUT if cut else SIDE_HIDDEN)
    if sides.uncertain:
        return Measurement(float(centre[0]), float(centre[1]), problem=SIDE_OF_BAR)
    axis, half = _bisector(left, right, centre)
    on_tube, top, bottom = _band(grid, pieces, seed, axis, half)
    used.update(on_tube, _pieces_near_tube(pieces, axis, half))
    one = _located(axis, half, top, bottom)
    if abs(left.slope - right.slope) > MOST_TAPER:
        return replace(one, problem=NOT_PARALLEL)

    across = WIDTH_SHARE * half * np.linspace(-1, 1, COLUMNS)
    pad = math.ceil(0.04 * runs.shorter)
    along = np.arange(math.floor(top) - pad, math.ceil(bottom) + pad + 1)
    classes, band = _sampled(grid, pieces.labels, on_tube, axis.points(across, along[:, None]))
    if not sides.barred and _is_split(classes, band):
        return replace(one, problem=MERGED)
    reach = max(2, round(BEYOND * runs.shorter))
    upper, upper_cut = _edge(classes, band, along, reach, -1)
    lower, lower_cut = _edge(classes, band, along, reach, 1)
    one = replace(one, seen=float(np.isfinite(upper - lower).mean()))
    if min(np.isfinite(upper).mean(), np.isfinite(lower).mean()) < LEAST_SEEN:
        if max(upper_cut, lower_cut) > 0.2:
            return replace(one, problem=BAND_CUT)
        return replace(one, problem=NOT_BEYOND if band.any(0).mean() >= LEAST_SEEN else COVERED)
    dent = DENT[0] * runs.shorter + DENT[1] * (np.nanmedian(lower) - np.nanmedian(upper))
    upper, lower = -_bridged(-upper, dent), _bridged(lower, dent)
    drip_free = _without_drips(lower, DRIP * runs.shorter)
    axis_ends = axis.points(np.zeros(2), np.array((upper.mean(), lower.mean())))
    return replace(
        one,
        x=float(axis_ends[:, 0].mean()),
        y=float(axis_ends[:, 1].mean()),
        thickness_px=float((lower - upper).mean()),
        drip_free_px=float((drip_free - upper).mean()),
        edges=np.stack([axis.points(across, upper), axis.points(across, lower)]),
        axis=axis_ends,
    )


def _located(axis: _Axis, half: float, top: float, bottom: float) -> Measurement:
    """What is known of a tube once its sides and the extent of its band along the axis are found."""
    more = 0.3 * (bottom - top)  # the sides are drawn a little longer than the band
    sides = axis.points(half * np.array(((-1.0,), (1.0,))), np.array((top - more, bottom + more)))
    x, y = axis.points(np.zeros(1), np.full(1, (top + bottom) / 2))[0]
    roll = math.degrees(math.atan2(axis.along[0], axis.along[1]))
    return Measurement(float(x), float(y), roll=roll, diameter_px=2 * half, sides=sides)


def _bisector(left: Line, right: Line, centre: np.ndarray) -> tuple[_Axis, float]:
    """The axis between two sides, with its origin on the level of `centre`, and half the distance of the sides."""
    directions = np.array([(side.slope, 1.0) for side in (left, right)])
    down = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).sum(0)
    down /= np.linalg.norm(down)
    axis = _Axis(centre, np.array((down[1], -down[0])), down)
    low, high = axis.meets(left), axis.meets(right)
    return replace(axis, origin=centre + (low + high) / 2 * axis.across), (high - low) / 2


def _band(grid: np.ndarray, pieces: _Pieces, seed: int, axis: _Axis, half: float) -> tuple[list[int], float, float]:
    """The pieces of slag that make up the band of a tube, `seed` first, and where it begins and ends along the axis.

    A piece belongs to it if it lies between the sides and is near along the axis, or is separated only by a bar.
    """
    members, shorter = [seed], min(grid.shape)
    left, top, width, height = pieces.boxes[:, :4].T
    along = (np.stack([left + width / 2, top + height / 2], axis=1) - axis.origin) @ axis.along
    across = (pieces.centres - axis.origin) @ axis.across
    start, end = along[seed] - height[seed] / 2, along[seed] + height[seed] / 2
    for piece in pieces.order:
        if piece == seed or abs(across[piece]) >= CRUST * half:
            continue
        first, last = along[piece] - height[piece] / 2, along[piece] + height[piece] / 2
        gap = max(first - end, start - last)
        between = (end, first) if first > end else (last, start)
        if gap < 0.25 * (end - start) or (gap < REST * shorter and _is_covered(grid, axis, half, between)):
            members.append(piece)
            start, end = min(start, first), max(end, last)
    return members, float(start), float(end)


def _pieces_near_tube(pieces: _Pieces, axis: _Axis, half: float) -> list[int]:
    """Pieces of slag on or close to a tube, its band or not; none of them starts another tube."""
    away = pieces.centres - axis.origin
    near = (np.abs(away @ axis.across) < CRUST * half) & (np.abs(away @ axis.along) < 6 * half)
    return np.flatnonzero(near).tolist()


def _is_covered(grid: np.ndarray, axis: _Axis, half: float, between: tuple[float, float]) -> bool:
    """Whether something in front of the tube hides it from side to side between two places along its axis."""
    levels = np.linspace(*between, 7)[1:-1, None]
    classes, _ = _sampled(grid, np.zeros_like(grid), [], axis.points(half * np.linspace(-0.9, 0.9, 15), levels))
    return bool((classes == OTHER).mean(1).max() > 0.5)


def _is_split(classes: np.ndarray, band: np.ndarray) -> bool:
    """Whether something other than tube runs through the whole height of the band: two tubes that touch elsewhere."""
    gap = (classes[band.any(1)] == OTHER).all(0)
    return bool(gap[8:-8].any() and band[:, : COLUMNS // 2].any() and band[:, COLUMNS // 2 :].any())


def _sampled(
    grid: np.ndarray, labels: np.ndarray, members: list[int], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Classes at points (R, C, 2) x, y, `OUTSIDE` beyond the frame; and whether one of `members` is there."""
    height, width = grid.shape
    x, y = np.rint(np.moveaxis(points, -1, 0)).astype(int)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    return np.where(outside, OUTSIDE, grid[y, x]), np.isin(labels[y, x], members) & ~outside


def _edge(
    classes: np.ndarray, band: np.ndarray, along: np.ndarray, reach: int, outward: int
) -> tuple[np.ndarray, float]:
    """Where the band ends in each column, NaN without bare tube beyond; and the share of columns the frame cuts."""
    rows = band.argmax(0) if outward < 0 else len(band) - 1 - band[::-1].argmax(0)
    beyond = rows + outward * np.arange(1, reach + 1)[:, None]
    next_to = classes[beyond.clip(0, len(band) - 1), np.arange(band.shape[1])]
    has_slag = band.any(0)
    seen = has_slag & (next_to == TUBE).any(0)
    return np.where(seen, along[rows] + 0.5 * outward, np.nan), float((has_slag & (next_to[0] == OUTSIDE)).mean())


def _bridged(edge: np.ndarray, dent: float) -> np.ndarray:
    """An edge, outwards positive, in which dents and columns without an edge are bridged by a straight line."""
    columns = np.arange(len(edge))
    known = np.isfinite(edge)
    filled = np.interp(columns, columns[known], edge[known])
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(filled, WINDOW // 2, mode="reflect"), WINDOW)
    course = np.quantile(windows, QUANTILE, axis=1)
    kept = known & (edge >= course - dent)
    return np.interp(columns, columns[kept], edge[kept]) if kept.any() else course


def _without_drips(lower: np.ndarray, drip: float) -> np.ndarray:
    """A lower edge with a cubic, fitted to the columns without drips, in place of the drips."""
    places, inliers = np.linspace(-1, 1, len(lower)), np.ones(len(lower), bool)
    course = lower
    for _ in range(6):
        course = np.polyval(np.polyfit(places[inliers], lower[inliers], 3), places)
        now = (lower - course < drip) & (course - lower < 2 * drip)
        if now.sum() < 12 or (now == inliers).all():
            break
        inliers = now
    return np.where(inliers, lower, course)


def _deduplicated(found: list[Measurement], grid: np.ndarray) -> list[Measurement]:
    """Remove duplicates: a tube whose sides are not visible is listed once, even if its band is in several pieces."""
    _, bodies = cv2.connectedComponents((grid > OTHER).astype(np.uint8))
    kept, listed = [], set[int]()
    height, width = grid.shape
    for one in found:
        place = min(max(round(one.y), 0), height - 1), min(max(round(one.x), 0), width - 1)  # an axis may be outside
        body = int(bodies[place])
        if one.problem not in (SIDE_CUT, SIDE_HIDDEN, SIDE_OF_BAR) or body not in listed:
            kept.append(one)
        listed.add(body)
    return kept


def _enlarged(one: Measurement, scale: float) -> Measurement:
    """A measurement of a mask that was reduced by `scale`, in pixels of the mask itself."""
    if scale == 1:
        return one
    return replace(
        one,
        x=scale * (one.x + 0.5) - 0.5,
        y=scale * (one.y + 0.5) - 0.5,
        diameter_px=scale * one.diameter_px,
        thickness_px=scale * one.thickness_px,
        drip_free_px=scale * one.drip_free_px,
        edges=scale * (one.edges + 0.5) - 0.5,
        axis=scale * (one.axis + 0.5) - 0.5,
        sides=scale * (one.sides + 0.5) - 0.5,
    )
