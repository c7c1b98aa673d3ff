"""Helpers that several ops share."""

from ..dtypes import BLOCK_FLOAT, DataType
from ..memory import MemoryConfig
from ..program import Program, rounding
from ..tensor import Tensor, TensorSpec


def same_stored_values(source: DataType, target: DataType) -> bool:
    """Whether every value of `source` is stored as the same torch value in `target`."""
    return source is target or (source in BLOCK_FLOAT and target is DataType.BFLOAT16)


def moves_exactly(dtype: DataType, last_dim_kept: bool) -> bool:
    """Whether elements can be moved without changing values. Block floats share exponents along the last dimension."""
    return last_dim_kept or dtype not in BLOCK_FLOAT


def normalise_dim(dim: int, rank: int) -> int:
    """`dim`, counted from the front. RuntimeError if there is no such dimension."""
    if not -rank <= dim < rank:
        raise RuntimeError(f"dimension {dim} is not in a tensor of rank {rank} ([-{rank}, {rank - 1}])")
    return dim % rank


def config_for(tensor: Tensor, shape, memory_config: MemoryConfig) -> MemoryConfig:
    """The memory config of an output with another shape: the given one, or the input's if it still fits."""
    if memory_config is not None:
        return memory_config
    kept = tensor.memory_config()
    if kept.is_sharded():
        try:
            TensorSpec(shape, tensor.dtype, tensor.layout, kept)
        except RuntimeError as error:
            raise RuntimeError(f"the input's sharding does not fit the output; give a memory_config ({error})")
    return kept


def into(
    output_tensor: Tensor, kernel, inputs, spec: TensorSpec, dtype: DataType = None, memory_config: MemoryConfig = None,
    rounds=False,
) -> Program:  # fmt: skip
    """A program with one output, written into `output_tensor` if given.

    `output_tensor` must have the shape and layout of `spec`, and also `dtype` and `memory_config` if they are given. The
    result is rounded to its dtype, unless the kernel `rounds` it itself.
    """
    if output_tensor is None:
        return Program(kernel, inputs, spec, rounds=rounds)
    for what, wanted, have in (
        ("shape", spec.shape, output_tensor.shape),
        ("layout", spec.layout, output_tensor.layout),
        ("dtype", dtype, output_tensor.dtype),
        ("memory_config", memory_config, output_tensor.memory_config()),
    ):
        if wanted is not None and wanted != have:
            raise RuntimeError(f"the output tensor's {what} must be {wanted}, got {have}")
    round_to = rounding(output_tensor.dtype)

    def write(*values):
        *operands, out = values
        result = kernel(*operands)
        out.copy_(result if rounds else round_to(result))

    return Program(write, [*inputs, output_tensor], in_place=output_tensor)
