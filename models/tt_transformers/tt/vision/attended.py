"""Which tokens of its images each position of a prompt attends to. Plain numbers, no device.

As Hugging Face's MllamaProcessor has it: a position attends to the last image before it, with the images directly before
that one, and to tiles with content only. A position before the first image attends to all tokens of all images, tiles
without content included (`_prepare_cross_attention_mask` of its model).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from models.tt_transformers.tt.config.program_configs import padded_prefill_length
from models.tt_transformers.tt.config.vision import VisionArchitecture


@dataclass(frozen=True)
class Attended:
    """The tiles of a prompt's images in the order of their keys, and the positions that attend to them.

    The keys that the prompt's last position attends to come first, because decoded tokens attend to the same.

    Attributes:
        spans: for each image, the positions of the prompt that attend to it: from `start` to before `stop`.
        tile_counts: for each image, the number of its tiles with content.
    """

    arch: VisionArchitecture
    spans: tuple[tuple[int, int], ...]
    tile_counts: tuple[int, ...]

    @classmethod
    def of(cls, arch: VisionArchitecture, tokens: Sequence[int], tile_counts: Sequence[int]) -> "Attended":
        """The images of the prompt `tokens`, which has one image token for each of `tile_counts`."""
        starts = [position for position, token in enumerate(tokens) if token == arch.image_token]
        stops = [*starts[1:], len(tokens)]
        for image in reversed(range(len(starts) - 1)):
            if starts[image + 1] == starts[image] + 1:  # neighbours are attended to together
                stops[image] = stops[image + 1]
        return cls(arch, tuple(zip(starts, stops)), tuple(tile_counts))

    @cached_property
    def order(self) -> list[tuple[int, int]]:
        """(image, tile) in the order of their keys."""
        tiles = [(image, tile) for image in range(len(self.spans)) for tile in range(self.arch.max_tiles)]
        return sorted(tiles, key=lambda image_tile: not self._in_decode(*image_tile))

    @property
    def decode_keys(self) -> int:
        """The number of keys, from the first on, that decoded tokens attend to."""
        return self.arch.tokens_a_tile * sum(self._in_decode(*image_tile) for image_tile in self.order)

    @property
    def keys(self) -> int:
        """The number of keys, padded for the ops."""
        return padded_prefill_length(len(self.order) * self.arch.tokens_a_tile)

    def rows(self, rows_an_image: int) -> list[int]:
        """The row of each key among the images' rows in the encoder, `rows_an_image` each; 0 for padding."""
        a, rows = self.arch, [0] * self.keys
        for place, (image, tile) in enumerate(self.order):
            first = image * rows_an_image + tile * a.rows_a_tile
            rows[place * a.tokens_a_tile : (place + 1) * a.tokens_a_tile] = range(first, first + a.tokens_a_tile)
        return rows

    def masked(self, start: int, stop: int) -> torch.Tensor:
        """[stop - start, keys] bool: the keys that the positions from `start` on do not attend to."""
        positions = torch.arange(start, stop)
        sees = torch.stack([self._attends(image, tile, positions) for image, tile in self.order], dim=1)
        sees |= ~self.sees(start, stop)[:, None]
        masked = torch.ones(stop - start, self.keys, dtype=torch.bool)
        masked[:, : len(self.order) * self.arch.tokens_a_tile] = ~sees.repeat_interleave(self.arch.tokens_a_tile, dim=1)
        return masked

    def sees(self, start: int, stop: int) -> torch.Tensor:
        """[stop - start] bool: the positions at or after the first image."""
        return torch.arange(start, stop) >= self.spans[0][0]

    def _in_decode(self, image: int, tile: int) -> bool:
        return self.spans[image][1] == self.spans[-1][1] and tile < self.tile_counts[image]

    def _attends(self, image: int, tile: int, positions: torch.Tensor) -> torch.Tensor:
        start, stop = self.spans[image]
        return (positions >= start) & (positions < stop) & (tile < self.tile_counts[image])
