"""Shapes of tensors and meshes."""


class Shape(tuple):
    """A tensor's shape. It can be compared with lists and tuples. Like the vendor's, it cannot be sliced."""

    __slots__ = ()

    def __new__(cls, shape=()):
        return super().__new__(cls, map(int, shape))

    @property
    def rank(self) -> int:
        return len(self)

    def to_rank(self, rank: int) -> "Shape":
        """The same shape with ones added or removed in front. RuntimeError if a removed size is not 1."""
        surplus = len(self) - rank
        if surplus <= 0:
            return Shape((1,) * -surplus + tuple(self))
        if any(size != 1 for size in tuple(self)[:surplus]):
            raise RuntimeError(f"Shape.to_rank: {self} has no rank-{rank} form: a leading size is not 1")
        return Shape(tuple(self)[surplus:])

    def __getitem__(self, index):
        if isinstance(index, slice):
            raise TypeError("Shape indices must be integers; use tuple(shape)[...] to slice")
        return super().__getitem__(index)

    def __eq__(self, other):
        if isinstance(other, list):
            other = tuple(other)
        return tuple.__eq__(self, other)

    def __ne__(self, other):
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self):
        return f"Shape({list(self)})"


class MeshShape(tuple):
    """Rows and columns of a mesh of devices."""

    __slots__ = ()

    def __new__(cls, *sizes):
        if len(sizes) == 1 and not isinstance(sizes[0], int):
            sizes = tuple(sizes[0])
        if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"MeshShape: sizes must be positive integers, got {sizes}")
        return super().__new__(cls, sizes)

    def dims(self) -> int:
        return len(self)

    def mesh_size(self) -> int:
        """Number of devices."""
        size = 1
        for length in self:
            size *= length
        return size

    def __repr__(self):
        return f"MeshShape({list(self)})"


class MeshCoordinate(tuple):
    """Row and column of a device in a mesh."""

    __slots__ = ()

    def __new__(cls, *coordinates):
        if len(coordinates) == 1 and not isinstance(coordinates[0], int):
            coordinates = tuple(coordinates[0])
        return super().__new__(cls, coordinates)

    def dims(self) -> int:
        return len(self)

    def __repr__(self):
        return f"MeshCoordinate({list(self)})"


def volume(shape) -> int:
    """Number of elements."""
    size = 1
    for length in shape:
        size *= length
    return size


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
