"""vLLM's data parallel: one API server, two engines, each with half of the mesh."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from models.tt_transformers.serving.local_server import serving
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.serving.server import PLUGIN
from tests.support.generation import greedy, known_by_heart, open_generator

pytestmark = [pytest.mark.serving, pytest.mark.whole]

COUNT, REQUESTS = 8, 12


def test_two_engines_share_the_requests_and_every_text_is_the_generators(tmp_path):
    with open_generator("N150", BUNDLED, users=REQUESTS + 4, max_seq_len=640, precision="performance", block_size=64) as generator:
        chapters = known_by_heart(generator.args)
        prompts = [chapters[index % len(chapters)][: 20 + 7 * index] for index in range(REQUESTS)]
        expected, _ = greedy(generator, prompts, COUNT)
        texts = [generator.args.decode(tokens) for tokens in expected]
    environment = {"HF_MODEL": str(BUNDLED), "TT_CACHE_PATH": str(tmp_path / "cache"), "MESH_DEVICE": "N300"}
    options = ("--data-parallel-size=2", "--api-server-count=1", "--max-model-len=640", "--max-num-seqs=4")
    with serving(tmp_path / "log", *options, **environment) as server:

        def ask(prompt):
            body = {"model": BUNDLED.name, "prompt": prompt, "max_tokens": COUNT, "temperature": 0, "ignore_eos": True}
            answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=600)
            answer.raise_for_status()
            return answer.json()["choices"][0]["text"]

        with ThreadPoolExecutor(REQUESTS) as users:
            assert list(users.map(ask, prompts)) == texts
        metrics = requests.get(f"{server.url}/metrics", timeout=60).text
        generated = dict(re.findall(r'^vllm:generation_tokens_total{engine="(\d)".*} ([\d.]+)$', metrics, re.M))
        assert sum(map(float, generated.values())) == COUNT * REQUESTS
        assert sorted(generated) == ["0", "1"] and all(float(tokens) > 0 for tokens in generated.values())
    log = server.log.read_text()
    pattern = r"Bound TT_VISIBLE_DEVICES=(\d)" if PLUGIN else r"engine \d drives devices (\d)"
    assert sorted(re.findall(pattern, log)) == ["0", "1"]
