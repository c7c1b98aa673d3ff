"""Llama 3.2 Vision in Meta's format: its config, and where our tensors lie in it.

What `params.json` leaves out is in the tensors' shapes, or the same in both models that Meta publishes. Names, places of
the layers, and the tables of embeddings are those of Hugging Face's `convert_mllama_weights_to_hf.py`.
"""

import math
import re
from collections.abc import Mapping
from functools import partial

import torch

from models.tt_transformers.tt.checkpoints.source import Source
from models.tt_transformers.tt.config.vision import aspect_ratios
from models.tt_transformers.tt.families.family import CROSS_ATTENTION, SELF_ATTENTION

# Keys of params.json that only these models have.
CHUNK_SIZE, MAX_CHUNKS, CROSS_LAYERS = "vision_chunk_size", "vision_max_num_chunks", "vision_num_cross_attention_layers"
TEXT = "text_model."

_CHANNELS = 3
_HEADS = 16
_INTERMEDIATE_LAYERS = [3, 7, 15, 23, 30]
_ENCODER = "vision_model.vision_encoder."
_LAYERS = {SELF_ATTENTION: "layers", CROSS_ATTENTION: "cross_attention_layers"}
# Our name of a tensor in a layer of text -> Meta's, where they differ.
_GATES = {"attention.gate": "gate_attn", "feed_forward.gate": "gate_ffwd"}
# Our names -> Meta's, of the vision model.
_VISION = {
    "vision.patch_embedding": f"{_ENCODER}conv1._linear",
    "vision.class_embedding": f"{_ENCODER}class_embedding",
    "vision.position.weight": f"{_ENCODER}positional_embedding",
    "vision.position.gate": f"{_ENCODER}gated_positional_embedding_gate",
    "vision.tile_position.weight": f"{_ENCODER}gated_positional_embedding",
    "vision.pre_tile.weight": f"{_ENCODER}pre_tile_pos_embed.embedding",
    "vision.pre_tile.gate": f"{_ENCODER}pre_tile_pos_embed.gate",
    "vision.post_tile.weight": f"{_ENCODER}post_tile_pos_embed.embedding",
    "vision.post_tile.gate": f"{_ENCODER}post_tile_pos_embed.gate",
    "vision.norm_pre": f"{_ENCODER}ln_pre",
    "vision.norm_post": f"{_ENCODER}ln_post",
    "vision.projector": "vision_model.vision_projection",
    "vision.layers": f"{_ENCODER}transformer.resblocks",
    "vision.global_layers": f"{_ENCODER}global_transformer.resblocks",
    "attention.gate": "gate_attn",
    "feed_forward.gate": "gate_ffn",
    "attention.w": "attn.w",
    "feed_forward.w1": "mlp.c_fc",
    "feed_forward.w2": "mlp.c_proj",
    "attention_norm": "ln_1",
    "ffn_norm": "ln_2",
}
_OUR_PART = re.compile("|".join(re.escape(name) for name in sorted(_VISION, key=len, reverse=True)))


def vision_keys(params: Mapping) -> bool:
    """Whether a `params.json` is of a model that reads images."""
    return any(params.get(key, -1) != -1 for key in (CHUNK_SIZE, MAX_CHUNKS, CROSS_LAYERS))


def with_vision(config: dict, files, params: Mapping) -> dict:
    """The config of a model that reads images, of the `config` of its text and the tensors of `files`.

    Raises ValueError that names a key of `params.json` or a tensor that is missing or does not fit.
    """
    for key in (CHUNK_SIZE, MAX_CHUNKS, CROSS_LAYERS):
        if type(params.get(key)) is not int or params[key] <= 0:
            raise ValueError(f"params.json: {key} must be a positive integer, got {params.get(key)!r}")
    crossing = params[CROSS_LAYERS]
    frequency = math.ceil(params["n_layers"] / crossing)
    count = params["n_layers"] + crossing
    text = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    text |= {"num_hidden_layers": count, "cross_attention_layers": list(range(frequency - 1, count, frequency + 1))}
    text["pad_token_id"] = None  # Hugging Face's default is a token of Llama 3's vocabulary, whatever the model's
    patch = _shape(files, f"{_ENCODER}conv1._linear.weight")
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": config["vocab_size"],
        "text_config": text,
        "vision_config": {
            "hidden_size": patch[0],
            "patch_size": math.isqrt(patch[1] // _CHANNELS),
            "num_channels": _CHANNELS,
            "attention_heads": _HEADS,
            "intermediate_size": _shape(files, f"{_ENCODER}transformer.resblocks.0.mlp.c_fc.weight")[0],
            "num_hidden_layers": _count(files, "transformer"),
            "num_global_layers": _count(files, "global_transformer"),
            "intermediate_layers_indices": _INTERMEDIATE_LAYERS,
            "vision_output_dim": _shape(files, "vision_model.vision_projection.weight")[1],
            "image_size": params[CHUNK_SIZE],
            "max_num_tiles": params[MAX_CHUNKS],
        },
    }


def sources(arch, shapes: Mapping[str, tuple[int, ...]], stored: Mapping) -> dict[str, Source]:
    """Where each of our tensors, of these `shapes`, lies among the tensors `stored` (name -> an object with a shape)."""
    return {name: _source(arch, name, shape, stored) for name, shape in shapes.items()}


def is_of_other_layers(name: str, arch) -> bool:
    """Whether a tensor in Meta's format is of layers that `arch` leaves out."""
    match = re.match(rf"{TEXT}(layers|cross_attention_layers)\.(\d+)\.", name)
    kinds = {theirs: kind for kind, theirs in _LAYERS.items()}
    return match is not None and int(match[2]) >= arch.layer_kinds.count(kinds[match[1]])


def _source(arch, name: str, shape: tuple[int, ...], stored: Mapping) -> Source:
    theirs = _vision_name(name) if name.startswith("vision.") else _text_name(arch, name)
    if name == "tok_embeddings.weight":
        return Source(theirs, 0, arch.vocab_size, appended=(f"{TEXT}learnable_embedding.weight", shape[0] - arch.vocab_size))
    if name.endswith(".gate"):  # the first number of a tensor of any shape
        given = tuple(stored[theirs].shape) if theirs in stored else shape
        return Source(theirs, 0, 1, stored_shape=given, convert=lambda gate: gate.flatten()[:1])
    vision = arch.vision
    if name == "vision.patch_embedding.weight":
        return Source(theirs, 0, shape[0], stored_shape=(shape[0], vision.patch_features), convert=lambda w: w.view(shape))
    if name in ("vision.pre_tile.weight", "vision.post_tile.weight"):
        grid = (vision.max_tiles, vision.max_tiles, 1, vision.dim)
        return Source(theirs, 0, vision.max_tiles, stored_shape=grid, convert=partial(_by_aspect_ratio, vision.max_tiles))
    if name in ("vision.position.weight", "vision.tile_position.weight"):
        return _positions(vision, name, theirs, stored)
    return Source(theirs, 0, shape[0])


def _positions(vision, name: str, theirs: str, stored: Mapping) -> Source:
    """Embeddings of the patches of a tile, or of all tiles. They may be those of a smaller or larger tile, as long as
    that is square."""
    side, is_grid = vision.image_size // vision.patch_size, name == "vision.tile_position.weight"
    tokens = vision.tokens_a_tile
    if theirs in stored:
        given = stored[theirs].shape[-2]
        if math.isqrt(given - 1) ** 2 == given - 1:
            tokens = given
    if not is_grid:
        return Source(theirs, 0, tokens, stored_shape=(tokens, vision.dim), convert=partial(_scaled, side))

    def convert(grid):
        by_token = _scaled(side, grid.permute(2, 0, 1, 3).flatten(1))
        return _by_aspect_ratio(vision.max_tiles, by_token.unflatten(1, (vision.max_tiles, vision.max_tiles, -1)).permute(1, 2, 0, 3))

    return Source(theirs, 0, vision.max_tiles, stored_shape=(vision.max_tiles, vision.max_tiles, tokens, vision.dim), convert=convert)


def _scaled(side: int, embedding: torch.Tensor) -> torch.Tensor:
    """[1 + patches, width], the class token first -> the same for side x side patches, in the same dtype."""
    token, patches = embedding[:1], embedding[1:]
    given = math.isqrt(len(patches))
    if given == side:
        return embedding
    grid = patches.T.reshape(1, -1, given, given).float()
    grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([token, grid[0].flatten(1).T.to(embedding.dtype)])


def _by_aspect_ratio(max_tiles: int, grid: torch.Tensor) -> torch.Tensor:
    """[rows of tiles, columns of tiles, tokens, width] -> [aspect ratios + 1, tiles * tokens * width]: for each ratio its
    tiles, row by row, then zeros; zeros for the ratio 0."""
    ratios = list(aspect_ratios(max_tiles))
    table = grid.new_zeros(len(ratios) + 1, max_tiles, *grid.shape[2:])
    for ratio, (height, width) in enumerate(ratios, start=1):
        table[ratio, : height * width] = grid[:height, :width].flatten(0, 1)
    return table.flatten(1)


def _text_name(arch, name: str) -> str:
    if not name.startswith("layers."):
        return TEXT + name
    _, index, part = name.split(".", 2)
    place = arch.layer_indices.index(int(index))
    kind = arch.layer_kinds[place]
    return f"{TEXT}{_LAYERS[kind]}.{arch.layer_kinds[:place].count(kind)}.{_GATES.get(part, part)}"


def _vision_name(name: str) -> str:
    return _OUR_PART.sub(lambda match: _VISION[match[0]], name)


def _shape(files, name: str) -> tuple[int, ...]:
    if name not in files.tensors:
        raise ValueError(f"{files.directory} has no {name}")
    return files.tensors[name].shape


def _count(files, part: str) -> int:
    """The number of layers of a transformer of the vision model."""
    layer = re.compile(rf"{re.escape(_ENCODER)}{part}\.resblocks\.(\d+)\.")
    return 1 + max((int(match[1]) for name in files.tensors if (match := layer.match(name))), default=-1)
