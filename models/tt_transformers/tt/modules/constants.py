"""Tensors of a model that are not in its checkpoint: RoPE tables, matrices, masks."""

from collections.abc import Callable, Hashable

import torch
import ttnn


class Constants:
    """Gives device tensors by a key, the same on every device; each is made when it is first asked for.

    `replica` gives the same for a model on another mesh of the same shape. It copies what another group of devices has
    already, so the values are made once for all groups, and on the emulator they share their memory.
    """

    def __init__(self, mesh_device, made: dict | None = None):
        self.mesh_device = mesh_device
        self._made = {} if made is None else made  # the first tensor of each key, of any group
        self._tensors: dict[Hashable, ttnn.Tensor] = {}

    def replica(self, mesh_device) -> "Constants":
        return Constants(mesh_device, self._made)

    def tensor(
        self, key: Hashable, make: Callable[[], torch.Tensor], dtype, layout=ttnn.TILE_LAYOUT, memory_config=ttnn.DRAM_MEMORY_CONFIG
    ):
        """The tensor `key`, whose values `make` gives."""
        if key not in self._tensors:
            if key in self._made:
                made = ttnn.to_device(ttnn.from_device(self._made[key]), self.mesh_device, memory_config)
            else:
                made = self._made[key] = self.to_device(make(), dtype, layout, memory_config)
            self._tensors[key] = made
        return self._tensors[key]

    def to_device(self, values: torch.Tensor, dtype, layout=ttnn.TILE_LAYOUT, memory_config=ttnn.DRAM_MEMORY_CONFIG):
        """A tensor that is not kept, the same on every device."""
        return ttnn.from_torch(
            values,
            dtype=dtype,
            layout=layout,
            device=self.mesh_device,
            memory_config=memory_config,
            mesh_mapper=ttnn.ReplicateTensorToMesh(self.mesh_device),
        )

    def deallocate(self) -> None:
        """Frees what was given out; another group may make it again."""
        while self._tensors:
            key, tensor = self._tensors.popitem()
            self._made.pop(key, None)
            ttnn.deallocate(tensor)
