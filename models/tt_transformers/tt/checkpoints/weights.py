"""A model's weights on the mesh: the dimension that is split, the order of parts, the place in memory."""

import torch
import ttnn
from torch.nn.functional import pad

from models.common.chip import TILE
from models.tt_transformers.tt.modules.linear import LinearConfig
from models.tt_transformers.tt.modules.norm import NormScale
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
            return _padded(_padded(self.state_dict[f"{name}.weight"], config.k, dim=1), width, dim=0).t()

        def bias():
            return _padded(self.state_dict[f"{name}.bias"], width, dim=0)[None]

        mapper = self._mapper(model=3)
        return self._linear(name, columns, config, mapper), self._bias(name, bias, config, mapper)

    def row_parallel(self, name: str, config: LinearConfig):
        """Input features split over the devices: [1, 1, k, n] each, zeros past the last one. Products are partial
        sums, so the bias is on the first device only."""

        def rows():
            weight = _padded(self.state_dict[f"{name}.weight"], self.placement.model_ranks * config.k, dim=1)
            return _padded(weight, config.n, dim=0).t()

        mapper = self._mapper(model=2)
        return self._linear(name, rows, config, mapper), self._bias_of_partial_sums(name, config, mapper)

    def fused_qkv(self, layer: int, config: LinearConfig, heads: HeadSplit):
        """wq, wk and wv side by side, with the heads of one device together: [1, 1, dim, n] on each device; and the
        bias."""
        name = f"layers.{layer}.attention"
        head_dim = config.n // (heads.n_heads + 2 * heads.n_kv_heads)

        def fused(kind):
            wq, wk, wv = (self.state_dict[f"{name}.{part}.{kind}"] for part in ("wq", "wk", "wv"))
            parts = []
            for query, kv in zip(heads.query, heads.kv):
                for weight, all_heads, chosen in ((wq, heads.query, query), (wk, heads.kv, kv), (wv, heads.kv, kv)):
                    parts.append(_rows_of(weight, all_heads, chosen, head_dim))
            return torch.cat(parts)

        mapper, recipe = self._mapper(model=3), dict(heads=[heads.query, heads.kv])

        def weight():
            return _padded(fused("weight"), config.k, dim=1).t()

        weight = self._linear(f"{name}.wqkv", weight, config, mapper, **recipe)
        return weight, self._bias(f"{name}.wqkv", lambda: fused("bias")[None], config, mapper, **recipe)

    def attention_output(self, layer: int, config: LinearConfig, heads: HeadSplit):
        """The rows of wo for each device's query heads: [1, 1, n, dim] on each device. Products are partial sums, so
        the bias is on the first device only."""
        name = f"layers.{layer}.attention.wo"

        def rows():
            weight = _padded(self.state_dict[f"{name}.weight"], config.n, dim=0).t()
            head_dim = config.k // heads.n_heads
            return torch.cat([_rows_of(weight, heads.query, query, head_dim) for query in heads.query])

        mapper = self._mapper(model=2)
        weight = self._linear(name, rows, config, mapper, heads=[heads.query])
        return weight, self._bias_of_partial_sums(name, config, mapper)

    def vocabulary_columns(self, split: int, starts: list[int], config: LinearConfig):
        """Split `split` of the LM head: `config.n` columns from `starts[d]` on device d, zeros past the vocabulary."""

        def columns():
            output = self.state_dict["output.weight"]
            parts = [output[start : start + config.n] for start in starts]
            return _padded(torch.cat([_padded(part, config.n, dim=0) for part in parts]), config.k, dim=1).t()

        return self._linear(f"output.{split}", columns, config, self._mapper(model=3), starts=starts)

    def embedding(self):
        """Token embeddings [1, 1, vocab_size, dim / N], bf16, row-major."""

        def columns():
            weight = self.state_dict["tok_embeddings.weight"]
            return _padded(weight, self.placement.padded_dim(weight.shape[1]), dim=1)

        return self._interleaved("tok_embeddings", columns, ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT, self._mapper(residual=3))

    def norm(self, name: str, scale: NormScale):
        """Norm weight as the op reads it, replicated; `scale` says its shape, dtype and layout."""

        def padded():
            weight = self.state_dict[f"{name}.weight"].float() * scale.weight_factor
            return _padded(weight, scale.width, dim=0).reshape(scale.weight_shape[2:])

        return self._interleaved(name, padded, scale.weight_dtype, scale.weight_layout, self._mapper())

    def _mapper(self, **split):
        return self.placement.mapper(self.mesh_device, **split)

    def _interleaved(self, name, make, dtype, layout, mesh_mapper):
        placement = dict(dtype=dtype, layout=layout, memory_config=ttnn.DRAM_MEMORY_CONFIG, mesh_mapper=mesh_mapper)
        return self._tensor(name, make, **placement)

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
            bias = _padded(self.state_dict[f"{name}.bias"], config.n, dim=0)
            return _padded(bias[None], self.placement.model_ranks, dim=0)

        return self._bias(name, rows, config, mesh_mapper)

    def _tensor(self, name, make, **placement):
        tensor = self.cache.tensor(name, lambda: make()[None, None], device=self.mesh_device, **placement)
        self._tensors.append(tensor)
        return tensor

    def deallocate(self) -> None:
        """Frees every tensor that was given out."""
        while self._tensors:
            ttnn.deallocate(self._tensors.pop())


def _padded(tensor: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """`tensor` with zeros at the end of `dim` up to `size`; the tensor itself if it has this size."""
    missing = size - tensor.shape[dim]
    return tensor if missing == 0 else pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, missing))


def _rows_of(weight: torch.Tensor, all_heads: tuple, heads: tuple[int | None, ...], head_dim: int) -> torch.Tensor:
    """Rows of `weight` [heads of the model * rows of a head, ...] that belong to `heads`, in their order.

    The rows of each head are padded with zeros to `head_dim`; None gives a head of zeros. `all_heads`: the heads of all
    ranks, which give the number of heads in the weight.
    """
    count = 1 + max(head for rank in all_heads for head in rank if head is not None)
    by_head = _padded(weight.unflatten(0, (count, -1)), head_dim, dim=1)
    return torch.cat([torch.zeros_like(by_head[0]) if head is None else by_head[head] for head in heads])
