"""LONG_CONTEXT.md agrees with its records, and the records cover all planned measurements."""

import json
from itertools import product

import pytest

from models.common.benchmark_record import medians
from models.common.mesh_names import LINES, VALIDATED
from models.tt_transformers.measure import chunks as prefill_chunks
from models.tt_transformers.measure import long_context_report as report
from models.tt_transformers.measure import long_prefill as prefill
from models.tt_transformers.measure.report import read_records
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.config.model_params import Limits
from models.tt_transformers.tt.config.prefill_chunks import SIZES
from tests.support.wide import some_of

pytestmark = pytest.mark.whole

# Most growth of the peak besides the KV cache: freed activations that the allocator keeps (8 MB measured). Scores of
# 16k x 16k tokens in bf16 would take 17 times as much.
ALLOWANCE = 32e6
# Most growth of time relative to the work: the emulator is slower in attention than in linears (1.19 measured).
SLACK = 1.25


def test_the_file_is_current():
    assert report.FILE.read_text(encoding="utf-8") == report.markdown()


@pytest.mark.parametrize("mesh", LINES)
def test_the_default_chunk_size_was_accepted_in_every_precision(mesh):
    (record,) = [record for record in report.read("prefill_chunks-*.json") if record["mesh"] == mesh]
    assert record["backend"] == "mock" and list(record["answers"]) == list(prefill_chunks.PRECISIONS)
    assert all(list(map(int, answers)) == list(SIZES) for answers in record["answers"].values())
    default = Limits.of(record["model"]).prefill_chunk_size[mesh]
    assert record["default"] == default <= record["largest"]
    assert all(answers[str(default)] == "pass" for answers in record["answers"].values())


TRY_CHUNKS = """
import json, sys
import models
from models.common.mesh import open_mesh
from models.tt_transformers.measure.chunks import PRECISIONS, try_chunk

model, *sizes = sys.argv[1:]
with open_mesh() as mesh_device:
    answers = {
        f"{size}k {name}": try_chunk(mesh_device, int(size), optimizations, model)
        for size in sizes for name, optimizations in PRECISIONS.items()
    }
print(json.dumps(answers))
"""


@pytest.mark.vendor
@pytest.mark.parametrize(
    "model, mesh",
    some_of(list(product((prefill_chunks.MODEL, "meta-llama/Llama-3.1-8B"), VALIDATED)), (prefill_chunks.MODEL, "N300")),
)
def test_the_vendor_accepts_the_default_chunk_sizes(run_on_mock, model, mesh):
    limits = Limits.of(model.split("/")[1])
    sizes = [limits.prefill_chunk_size[mesh]]
    if mesh in limits.long_context:
        sizes.append(limits.long_context[mesh]["prefill_chunk_size"])
    answers = json.loads(run_on_mock(mesh, TRY_CHUNKS, model, *map(str, sizes)).splitlines()[-1])
    assert answers == {f"{size}k {name}": "pass" for size in sizes for name in prefill_chunks.PRECISIONS}


@pytest.fixture(scope="module")
def prefills():
    """Name -> median of the committed record of long prefills."""
    record = read_records()["prefill-N150"]
    assert record["model"] == BUNDLED.name
    return {name: value for name, (value, _) in medians(record).items()}


@pytest.fixture(scope="module")
def arch():
    return Architecture.from_hf_config(read_config(BUNDLED / "config.json"))


def test_the_committed_prefills_cover_both_systems_at_every_length(prefills):
    assert prefill.LENGTHS == (1024, 2048, 4096, 8192, 16384)
    for length in prefill.LENGTHS:
        for system in prefill.SYSTEMS:
            assert prefills[f"prefill-{length}.{system}"] > 0 and prefills[f"peak_memory-{length}.{system}"] > 0


@pytest.mark.parametrize("length", prefill.LENGTHS)
def test_neither_time_nor_memory_is_more_than_hugging_faces(prefills, length):
    assert prefills[f"prefill_ratio-{length}"] <= 1.0
    assert prefills[f"peak_memory_ratio-{length}"] <= 1.0


def test_memory_is_flat_but_for_the_kv_cache(prefills, arch):
    """For prompts of at least one whole chunk: a shorter prompt has smaller activations."""
    chunk = read_records()["prefill-N150"]["facts"]["chunk"]
    assert grown_memory(prefills, chunk, 16384) <= kv_cache_bytes(arch, 16384 - chunk) + ALLOWANCE


def grown_memory(values, short, long):
    return values[f"peak_memory-{long}.emulator"] - values[f"peak_memory-{short}.emulator"]


def kv_cache_bytes(arch, tokens):
    """The emulator keeps a cache in any format as bf16."""
    return 2 * arch.n_layers * arch.n_kv_heads * arch.head_dim * 2 * tokens


def operations_per_token(arch, length):
    """Multiplications of a prefill of `length` tokens, per token: those of all linears, and of causal attention."""
    heads = arch.n_heads * arch.head_dim
    linears = arch.dim * (2 * heads + 2 * arch.n_kv_heads * arch.head_dim) + 3 * arch.dim * arch.hidden_dim
    return arch.n_layers * (linears + 2 * heads * length / 2)


def test_time_per_token_grows_no_faster_than_attention_requires(prefills, arch):
    time = {length: prefills[f"prefill_cpu-{length}.emulator"] / length for length in (4096, 16384)}
    work = {length: operations_per_token(arch, length) for length in time}
    assert time[16384] / time[4096] <= SLACK * work[16384] / work[4096]


@pytest.mark.parametrize("long", some_of((4096, 8192), 4096))
def test_both_systems_prefill_the_same_lengths_in_processes_of_their_own_and_memory_stays_flat(arch, long):
    measurements = list(prefill.run(1, "performance", lengths=(2048, long)))
    values = {m["name"]: m["value"] for m in measurements}
    for length in (2048, long):
        ours, theirs = (values[f"prefill-{length}.{name}"] for name in prefill.SYSTEMS)
        assert values[f"prefill_ratio-{length}"] == ours / theirs
        assert all(values[f"peak_memory-{length}.{name}"] > 100e6 for name in prefill.SYSTEMS)
    assert grown_memory(values, 2048, long) <= kv_cache_bytes(arch, long - 2048) + ALLOWANCE
