"""Llama 3.2 Vision in Meta's format: the same tensors as in Hugging Face's, whole, split over files, and repacked."""

import json
import re
from dataclasses import replace

import pytest
import torch

from models.tt_transformers.tools.repack_weights import repack
from models.tt_transformers.tt.checkpoints.meta_files import MetaFiles
from models.tt_transformers.tt.checkpoints.state_dict import StateDict
from tests.support.meta_checkpoints import VOCAB_SIZE, meta_args, save_tiktoken
from tests.support.model_args import args_of, environment  # noqa: F401
from tests.support.tiny_mllama import save_tiny_mllama

TILES = 4
RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]  # rows and columns of tiles
# Meta's format says nothing of these: 16 heads, and features of the layers 3, 7, 15, 23 and 30.
VISION = dict(
    hidden_size=256, intermediate_size=256, num_hidden_layers=31, num_global_layers=2, attention_heads=16,
    intermediate_layers_indices=[3, 7, 15, 23, 30], vision_output_dim=256 * 6,
)  # fmt: skip
# Four layers of text and two that cross to images, after each second one.
TEXT = dict(
    vocab_size=VOCAB_SIZE, num_hidden_layers=6, cross_attention_layers=[1, 4], intermediate_size=1024, num_key_value_heads=8,
    rope_parameters=dict(
        rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    max_position_embeddings=131072,
)  # fmt: skip
PARAMS = dict(
    dim=256, n_layers=4, n_heads=8, n_kv_heads=8, vocab_size=VOCAB_SIZE, multiple_of=1024, ffn_dim_multiplier=1.3,
    norm_eps=1e-05, rope_theta=500000.0, use_scaled_rope=True, vision_chunk_size=28, vision_max_num_chunks=TILES,
    vision_num_cross_attention_layers=2,
)  # fmt: skip

# Hugging Face's names in a checkpoint -> Meta's.
NAMES = [
    (r"language_model\.model\.embed_tokens", "text_model.tok_embeddings"),
    (r"language_model\.(model\.)?", "text_model."),
    (r"lm_head", "output"),
    (r"cross_attn_attn_gate", "gate_attn"),
    (r"cross_attn_mlp_gate", "gate_ffwd"),
    (r"text_model(.*)(self_attn|cross_attn)\.([qkvo])_proj", r"text_model\1attention.w\3"),
    (r"cross_attn\.([qk]_norm)", r"attention.\1"),
    (r"text_model(.*)input_layernorm", r"text_model\1attention_norm"),
    (r"text_model(.*)post_attention_layernorm", r"text_model\1ffn_norm"),
    (r"mlp\.gate_proj", "feed_forward.w1"),
    (r"mlp\.down_proj", "feed_forward.w2"),
    (r"mlp\.up_proj", "feed_forward.w3"),
    (r"multi_modal_projector", "vision_model.vision_projection"),
    (r"^vision_model\.(?!vision_projection)", "vision_model.vision_encoder."),
    (r"patch_embedding", "conv1._linear"),
    (r"transformer\.layers", "transformer.resblocks"),
    (r"self_attn\.([qkvo])_proj", r"attn.w\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"input_layernorm", "ln_1"),
    (r"post_attention_layernorm", "ln_2"),
    (r"layernorm_(pre|post)", r"ln_\1"),
    (r"gated_positional_embedding\.embedding", "positional_embedding"),
    (r"gated_positional_embedding\.gate", "gated_positional_embedding_gate"),
    (r"gated_positional_embedding\.tile_embedding\.weight", "gated_positional_embedding"),
    (r"(pre|post)_tile_positional_embedding\.embedding\.weight", r"\1_tile_pos_embed.embedding"),
    (r"(pre|post)_tile_positional_embedding\.gate", r"\1_tile_pos_embed.gate"),
]


def meta_name(name):
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    if match := re.match(r"text_model\.layers\.(\d+)\.(.*)", name):
        layer, crossing = int(match[1]), TEXT["cross_attention_layers"]
        before = sum(other < layer for other in crossing)
        kind, number = ("cross_attention_layers", before) if layer in crossing else ("layers", layer - before)
        return f"text_model.{kind}.{number}.{match[2]}"
    return name


def table(grid):
    """Hugging Face's rows of a grid [rows of tiles, columns of tiles, tokens, width]."""
    rows = torch.zeros(len(RATIOS) + 1, TILES, *grid.shape[2:], dtype=grid.dtype)
    for ratio, (height, width) in enumerate(RATIOS, start=1):
        for tile in range(height * width):
            rows[ratio, tile] = grid[tile // width, tile % width]
    return rows.flatten(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint in Hugging Face's format, and its tensors in Meta's."""
    from safetensors.torch import load_file, save_file

    directory = tmp_path_factory.mktemp("hf") / "model"
    save_tiny_mllama(directory, text=TEXT, vision=VISION)
    theirs, metas = load_file(directory / "model.safetensors"), {}
    generator = torch.Generator().manual_seed(1)
    for name, weight in theirs.items():
        meta = meta_name(name)
        if weight.shape[0] == len(RATIOS) + 1:
            grid = torch.randn(TILES, TILES, weight.shape[1] // TILES // 256, 256, generator=generator).bfloat16()
            theirs[name], weight = table(grid), grid
        elif re.search(r"text_model\.layers.*w[qk]\.weight", meta):  # the rows of a head: pairs side by side
            weight = weight.unflatten(0, (8, 2, -1)).transpose(1, 2).flatten(0, 2)
        elif meta.endswith("conv1._linear.weight"):
            weight = weight.flatten(1)
        metas[meta] = weight.contiguous()
    embeddings = metas["text_model.tok_embeddings.weight"]
    metas["text_model.tok_embeddings.weight"] = embeddings[:VOCAB_SIZE].clone()
    metas["text_model.learnable_embedding.weight"] = embeddings[VOCAB_SIZE:].clone()
    metas["text_model.rope.freqs"] = torch.ones(16)
    save_file(theirs, directory / "model.safetensors", metadata={"format": "pt"})
    return directory, metas


def save(directory, metas, count=1):
    """Writes the tensors as `count` ranks have them."""
    first = r"attn\.w[qkv]|attention\.w[qkv]|w[13]\.w|output|embed\w*\.weight|c_fc|conv1|projection"
    directory.mkdir()
    for rank in range(count):
        shard = {}
        for name, weight in metas.items():
            dim = 1 if re.search(r"wo\.weight|w2\.w|c_proj\.weight", name) else 0 if re.search(first, name) else None
            shard[name] = weight.clone() if dim is None else weight.chunk(count, dim)[rank].clone()
        torch.save(shard, directory / f"consolidated.{rank:02}.pth")
    (directory / "params.json").write_text(json.dumps(PARAMS))
    save_tiktoken(directory)
    return directory


@pytest.mark.parametrize("layout", ["1 file", "8 files", "repacked"])
def test_a_checkpoint_in_metas_format_has_hugging_faces_tensors(tmp_path, weights, layout):
    hugging_face, metas = weights
    directory = save(tmp_path / "Llama3.2-90B-Vision", metas, count=1 if layout == "1 file" else 8)
    if layout == "repacked":
        repack(directory, directory, chunk_size=2, vision=True)
    ours, theirs = meta_args(directory, max_images=1), args_of(hugging_face, max_images=1)
    assert ours.arch == replace(theirs.arch, eos_token_ids=ours.arch.eos_token_ids), "the tokenizer says what ends a text"
    found, expected = ours.load_state_dict(), theirs.load_state_dict()
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_without_images_the_tensors_for_images_are_left_out(tmp_path, weights):
    hugging_face, metas = weights
    ours, theirs = meta_args(save(tmp_path / "meta", metas)), args_of(hugging_face)
    found, expected = ours.load_state_dict(), theirs.load_state_dict()
    assert found.keys() == expected.keys() and not any("vision" in name for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert set(meta_args(ours.model_dir, num_layers=2).load_state_dict()) < set(found)


def test_the_reference_has_the_same_weights(tmp_path, weights):
    ours, theirs = meta_args(save(tmp_path / "meta", weights[1])), args_of(weights[0])
    ours, theirs = (args.reference_transformer(dtype=torch.float32).state_dict() for args in (ours, theirs))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_positions_of_another_tile_size_are_scaled_as_in_hugging_faces_converter(tmp_path, weights):
    metas = dict(weights[1])
    name = "vision_model.vision_encoder.positional_embedding"
    metas[name] = torch.randn(1 + 3 * 3, 256).bfloat16()
    found = StateDict(save(tmp_path / "meta", metas), args_of(weights[0], max_images=1).arch)["vision.position.weight"]
    grid = metas[name][1:].float().T.reshape(1, 256, 3, 3)
    expected = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bicubic", align_corners=False)
    assert torch.equal(found[0], metas[name][0])
    assert torch.equal(found[1:], expected.reshape(256, 4).T.bfloat16())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vision_max_num_chunks": 0}, "vision_max_num_chunks must be a positive integer, got 0"),
        ({"vision_chunk_size": -1}, "vision_chunk_size must be a positive integer, got -1"),
        ({"vision_num_cross_attention_layers": None}, "vision_num_cross_attention_layers must be a positive integer, got None"),
        ({"vision_chunk_size": 30}, "image_size 30 is not a multiple of patch_size 14"),
    ],
)
def test_params_that_do_not_fit_are_refused(tmp_path, weights, changes, message):
    directory = save(tmp_path / "meta", weights[1])
    (directory / "params.json").write_text(json.dumps({**PARAMS, **changes}))
    with pytest.raises(ValueError, match=message):
        meta_args(directory)


def test_a_missing_tensor_is_named(tmp_path, weights):
    metas = {name: weight for name, weight in weights[1].items() if not name.endswith("cross_attention_layers.1.gate_attn")}
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the model: text_model.cross_attention_layers.1.gate_attn"):
        meta_args(save(tmp_path / "meta", metas), max_images=1)


def test_the_names_of_every_tensor_are_metas(tmp_path, weights):
    directory = save(tmp_path / "meta", weights[1])
    assert set(MetaFiles(directory).tensors) == set(weights[1])
