"""The whole decoder-only transformer on a mesh."""

from collections.abc import Sequence

import ttnn

from models.tt_transformers.tt.config.program_configs import TILE
from models.tt_transformers.tt.families.family import SELF_ATTENTION
from models.tt_transformers.tt.modules.ccl import make_ccl
from models.tt_transformers.tt.modules.decoder import DECODERS
from models.tt_transformers.tt.modules.embedding import Embedding, rotary_embedding
from models.tt_transformers.tt.modules.lm_head import LMHead, LMHeadConfig
from models.tt_transformers.tt.modules.norm import residual_norm
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig
from models.tt_transformers.tt.vision.model import VisionModel


class Transformer:
    """Embedding, decoders, norm, LM head, rotary tables and KV caches of the model that `args` describes.

    `weights`: `Weights`, or an object with the same methods; its `load` gives the model's tensors their values.
    `kv_caches`: one per layer, all of the same kind. `deallocate` frees both.
    """

    def __init__(self, args, weights, kv_caches: Sequence):
        if len(kv_caches) != args.arch.n_layers:
            raise ValueError(f"{len(kv_caches)} KV caches for a model of {args.arch.n_layers} layers")
        self.args = args
        self.mesh_device = args.mesh_device
        self.weights = weights
        self.kv_caches = kv_caches
        self.ccl = ccl = make_ccl(args.placement, weights.constants, args.max_batch_size)
        self.embedding = Embedding(weights.embedding())
        self.layers = [DECODERS[kind](args, weights, layer, ccl) for layer, kind in enumerate(args.arch.layer_kinds)]
        lm_head = LMHeadConfig.resolve(args)
        self.norm = residual_norm(args, weights, "norm", lm_head.splits[0].cores, ccl)
        self.lm_head = LMHead(lm_head, weights, ccl)
        self.rotary = rotary_embedding(args, weights.constants)
        self.vision = None if args.arch.vision is None else VisionModel(args, weights, ccl)

    @property
    def paged(self) -> PagedAttentionConfig | None:
        """The pages of the text's KV caches; None if they are not paged."""
        return self.kv_caches[self.args.arch.layer_kinds.index(SELF_ATTENTION)].paged

    def prefill_forward(
        self, tokens, rotate, slots: Sequence[int], page_table, prefix_page_table, chunk_start: int, images=None
    ):
        """Runs one chunk of a user's sequence, or whole sequences of several users, and fills the KV caches of `slots`.

        tokens: [1, n_users * seq_len] uint32, user by user; rotate: the `Rotation` of seq_len positions; page tables:
        see `Attention.prefill_forward`, None if unpaged; images: the `PromptImages` of the user if it has images.
        Returns the hidden state [1, 1, n_users * seq_len, dim / N], DRAM interleaved.
        """
        x = self.embedding.forward(tokens, ttnn.DRAM_MEMORY_CONFIG)
        for layer, kv_cache in zip(self.layers, self.kv_caches):
            x = layer.prefill_forward(x, rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start, images)
        return x

    def prefill_logits(self, x, position: int):
        """Logits of the tile of 32 rows of x [1, 1, rows, dim / N] that holds row `position`.

        Returns [1, 1, 32, columns] (see `LMHead`); the row is `position % 32`.
        """
        first = position // TILE * TILE
        x = ttnn.slice(x, [0, 0, first, 0], [1, 1, first + TILE, x.shape[3]], memory_config=ttnn.L1_MEMORY_CONFIG)
        return self.lm_head.decode_forward(self.norm.decode_forward(x))

    def decode_forward(self, tokens, positions, rotary_rows, page_table, images=None):
        """One token for each user: tokens [1, rows] uint32; of a device's users, positions [users] int32 (-1 skips a
        user), rotary_rows [1, users] uint32, page_table [users, pages] int32 or None; images: the `DecodeImages` of a
        model with images. `rows`: see `Placement.decode_rows`. Returns logits [1, 1, rows, columns] (see `LMHead`)."""
        x = self.embedding.forward(tokens, ttnn.L1_MEMORY_CONFIG)
        rotate = self.rotary.decode(rotary_rows)
        for layer, kv_cache in zip(self.layers, self.kv_caches):
            x = layer.decode_forward(x, rotate, kv_cache, positions, page_table, images)
        return self.lm_head.decode_forward(self.norm.decode_forward(x))

    def logits_to_torch(self, logits):
        """Device logits -> torch float32 [rows, vocab_size], the devices' columns side by side, padding cut off."""
        host = ttnn.to_torch(logits, mesh_composer=self.args.placement.composer(self.mesh_device, model=3))
        return host[0, 0, :, : self.args.arch.vocab_size].float()

    def deallocate(self) -> None:
        """Frees weights, tables and caches; the model cannot be used afterwards."""
        self.weights.deallocate()
        self.ccl.deallocate()
        for kv_cache in self.kv_caches:
            kv_cache.deallocate()
