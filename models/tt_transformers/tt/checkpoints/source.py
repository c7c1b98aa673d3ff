"""Where one of our tensors lies in a checkpoint, and what makes it of what is stored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Source:
    """Rows [start, stop) of the tensor `name`.

    `rotated`: the number of heads whose rows are permuted to the interleaved order, and how many rows of each.
    `appended`: the name of a tensor and how many rows of it follow. `stored_shape` and `convert`: the shape of the stored
    tensor, where it is not ours, and the function that makes ours of it.
    """

    name: str
    start: int
    stop: int
    rotated: tuple[int, int] | None = None
    appended: tuple[str, int] | None = None
    stored_shape: tuple[int, ...] | None = None
    convert: Callable[[torch.Tensor], torch.Tensor] | None = None
