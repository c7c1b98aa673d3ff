"""Gives the vendor's object for one of the emulator's: the one made together with it, or else a new equal one."""

import dataclasses
import enum
import pathlib
import weakref

import torch

from models.common import ttnn_emulator as emulator

_PLAIN = (type(None), bool, int, float, str, torch.Tensor, torch.dtype, pathlib.PurePath)


class Pairs:
    """Pairs of an emulator's object and the vendor's object made by the same call: tensors, meshes, mappers.

    When the emulator's object is freed, the vendor's is released too, so that both free their memory together.
    """

    def __init__(self, vendor):
        self.vendor = vendor
        self._theirs = {}

    def put(self, ours, theirs) -> None:
        key = id(ours)
        self._theirs[key] = weakref.ref(ours, lambda _: self._theirs.pop(key)), theirs

    def has(self, ours) -> bool:
        return id(ours) in self._theirs

    def get(self, ours):
        return self._theirs[id(ours)][1]

    def translate(self, value):
        """The vendor's form of an argument. TypeError that names the value if there is none."""
        if self.has(value):
            return self.get(value)
        if isinstance(value, enum.Enum):
            return getattr(self._type(value), value.name)
        build = _BUILDERS.get(type(value))
        if build is not None:
            return build(self._type(value), value, self.translate)
        if isinstance(value, _PLAIN):
            return value
        if type(value) in (list, tuple, set):
            return type(value)(map(self.translate, value))
        if type(value) is dict:
            return {key: self.translate(part) for key, part in value.items()}
        if dataclasses.is_dataclass(value):
            return self._type(value)(**self._fields(value))
        raise TypeError(f"lockstep: {value!r} was not made by `ttnn`, so the vendor's package has nothing like it")

    def _type(self, value):
        return getattr(self.vendor, type(value).__name__)

    def _fields(self, config) -> dict:
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        # Some of the vendor's constructors do not accept None for an argument that is left out.
        return {name: self.translate(value) for name, value in values.items() if value is not None}


_BUILDERS = {
    emulator.Shape: lambda kind, shape, _: kind(list(shape)),
    emulator.MeshShape: lambda kind, shape, _: kind(list(shape)),
    emulator.MeshCoordinate: lambda kind, coordinate, _: kind(list(coordinate)),
    emulator.CoreCoord: lambda kind, core, _: kind(core.x, core.y),
    emulator.CoreGrid: lambda kind, grid, _: kind(x=grid.x, y=grid.y),
    emulator.CoreRange: lambda kind, cores, translate: kind(translate(cores.start), translate(cores.end)),
    emulator.CoreRangeSet: lambda kind, cores, translate: kind(translate(cores.ranges())),
    emulator.ShardSpec: lambda kind, spec, translate: kind(
        translate(spec.grid), list(spec.shape), translate(spec.orientation)
    ),
    emulator.MemoryConfig: lambda kind, config, translate: kind(
        translate(config.memory_layout), translate(config.buffer_type), translate(config.shard_spec)
    ),
    emulator.UnaryWithParam: lambda kind, activation, translate: kind(translate(activation.op_type), *activation.params),
    emulator.DispatchCoreConfig: lambda kind, config, translate: kind(translate(config.type), translate(config.axis)),
}
