"""Wrong calls of head, rotary, cache and attention ops, of copies between host and device, and of collectives."""

import torch
import ttnn

from tests.vendor.wrong_call_tools import DRAM, ROWS, height_sharded, sdpa, wrong

# Heads, rotary embedding


@wrong("nlp_create_qkv_heads: width is not that of the heads")
def _(make):
    ttnn.experimental.nlp_create_qkv_heads(make(1, 1, 128, 1024), num_heads=4, num_kv_heads=4, transpose_k_heads=False)


@wrong("nlp_create_qkv_heads_decode: width is not that of the heads")
def _(make):
    ttnn.experimental.nlp_create_qkv_heads_decode(
        make(1, 1, 32, 1024), num_heads=5, num_kv_heads=5, memory_config=ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    )


@wrong("nlp_concat_heads_decode: interleaved input")
def _(make):
    ttnn.experimental.nlp_concat_heads_decode(make(1, 4, 32, 96), num_heads=4)


@wrong("nlp_concat_heads: row-major input")
def _(make):
    ttnn.experimental.nlp_concat_heads(make(1, 4, 128, 96, layout=ROWS))


@wrong("rotary_embedding_llama: cos of another width")
def _(make):
    angles = make(1, 1, 128, 64)
    ttnn.experimental.rotary_embedding_llama(make(1, 4, 128, 96), angles, angles, make(1, 1, 32, 32), is_decode_mode=False)


@wrong("rotary_embedding_llama: interleaved cos in decode")
def _(make):
    angles = make(1, 4, 1, 96)
    turn = make(1, 1, 128, 32, memory_config=height_sharded(4, 32, 32))
    ttnn.experimental.rotary_embedding_llama(make.heads(), angles, angles, turn, is_decode_mode=True)


@wrong("rotary_embedding_llama: transformation matrix that is not one tile")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding_llama(make(1, 4, 128, 96), angles, angles, make(1, 1, 64, 64), is_decode_mode=False)


@wrong("rotary_embedding: head_dim 96")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding(make(1, 4, 128, 96), angles, angles)


@wrong("rotary_embedding_hf: head_dim 96")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding_hf(make(1, 4, 128, 96), angles, angles, is_decode_mode=False)


# Caches, attention


@wrong("paged_update_cache: interleaved input")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make(1, 4, 4, 96), update_idxs_tensor=make.integers(4), page_table=make.integers(4, 4)
    )


@wrong("paged_update_cache: page table of another batch")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(), update_idxs_tensor=make.integers(4), page_table=make.integers(3, 4)
    )


@wrong("paged_update_cache: positions that are not integers")
def _(make):
    positions = make(4, layout=ROWS)
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(), update_idxs_tensor=positions, page_table=make.integers(4, 4)
    )


@wrong("paged_update_cache: heads of another width")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(head_dim=64), update_idxs_tensor=make.integers(4), page_table=make.integers(4, 4)
    )


@wrong("paged_fill_cache: page table too small")
def _(make):
    k = make(1, 4, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.experimental.paged_fill_cache(make.page_cache(), k, make.integers(1, 3), batch_idx=0)


@wrong("paged_fill_cache: another number of heads")
def _(make):
    k = make(1, 3, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.experimental.paged_fill_cache(make.page_cache(), k, make.integers(1, 4), batch_idx=0)


@wrong("fill_cache: user past the batch")
def _(make):
    ttnn.fill_cache(make(2, 4, 128, 96, dtype=ttnn.bfloat8_b), make(1, 4, 128, 96, dtype=ttnn.bfloat8_b), 2)


@wrong("fill_cache: input longer than the cache")
def _(make):
    ttnn.fill_cache(make(2, 4, 128, 96, dtype=ttnn.bfloat8_b), make(1, 4, 256, 96, dtype=ttnn.bfloat8_b), 0)


@wrong("scaled_dot_product_attention: head sizes differ")
def _(make):
    q, k = make(1, 4, 128, 96), make(1, 4, 128, 64)
    ttnn.transformer.scaled_dot_product_attention(q, k, k, is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: keys and values of different lengths")
def _(make):
    q = make(1, 4, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, q, make(1, 4, 256, 96), is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: causal and a mask")
def _(make):
    q, mask = make(1, 4, 128, 96), make(1, 1, 128, 128)
    ttnn.transformer.scaled_dot_product_attention(q, q, q, attn_mask=mask, is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: chunk that is not whole tiles")
def _(make):
    q = make(1, 4, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, q, q, is_causal=True, program_config=sdpa(q_chunk=48))


@wrong("scaled_dot_product_attention: query heads not a multiple of key heads")
def _(make):
    q, k = make(1, 4, 128, 96), make(1, 3, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, k, k, is_causal=True, program_config=sdpa())


@wrong("paged_scaled_dot_product_attention_decode: page table of another batch")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.paged_scaled_dot_product_attention_decode(
        make.heads(), cache, cache, cur_pos_tensor=make.integers(4), page_table_tensor=make.integers(3, 4),
        program_config=sdpa(0, 0), memory_config=DRAM,
    )


@wrong("paged_scaled_dot_product_attention_decode: cache of another head size")
def _(make):
    cache = make.page_cache(head_dim=64)
    ttnn.transformer.paged_scaled_dot_product_attention_decode(
        make.heads(), cache, cache, cur_pos_tensor=make.integers(4), page_table_tensor=make.integers(4, 4),
        program_config=sdpa(0, 0), memory_config=DRAM,
    )


@wrong("scaled_dot_product_attention_decode: no positions")
def _(make):
    cache = make(4, 4, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.transformer.scaled_dot_product_attention_decode(
        make.heads(), cache, cache, program_config=sdpa(0, 0), memory_config=DRAM
    )


@wrong("chunked_scaled_dot_product_attention: start that is no multiple of the chunk")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.chunked_scaled_dot_product_attention(
        make(1, 4, 128, 96), cache, cache, make.integers(1, 8), 40, program_config=sdpa()
    )


@wrong("chunked_scaled_dot_product_attention: page table too small for the prefix")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.chunked_scaled_dot_product_attention(
        make(1, 4, 128, 96), cache, cache, make.integers(1, 4), 128, program_config=sdpa()
    )


# Host and device, collectives


@wrong("copy_host_to_device_tensor: shapes differ")
def _(make):
    host = ttnn.from_torch(torch.zeros(8, dtype=torch.int32), dtype=ttnn.int32, layout=ROWS)
    ttnn.copy_host_to_device_tensor(host, make.integers(4))


@wrong("copy_host_to_device_tensor: dtypes differ")
def _(make):
    host = ttnn.from_torch(torch.zeros(4, dtype=torch.int32), dtype=ttnn.uint32, layout=ROWS)
    ttnn.copy_host_to_device_tensor(host, make.integers(4))


@wrong("all_gather: dimension that does not exist")
def _(make):
    ttnn.all_gather(make(1, 1, 32, 64), dim=4, cluster_axis=1, topology=ttnn.Topology.Linear)


@wrong("all_gather: axis that the mesh does not have")
def _(make):
    ttnn.all_gather(make(1, 1, 32, 64), dim=3, cluster_axis=2, topology=ttnn.Topology.Linear)
