"""The vendor's checks accept the angles of every kind of table: partial rotation, and dynamic NTK past the original length."""

import json

import pytest

CODE = """
import sys

import models
from models.common.mesh import open_mesh
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

with open_mesh() as mesh_device:
    args = ModelArgs(
        mesh_device, max_seq_len=256, max_batch_size=4, hf_model=sys.argv[1], dummy_weights=True,
        page_params={"block_size": 32, "max_num_blocks": 32},
    )
    args.prefill_chunk_size = 128
    with Generator.build(args) as generator:
        for lengths in ([150], [64], [70, 70, 70]):
            generator.prefill([[1] * length for length in lengths])
            print(*generator.decode([1] * len(lengths)).shape)
"""
CONFIG = dict(
    vocab_size=320,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    eos_token_id=2,
)
DYNAMIC = dict(
    architectures=["LlamaForCausalLM"], max_position_embeddings=64, rope_scaling={"type": "dynamic", "factor": 4.0}
)
PART = dict(architectures=["Phi3ForCausalLM"], max_position_embeddings=256, partial_rotary_factor=0.75)


@pytest.mark.vendor
@pytest.mark.parametrize("mesh, changes", [("N150", DYNAMIC), ("N300", PART)], ids=["dynamic", "partial"])
def test_prompts_and_decode_steps_are_accepted(run_on_mock, tmp_path, mesh, changes):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    assert run_on_mock(mesh, CODE, str(tmp_path)).endswith("1 320\n1 320\n3 320\n")
