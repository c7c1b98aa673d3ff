"""Token embedding."""

import torch

from ..declaration import NotEmulated
from ..dtypes import DataType, Layout, TensorMemoryLayout
from ..memory import MemoryConfig
from ..op import op
from ..program_config import EmbeddingsType
from ..table import TableInFile
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype
from .common import into


@op("ttnn.embedding")
def embedding(
    input_tensor: Tensor,
    weight: Tensor,
    *,
    padding_idx: NotEmulated = None,
    layout: Layout = None,
    embeddings_type: NotEmulated = EmbeddingsType.GENERIC,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
) -> Tensor:
    """The rows of `weight` `[vocabulary, width]` for ids `[batch, 1, 1, n]` or of lower rank, as `[batch, n, width]`.

    Ids `[n]` give `[n, width]`. The default `layout` is the weight's, the default `memory_config` the ids'.
    Raises IndexError for an id that is not in the vocabulary.
    """
    check_dtype("input_tensor", input_tensor.dtype, (DataType.UINT32, DataType.BFLOAT16))
    accepted = (DataType.BFLOAT16,)
    if weight.layout is Layout.TILE:
        accepted = (DataType.BFLOAT16, DataType.BFLOAT8_B)
    check_dtype("weight", weight.dtype, accepted)
    if set(tuple(weight.shape)[:-2]) - {1} or len(weight.shape) < 2:
        raise RuntimeError(f"weight must be [vocabulary, width] behind ones, got {list(weight.shape)}")
    ids_shape = tuple(input_tensor.shape)
    if not 1 <= len(ids_shape) <= 4 or set(ids_shape[1:-1]) - {1}:
        raise RuntimeError(f"input_tensor must be [n], [batch, n] or [batch, 1, 1, n], got {list(ids_shape)}")
    if weight.layout is Layout.TILE and layout is Layout.ROW_MAJOR:
        raise RuntimeError("the output of a weight in TILE layout is in TILE layout too; leave layout=ROW_MAJOR out")
    layout = weight.layout if layout is None else layout
    vocabulary, width = tuple(weight.shape)[-2:]
    shape = (*ids_shape, width) if len(ids_shape) == 1 else (ids_shape[0], ids_shape[-1], width)
    config = input_tensor.memory_config() if memory_config is None else memory_config
    _check_sharding(layout, config)

    def kernel(ids, table):
        if ids.is_meta or table.is_meta:
            return table.new_empty(shape, device="meta")
        if ids.is_floating_point():
            ids = ids.to(torch.int64)
        try:
            if type(table) is TableInFile:
                return table.rows(ids).view(shape)
            return torch.nn.functional.embedding(ids, table.reshape(vocabulary, width)).view(shape)
        except IndexError as error:
            bad = [index for index in ids.flatten().tolist() if not 0 <= index < vocabulary]
            raise IndexError(f"ids {bad[:8]} are not in the vocabulary of {vocabulary}") from error

    spec = TensorSpec(shape, DataType.BFLOAT16 if dtype is None else dtype, layout, config)
    return into(output_tensor, kernel, [input_tensor, weight], spec, dtype, memory_config)


def _check_sharding(layout, memory_config):
    height_sharded = memory_config.memory_layout is TensorMemoryLayout.HEIGHT_SHARDED
    if layout is Layout.ROW_MAJOR and memory_config.is_sharded() and not height_sharded:
        raise RuntimeError(f"a ROW_MAJOR output can only be height-sharded, got {memory_config}")
