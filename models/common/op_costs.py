"""The cost of ops on the emulator: how many run, how many bytes they move, and how much time each takes."""

from collections import Counter
from dataclasses import dataclass

from models.common import backend

_LINEARS = ("ttnn.linear", "ttnn.matmul")
_CACHE_UPDATES = ("ttnn.experimental.paged_update_cache", "ttnn.update_cache")
_DECODE_ATTENTION = (
    "ttnn.transformer.paged_scaled_dot_product_attention_decode",
    "ttnn.transformer.scaled_dot_product_attention_decode",
)


def check_available() -> None:
    """Raises RuntimeError on a backend that keeps no op log."""
    if backend.name() != "emulator":
        raise RuntimeError(f"the ops' costs are the emulator's; the backend is {backend.name()}")


def profiling():
    """Context manager: measures ops, also replayed ones. Yields the dict that it fills: op -> [calls, seconds]."""
    check_available()
    # Imported only here, because the emulator must not be loaded where the vendor's package runs.
    from models.common.ttnn_emulator import oplog

    return oplog.profiling()


def recording():
    """Context manager: yields a list that gets one `OpRecord` per op that Python calls; replayed ops are left out."""
    check_available()
    from models.common.ttnn_emulator import oplog

    return oplog.recording()


@dataclass(frozen=True)
class OpCosts:
    """Costs of a list of ops.

    Attributes:
        ops: op -> calls.
        bytes_moved: bytes that one device reads and writes, if each op reads its inputs and writes its outputs once.
        weight_bytes: the part of `bytes_moved` that is weights of linear ops.
    """

    ops: dict
    bytes_moved: int
    weight_bytes: int

    @property
    def op_count(self) -> int:
        return sum(self.ops.values())

    @classmethod
    def of(cls, records, context_len: int) -> "OpCosts":
        """Costs of a decode step's `OpRecord`s, for users with `context_len` tokens each.

        Tensors count with their padding to tiles. Some ops use only a part of an input: an embedding reads the rows
        that it returns, a cache update writes one position per user, attention reads `context_len` positions per user.
        """
        return cls(
            dict(Counter(record.name for record in records)),
            sum(_bytes_moved(record, context_len) for record in records),
            sum(tensor_bytes(record.inputs[1]) for record in records if record.name in _LINEARS),
        )


def tensor_bytes(spec) -> int:
    """Bytes of one device's tensor, padding included. `spec`: a TensorSpec; None has no bytes."""
    if spec is None:
        return 0
    from models.common.ttnn_emulator.dtypes import Layout, element_size, tile_size

    elements = 1
    for size in spec.padded_shape:
        elements *= size
    if spec.layout is Layout.TILE:
        return elements * tile_size(spec.dtype) // 1024
    return elements * element_size(spec.dtype)


def _bytes_moved(record, context_len):
    outputs = sum(map(tensor_bytes, record.outputs))
    if record.name == "ttnn.embedding":
        return tensor_bytes(record.inputs[0]) + 2 * outputs
    if record.name in _CACHE_UPDATES:
        update, *indices = record.inputs[1:]
        return 2 * tensor_bytes(update) + sum(map(tensor_bytes, indices))
    if record.name in _DECODE_ATTENTION:
        query, keys, values, *indices = record.inputs
        users = query.shape[1]
        cached = sum(_cached_bytes(cache, users * context_len) for cache in (keys, values))
        return tensor_bytes(query) + cached + sum(map(tensor_bytes, indices)) + outputs
    return sum(map(tensor_bytes, record.inputs)) + outputs


def _cached_bytes(cache, positions):
    """Bytes of `positions` tokens in a cache [blocks or users, heads, tokens, head_dim]."""
    return tensor_bytes(cache) * positions // (cache.shape[0] * cache.shape[2])
