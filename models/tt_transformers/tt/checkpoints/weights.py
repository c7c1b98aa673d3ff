"""A model's weights on the mesh: the dimension that is split, the order of parts, the place in memory."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import ttnn
from torch.nn.functional import pad
from tqdm import tqdm

from models.common.chip import TILE
from models.tt_transformers.tt.checkpoints.cache import Conversion
from models.tt_transformers.tt.modules.constants import Constants
from models.tt_transformers.tt.modules.linear import LinearConfig
from models.tt_transformers.tt.modules.norm import NormScale
from models.tt_transformers.tt.placement import HeadSplit, Placement
from models.tt_transformers.tt.runtime.process_memory import return_freed_memory


@dataclass(frozen=True, eq=False)
class _Planned:
    """Device tensors without values yet, all with the same. `make` makes these of the torch weights `sources`."""

    tensors: tuple
    sources: tuple[str, ...]
    make: Callable[..., torch.Tensor]
    conversion: Conversion

    def fill(self, host) -> None:
        for tensor in self.tensors:
            ttnn.copy_host_to_device_tensor(host, tensor)


def _together(same: Sequence[_Planned]) -> _Planned:
    """What several models plan alike, as one: converted once and copied to the tensors of all."""
    return replace(same[0], tensors=tuple(tensor for planned in same for tensor in planned.tensors))


class Weights:
    """Reads torch weights [out_features, in_features] by their Meta names and gives device tensors [1, 1, in, out].

    A tensor that is given out has its memory on the devices, and no values until `load`. So a model that does not fit is
    refused before anything is read, and weights are read in the order of the files, whatever the order of the model. A
    linear's weight comes with its bias, in the two forms that `Linear` takes.

    `replica` gives the same weights for another mesh of the same shape. `load` fills the replicas too, so that each
    weight is read and converted once for all. `constants`: the model's other tensors.
    """

    def __init__(self, mesh_device, placement: Placement, state_dict, cache):
        self.mesh_device = mesh_device
        self.placement = placement
        self.state_dict = state_dict
        self.cache = cache
        self.constants = Constants(mesh_device)
        self._tensors = []
        self._planned: list[_Planned] = []
        self._replicas: list[Weights] = []

    @classmethod
    def of(cls, args) -> "Weights":
        """The weights of the checkpoint that `args` (`ModelArgs`) names, through its weight cache."""
        return cls(args.mesh_device, args.placement, args.load_state_dict(), args.weight_cache)

    def replica(self, mesh_device) -> "Weights":
        """The same weights for a model on another mesh of the same shape. Its tensors get their values in `load` of
        this object."""
        replica = copy.copy(self)
        replica.mesh_device, replica._tensors, replica._planned = mesh_device, [], []
        replica.constants = self.constants.replica(mesh_device)
        self._replicas.append(replica)
        return replica

    def load(self) -> None:
        """Fills every tensor that was given out, from the weight cache or, if it has no valid entry, from the checkpoint.

        Each torch weight is read once, in the order of the files, and dropped when the last tensor that needs it is
        made. Besides the result, this holds the parts of one tensor and a few copies of it: less than a layer, or the
        embedding. Raises ValueError for a weight that is not finite, and then the model cannot be used.
        """
        of_replicas = (replica._planned for replica in self._replicas)
        everything = [_together(same) for same in zip(self._planned, *of_replicas, strict=True)]
        self._planned, self._replicas = [], []
        waiting = {planned: set(planned.sources) for planned in everything if not self._load_from_cache(planned)}
        uses, held = Counter(source for planned in waiting for source in planned.sources), {}
        with tqdm(total=len(uses), desc="Weights", unit="tensor", disable=None, delay=1) as progress:
            for names, weight in self.state_dict.read(list(uses)):
                held.update(dict.fromkeys(names, weight))
                del weight
                for planned in [planned for planned, sources in waiting.items() if sources <= held.keys()]:
                    weight = planned.make(*(held[source] for source in planned.sources))
                    planned.fill(self.cache.convert(planned.conversion, weight[None, None]))
                    del weight, waiting[planned]
                    uses.subtract(planned.sources)
                    for source in planned.sources:
                        if not uses[source]:
                            del held[source]
                return_freed_memory()
                progress.update(len(names))

    def column_parallel(self, name: str, config: LinearConfig):
        """Output features split over the devices: [1, 1, k, n] each, zeros past the last feature; and the bias.

        On a grid the input features, those of the residual stream, are split too."""
        width, mapper = self.placement.model_ranks * config.n, self._column_parallel_mapper()

        def columns(weight):
            return _padded(_padded(weight.flatten(1), self._residual_columns(config.k), dim=1), width, dim=0).t()

        def bias(features):
            return self._on_first_rank(_padded(features, width, dim=0))

        weight = self._linear(name, [f"{name}.weight"], columns, config, mapper)
        return weight, self._bias(name, [f"{name}.bias"], bias, config, mapper)

    def row_parallel(self, name: str, config: LinearConfig, ordered: Callable = lambda weight: weight):
        """Input features split over the devices: [1, 1, k, n] each, zeros past the last one. Products are partial
        sums, so the bias is on the first device only. On a grid the output features, those of the residual stream, are
        split too. `ordered` puts the columns of the torch weight into the order of the input features."""
        mapper = self._row_parallel_mapper()

        def rows(weight):
            weight = _padded(ordered(weight), self.placement.model_ranks * config.k, dim=1)
            return _padded(weight, self._residual_columns(config.n), dim=0).t()

        weight = self._linear(name, [f"{name}.weight"], rows, config, mapper)
        return weight, self._bias_of_partial_sums(name, config, mapper)

    def fused_qkv(self, attention: str, config: LinearConfig, heads: HeadSplit):
        """wq, wk and wv of `attention`, such as layers.0.attention; see `by_heads`."""
        return self.by_heads(attention, {"wq": heads.query, "wk": heads.kv, "wv": heads.kv}, config)

    def by_heads(self, attention: str, parts: Mapping[str, Sequence[tuple]], config: LinearConfig):
        """Projections to heads side by side, with the heads of one device together: [1, 1, dim, n] on each device; and
        the bias. `parts`: the name of each projection in `attention` -> the heads of each rank."""
        name = f"{attention}.w{''.join(part[1:] for part in parts)}"
        head_dim = config.n // sum(len(ranks[0]) for ranks in parts.values())
        mapper, recipe = self._column_parallel_mapper(), dict(heads=list(parts.values()))

        def fused(*weights):
            chosen = zip(*parts.values())  # for each rank, the heads of each projection
            return _joined(
                [
                    _rows_of(weight, all_heads, heads, head_dim)
                    for rank in chosen
                    for weight, all_heads, heads in zip(weights, parts.values(), rank)
                ]
            )

        def columns(*weights):
            return _padded(fused(*weights), self._residual_columns(config.k), dim=1).t()

        def bias(*biases):
            return self._on_first_rank(fused(*biases))

        weights, biases = ([f"{attention}.{part}.{kind}" for part in parts] for kind in ("weight", "bias"))
        weight = self._linear(name, weights, columns, config, mapper, **recipe)
        return weight, self._bias(name, biases, bias, config, mapper, **recipe)

    def attention_output(self, attention: str, config: LinearConfig, heads: HeadSplit):
        """The rows of wo of `attention` for each device's query heads: [1, 1, n, dim] on each device. Products are
        partial sums, so the bias is on the first device only."""
        name = f"{attention}.wo"
        mapper = self._row_parallel_mapper()

        def rows(weight):
            weight, head_dim = _padded(weight, self._residual_columns(config.n), dim=0).t(), config.k // heads.n_heads
            rows = _joined([_rows_of(weight, heads.query, query, head_dim) for query in heads.query])
            return rows.t().contiguous().t()  # in the memory order of the other weights

        weight = self._linear(name, [f"{name}.weight"], rows, config, mapper, heads=[heads.query])
        return weight, self._bias_of_partial_sums(name, config, mapper)

    def vocabulary_columns(self, split: int, starts: list[int], config: LinearConfig):
        """Split `split` of the LM head: `config.n` columns from `starts[d]` on device d, zeros past the vocabulary."""

        def columns(output):
            parts = [_padded(output[start : start + config.n], config.n, dim=0) for start in starts]
            return _padded(_joined(parts), self._residual_columns(config.k), dim=1).t()

        mapper = self._column_parallel_mapper()
        return self._linear(f"output.{split}", ["output.weight"], columns, config, mapper, starts=starts)

    def embedding(self):
        """Token embeddings [1, 1, vocab_size, dim / N], bf16, row-major."""
        return self.table("tok_embeddings", ["tok_embeddings.weight"], self.state_dict.shape("tok_embeddings.weight"))

    def table(self, name: str, sources: Sequence[str], shape: tuple[int, int], make: Callable = lambda weight: weight):
        """Rows that an embedding looks up: [1, 1, rows, columns / N], bf16, row-major. `make` makes the [rows, columns]
        of `shape` of the torch weights `sources`."""
        rows, columns = shape
        width = self.placement.padded_dim(columns)

        def padded(*weights):
            return _padded(make(*weights), width, dim=1)

        conversion = self._conversion(name, ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT, self._mapper(residual=3))
        local = rows, self.placement.residual_width(columns)
        return self._plan(local, sources, padded, conversion, ttnn.DRAM_MEMORY_CONFIG)[0]

    def norm(self, name: str, scale: NormScale, kind: str = "weight"):
        """Weight or bias of a norm as the op reads it, for a device's columns; `scale` says its shape, dtype and layout."""

        def padded(weight):
            return _padded(weight.float() * scale.weight_factor, scale.width, dim=0).reshape(scale.host_shape[2:])

        mapper, name = self._mapper(residual=scale.weight_split), f"{name}.{kind}"
        conversion = self._conversion(name, scale.weight_dtype, scale.weight_layout, mapper)
        return self._plan(scale.weight_shape[2:], [name], padded, conversion, ttnn.DRAM_MEMORY_CONFIG)[0]

    def _column_parallel_mapper(self):
        return self._mapper(model=3, residual=self.placement.split_residual(2))

    def _row_parallel_mapper(self):
        return self._mapper(model=2, residual=self.placement.split_residual(3))

    def _residual_columns(self, columns: int) -> int:
        """The residual columns of a weight on all devices together, of which a device's matmuls have `columns`."""
        return self.placement.input_ranks * columns

    def _on_first_rank(self, bias: torch.Tensor) -> torch.Tensor:
        """A bias [columns] as rows for the devices whose products are summed: zeros on all but the first."""
        return _padded(bias[None], self.placement.input_ranks, dim=0)

    def _mapper(self, **split):
        return self.placement.mapper(self.mesh_device, **split)

    def _linear(self, name, sources, make, config: LinearConfig, mesh_mapper, **recipe):
        sources, make = _gated(name, sources, make, config)
        recipe = {"k": config.k, "n": config.n, **recipe}
        conversion = self._conversion(name, config.weight_dtype, ttnn.TILE_LAYOUT, mesh_mapper, recipe)
        memory_config = config.chip.dram_sharded_weight(config.k, config.n)
        return self._plan((config.k, config.n), sources, make, conversion, memory_config)[0]

    def _bias(self, name, sources, make, config: LinearConfig, mesh_mapper, **recipe):
        """The bias that `make` gives, [ranks or 1, columns], for decode and for prefill; nothing if there is none."""
        if not config.bias:
            return None, None
        sources, make = _gated(name, sources, make, config)
        recipe = {"n": config.n, **recipe}
        conversion = self._conversion(f"{name}.bias", ttnn.bfloat16, ttnn.TILE_LAYOUT, mesh_mapper, recipe)
        for_decode = config.chip.dram_sharded_weight(TILE, config.n)
        return self._plan((1, config.n), sources, make, conversion, for_decode, ttnn.DRAM_MEMORY_CONFIG)

    def _bias_of_partial_sums(self, name, config: LinearConfig, mesh_mapper):
        def rows(bias):
            return _padded(_padded(bias, self._residual_columns(config.n), dim=0)[None], self.placement.model_ranks, dim=0)

        return self._bias(name, [f"{name}.bias"], rows, config, mesh_mapper)

    def _conversion(self, name, dtype, layout, mesh_mapper, recipe=MappingProxyType({})) -> Conversion:
        return Conversion(name, dtype, layout, tuple(self.mesh_device.shape), mesh_mapper, recipe)

    def _plan(self, shape, sources, make, conversion: Conversion, *memory_configs) -> tuple:
        """Tensors of `shape` [rows, columns] on each device, one for each memory config. `load` fills all of them with
        what `make` makes of `sources`."""
        given = ttnn.Shape([1, 1, *shape]), conversion.dtype, conversion.layout, self.mesh_device
        tensors = tuple(ttnn.allocate_tensor_on_device(*given, memory_config) for memory_config in memory_configs)
        self._tensors += tensors
        self._planned.append(_Planned(tensors, tuple(sources), make, conversion))
        return tensors

    def _load_from_cache(self, planned: _Planned) -> bool:
        host = self.cache.load(planned.conversion)
        if host is not None:
            planned.fill(host)
        return host is not None

    def deallocate(self) -> None:
        """Frees every tensor that was given out, the constants too."""
        self.constants.deallocate()
        while self._tensors:
            ttnn.deallocate(self._tensors.pop())


def _gated(name: str, sources: Sequence[str], make: Callable, config: LinearConfig) -> tuple[Sequence[str], Callable]:
    """`sources` and `make` of a weight or bias; of a gated linear, what it makes is multiplied by tanh(gate)."""
    if not config.gated:
        return sources, make
    gate_name = f"{name.rpartition('.')[0]}.gate"
    return [*sources, gate_name], lambda *parts: make(*parts[:-1]) * math.tanh(parts[-1].item())


def _padded(tensor: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """`tensor` with zeros at the end of `dim` up to `size`; the tensor itself if it has this size."""
    missing = size - tensor.shape[dim]
    return tensor if missing == 0 else pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, missing))


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """The rows of all parts; a single part itself, which `torch.cat` would copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows_of(weight: torch.Tensor, all_heads: tuple, heads: tuple[int | None, ...], head_dim: int) -> torch.Tensor:
    """Rows of `weight` [heads of the model * rows of a head, ...] that belong to `heads`, in their order.

    The rows of each head are padded with zeros to `head_dim`; None gives a head of zeros. `all_heads`: the heads of all
    ranks, which give the number of heads in the weight.
    """
    count = 1 + max(head for rank in all_heads for head in rank if head is not None)
    by_head = _padded(weight.unflatten(0, (count, -1)), head_dim, dim=1)
    if heads == tuple(range(count)):
        return by_head.flatten(0, 1)
    return torch.cat([torch.zeros_like(by_head[0]) if head is None else by_head[head] for head in heads])
