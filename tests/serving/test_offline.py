"""vLLM's engine in this process: it gives the tokens of `Generator`, whatever its scheduler does."""

import gc
from contextlib import contextmanager

import pytest
from vllm import LLM, SamplingParams

from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.serving.server import PLUGIN
from tests.support.generation import greedy, known_by_heart, open_generator, random_tokens
from tests.support.model_args import save_tokenizer
from tests.support.tiny_models import save_tiny

pytestmark = [pytest.mark.serving, pytest.mark.whole]

COUNT = 12


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    yield
    gc.collect()  # the vendor's worker closes its mesh when it is collected


@contextmanager
def engine(model, **options):
    llm = LLM(str(model), block_size=64, disable_log_stats=False, **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def generate(llm, prompts, **params):
    """The generated tokens of each prompt, greedy if `params` do not say otherwise."""
    params = SamplingParams(**{"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, **params})
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


def expected(model, prompts, mesh="N150", max_seq_len=1024):
    """The greedy tokens of `Generator`, four users at a time."""
    tokens = []
    with open_generator(mesh, model, users=4, max_seq_len=max_seq_len, precision="performance", block_size=64) as generator:
        for first in range(0, len(prompts), 4):
            tokens += greedy(generator, prompts[first : first + 4], COUNT)[0]
    return tokens


@pytest.mark.parametrize("mesh", ["N150", "N300", pytest.param("T3K", marks=pytest.mark.wide)])
def test_texts_are_the_generators_also_past_the_longrope_switch_and_after_preemption(mesh, monkeypatch):
    """The pool has 20 pages of 64 tokens for 8 users, two of whom get past 512 tokens: not all of them fit."""
    monkeypatch.setenv("MESH_DEVICE", mesh)
    with open_generator(mesh, BUNDLED, precision="performance") as generator:
        chapters = known_by_heart(generator.args)
    prompts = [chapters[0][:505], chapters[1][:508], *(chapters[index % 4][: 20 + 37 * index] for index in range(2, 11))]
    wanted = expected(BUNDLED, prompts, mesh)
    with engine(BUNDLED, max_num_seqs=8, max_model_len=1024, num_gpu_blocks_override=20) as llm:
        assert generate(llm, prompts) == wanted
        assert PLUGIN or counter(llm, "vllm:num_preemptions") > 0  # the plugin takes no num_gpu_blocks_override


def test_prompts_in_pieces_and_shared_prefixes_give_the_generators_texts(tmp_path):
    """A step takes 96 tokens: a prompt of 300 is prefilled in pieces that end within a page, beside others' decodes."""
    save_tiny("Qwen3", tmp_path, max_position_embeddings=512)
    save_tokenizer(tmp_path)
    shared = random_tokens(150)
    prompts = [shared + random_tokens(count, seed=count) for count in (1, 40, 65, 150)] + [random_tokens(64, seed=2)]
    wanted = expected(tmp_path, prompts, max_seq_len=512)
    with engine(tmp_path, max_num_seqs=4, max_model_len=512, max_num_batched_tokens=96) as llm:
        assert generate(llm, prompts) == wanted
        assert counter(llm, "vllm:prefix_cache_hits") > 0


ON_MOCK = """
from vllm import LLM, SamplingParams

from models.tt_transformers.tt.checkpoints.location import BUNDLED

llm = LLM(str(BUNDLED), block_size=64, max_num_seqs=4, max_model_len=1024)
prompts = [{"prompt_token_ids": [5] * length} for length in (1, 40, 130, 510, 600)]
params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
print([len(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)])
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", ["N300", *(pytest.param(mesh, marks=pytest.mark.wide) for mesh in ("N150", "T3K"))])
def test_the_vendors_checks_accept_what_the_engine_runs(run_on_mock, mesh):
    """More prompts than users, and one that decodes past the LongRoPE switch."""
    assert "[4, 4, 4, 4, 4]" in run_on_mock(mesh, ON_MOCK)


def counter(llm, name: str) -> int:
    return next(metric.value for metric in llm.get_metrics() if metric.name == name)
