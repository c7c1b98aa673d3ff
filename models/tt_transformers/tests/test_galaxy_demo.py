"""The demos of Llama-3.3-70B on a Galaxy, with a small random Llama and, by their commands, without a checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import ttnn

from models.demos.llama3_70b_galaxy.demo import cases, demo_decode
from models.demos.llama3_70b_galaxy.demo.defaults import LAYERS, MODEL, with_defaults
from models.tt_transformers.demo.run import RunError, run
from models.tt_transformers.tt import generator_vllm
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.runtime.runner import Runner

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[3]
VARIABLES = ("HF_MODEL", "LLAMA_DIR", "MESH_DEVICE", "FAKE_DEVICE")
ALL_CASES = {case.name: case for case in (*cases.CASES, *demo_decode.CASES)}
# Two layers of the bundled model on 32 devices; prompts of more than a page.
SMALL = dict(num_layers=2, max_seq_len=512, page_params={"block_size": 32, "max_num_blocks": 128})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def demo(tmp_path, monkeypatch, cache):
    """Runs a case with the bundled model on a Galaxy -> its record."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TT_CACHE_PATH", str(cache))
    monkeypatch.setenv("HF_MODEL", str(BUNDLED))

    def run_case(name, **options):
        output = tmp_path / "run.json"
        given = {"max_generated_tokens": 4, **SMALL, **options, "output_json": str(output)}
        run(with_defaults(ALL_CASES[name], given, monkeypatch), "performance")
        return json.loads(output.read_text(encoding="utf-8"))

    return run_case


def texts(record):
    return [user["token_ids"] for user in record["users"]]


def measured(record, name):
    (value,) = [m["value"] for m in record["measurements"] if m["name"] == name]
    return value


def test_the_description_names_these_cases():
    long = [f"long-{size}-b1" for size in ("4k", "8k", "16k", "32k", "64k", "128k")]
    named = ["batch-32", "batch-1", "repeat2", "evals-1", "evals-32", "apc-test", "pcc-80L", "prefill-profile",
             "ci-token-matching", "long-16k-b32", *long, "full", "quick", "stress-test", "mini-stress-test"]  # fmt: skip
    assert set(named) == set(ALL_CASES)


def test_the_users_of_a_batch_on_a_galaxy_run_in_its_columns(demo):
    record = demo("batch-32")
    assert record["mesh"] == "TG" and len(texts(record)) == 32
    assert {user["stop_reason"] for user in record["users"]} == {"max_generated_tokens"}


def test_equal_prompts_give_equal_texts_in_every_column_and_batch(demo):
    record = demo("evals-32", batch_size=8)
    assert len(texts(record)) == 16 and texts(record)[:4] == texts(record)[4:8] == texts(record)[12:]


def test_other_texts_for_equal_prompts_are_an_error(demo):
    with pytest.raises(ValueError, match="equal_texts needs greedy texts, and temperature is 1"):
        demo("evals-32", sampling_params={"temperature": 1.0})


def test_cached_prefixes_give_the_same_logits(demo):
    record = demo("apc-test", batch_size=4)
    assert measured(record, "least_pcc") >= 0.999


def test_a_cached_prefix_that_is_wrong_is_found(demo, monkeypatch):
    prefill = Runner.prefill

    def forgets(self, tokens, slots, start_pos=None, *args, **options):
        if start_pos is not None and any(start_pos):
            for cache in self.model.kv_caches:
                for tensor in (cache.keys, cache.values):
                    tensor.shards = [shard * 0 for shard in tensor.shards]
        return prefill(self, tokens, slots, start_pos, *args, **options)

    monkeypatch.setattr(Runner, "prefill", forgets)
    with pytest.raises(RunError, match="with a cached prefix and without; at least 0.999 is expected"):
        demo("apc-test", batch_size=4)


def test_logits_are_compared_with_hugging_face(demo):
    assert 0.99 <= measured(demo("pcc-80L"), "least_pcc") < 1


def test_the_prefill_profile_has_ops_and_no_decode(demo, capfd):
    record = demo("prefill-profile", max_generated_tokens=1)
    assert not [m for m in record["measurements"] if "decode_t" in m["name"]]
    assert "ttnn.transformer.scaled_dot_product_attention" in capfd.readouterr().out


def test_prompts_through_decode_steps_give_the_text_of_a_prefill(demo):
    options = dict(batch_size=4, optimizations="bf16", max_generated_tokens=8)
    assert texts(demo("full", **options)) == texts(demo("batch-32", **options))


def test_a_stress_test_repeats_one_step(demo):
    record = demo("mini-stress-test", batch_size=4, start_pos=100, max_generated_tokens=20)
    assert measured(record, "repeated_steps") == 20
    assert {user["stop_reason"] for user in record["users"]} == {"repeated_step"}
    assert measured(demo("batch-1", stress_test=True), "repeated_steps") == 4


def test_a_stress_test_finds_a_value_that_changes(demo, monkeypatch):
    read, calls = Runner.read, []

    def flips(self, handle):
        logits = read(self, handle).clone()
        calls.append(None)
        logits[2, 7] += len(calls) > 5
        return logits

    monkeypatch.setattr(Runner, "read", flips)
    with pytest.raises(RunError, match=r"step 5: the logits of user 2 differ from those of step 0, by up to 1"):
        demo("mini-stress-test", batch_size=4, start_pos=100, max_generated_tokens=20)


def test_a_stress_test_finds_memory_that_is_not_freed(demo, monkeypatch):
    submit, kept = Runner.submit_decode, []

    def leaks(self, *args):
        kept.append(ttnn.zeros((1, 1, 32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=self.mesh_device))
        return submit(self, *args)

    monkeypatch.setattr(Runner, "submit_decode", leaks)
    with pytest.raises(RunError, match="step 1: .*DRAM.* bytes a bank are allocated"):
        demo("mini-stress-test", batch_size=4, start_pos=100)


def test_a_stress_test_finds_a_process_that_grows(demo, monkeypatch):
    submit, kept = Runner.submit_decode, []

    def grows(self, *args):
        kept.append(torch.ones(16 << 20, dtype=torch.uint8))
        return submit(self, *args)

    monkeypatch.setattr(Runner, "submit_decode", grows)
    with pytest.raises(RunError, match=r"the process grew by \d+ bytes in 20 steps"):
        demo("mini-stress-test", batch_size=4, start_pos=100, max_generated_tokens=20)


def test_a_long_case_without_a_checkpoint_lays_the_whole_model_out(demo, monkeypatch):
    monkeypatch.delenv("HF_MODEL")
    settings = with_defaults(ALL_CASES["long-128k-b1"], {}, monkeypatch)
    assert os.environ["HF_MODEL"] == MODEL
    assert settings.shape_only and settings.dummy_weights and settings.num_layers is None
    assert not with_defaults(ALL_CASES["long-128k-b1"], {}, monkeypatch).shape_only  # HF_MODEL is set now


def test_a_short_case_without_a_checkpoint_runs_a_few_layers(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    settings = with_defaults(ALL_CASES["batch-32"], {}, monkeypatch)
    assert (settings.dummy_weights, settings.shape_only, settings.num_layers) == (True, False, LAYERS)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(start_pos=3), "start_pos is 3, and decode_only is false"),
        (dict(decode_only=True, pcc_check=True), "pcc_check needs a prefill"),
        (dict(apc_test=True, pcc_check=True), "apc_test and pcc_check do not go together"),
        (dict(stress_test=True, repeat_batches=2), "stress_test runs one batch, and repeat_batches is 2"),
        (dict(stress_test=True, shape_only=True), "stress_test needs values"),
        (dict(apc_test=True, paged_attention=False), "apc_test shares pages"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ALL_CASES["batch-1"].with_options(options)


def test_the_galaxys_class_serves_a_llama_where_the_environment_says_so_and_refuses_other_meshes(monkeypatch):
    assert generator_vllm.class_of(["LlamaForCausalLM"]) is generator_vllm.LlamaForCausalLM
    monkeypatch.setenv("TT_LLAMA_TEXT_VER", "llama3_70b_galaxy")
    served = generator_vllm.class_of(["LlamaForCausalLM"])
    assert issubclass(served, generator_vllm.LlamaForCausalLM) and served is not generator_vllm.LlamaForCausalLM
    with pytest.raises(ValueError, match="needs a Galaxy .MESH_DEVICE=TG., this mesh is 1x8"):
        served.initialize_vllm_model(None, SimpleNamespace(shape=(1, 8)), 1)
    monkeypatch.setenv("TT_LLAMA_TEXT_VER", "llama2_70b")
    with pytest.raises(ValueError, match="'llama2_70b' is not known; known are tt_transformers, llama3_70b_galaxy"):
        generator_vllm.class_of(["LlamaForCausalLM"])


def command(demo_file, *arguments):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"models/demos/llama3_70b_galaxy/demo/{demo_file}", *arguments],
        cwd=ROOT, env={**environment, "TT_BACKEND": "emulator"}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_command_lays_out_all_80_layers():
    result = command("text_demo.py", "-k", "performance-long-16k-b32")
    assert result.returncode == 0, result.stdout + result.stderr
    summary = result.stdout.split("Summary")[1]
    assert "TG, 32 devices, tensor parallel over 8 rows and 4 columns" in summary
    assert "shape-only" in summary and "of the model's 80 layers" not in summary


def test_an_alias_beside_its_option_is_refused():
    result = command("demo_decode.py", "-k", "performance-quick", "--layers", "1", "--num_layers", "2")
    assert result.returncode != 0 and "--layers and --num_layers are the same option" in result.stdout + result.stderr
