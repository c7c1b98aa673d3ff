"""The vendor's checks accept widths that have to be padded, and widths whose matmuls do not fit L1 in one block."""

import json

import pytest

from models.tt_transformers.tt.config.architecture import MAX_HEAD_DIM
from tests.support.tiny_models import SETTINGS, save_tiny
from tests.support.wide import some_of

RUN = """
import sys

import models
from models.common import backend
from models.common.mesh import open_mesh
from models.tt_transformers.measure.capacity import AllocatedWeights, allocate
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches

directory, mode, *lengths = sys.argv[1:]
users = len(lengths)
with open_mesh() as mesh_device:
    args = ModelArgs(
        mesh_device, max_batch_size=users, max_seq_len=2112, hf_model=directory, optimizations=mode, num_layers=1,
        dummy_weights=backend.name() == "mock", page_params={"block_size": 32, "max_num_blocks": 256},
    )
    given = (AllocatedWeights(args), make_kv_caches(args, allocate)) if args.dummy_weights else ()
    with Generator.build(args, *given) as generator:
        generator.prefill([[1] * int(length) for length in lengths])
        print(generator.decode([1] * users).shape)
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", some_of(["N150", "N300", "T3K"], "N150", "T3K"))
def test_emulator_and_vendor_agree_where_widths_are_padded(run_on_mock, tmp_path, mesh):
    save_tiny(
        "Qwen3", tmp_path, hidden_size=200, num_attention_heads=5, num_key_value_heads=1, head_dim=80,
        intermediate_size=344, max_position_embeddings=4096,
    )  # fmt: skip
    assert run_on_mock(mesh, RUN, str(tmp_path), "accuracy", "37", "130", backend="lockstep").endswith("torch.Size([2, 320])\n")


@pytest.mark.vendor
@pytest.mark.parametrize(
    "hidden_size, intermediate_size, mode",
    [(4096, 14336, "accuracy"), (8192, 29568, "performance")],
    ids=["Granite-8B", "Qwen2.5-72B"],
)
def test_the_widest_matmuls_and_norms_fit_the_l1_of_one_device_with_biases_too(run_on_mock, tmp_path, hidden_size, intermediate_size, mode):
    config = dict(
        SETTINGS, architectures=["LlamaForCausalLM"], attention_bias=True, mlp_bias=True, hidden_size=hidden_size,
        intermediate_size=intermediate_size, num_attention_heads=28, num_key_value_heads=4, head_dim=128,
        max_position_embeddings=4096, vocab_size=152064,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_on_mock("N150", RUN, str(tmp_path), mode, "2048").endswith("torch.Size([1, 152064])\n")


@pytest.mark.vendor
def test_the_widest_heads_fit_the_l1_of_one_device(run_on_mock, tmp_path):
    config = dict(
        SETTINGS, architectures=["MistralForCausalLM"], head_dim=MAX_HEAD_DIM, sliding_window=100, max_position_embeddings=4096
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_on_mock("N150", RUN, str(tmp_path), "bf16", "2048").endswith("torch.Size([1, 320])\n")
