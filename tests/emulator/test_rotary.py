"""Rotary embedding against Hugging Face's functions; splitting and joining heads."""

import pytest
import torch
import ttnn
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from models.common.pcc import pcc

TILE = ttnn.TILE_LAYOUT


def on(device, values, memory_config=None):
    return ttnn.from_torch(
        values, dtype=ttnn.bfloat16, layout=TILE, device=device, memory_config=memory_config
    )


def per_user(users, width):
    cores = ttnn.num_cores_to_corerangeset(users, ttnn.CoreCoord(8, 8), row_wise=True)
    spec = ttnn.ShardSpec(cores, (32, width), ttnn.ShardOrientation.ROW_MAJOR)
    return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, spec)


def angles(positions, head_dim):
    """cos and sin `[positions, head_dim]`. Columns i and i + head_dim / 2 have the same frequency."""
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    turned = torch.outer(positions.float(), frequency).repeat(1, 2)
    return turned.cos(), turned.sin()


def interleaved(values):
    """Reorders columns so that i and i + head_dim / 2 become neighbours."""
    return values.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def transformation():
    """The matrix that turns each pair (a, b) into (-b, a) when multiplied from the right."""
    matrix = torch.zeros(32, 32)
    even = torch.arange(0, 32, 2)
    matrix[even, even + 1], matrix[even + 1, even] = 1, -1
    return matrix


def hugging_face(values, positions):
    """`[B, heads, S, head_dim]` rotated in fp32."""
    cos, sin = angles(positions, values.shape[-1])
    return apply_rotary_pos_emb(values.float(), values.float(), cos[None], sin[None])[0]


@pytest.mark.parametrize("heads", [32, 4])
def test_prefill_rotation_is_hugging_faces_of_reordered_columns(device, heads):
    values, positions = torch.randn(1, heads, 100, 96).bfloat16(), torch.arange(100)
    cos, sin = (interleaved(table)[None, None] for table in angles(torch.arange(128), 96))
    rotated = ttnn.experimental.rotary_embedding_llama(
        on(device, interleaved(values)), on(device, cos), on(device, sin), on(device, transformation()[None, None])
    )
    assert pcc(interleaved(hugging_face(values, positions)), ttnn.to_torch(rotated)) >= 0.9999


@pytest.mark.parametrize("users", [1, 7, 32])
def test_decode_rotation_is_hugging_faces_at_each_users_position(device, users):
    values, positions = torch.randn(1, users, 8, 96).bfloat16(), torch.randint(0, 1000, (users,))
    cos, sin = (interleaved(table)[None, :, None] for table in angles(positions, 96))
    matrices = transformation().repeat(users, 1)[None, None]
    rotated = ttnn.experimental.rotary_embedding_llama(
        on(device, interleaved(values), per_user(users, 96)),
        on(device, cos, per_user(users, 96)),
        on(device, sin, per_user(users, 96)),
        on(device, matrices, per_user(users, 32)),
        is_decode_mode=True,
    )
    expected = hugging_face(values.permute(0, 2, 1, 3), positions).permute(0, 2, 1, 3)
    assert pcc(interleaved(expected), ttnn.to_torch(rotated)) >= 0.9999


def test_queries_and_keys_on_different_cores_are_rotated_by_one_op_as_by_two(device):
    users, tables, matrix = 8, [torch.randn(1, 8, 1, 96).bfloat16() for _ in range(2)], transformation()

    def rotate(function, copies, *heads, **options):
        cos, sin = (on(device, table.repeat(1, copies, 1, 1), per_user(copies * users, 96)) for table in tables)
        matrices = matrix.repeat(copies * users, 1)[None, None]
        return function(*heads, cos, sin, on(device, matrices, per_user(copies * users, 32)), **options)

    q, k = (on(device, torch.randn(1, users, heads, 96), per_user(users, 96)) for heads in (8, 2))
    alone = [rotate(ttnn.experimental.rotary_embedding_llama, 1, each, is_decode_mode=True) for each in (q, k)]
    row = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 1), ttnn.CoreCoord(7, 1))])
    shard = ttnn.ShardSpec(row, (32, 96), ttnn.ShardOrientation.ROW_MAJOR)
    elsewhere = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)
    together = rotate(ttnn.experimental.rotary_embedding_llama_fused_qk, 2, q, ttnn.to_memory_config(k, elsewhere))
    for one, both in zip(alone, together):
        assert torch.equal(ttnn.to_torch(one), ttnn.to_torch(both))
    with pytest.raises(RuntimeError, match="must lie on different cores"):
        rotate(ttnn.experimental.rotary_embedding_llama_fused_qk, 2, q, k)


def test_rotation_in_halves_is_hugging_faces(device):
    values, positions = torch.randn(1, 8, 128, 64).bfloat16(), torch.arange(128)
    cos, sin = (on(device, table[None, None]) for table in angles(positions, 64))
    expected = hugging_face(values, positions)
    for rotate in (ttnn.experimental.rotary_embedding, ttnn.experimental.rotary_embedding_hf):
        assert pcc(expected, ttnn.to_torch(rotate(on(device, values), cos, sin))) >= 0.9999


def test_one_token_is_rotated_to_its_index(device):
    values = torch.randn(1, 8, 1, 64).bfloat16()
    cos, sin = (on(device, table[None, None]) for table in angles(torch.arange(128), 64))
    rotated = ttnn.to_torch(ttnn.experimental.rotary_embedding(on(device, values), cos, sin, 77))
    assert rotated.shape == (1, 8, 32, 64)
    assert pcc(hugging_face(values, torch.tensor([77])), rotated[:, :, :1]) >= 0.9999


@pytest.mark.parametrize("heads, kv_heads", [(8, 8), (8, 2)])
def test_prefill_heads_are_split_and_joined_as_torch_does(device, heads, kv_heads):
    fused = torch.randn(1, 1, 100, (heads + 2 * kv_heads) * 96).bfloat16()
    q, k, v = ttnn.experimental.nlp_create_qkv_heads(
        on(device, fused), num_heads=heads, num_kv_heads=kv_heads, transpose_k_heads=False
    )
    expected = fused.view(1, 100, -1, 96).transpose(1, 2).split([heads, kv_heads, kv_heads], dim=1)
    for tensor, values in zip((q, k, v), expected):
        assert torch.equal(ttnn.to_torch(tensor), values)
    joined = ttnn.to_torch(ttnn.experimental.nlp_concat_heads(q))
    assert torch.equal(joined, fused[..., : heads * 96])
    transposed = ttnn.experimental.nlp_create_qkv_heads(on(device, fused), num_heads=heads, num_kv_heads=kv_heads)[1]
    assert torch.equal(ttnn.to_torch(transposed), expected[1].mT)


@pytest.mark.parametrize("users", [1, 7, 32])
def test_decode_heads_are_split_and_joined_user_by_user(device, users):
    fused = torch.randn(1, 1, users, (8 + 2 * 2) * 96).bfloat16()
    q, k, v = ttnn.experimental.nlp_create_qkv_heads_decode(on(device, fused), num_heads=8, num_kv_heads=2)
    for tensor, values in zip((q, k, v), fused.view(1, users, 12, 96).split([8, 2, 2], dim=2)):
        assert torch.equal(ttnn.to_torch(tensor), values)
    joined = ttnn.to_torch(ttnn.experimental.nlp_concat_heads_decode(q, num_heads=8))
    assert joined.shape == (1, 1, 32, 768)
    assert torch.equal(joined[:, :, :users], fused[..., :768])


def test_decode_heads_of_some_users_are_split_from_the_first_that_a_tensor_names(device):
    fused = torch.randn(1, 1, 32, (8 + 2 * 2) * 96).bfloat16()
    columns = ttnn.create_sharded_memory_config(
        (32, 96), ttnn.CoreGrid(x=6, y=2), ttnn.ShardStrategy.WIDTH, use_height_and_width_as_shard_shape=True
    )
    x, first = ttnn.interleaved_to_sharded(on(device, fused), columns), ttnn.from_torch(
        torch.tensor([[24]], dtype=torch.int32), dtype=ttnn.int32, device=device
    )
    options = dict(num_heads=8, num_kv_heads=2, batch_offset=first)
    heads = ttnn.experimental.nlp_create_qkv_heads_decode(x, slice_size=8, **options)
    for tensor, values in zip(heads, fused[:, :, 24:].view(1, 8, 12, 96).split([8, 2, 2], dim=2)):
        assert torch.equal(ttnn.to_torch(tensor), values)
    with pytest.raises(NotImplementedError, match="batch_offset has no effect on a card if input_tensor is interleaved"):
        ttnn.experimental.nlp_create_qkv_heads_decode(on(device, fused), slice_size=8, **options)
