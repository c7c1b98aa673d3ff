"""The part of a Llama 3.2 Vision checkpoint that reads images, as one frozen dataclass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.tt_transformers.tt.config.reader import Reader, nested

# An image's patches in a tile are padded to a multiple of this; other patches attend to the padding (Hugging Face's
# MllamaVisionModel).
PATCHES_MULTIPLE = 8
# The eps of the norms before and after the encoder, which is not in config.json: torch's default for LayerNorm.
OUTER_NORM_EPS = 1e-5

_DEFAULTS = {
    "hidden_size": 1280,
    "hidden_act": "gelu",
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5120,
    "image_size": 448,
    "patch_size": 14,
    "norm_eps": 1e-5,
    "max_num_tiles": 4,
    "intermediate_layers_indices": [3, 7, 15, 23, 30],
    "supported_aspect_ratios": None,
}

# Hugging Face's names of a layer's tensors -> ours.
_LAYER = {
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.fc1.weight": "feed_forward.w1.weight",
    "mlp.fc1.bias": "feed_forward.w1.bias",
    "mlp.fc2.weight": "feed_forward.w2.weight",
    "mlp.fc2.bias": "feed_forward.w2.bias",
    "input_layernorm.weight": "attention_norm.weight",
    "input_layernorm.bias": "attention_norm.bias",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "post_attention_layernorm.bias": "ffn_norm.bias",
}
_GATES = {"gate_attn": "attention.gate", "gate_ffn": "feed_forward.gate"}
_OUTSIDE_LAYERS = {
    "vision_model.patch_embedding.weight": "vision.patch_embedding.weight",
    "vision_model.class_embedding": "vision.class_embedding",
    "vision_model.gated_positional_embedding.embedding": "vision.position.weight",
    "vision_model.gated_positional_embedding.tile_embedding.weight": "vision.tile_position.weight",
    "vision_model.gated_positional_embedding.gate": "vision.position.gate",
    "vision_model.pre_tile_positional_embedding.embedding.weight": "vision.pre_tile.weight",
    "vision_model.pre_tile_positional_embedding.gate": "vision.pre_tile.gate",
    "vision_model.post_tile_positional_embedding.embedding.weight": "vision.post_tile.weight",
    "vision_model.post_tile_positional_embedding.gate": "vision.post_tile.gate",
    "vision_model.layernorm_pre.weight": "vision.norm_pre.weight",
    "vision_model.layernorm_pre.bias": "vision.norm_pre.bias",
    "vision_model.layernorm_post.weight": "vision.norm_post.weight",
    "vision_model.layernorm_post.bias": "vision.norm_post.bias",
    "multi_modal_projector.weight": "vision.projector.weight",
    "multi_modal_projector.bias": "vision.projector.bias",
}


@dataclass(frozen=True)
class VisionArchitecture:
    """An image encoder of two transformers, and a projection of its features to the language model's width.

    `intermediate_layers`: the layers whose outputs join the final one as features of an image. `tile_counts`: the tiles
    of each aspect ratio; ratio i has the id i + 1. `image_token`: the token that stands for an image in a prompt.
    """

    dim: int
    n_layers: int
    n_global_layers: int
    n_heads: int
    hidden_dim: int
    norm_eps: float
    channels: int
    image_size: int
    patch_size: int
    max_tiles: int
    intermediate_layers: tuple[int, ...]
    tile_counts: tuple[int, ...]
    image_token: int

    def __post_init__(self):
        if self.dim % self.n_heads:
            raise ValueError(f"vision_config: hidden_size {self.dim} is not a multiple of attention_heads {self.n_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"vision_config: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if not all(0 <= layer < self.n_layers for layer in self.intermediate_layers):
            raise ValueError(
                f"vision_config: intermediate_layers_indices {list(self.intermediate_layers)} must be layers of 0 to {self.n_layers - 1}"
            )

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "VisionArchitecture":
        """From the parsed `config.json`. Raises ValueError that names the key, its value and what is supported."""
        vision = nested(config, "vision_config")
        value = Reader(vision, _DEFAULTS)
        if value("hidden_act") != "gelu":
            raise ValueError(f"vision_config: hidden_act {value('hidden_act')!r} is not supported; supported is 'gelu'")
        max_tiles = value.integer("max_num_tiles")
        ratios = value("supported_aspect_ratios")
        expected = [list(ratio) for ratio in aspect_ratios(max_tiles)]
        if ratios is not None and ratios != expected:
            raise ValueError(
                f"vision_config: supported_aspect_ratios {ratios} are not those of the image processor for {max_tiles} tiles, {expected}"
            )
        intermediate = value("intermediate_layers_indices")
        found = cls(
            dim=value.integer("hidden_size"),
            n_layers=value.integer("num_hidden_layers"),
            n_global_layers=value.integer("num_global_layers"),
            n_heads=value.integer("attention_heads"),
            hidden_dim=value.integer("intermediate_size"),
            norm_eps=value("norm_eps"),
            channels=value.integer("num_channels"),
            image_size=value.integer("image_size"),
            patch_size=value.integer("patch_size"),
            max_tiles=max_tiles,
            intermediate_layers=tuple(intermediate),
            tile_counts=tuple(height * width for height, width in expected),
            image_token=Reader(config, {"image_token_index": 128256}).integer("image_token_index"),
        )
        if vision.get("vision_output_dim", found.output_dim) != found.output_dim:
            raise ValueError(
                f"vision_config: vision_output_dim {vision['vision_output_dim']} is not hidden_size {found.dim} times "
                f"{1 + len(intermediate)}, for the final and the intermediate layers"
            )
        return found

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def output_dim(self) -> int:
        """Features of a patch: the last layer's and the intermediate layers' outputs."""
        return self.dim * (1 + len(self.intermediate_layers))

    @property
    def patch_features(self) -> int:
        """Numbers in a patch of pixels."""
        return self.channels * self.patch_size**2

    @property
    def tokens_a_tile(self) -> int:
        """The class token and the patches of a tile."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def tokens_an_image(self) -> int:
        """The tokens of all tiles of an image, those without content included."""
        return self.max_tiles * self.tokens_a_tile

    @property
    def rows_a_tile(self) -> int:
        """Rows of a tile in the encoder, padding included."""
        return -(-self.tokens_a_tile // PATCHES_MULTIPLE) * PATCHES_MULTIPLE

    def tensors(self) -> dict[str, str]:
        """Every tensor by the name in Hugging Face's checkpoints -> our name."""
        layers = {
            f"vision_model.{theirs}.layers.{layer}.{name}": f"vision.{ours}.{layer}.{part}"
            for theirs, ours, count, names in (
                ("transformer", "layers", self.n_layers, _LAYER),
                ("global_transformer", "global_layers", self.n_global_layers, _LAYER | _GATES),
            )
            for layer in range(count)
            for name, part in names.items()
        }
        return _OUTSIDE_LAYERS | layers

    def shapes(self, text_dim: int) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by our name. `text_dim`: the language model's width."""
        ids = len(self.tile_counts) + 1  # 0 is for no image
        outside = {
            "vision.patch_embedding.weight": (self.dim, self.channels, self.patch_size, self.patch_size),
            "vision.class_embedding": (self.dim,),
            "vision.position.weight": (self.tokens_a_tile, self.dim),
            "vision.tile_position.weight": (ids, self.tokens_an_image * self.dim),
            "vision.pre_tile.weight": (ids, self.max_tiles * self.dim),
            "vision.post_tile.weight": (ids, self.max_tiles * self.dim),
            "vision.projector.weight": (text_dim, self.output_dim),
            "vision.projector.bias": (text_dim,),
        }
        by_suffix = {"gate": (1,), "w1.weight": (self.hidden_dim, self.dim), "w2.weight": (self.dim, self.hidden_dim)}
        by_suffix |= {"w1.bias": (self.hidden_dim,)}
        by_suffix |= {f"w{part}.weight": (self.dim, self.dim) for part in "qkvo"}

        def shape(name: str) -> tuple[int, ...]:
            *_, part, kind = name.split(".")
            return by_suffix.get(kind) or by_suffix.get(f"{part}.{kind}", (self.dim,))

        return {name: outside.get(name) or shape(name) for name in self.tensors().values()}


def aspect_ratios(max_tiles: int) -> Iterator[tuple[int, int]]:
    """(height, width) in tiles of each canvas that an image may be laid on, in the order of their ids: ascending width
    within ascending height, as Hugging Face's `get_all_supported_aspect_ratios`."""
    return ((height, width) for height in range(1, max_tiles + 1) for width in range(1, max_tiles // height + 1))
