"""What several ops share."""

from ..dtypes import BLOCK_FLOAT, DataType
from ..memory import MemoryConfig
from ..program import Program, rounding
from ..tensor import Tensor, TensorSpec


def same_stored_values(source: DataType, target: DataType) -> bool:
    """Whether a value of `source` is held by the same torch value in `target`."""
    return source is target or (source in BLOCK_FLOAT and target is DataType.BFLOAT16)


def moves_exactly(dtype: DataType, last_dim_kept: bool) -> bool:
    """Whether moving elements keeps their values: block floats share exponents along the last dimension."""
    return last_dim_kept or dtype not in BLOCK_FLOAT


def normalise_dim(dim: int, rank: int) -> int:
    """`dim` counted from the front. RuntimeError if there is no such dimension."""
    if not -rank <= dim < rank:
        raise RuntimeError(f"dimension {dim} is not in a tensor of rank {rank} ([-{rank}, {rank - 1}])")
    return dim % rank


def config_for(tensor: Tensor, shape, memory_config: MemoryConfig) -> MemoryConfig:
    """The memory config of an output of another shape: the given one, or the input's if it still fits."""
    if memory_config is not None:
        return memory_config
    kept = tensor.memory_config()
    if kept.is_sharded():
        try:
            TensorSpec(shape, tensor.dtype, tensor.layout, kept)
        except RuntimeError as error:
            raise RuntimeError(f"the input's sharding does not fit the output; give a memory_config ({error})")
    return kept


def into(output_tensor: Tensor, kernel, inputs, spec: TensorSpec) -> Program:
    """A program with one output, written into `output_tensor` (same shape and layout) if that is given."""
    if output_tensor is None:
        return Program(kernel, inputs, spec)
    if output_tensor.shape != spec.shape or output_tensor.layout is not spec.layout:
        raise RuntimeError(
            f"output_tensor {list(output_tensor.shape)} {output_tensor.layout.name} "
            f"must be {list(spec.shape)} {spec.layout.name}"
        )
    round_to = rounding(output_tensor.dtype)

    def write(out, *values):
        out.copy_(round_to(kernel(*values)))

    return Program(write, [output_tensor, *inputs], in_place=output_tensor)
