import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from models.tt_transformers.tt.checkpoints.state_dict import (
    DummyStateDict,
    StateDict,
    permute,
    reverse_permute,
    shapes,
    to_hugging_face,
)
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from tests.support.tiny_phi3 import save_tiny_phi3

SHARDED = "100KB"


def architecture(directory):
    return Architecture.from_hf_config(read_config(directory / "config.json"))


def load(directory):
    return StateDict(directory, architecture(directory))


@pytest.fixture(params=["1GB", SHARDED], ids=["single", "sharded"])
def checkpoint(request, tmp_path):
    model = save_tiny_phi3(tmp_path, max_shard_size=request.param)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or request.param != SHARDED
    return tmp_path, model


def test_every_weight_goes_back_to_the_model_it_was_saved_from(checkpoint):
    directory, model = checkpoint
    weights = to_hugging_face(load(directory), architecture(directory))
    reference = model.state_dict()
    assert set(weights) == set(reference)
    for name, weight in weights.items():
        assert torch.equal(weight, reference[name]), name


def test_weights_have_the_shapes_the_model_is_built_for(checkpoint):
    directory, _ = checkpoint
    state_dict = load(directory)
    assert {name: tuple(weight.shape) for name, weight in state_dict.items()} == shapes(architecture(directory))


def test_attention_scores_and_values_are_hugging_faces(checkpoint):
    """q and k from the permuted weights, rotated in the interleaved order, score as Hugging Face's do."""
    directory, model = checkpoint
    arch, state_dict, layer = architecture(directory), load(directory), model.model.layers[1]
    seq_len, n_heads, n_kv, head_dim = 100, arch.n_heads, arch.n_kv_heads, arch.head_dim
    x = torch.randn(seq_len, arch.dim)

    def heads(weight, n):
        return (x @ weight.float().T).view(seq_len, n, head_dim).transpose(0, 1)

    fused = layer.self_attn.qkv_proj.weight.float()
    q, k, v = fused.split([n_heads * head_dim, n_kv * head_dim, n_kv * head_dim])
    cos, sin = model.model.rotary_emb(x, torch.arange(seq_len)[None])
    their_q, their_k = apply_rotary_pos_emb(heads(q, n_heads)[None], heads(k, n_kv)[None], cos, sin)

    cos, sin = arch.rope.cos_sin(torch.arange(seq_len), seq_len)

    def rotate(heads):
        swapped = torch.stack((-heads[..., 1::2], heads[..., 0::2]), dim=-1).flatten(-2)
        return heads * cos + swapped * sin

    our_q = rotate(heads(state_dict["layers.1.attention.wq.weight"], n_heads))
    our_k = rotate(heads(state_dict["layers.1.attention.wk.weight"], n_kv))
    group = n_heads // n_kv
    for head in range(n_heads):
        reference = their_q[0, head] @ their_k[0, head // group].T
        torch.testing.assert_close(our_q[head] @ our_k[head // group].T, reference, atol=1e-4, rtol=1e-4)
    assert torch.equal(state_dict["layers.1.attention.wv.weight"].float(), v)


def test_mlp_of_split_weights_is_hugging_faces(checkpoint):
    directory, model = checkpoint
    state_dict, mlp = load(directory), model.model.layers[0].mlp.float()
    w1, w2, w3 = (state_dict[f"layers.0.feed_forward.w{i}.weight"].float() for i in (1, 2, 3))
    x = torch.randn(5, w1.shape[1])
    ours = (torch.nn.functional.silu(x @ w1.T) * (x @ w3.T)) @ w2.T
    torch.testing.assert_close(ours, mlp(x))


def test_reverse_permute_interleaves_the_halves_of_each_head():
    rows = torch.arange(12)[:, None]
    assert reverse_permute(rows, 2, 6).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert reverse_permute(rows, 2, 4).flatten().tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11], "two rows a head stay"
    for rotary_dim in (2, 4, 6):
        assert torch.equal(permute(reverse_permute(rows, 2, rotary_dim), 2, rotary_dim), rows)


def test_tied_embeddings_need_no_output_tensor(tmp_path):
    model = save_tiny_phi3(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)["output.weight"], model.lm_head.weight)


def test_a_stored_output_is_used_although_the_config_ties_it_and_that_is_said(tmp_path):
    save_tiny_phi3(tmp_path)
    change_config(tmp_path, tie_word_embeddings=True)
    reference = Phi3ForCausalLM.from_pretrained(tmp_path)  # warns, and does not tie
    state_dict = load(tmp_path)
    assert not torch.equal(state_dict["output.weight"], state_dict["tok_embeddings.weight"])
    assert torch.equal(state_dict["output.weight"], reference.lm_head.weight)
    assert torch.equal(state_dict["tok_embeddings.weight"], reference.model.embed_tokens.weight)
    assert any("the stored lm_head.weight is used" in note for note in state_dict.notes)


def test_a_tied_checkpoint_may_store_the_tensor_under_the_name_of_the_output(tmp_path):
    save_tiny_phi3(tmp_path, tie_word_embeddings=True)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))
    reference = Phi3ForCausalLM.from_pretrained(tmp_path)
    state_dict = load(tmp_path)
    assert torch.equal(state_dict["tok_embeddings.weight"], reference.model.embed_tokens.weight)
    assert torch.equal(state_dict["output.weight"], reference.lm_head.weight)
    assert state_dict.notes == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38])
def test_a_weight_that_is_not_finite_in_bf16_is_named_with_its_file(tmp_path, value):
    save_tiny_phi3(tmp_path, dtype=torch.float32)
    rewrite(tmp_path, lambda tensors: tensors["model.layers.1.mlp.gate_up_proj.weight"][200].fill_(value))
    state_dict = load(tmp_path)
    assert state_dict["layers.1.feed_forward.w1.weight"].isfinite().all()  # rows 0 to 191
    message = r"model.layers.1.mlp.gate_up_proj.weight in .*model.safetensors holds NaN, infinity or a number"
    with pytest.raises(ValueError, match=message):
        state_dict["layers.1.feed_forward.w3.weight"]


def test_finite_weights_whose_sum_overflows_are_read(tmp_path):
    save_tiny_phi3(tmp_path, dtype=torch.float32)
    rewrite(tmp_path, lambda tensors: tensors["model.norm.weight"].fill_(3e38))
    assert load(tmp_path)["norm.weight"].isfinite().all()


def test_layers_left_out_are_neither_needed_nor_listed(tmp_path):
    save_tiny_phi3(tmp_path)
    state_dict = StateDict(tmp_path, architecture(tmp_path).with_layers(1))
    assert not any(name.startswith("layers.1.") for name in state_dict)
    assert "norm.weight" in state_dict and len(state_dict) == 12


def test_missing_shards_are_named(tmp_path):
    save_tiny_phi3(tmp_path, max_shard_size=SHARDED)
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].unlink()
    shards[2].unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 2 of {len(shards)} shards: {shards[1].name}, {shards[2].name}"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    save_tiny_phi3(tmp_path, max_shard_size=SHARDED)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{shard} is truncated"):
        load(tmp_path)


@pytest.mark.parametrize("how", ["longer", "noise", "header"])
def test_a_corrupt_file_is_named(tmp_path, how):
    save_tiny_phi3(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    if how == "longer":
        content += b"\0"
    elif how == "noise":
        content = b"\xff" * len(content)
    else:
        content = content[:8] + b"x" * 8 + content[16:]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is (corrupt|truncated)"):
        load(tmp_path)


def test_a_pointer_of_git_lfs_is_told_from_a_corrupt_file(tmp_path):
    save_tiny_phi3(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match="model.safetensors is a pointer of Git LFS.*git lfs pull"):
        load(tmp_path)


def test_a_header_whose_sizes_do_not_fit_its_shapes_is_refused(tmp_path):
    save_tiny_phi3(tmp_path)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    with pytest.raises(ValueError, match="x takes 16 bytes"):
        load(tmp_path)


def test_a_corrupt_index_is_named(tmp_path):
    save_tiny_phi3(tmp_path, max_shard_size=SHARDED)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": [')
    with pytest.raises(ValueError, match=f"{index} is corrupt"):
        load(tmp_path)


def change_config(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_missing_tensors_are_listed(tmp_path):
    save_tiny_phi3(tmp_path)
    rewrite(tmp_path, lambda tensors: [tensors.pop("model.norm.weight"), tensors.pop("lm_head.weight")])
    with pytest.raises(ValueError, match="lacks 2 tensors of the model: model.norm.weight, lm_head.weight"):
        load(tmp_path)


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("lm_head.weight", torch.zeros(7, 128), r"lm_head.* shape \[7, 128\]; config.json implies \[320, 128\]"),
        ("lm_head.weight", torch.zeros(320, 128, dtype=torch.int8), "lm_head.weight .* dtype I8; supported are BF16"),
        ("model.layers.0.mlp.down_proj.bias", torch.zeros(128), "does not have: model.layers.0.mlp.down_proj.bias"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, name, tensor, message):
    save_tiny_phi3(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({name: tensor}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_directory_with_other_weight_files_says_what_it_holds(tmp_path):
    save_tiny_phi3(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor .*found pytorch_model.bin.*convert"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_float_formats_are_read_as_they_are(tmp_path, dtype):
    model = save_tiny_phi3(tmp_path, dtype=dtype)
    assert torch.equal(load(tmp_path)["output.weight"], model.lm_head.weight)


def dummy(directory, **options):
    return DummyStateDict(architecture(directory), **options)


def test_dummy_weights_do_not_depend_on_the_order_of_reading(tmp_path):
    save_tiny_phi3(tmp_path)
    forwards = {name: dummy(tmp_path)[name] for name in dummy(tmp_path)}
    other = dummy(tmp_path)
    for name in reversed(list(other)):
        assert torch.equal(other[name], forwards[name])
    assert not torch.equal(dummy(tmp_path, seed=1)["output.weight"], forwards["output.weight"])
    assert not torch.equal(forwards["layers.0.attention.wq.weight"], forwards["layers.1.attention.wq.weight"])


def test_dummy_weights_are_normal_and_norms_are_ones(tmp_path):
    save_tiny_phi3(tmp_path)
    weights = dummy(tmp_path)
    output = weights["output.weight"].float()
    # 40960 draws: the standard error of the mean is 1e-4, that of the deviation 7e-5.
    assert abs(output.mean()) < 5e-4 and abs(output.std() - 0.02) < 5e-4
    assert torch.equal(weights["norm.weight"], torch.ones(128, dtype=torch.bfloat16))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes(architecture(tmp_path))


def test_dummy_weights_of_a_tied_model_are_tied(tmp_path):
    save_tiny_phi3(tmp_path, tie_word_embeddings=True)
    weights = dummy(tmp_path)
    assert torch.equal(weights["output.weight"], weights["tok_embeddings.weight"])


def test_dummy_weights_on_meta_have_shapes_only(tmp_path):
    save_tiny_phi3(tmp_path)
    weights = dummy(tmp_path, device="meta")
    assert all(weight.is_meta for weight in weights.values())
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes(architecture(tmp_path))
