"""The two sides of a tube as straight lines, from the ends of the rows that show it without slag."""

import math
from dataclasses import dataclass

import numpy as np

STEEPEST = math.tan(math.radians(35))  # of a side against the vertical
TOLERANCE = 0.006  # of the shorter side of the mask: ends of rows so near to a line support it
MARGIN = 0.012  # of the shorter side: a row that ends so near to the frame is cut by it, also if drawn short of it
SUPPORT = 0.06  # of the shorter side: rows that a side needs
PAIRS = 160  # of rows, each of which proposes a line
BAR = 0.1  # of the shorter side: the widest bar in front of a tube that is seen through
PARALLEL = 0.02  # pixels per row by which the two edges of a bar may differ in slope
LEAN = 0.06  # pixels per row by which a bar leans against the two sides of a tube, summed
UNSURE = 15  # times what the edges differ in slope: by so much more must a bar lean
EXACT = 0.003  # pixels per row: with edges so parallel, a gap between two even parts may still be a bar
NARROW = 3.5  # gaps wide: what is wider is a tube of its own rather than part of one behind a bar
TAPER = 0.11  # pixels per row by which the sides of one tube may differ in slope
UNEVEN = 0.74  # two tubes of one vessel are no more unlike in width; the parts of a tube beside a bar may be


@dataclass(frozen=True)
class Line:
    """x = at + slope · y, in pixels."""

    at: float
    slope: float

    def x(self, y):
        return self.at + self.slope * y


class Runs:
    """The runs of body pixels (tube or slag) in the rows of a mask, (H, W) and (H, W) bool, in reading order."""

    def __init__(self, body: np.ndarray, slag: np.ndarray) -> None:
        height, width = body.shape
        self.height, self.width, self.shorter = height, width, min(height, width)
        flat = np.pad(body, ((0, 0), (0, 1))).ravel()  # so that no run goes on in the next row
        change = np.diff(flat.astype(np.int8), prepend=np.int8(0))
        self._starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1) - 1
        self.row = self._starts // (width + 1)
        self.first, self.last = self._starts % (width + 1), ends % (width + 1)  # columns, of the first and last pixel
        counted = np.concatenate(([0], np.cumsum(np.pad(slag, ((0, 0), (0, 1))).ravel(), dtype=np.int32)))
        self.bare = counted[ends + 1] == counted[self._starts]  # without slag

    def around(self, axis: Line) -> np.ndarray:
        """Indices of the runs without slag that the axis meets, at most one per row."""
        rows = np.arange(self.height)
        columns = axis.x(rows).round().astype(int).clip(0, self.width - 1)
        index = np.searchsorted(self._starts, rows * (self.width + 1) + columns, side="right") - 1
        met = (index >= 0) & (self.row[index] == rows) & (self.last[index] >= columns)
        index = index[met]
        return index[self.bare[index]]


@dataclass(frozen=True)
class Sides:
    """The sides of a tube; None for one that too few bare rows show."""

    left: Line | None
    right: Line | None
    barred: bool = False  # a bar in front of the tube was seen through
    uncertain: bool = False  # one of them may be the edge of a bar


def find_sides(runs: Runs, centre: tuple[float, float]) -> Sides:
    """The sides of the tube around `centre` (x, y).

    A bar in front that splits the tube lengthwise is seen through; it is told from the gap between two tubes by its
    slope, or by parts that are too unlike to be two tubes.
    """
    axis, left, right = Line(centre[0], 0.0), None, None
    for _ in range(3):
        met = runs.around(axis)
        left, right = _end_line(runs, met, -1), _end_line(runs, met, 1)
        if left and right:
            axis = Line((left.at + right.at) / 2, (left.slope + right.slope) / 2)
        elif side := left or right:
            axis = Line(centre[0] - side.slope * centre[1], side.slope)
    if not left or not right:
        return Sides(left, right)
    met = runs.around(axis)
    outer = _behind_bar(runs, met, -1, right, left), _behind_bar(runs, met, 1, left, right)
    if None in outer:
        return Sides(left, right, uncertain=True)
    return Sides(*outer, barred=outer != (left, right))


def _end_line(runs: Runs, index: np.ndarray, sign: int) -> Line | None:
    """The line along the ends of runs, without those at the frame; `sign` is 1 for their right ends, -1 for left."""
    ends = (runs.last if sign > 0 else runs.first)[index]
    margin = max(2, MARGIN * runs.shorter)
    seen = (ends >= margin) & (ends < runs.width - margin)
    return _fit(runs.row[index[seen]], ends[seen] + 0.5 * sign, runs.shorter)


def _behind_bar(runs: Runs, index: np.ndarray, sign: int, far: Line, near: Line) -> Line | None:
    """The side of the tube beyond a bar whose edge is the line `near`; `near` if there is no bar, None if uncertain."""
    own, facing = (runs.last, runs.first) if sign > 0 else (runs.first, runs.last)
    index = index[(index + sign >= 0) & (index + sign < len(runs.row))]
    rows, ends, other = runs.row[index], own[index], facing[index + sign]
    on_line = np.abs(ends + 0.5 * sign - near.x(rows)) <= TOLERANCE * runs.shorter
    found = on_line & (runs.row[index + sign] == rows) & (np.abs(other - ends) <= BAR * runs.shorter)
    rows, index = rows[found], index[found] + sign
    inner = _fit(rows, other[found] - 0.5 * sign, runs.shorter)
    if inner is None or (apart := abs(inner.slope - near.slope)) > PARALLEL:
        return near
    outer, middle = _end_line(runs, index, sign), rows.mean()
    part, gap = (abs(near.x(middle) - edge.x(middle)) for edge in (far, inner))
    if outer is None:  # the frame cuts the part beyond
        return None if part < NARROW * gap else near
    beyond = abs(outer.x(middle) - inner.x(middle))
    lean = near.slope - far.slope, inner.slope - outer.slope  # of the bar against the side of either part
    leans = lean[0] * lean[1] > 0 and abs(sum(lean)) > LEAN + UNSURE * apart
    if abs(outer.slope - far.slope) > TAPER:
        return near
    if leans or min(part, beyond) < UNEVEN * max(part, beyond):
        return outer
    return None if apart < EXACT and min(part, beyond) < NARROW * gap else near


def _fit(y: np.ndarray, x: np.ndarray, shorter: int) -> Line | None:
    """The line that most points are near to, by least squares over those; None if they are too few."""
    tolerance, least = max(1.5, TOLERANCE * shorter), max(4, SUPPORT * shorter)
    if len(y) < least:
        return None
    pairs = np.random.default_rng(0).integers(0, len(y), (2, PAIRS))  # the same in every call
    (y1, y2), (x1, x2) = y[pairs], x[pairs]
    apart = np.abs(y1 - y2) >= max(2, len(y) // 6)
    slope = (x1 - x2)[apart] / (y1 - y2)[apart]
    at = x1[apart] - slope * y1[apart]
    slope, at = slope[np.abs(slope) <= STEEPEST], at[np.abs(slope) <= STEEPEST]
    if not len(slope):
        return None
    near = np.abs(x - at[:, None] - slope[:, None] * y) <= tolerance
    chosen = near[near.sum(1).argmax()]
    for _ in range(2):
        if chosen.sum() < least:
            return None
        steepness, start = np.polyfit(y[chosen], x[chosen], 1)
        chosen = np.abs(x - start - steepness * y) <= tolerance
    return Line(float(start), float(steepness)) if chosen.sum() >= least else None
