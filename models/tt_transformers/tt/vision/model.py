"""The vision model: pixels of an image -> tokens that the language model attends to.

Its values are those of Hugging Face's MllamaVisionModel and multi_modal_projector. Rows of an image: tile by tile, in a
tile the class token, the patches, and padding to a multiple of 8, which the patches attend to; last the padding that the
ops need, which nothing attends to.
"""

import torch
import ttnn

from models.tt_transformers.tt.config.vision import OUTER_NORM_EPS
from models.tt_transformers.tt.modules.embedding import Embedding
from models.tt_transformers.tt.modules.linear import Linear
from models.tt_transformers.tt.vision.config import VisionConfig
from models.tt_transformers.tt.vision.encoder import LayerNorm, VisionLayer
from models.tt_transformers.tt.vision.projector import Projector

# Added to the score of a key that a query does not attend to. A power of 2, so that block formats hold it exactly.
MASKED = -(2.0**30)


class VisionModel:
    """Patch embedding, an encoder whose intermediate outputs are kept, a gated encoder, a projection.

    What is added to the patches before the encoder (class token, positions, tiles) depends on the aspect ratio alone, so
    it is one row of a table for each ratio, tile and patch. The table and the one of the tiles after the encoder are
    made when the weights are loaded, gates included.
    """

    def __init__(self, args, weights, ccl):
        self.config = config = VisionConfig.resolve(args)
        self.ccl, self._constants = ccl, weights.constants
        arch, outer = config.arch, config.norm(OUTER_NORM_EPS)
        self.patch = Linear(config.patch, *weights.column_parallel("vision.patch_embedding", config.patch))
        self.added = Embedding(_table_before(weights, arch))
        self.norm_pre = LayerNorm(outer, weights, "vision.norm_pre", ccl)
        self.layers = [
            VisionLayer(config, weights, f"vision.layers.{layer}", ccl, gated=False) for layer in range(arch.n_layers)
        ]
        self.norm_post = LayerNorm(outer, weights, "vision.norm_post", ccl)
        self.post_tile = Embedding(_table_after(weights, arch))
        self.global_layers = [
            VisionLayer(config, weights, f"vision.global_layers.{layer}", ccl, gated=True)
            for layer in range(arch.n_global_layers)
        ]
        self.projector = Projector(config, weights, ccl)
        self._has_content = self._constants.tensor(
            "image has content", lambda: _content_rows(config)[None, None, :, None], ttnn.bfloat16
        )

    def forward(self, pixels: torch.Tensor, aspect_ratio_id: int):
        """pixels: [max_tiles, channels, image_size, image_size] float32, zeros for tiles without content -> tokens
        [1, 1, rows, text dim / N], DRAM, row-major."""
        c, mask = self.config, self._mask(self.config.arch.tile_counts[aspect_ratio_id - 1])
        before, after = _table_rows(c, aspect_ratio_id)
        x = self.patch.prefill_forward(self._constants.to_device(_patch_rows(c, pixels)[None, None], ttnn.bfloat16))
        added = self.added.forward(self._indices(before), ttnn.DRAM_MEMORY_CONFIG)
        x = ttnn.add(x, added, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        x = self._split(ttnn.mul(self.norm_pre.forward(x), self._has_content, memory_config=ttnn.DRAM_MEMORY_CONFIG))
        intermediate = []
        for layer in self.layers:
            x = layer.forward(x, mask)
            intermediate.append(x)
        kept = [intermediate[layer] for layer in c.arch.intermediate_layers]
        del intermediate
        x = self._split(self.norm_post.forward(x))
        added = self.post_tile.forward(self._indices(after), ttnn.DRAM_MEMORY_CONFIG)
        x = ttnn.add(x, added, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        for layer in self.global_layers:
            x = layer.forward(x, mask)
        return ttnn.untilize(self.projector.forward([x, *kept]), memory_config=ttnn.DRAM_MEMORY_CONFIG)

    def gathered(self, images: list, rows: list[int]):
        """Tokens of several images, each as `forward` gives them; `rows` counts through all of them -> the tokens of
        these rows [1, 1, len(rows), text dim], tiled, on every device."""
        table = ttnn.concat(images, dim=2, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        tokens = Embedding(table).forward(self._indices(rows), ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.gather_residual(tokens, ttnn.DRAM_MEMORY_CONFIG)

    def _split(self, x):
        """x: [1, 1, rows, dim], the same on every device -> [1, 1, rows, dim / N]. The parts that are added up are
        divided by N first, which is exact for a power of 2."""
        share = ttnn.mul(x, 1 / self.config.ranks, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_residual(share, ttnn.DRAM_MEMORY_CONFIG)

    def _mask(self, tiles: int):
        """The mask of an image of `tiles` tiles with content."""
        return self._constants.tensor(("image mask", tiles), lambda: _mask_values(self.config, tiles), ttnn.bfloat4_b)

    def _indices(self, rows: list[int]):
        return self._constants.to_device(torch.tensor([rows], dtype=torch.int32), ttnn.uint32, ttnn.ROW_MAJOR_LAYOUT)


def _mask_values(config: VisionConfig, tiles: int) -> torch.Tensor:
    """[1, 1, rows, rows] for an image of `tiles` tiles with content.

    As in Hugging Face, a row without content (padding of a tile, or a tile without content) does not attend to others of
    its kind; every other pair attends to each other.
    """
    content = _content_rows(config)
    content[tiles * config.arch.rows_a_tile :] = 0
    without = 1 - content
    mask = without[:, None] * without[None, :]
    mask[:, config.arch.max_tiles * config.arch.rows_a_tile :] = 1
    return mask[None, None] * MASKED


def _content_rows(config: VisionConfig) -> torch.Tensor:
    """[rows] float32: 1 for the class token and the patches of every tile, 0 for padding."""
    a, rows = config.arch, torch.zeros(config.rows)
    rows[: a.max_tiles * a.rows_a_tile].view(a.max_tiles, a.rows_a_tile)[:, : a.tokens_a_tile] = 1
    return rows


def _patch_rows(config: VisionConfig, pixels: torch.Tensor) -> torch.Tensor:
    """pixels [max_tiles, channels, image_size, image_size] -> [rows, k]: the numbers of each patch in the order of a
    convolution's weight; zeros for class tokens and padding."""
    a, rows = config.arch, torch.zeros(config.rows, config.patch.k)
    patches = torch.nn.functional.unfold(pixels, a.patch_size, stride=a.patch_size).transpose(1, 2)
    tiles = rows[: a.max_tiles * a.rows_a_tile].view(a.max_tiles, a.rows_a_tile, -1)
    tiles[:, 1 : a.tokens_a_tile, : a.patch_features] = patches
    return rows


def _table_rows(config: VisionConfig, aspect_ratio_id: int) -> tuple[list[int], list[int]]:
    """The rows of `_table_before` and of `_table_after` for every row of an image."""
    a, before, after = config.arch, [0] * config.rows, [0] * config.rows
    for tile in range(a.max_tiles):
        first = tile * a.rows_a_tile
        row = aspect_ratio_id * a.tokens_an_image + tile * a.tokens_a_tile
        before[first : first + a.tokens_a_tile] = range(row, row + a.tokens_a_tile)
        after[first : first + a.rows_a_tile] = [aspect_ratio_id * a.max_tiles + tile] * a.rows_a_tile
    return before, after


def _table_before(weights, arch):
    """A row for each aspect ratio, tile and token: the class token or the embedding of the tile, and the positions."""
    names = (
        "class_embedding", "position.weight", "position.gate", "tile_position.weight", "pre_tile.weight", "pre_tile.gate"
    )  # fmt: skip

    def rows(class_token, position, gate, tile_position, tile, tile_gate):
        position_gate = gate.float().tanh()
        table = tile_position.float().view(-1, arch.max_tiles, arch.tokens_a_tile, arch.dim) * position_gate
        table += position.float() * (1 - position_gate)
        table[:, :, 0] += class_token.float()
        table[:, :, 1:] += tile.float().view(-1, arch.max_tiles, 1, arch.dim) * tile_gate.float().tanh()
        return table.flatten(0, 2)

    ids = len(arch.tile_counts) + 1
    return weights.table("vision.before", [f"vision.{name}" for name in names], (ids * arch.tokens_an_image, arch.dim), rows)


def _table_after(weights, arch):
    """A row for each aspect ratio and tile: the embedding of the tile."""

    def rows(tile, gate):
        return tile.float().view(-1, arch.dim) * gate.float().tanh()

    ids = len(arch.tile_counts) + 1
    sources = ["vision.post_tile.weight", "vision.post_tile.gate"]
    return weights.table("vision.after", sources, (ids * arch.max_tiles, arch.dim), rows)
