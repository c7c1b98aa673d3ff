"""Checks that all attention ops share."""

from ..dtypes import TILE_SIZE
from ..program_config import SDPAProgramConfig
from ..tensor import Tensor
from .checks import check_grid, check_indices


def default_scale(q: Tensor) -> float:
    return q.shape[-1] ** -0.5


def check_sdpa_config(program_config: SDPAProgramConfig) -> None:
    if program_config is not None:
        check_grid("compute_with_storage_grid_size", program_config.compute_with_storage_grid_size)


def check_page_table(table, users) -> None:
    check_indices("page_table_tensor", table)
    if len(table.shape) != 2 or table.shape[0] != users:
        raise RuntimeError(f"page_table_tensor must be [{users}, pages per user], got {list(table.shape)}")


def check_heads(q, k, v, heads: int) -> None:
    """Checks that k and v have the same shape and q's head_dim, in whole tiles, and that their heads divide `heads`."""
    head_dim = q.shape[3]
    if head_dim % TILE_SIZE:
        raise RuntimeError(f"head_dim must be a multiple of {TILE_SIZE}, got {head_dim}")
    if k.shape[3] != head_dim or v.shape[3] != head_dim:
        raise RuntimeError(f"q, k and v must have one head_dim, got {shapes_of(q, k, v)}")
    if tuple(k.shape)[:2] != tuple(v.shape)[:2] or heads % k.shape[1]:
        raise RuntimeError(f"k and v must be alike, their heads a divisor of q's {heads}, got {shapes_of(q, k, v)}")


def shapes_of(*tensors) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in tensors)
