"""Coordinates and sets of cores on a chip, as used in shard grids."""


class CoreCoord:
    """A core, given by its logical column `x` and row `y`."""

    __slots__ = ("x", "y")

    def __init__(self, x, y=None):
        if y is None:
            x, y = x
        self.x, self.y = int(x), int(y)

    def __eq__(self, other):
        return isinstance(other, CoreCoord) and (self.x, self.y) == (other.x, other.y)

    def __lt__(self, other):
        return (self.y, self.x) < (other.y, other.x)

    def __hash__(self):
        return hash((self.x, self.y))

    def __repr__(self):
        return f"{self.x}-{self.y}"


class CoreGrid:
    """A grid of cores `x` wide and `y` high, from the origin."""

    __slots__ = ("x", "y")

    def __init__(self, *, x: int, y: int):
        self.x, self.y = x, y

    @property
    def num_cores(self) -> int:
        return self.x * self.y

    def __eq__(self, other):
        return isinstance(other, CoreGrid) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self):
        return hash((self.x, self.y))

    def __repr__(self):
        return f"ttnn.CoreGrid(x={self.x}, y={self.y})"


class CoreRange:
    """A rectangle of cores, both corners included."""

    __slots__ = ("start", "end")

    def __init__(self, start: CoreCoord, end: CoreCoord):
        if end.x < start.x or end.y < start.y:
            raise RuntimeError(f"CoreRange: end {end} must not be left of or above start {start}")
        self.start, self.end = start, end

    def grid_size(self) -> CoreCoord:
        return CoreCoord(self.end.x - self.start.x + 1, self.end.y - self.start.y + 1)

    def contains(self, other) -> bool:
        start, end = (other, other) if isinstance(other, CoreCoord) else (other.start, other.end)
        return self.start.x <= start.x and self.start.y <= start.y and end.x <= self.end.x and end.y <= self.end.y

    def _overlaps(self, other) -> bool:
        return not (
            self.end.x < other.start.x
            or other.end.x < self.start.x
            or self.end.y < other.start.y
            or other.end.y < self.start.y
        )

    def __eq__(self, other):
        return isinstance(other, CoreRange) and (self.start, self.end) == (other.start, other.end)

    def __hash__(self):
        return hash((self.start, self.end))

    def __repr__(self):
        return f"[{self.start} - {self.end}]"


class CoreRangeSet:
    """Rectangles of cores that do not overlap, in the given order (a Python set is sorted by rows)."""

    __slots__ = ("_ranges",)

    def __init__(self, core_ranges):
        ranges = list(core_ranges)
        if isinstance(core_ranges, (set, frozenset)):
            ranges.sort(key=lambda r: (r.start, r.end))
        for index, first in enumerate(ranges):
            for second in ranges[index + 1 :]:
                if first._overlaps(second):
                    raise RuntimeError(f"CoreRangeSet: core ranges {first} and {second} overlap")
        self._ranges = tuple(ranges)

    def ranges(self) -> list:
        return list(self._ranges)

    def size(self) -> int:
        return len(self._ranges)

    def empty(self) -> bool:
        return not self._ranges

    def num_cores(self) -> int:
        return sum(r.grid_size().x * r.grid_size().y for r in self._ranges)

    def bounding_box(self) -> CoreRange:
        if not self._ranges:
            raise RuntimeError("CoreRangeSet.bounding_box: the set is empty")
        return CoreRange(
            CoreCoord(min(r.start.x for r in self._ranges), min(r.start.y for r in self._ranges)),
            CoreCoord(max(r.end.x for r in self._ranges), max(r.end.y for r in self._ranges)),
        )

    def contains(self, other) -> bool:
        if isinstance(other, CoreRangeSet):
            return all(self.contains(r) for r in other._ranges)
        if isinstance(other, CoreCoord):
            return any(r.contains(other) for r in self._ranges)
        return all(self.contains(core) for core in corerange_to_cores(CoreRangeSet([other])))

    def __eq__(self, other):
        return isinstance(other, CoreRangeSet) and self._ranges == other._ranges

    def __hash__(self):
        return hash(self._ranges)

    def __repr__(self):
        return "{" + ", ".join(map(repr, self._ranges)) + "}"


def corerange_to_cores(core_range_set: CoreRangeSet, max_cores: int = None, row_wise: bool = False) -> list:
    """The cores of all ranges, range after range, at most `max_cores`: along rows if `row_wise`, else along columns."""
    cores = []
    for r in core_range_set.ranges():
        xs, ys = range(r.start.x, r.end.x + 1), range(r.start.y, r.end.y + 1)
        cores += [CoreCoord(x, y) for y in ys for x in xs] if row_wise else [CoreCoord(x, y) for x in xs for y in ys]
    return cores if max_cores is None else cores[:max_cores]


def core_ranges(cores: list) -> CoreRangeSet:
    """Cores, listed row by row, as few rectangles."""
    ranges = []
    for core in cores:
        last = ranges[-1] if ranges else None
        if last is not None and last.end == CoreCoord(core.x - 1, core.y) and last.start.y == core.y:
            ranges[-1] = CoreRange(last.start, core)
        else:
            ranges.append(CoreRange(core, core))
    merged = []
    for each in ranges:
        last = merged[-1] if merged else None
        if last is not None and (last.start.x, last.end.x, last.end.y + 1) == (each.start.x, each.end.x, each.start.y):
            merged[-1] = CoreRange(last.start, each.end)
        else:
            merged.append(each)
    return CoreRangeSet(merged)


def num_cores_to_corerangeset(target_num_cores: int, grid_size: CoreCoord, row_wise: bool = False) -> CoreRangeSet:
    """The first `target_num_cores` cores of a grid, counted along rows if `row_wise`, else along columns.

    RuntimeError if the grid is smaller.
    """
    available = grid_size.x * grid_size.y
    if not 0 < target_num_cores <= available:
        raise RuntimeError(f"num_cores_to_corerangeset: {target_num_cores} cores asked of a grid of {available}")
    length = grid_size.x if row_wise else grid_size.y
    full, rest = divmod(target_num_cores, length)

    def core(line, position):
        return CoreCoord(position, line) if row_wise else CoreCoord(line, position)

    ranges = []
    if full:
        ranges.append(CoreRange(core(0, 0), core(full - 1, length - 1)))
    if rest:
        ranges.append(CoreRange(core(full, 0), core(full, rest - 1)))
    return CoreRangeSet(ranges)


def num_cores_to_corerangeset_in_subcoregrids(
    start_core: CoreCoord, target_num_cores: int, sub_core_grids: CoreRangeSet, row_wise: bool = False
) -> CoreRangeSet:
    """As `num_cores_to_corerangeset`, but only from the cores of `sub_core_grids`, beginning at `start_core`."""
    cores = corerange_to_cores(sub_core_grids, row_wise=row_wise)
    if start_core not in cores:
        raise RuntimeError(f"num_cores_to_corerangeset_in_subcoregrids: {start_core} is not in {sub_core_grids}")
    chosen = cores[cores.index(start_core) :][:target_num_cores]
    if len(chosen) < target_num_cores:
        raise RuntimeError(
            f"num_cores_to_corerangeset_in_subcoregrids: {target_num_cores} cores asked, {len(chosen)} left"
        )
    return CoreRangeSet([CoreRange(core, core) for core in chosen])


def grid_to_cores(num_cores: int, grid_size_x: int, grid_size_y: int, row_wise: bool = False) -> list:
    """The first `num_cores` cores of a grid, along rows if `row_wise`, else along columns."""
    grid = num_cores_to_corerangeset(num_cores, CoreCoord(grid_size_x, grid_size_y), row_wise)
    return corerange_to_cores(grid, row_wise=row_wise)


