"""A model's weights on the mesh: which dimension is split, in what order, where in memory."""

import torch
import ttnn

from .linear import LinearConfig
from .program_configs import TILE


class Weights:
    """Reads torch weights [out_features, in_features] by their Meta names and gives device tensors [1, 1, in, out].

    Each goes through the weight cache, which calls for the torch weight only if it has no valid entry.
    """

    def __init__(self, mesh_device, state_dict, cache):
        self.mesh_device = mesh_device
        self.state_dict = state_dict
        self.cache = cache
        self.num_devices = mesh_device.get_num_devices()
        self._tensors = []

    @classmethod
    def of(cls, args) -> "Weights":
        """Those of the checkpoint that `args` (`ModelArgs`) names, through its weight cache."""
        return cls(args.mesh_device, args.load_state_dict(), args.weight_cache)

    def column_parallel(self, name: str, config: LinearConfig):
        """Output features split over the devices: [1, 1, k, n] each."""
        return self._linear(name, lambda: self.state_dict[f"{name}.weight"].t(), config, dim=3)

    def row_parallel(self, name: str, config: LinearConfig):
        """Input features split over the devices: [1, 1, k, n] each; the products are partial sums."""
        return self._linear(name, lambda: self.state_dict[f"{name}.weight"].t(), config, dim=2)

    def fused_qkv(self, layer: int, config: LinearConfig):
        """wq, wk, wv side by side, a device's heads of each together: [1, 1, dim, n] each."""
        name = f"layers.{layer}.attention"

        def fused():
            parts = [self.state_dict[f"{name}.{part}.weight"].chunk(self.num_devices) for part in ("wq", "wk", "wv")]
            return torch.cat([rows for device in zip(*parts) for rows in device]).t()

        return self._linear(f"{name}.wqkv", fused, config, dim=3)

    def vocabulary_columns(self, split: int, starts: list[int], config: LinearConfig):
        """Split `split` of the LM head: `config.n` columns from `starts[d]` on device d, zeros past the vocabulary."""

        def columns():
            output = self.state_dict["output.weight"]
            parts = [output[start : start + config.n] for start in starts]
            return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, config.n - len(part))) for part in parts]).t()

        return self._linear(f"output.{split}", columns, config, dim=3, starts=starts)

    def embedding(self):
        """Token embeddings [1, 1, vocab_size, dim / N], bf16, row-major."""
        return self._tensor(
            "tok_embeddings",
            lambda: self.state_dict["tok_embeddings.weight"],
            dtype=ttnn.bfloat16,
            layout=ttnn.ROW_MAJOR_LAYOUT,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            mesh_mapper=ttnn.ShardTensorToMesh(self.mesh_device, dim=3),
        )

    def norm(self, name: str):
        """Norm weight as the op reads it: [1, 1, dim / 32, 32], bf16, row-major, replicated."""
        return self._tensor(
            name,
            lambda: self.state_dict[f"{name}.weight"].reshape(-1, TILE),
            dtype=ttnn.bfloat16,
            layout=ttnn.ROW_MAJOR_LAYOUT,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            mesh_mapper=ttnn.ReplicateTensorToMesh(self.mesh_device),
        )

    def _linear(self, name, make, config: LinearConfig, dim: int, **recipe):
        return self._tensor(
            name,
            make,
            recipe={"k": config.k, "n": config.n, **recipe},
            dtype=config.weight_dtype,
            layout=ttnn.TILE_LAYOUT,
            memory_config=config.chip.dram_sharded_weight(config.k, config.n),
            mesh_mapper=ttnn.ShardTensorToMesh(self.mesh_device, dim=dim),
        )

    def _tensor(self, name, make, **placement):
        tensor = self.cache.tensor(name, lambda: make()[None, None], device=self.mesh_device, **placement)
        self._tensors.append(tensor)
        return tensor

    def deallocate(self) -> None:
        """Frees every tensor that was given out."""
        while self._tensors:
            ttnn.deallocate(self._tensors.pop())
