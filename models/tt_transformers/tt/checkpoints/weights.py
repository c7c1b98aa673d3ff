"""A model's weights on the mesh: the dimension that is split, the order of parts, the place in memory."""

import torch
import ttnn
from torch.nn.functional import pad

from models.tt_transformers.tt.config.program_configs import TILE
from models.tt_transformers.tt.modules.linear import LinearConfig
from models.tt_transformers.tt.placement import HeadSplit, Placement


class Weights:
    """Reads torch weights [out_features, in_features] by their Meta names and gives device tensors [1, 1, in, out].

    Each goes through the weight cache, which reads the torch weight only if it has no valid entry. A linear's weight
    comes with its bias, in the two forms that `Linear` takes.
    """

    def __init__(self, mesh_device, placement: Placement, state_dict, cache):
        self.mesh_device = mesh_device
        self.placement = placement
        self.state_dict = state_dict
        self.cache = cache
        self._tensors = []

    @classmethod
    def of(cls, args) -> "Weights":
        """The weights of the checkpoint that `args` (`ModelArgs`) names, through its weight cache."""
        return cls(args.mesh_device, args.placement, args.load_state_dict(), args.weight_cache)

    def column_parallel(self, name: str, config: LinearConfig):
        """Output features split over the devices: [1, 1, k, n] each, zeros past the last feature; and the bias."""
        width = self.placement.model_ranks * config.n

        def columns():
            weight = self.state_dict[f"{name}.weight"]
            return pad(weight, (0, 0, 0, width - len(weight))).t()

        def bias():
            features = self.state_dict[f"{name}.bias"]
            return pad(features, (0, width - len(features)))[None]

        mapper = self._mapper(model=3)
        return self._linear(name, columns, config, mapper), self._bias(name, bias, config, mapper)

    def row_parallel(self, name: str, config: LinearConfig):
        """Input features split over the devices: [1, 1, k, n] each, zeros past the last one. Products are partial
        sums, so the bias is on the first device only."""

        def rows():
            weight = self.state_dict[f"{name}.weight"]
            return pad(weight, (0, self.placement.model_ranks * config.k - weight.shape[1])).t()

        mapper = self._mapper(model=2)
        return self._linear(name, rows, config, mapper), self._bias_of_partial_sums(name, config, mapper)

    def fused_qkv(self, layer: int, config: LinearConfig, heads: HeadSplit):
        """wq, wk and wv side by side, with the heads of one device together: [1, 1, dim, n] on each device; and the
        bias."""
        name = f"layers.{layer}.attention"

        def fused(kind):
            wq, wk, wv = (self.state_dict[f"{name}.{part}.{kind}"] for part in ("wq", "wk", "wv"))
            parts = []
            for query, kv in zip(heads.query, heads.kv):
                parts += [_rows_of(wq, heads.query, query), _rows_of(wk, heads.kv, kv), _rows_of(wv, heads.kv, kv)]
            return torch.cat(parts)

        mapper, recipe = self._mapper(model=3), dict(heads=[heads.query, heads.kv])
        weight = self._linear(f"{name}.wqkv", lambda: fused("weight").t(), config, mapper, **recipe)
        return weight, self._bias(f"{name}.wqkv", lambda: fused("bias")[None], config, mapper, **recipe)

    def attention_output(self, layer: int, config: LinearConfig, heads: HeadSplit):
        """The rows of wo for each device's query heads: [1, 1, n, dim] on each device. Products are partial sums, so
        the bias is on the first device only."""
        name = f"layers.{layer}.attention.wo"

        def rows():
            weight = self.state_dict[f"{name}.weight"].t()
            return torch.cat([_rows_of(weight, heads.query, query) for query in heads.query])

        mapper = self._mapper(model=2)
        weight = self._linear(name, rows, config, mapper, heads=[heads.query])
        return weight, self._bias_of_partial_sums(name, config, mapper)

    def vocabulary_columns(self, split: int, starts: list[int], config: LinearConfig):
        """Split `split` of the LM head: `config.n` columns from `starts[d]` on device d, zeros past the vocabulary."""

        def columns():
            output = self.state_dict["output.weight"]
            parts = [output[start : start + config.n] for start in starts]
            return torch.cat([pad(part, (0, 0, 0, config.n - len(part))) for part in parts]).t()

        return self._linear(f"output.{split}", columns, config, self._mapper(model=3), starts=starts)

    def embedding(self):
        """Token embeddings [1, 1, vocab_size, dim / N], bf16, row-major."""
        return self._row_major("tok_embeddings", lambda: self.state_dict["tok_embeddings.weight"], self._mapper(residual=3))

    def norm(self, name: str):
        """Norm weight as the op reads it: [1, 1, dim / 32, 32], bf16, row-major, replicated."""
        return self._row_major(name, lambda: self.state_dict[f"{name}.weight"].reshape(-1, TILE), self._mapper())

    def _mapper(self, **split):
        return self.placement.mapper(self.mesh_device, **split)

    def _row_major(self, name, make, mesh_mapper):
        return self._tensor(
            name,
            make,
            dtype=ttnn.bfloat16,
            layout=ttnn.ROW_MAJOR_LAYOUT,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            mesh_mapper=mesh_mapper,
        )

    def _linear(self, name, make, config: LinearConfig, mesh_mapper, **recipe):
        return self._tensor(
            name,
            make,
            recipe={"k": config.k, "n": config.n, **recipe},
            dtype=config.weight_dtype,
            layout=ttnn.TILE_LAYOUT,
            memory_config=config.chip.dram_sharded_weight(config.k, config.n),
            mesh_mapper=mesh_mapper,
        )

    def _bias(self, name, make, config: LinearConfig, mesh_mapper, **recipe):
        """The bias that `make` gives, [ranks or 1, columns], for decode and for prefill; nothing if there is none."""
        if not config.bias:
            return None, None
        return tuple(
            self._tensor(
                f"{name}.bias",
                make,
                recipe={"n": config.n, **recipe},
                dtype=ttnn.bfloat16,
                layout=ttnn.TILE_LAYOUT,
                memory_config=memory_config,
                mesh_mapper=mesh_mapper,
            )
            for memory_config in (config.chip.dram_sharded_weight(TILE, config.n), ttnn.DRAM_MEMORY_CONFIG)
        )

    def _bias_of_partial_sums(self, name, config: LinearConfig, mesh_mapper):
        def rows():
            bias = self.state_dict[f"{name}.bias"]
            return pad(bias[None], (0, 0, 0, self.placement.model_ranks - 1))

        return self._bias(name, rows, config, mesh_mapper)

    def _tensor(self, name, make, **placement):
        tensor = self.cache.tensor(name, lambda: make()[None, None], device=self.mesh_device, **placement)
        self._tensors.append(tensor)
        return tensor

    def deallocate(self) -> None:
        """Frees every tensor that was given out."""
        while self._tensors:
            ttnn.deallocate(self._tensors.pop())


def _rows_of(weight: torch.Tensor, all_heads: tuple, heads: tuple[int | None, ...]) -> torch.Tensor:
    """Rows of `weight` [n_heads * head_dim, ...] that belong to `heads`, in their order; zeros for None.

    `all_heads`: the heads of all ranks, which give the number of heads in the weight.
    """
    count = 1 + max(head for rank in all_heads for head in rank if head is not None)
    by_head = weight.unflatten(0, (count, -1))
    return torch.cat([torch.zeros_like(by_head[0]) if head is None else by_head[head] for head in heads])
