"""Rotary position embedding (Su et al., 2021), in the forms of the vendor's ops. Computed in fp32, rounded once."""

import torch

from ..compiled import in_memory, in_threads
from ..cores import corerange_to_cores
from ..declaration import NoEffect
from ..dtypes import TILE_SIZE, DataType, Layout, TensorMemoryLayout
from ..loops import rows as loops
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig
from ..shapes import round_up
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype, check_rank4, check_tiled

_MAX_LLAMA_HEAD_DIM = 256


@op("ttnn.experimental.rotary_embedding_llama")
def rotary_embedding_llama(
    input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    trans_mat: Tensor,
    *,
    is_decode_mode: bool = False,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """x * cos + (x @ trans_mat) * sin. `trans_mat` acts on each 32 columns, where neighbours (2i, 2i + 1) form pairs.

    Prefill: x `[B, heads, S, head_dim]`, cos and sin `[1, 1 or heads, at least S, head_dim]`, trans_mat one tile.
    Decode: x `[1, B, heads, head_dim]`, cos and sin `[1, B, 1, head_dim]`, trans_mat `[1, 1, 32 * B, 32]`, all
    height-sharded with one user per core. All tensors are bf16.
    """
    _check_llama(input_tensor, cos_cache, sin_cache, trans_mat)
    memory_config = input_tensor.memory_config() if memory_config is None else memory_config
    if is_decode_mode:
        _check_llama_decode(input_tensor, cos_cache, sin_cache, trans_mat, memory_config)
    else:
        _check_llama_prefill(input_tensor, cos_cache, trans_mat, memory_config)
    kernel = _llama_kernel(is_decode_mode)
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, Layout.TILE, memory_config)
    return Program(kernel, [input_tensor, cos_cache, sin_cache, trans_mat], spec)


@op("ttnn.experimental.rotary_embedding_llama_fused_qk")
def rotary_embedding_llama_fused_qk(
    q_input_tensor: Tensor,
    k_input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    trans_mat: Tensor,
    *,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> tuple:
    """`rotary_embedding_llama` of q and k in decode, which lie on different cores.

    cos and sin are `[1, 2 * B, 1, head_dim]` and trans_mat is `[1, 1, 2 * 32 * B, 32]`: those of q first, then of k.
    """
    users = q_input_tensor.shape[1]
    grids = []
    for each in (q_input_tensor, k_input_tensor):
        _check_llama(each, cos_cache, sin_cache, trans_mat)
        _check_llama_decode(each, cos_cache, sin_cache, trans_mat, each.memory_config(), copies=2)
        grids.append(each.memory_config().shard_spec.grid)
    if not set(corerange_to_cores(grids[0])).isdisjoint(corerange_to_cores(grids[1])):
        raise RuntimeError(f"q_input_tensor and k_input_tensor must lie on different cores, got {grids}")
    rotate, rows = _llama_kernel(is_decode_mode=True), users * TILE_SIZE

    def kernel(q, k, cos, sin, matrix):
        return (
            rotate(q, cos[:, :users], sin[:, :users], matrix[:, :, :rows]),
            rotate(k, cos[:, users:], sin[:, users:], matrix[:, :, rows:]),
        )

    specs = tuple(
        TensorSpec(each.shape, each.dtype, Layout.TILE, each.memory_config()) for each in (q_input_tensor, k_input_tensor)
    )
    return Program(kernel, [q_input_tensor, k_input_tensor, cos_cache, sin_cache, trans_mat], specs)


_WORK = 2  # elements in the time that `in_threads` takes one to need


def _llama_kernel(is_decode_mode):
    def kernel(values, cos, sin, matrix):
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        if values.is_meta:
            return result
        values, cos, sin, matrix = map(in_memory, (values, cos, sin, matrix))
        batch, heads, rows, width = values.shape
        _, n_angles, angle_rows, _ = cos.shape
        n_matrices = matrix.shape[2] // TILE_SIZE
        source, target = values.data_ptr(), result.data_ptr()
        angles = cos.data_ptr(), sin.data_ptr(), n_angles, angle_rows, int(is_decode_mode)
        others = rows, width, *angles, matrix.data_ptr(), n_matrices
        if n_angles == n_matrices == 1:
            in_threads(loops.rotate, batch * heads, source, target, *others, work=_WORK * values.numel())
        else:
            for start in range(0, 2 * values.numel(), 2 * heads * rows * width):
                loops.rotate(0, heads, source + start, target + start, *others)
        return result

    return kernel


def _rotate(values, turned, cos, sin):
    return (values * cos.float()).addcmul_(turned, sin.float())


def _check_llama(tensor, cos, sin, matrix):
    for argument, each in (("input_tensor", tensor), ("cos_cache", cos), ("sin_cache", sin), ("trans_mat", matrix)):
        check_tiled(argument, each)
        check_rank4(argument, each)
        check_dtype(argument, each.dtype, (DataType.BFLOAT16,))
    if cos.shape != sin.shape:
        raise RuntimeError(f"cos_cache {list(cos.shape)} and sin_cache {list(sin.shape)} must be alike")
    head_dim = tensor.shape[-1]
    if cos.shape[0] != 1 or cos.shape[-1] != head_dim:
        raise RuntimeError(f"cos_cache must be [1, ..., {head_dim}], got {list(cos.shape)}")
    if head_dim % TILE_SIZE or head_dim > _MAX_LLAMA_HEAD_DIM:
        raise RuntimeError(f"head_dim must be a multiple of 32 up to {_MAX_LLAMA_HEAD_DIM}, got {head_dim}")
    if matrix.shape[0] != 1 or matrix.shape[1] != 1 or matrix.shape[3] != TILE_SIZE:
        raise RuntimeError(f"trans_mat must be [1, 1, 32 or more, 32], got {list(matrix.shape)}")


def _check_llama_decode(tensor, cos, sin, matrix, memory_config, copies=1):
    """`copies`: of cos, sin and the matrix, one after the other."""
    for argument, each in (("input_tensor", tensor), ("cos_cache", cos), ("sin_cache", sin), ("trans_mat", matrix)):
        if each.memory_config().memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED:
            raise RuntimeError(f"in decode mode {argument} must be height-sharded, got {each.memory_config()}")
    one, batch, _, _ = tensor.shape
    needed = copies * batch
    if one != 1 or cos.shape[1] != needed:
        raise RuntimeError(
            f"in decode mode input_tensor is [1, B, heads, head_dim] and cos_cache here [1, {needed}, 1, head_dim], "
            f"got {list(tensor.shape)} and {list(cos.shape)}"
        )
    if matrix.shape[2] < TILE_SIZE * needed:
        raise RuntimeError(f"in decode mode trans_mat must have one tile a user, {needed}, got {list(matrix.shape)}")
    if memory_config.memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED or memory_config.shard_spec is None:
        raise RuntimeError(f"in decode mode the output must be height-sharded with a shard_spec, got {memory_config}")


def _check_llama_prefill(tensor, cos, matrix, memory_config):
    if tensor.memory_config().is_sharded() or memory_config.is_sharded():
        raise RuntimeError(f"in prefill mode tensors must be interleaved, got {tensor.memory_config()}")
    if cos.shape[1] not in (1, tensor.shape[1]):
        raise RuntimeError(f"cos_cache must have 1 or {tensor.shape[1]} heads, got {list(cos.shape)}")
    if cos.shape[2] < tensor.shape[2]:
        raise RuntimeError(f"cos_cache has {cos.shape[2]} positions for a sequence of {tensor.shape[2]}")
    if matrix.shape[2] != TILE_SIZE:
        raise RuntimeError(f"in prefill mode trans_mat must be one tile, got {list(matrix.shape)}")


@op("ttnn.experimental.rotary_embedding")
def rotary_embedding(
    input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    token_index: int = None,
    *,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """x * cos + rotate_half(x) * sin, with cos and sin `[1, 1, positions, head_dim]` and x `[W, Z, S, head_dim]`.

    Row s of x has position s, or `token_index` if that is given. As on a card, the output's rows are padded to whole
    tiles, also in the logical shape. head_dim must be 32 or a multiple of 64.
    """
    _check_halves(input_tensor, cos_cache, sin_cache)
    first, heads, seq_len, head_dim = input_tensor.shape
    rows = round_up(seq_len, TILE_SIZE)
    if tuple(cos_cache.shape)[:2] != (1, 1):
        raise RuntimeError(f"cos_cache must be [1, 1, positions, {head_dim}], got {list(cos_cache.shape)}")
    needed = rows if token_index is None else token_index + 1
    if cos_cache.padded_shape[2] < needed or (token_index is not None and token_index < 0):
        raise RuntimeError(f"cos_cache has {cos_cache.shape[2]} positions, {needed} are needed")

    def kernel(values, cos, sin):
        cos, sin = (
            table[:, :, :seq_len] if token_index is None else table[:, :, token_index : token_index + 1]
            for table in (cos, sin)
        )
        values = values.float()
        return torch.nn.functional.pad(_rotate(values, _rotate_half(values), cos, sin), (0, 0, 0, rows - seq_len))

    memory_config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec((first, heads, rows, head_dim), input_tensor.dtype, Layout.TILE, memory_config)
    return Program(kernel, [input_tensor, cos_cache, sin_cache], spec)


@op("ttnn.experimental.rotary_embedding_hf")
def rotary_embedding_hf(
    input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    is_decode_mode: bool = False,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """x * cos + rotate_half(x) * sin as Hugging Face defines it; head_dim must be 32 or a multiple of 64.

    Prefill: x `[B, heads, S, head_dim]`, cos and sin `[1, 1, at least S, head_dim]`.
    Decode: x `[1, B, heads, head_dim]`, cos and sin `[1, B, 1, head_dim]`, all height-sharded.
    """
    _check_halves(input_tensor, cos_cache, sin_cache)
    _, second, third, _ = input_tensor.shape
    if is_decode_mode:
        for argument, each in (("input_tensor", input_tensor), ("cos_cache", cos_cache), ("sin_cache", sin_cache)):
            if not each.memory_config().is_sharded():
                raise RuntimeError(f"in decode mode {argument} must be sharded, got {each.memory_config()}")
        if cos_cache.shape[1] != second:
            raise RuntimeError(f"cos_cache must have {second} users, got {list(cos_cache.shape)}")
    elif cos_cache.shape[1] != 1 or cos_cache.shape[2] < third:
        raise RuntimeError(f"cos_cache must be [1, 1, at least {third}, head_dim], got {list(cos_cache.shape)}")
    rows = 1 if is_decode_mode else third

    def kernel(values, cos, sin):
        values = values.float()
        return _rotate(values, _rotate_half(values), cos[:, :, :rows], sin[:, :, :rows])

    memory_config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, Layout.TILE, memory_config)
    return Program(kernel, [input_tensor, cos_cache, sin_cache], spec)


def _rotate_half(values):
    half = values.shape[-1] // 2
    return torch.cat((-values[..., half:], values[..., :half]), dim=-1)


def _check_halves(tensor, cos, sin):
    for argument, each in (("input_tensor", tensor), ("cos_cache", cos), ("sin_cache", sin)):
        check_tiled(argument, each)
        check_rank4(argument, each)
        check_dtype(argument, each.dtype)
    head_dim = tensor.shape[-1]
    if head_dim != TILE_SIZE and head_dim % (2 * TILE_SIZE):
        raise RuntimeError(f"head_dim must be 32 or a multiple of 64, got {head_dim}")
    if cos.shape != sin.shape or cos.shape[0] != 1 or cos.shape[-1] != head_dim:
        raise RuntimeError(
            f"cos_cache and sin_cache must be [1, ..., {head_dim}], got {list(cos.shape)} and {list(sin.shape)}"
        )
