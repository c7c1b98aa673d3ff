"""The server under load: many users at a time, who cancel, ask for too much, or for what does not exist."""

import asyncio
from dataclasses import dataclass

import aiohttp
import pytest

from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.support.generation import greedy, known_by_heart, open_generator

pytestmark = [pytest.mark.serving, pytest.mark.whole]

AT_A_TIME = 16
COUNT = 12
# The last ones cross the LongRoPE switch at 512 tokens, in decode and at once.
LENGTHS = (1, 7, 20, 33, 64, 100, 128, 180, 300, 505, 508, 530)

SAMPLED = (
    {"temperature": 1.0, "seed": 7},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    {"temperature": 0.0, "frequency_penalty": 0.5, "presence_penalty": 0.2, "repetition_penalty": 1.1},
    {"temperature": 0.8, "logprobs": 3, "stop": ["LORD"]},
    {"temperature": 1.0, "structured_outputs": {"regex": "(yes|no), [0-9]{3}"}},
    {"temperature": 0.0, "logit_bias": {"20": 2.0}, "min_tokens": 3, "bad_words": ["the"]},
)
# A request that is refused, and what the refusal says.
REFUSED = (
    ({"prompt": [5] * 700}, "maximum"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"prompt": [4096]}, "vocabulary"),
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"structured_outputs": {"regex": "("}}, "regex"),
)


@dataclass
class Answers:
    """What came back: `finished`, (index of a prompt, its greedy tokens); counts of the other kinds of requests."""

    finished: list
    sampled: int = 0
    cancelled: int = 0
    refused: int = 0

    @property
    def all(self) -> int:
        return len(self.finished) + self.sampled + self.cancelled + self.refused


async def ask(client, index, prompts, answers):
    """Request `index`; its number decides of which kind it is."""
    kind, number = index % 10, index // 10
    prompt = index % len(prompts)
    body = {"model": BUNDLED.name, "prompt": prompts[prompt], "max_tokens": COUNT, "ignore_eos": True, "return_token_ids": True}
    if kind == 8:
        async with client.post("/v1/completions", json={**body, "temperature": 0, "max_tokens": 60, "stream": True}) as response:
            await response.content.readline()
        answers.cancelled += 1
    elif kind == 9:
        changes, reason = REFUSED[number % len(REFUSED)]
        async with client.post("/v1/completions", json={**body, **changes}) as response:
            text = await response.text()
            assert response.status == 400 and reason in text, text
        answers.refused += 1
    else:
        changes = SAMPLED[number % len(SAMPLED)] if kind in (2, 5, 7) else {"temperature": 0}
        async with client.post("/v1/completions", json={**body, **changes}) as response:
            assert response.status == 200, await response.text()
            (choice,) = (await response.json())["choices"]
        if changes == {"temperature": 0}:
            answers.finished.append((prompt, choice["token_ids"]))
        else:
            answers.sampled += 1


async def load(server, prompts, requests: range, answers):
    """Sends the requests, `AT_A_TIME` of them at a time."""
    free = asyncio.Semaphore(AT_A_TIME)
    # A connection for each request, as from different users.
    options = dict(timeout=aiohttp.ClientTimeout(total=600), connector=aiohttp.TCPConnector(force_close=True))
    async with aiohttp.ClientSession(server.url, **options) as client:

        async def one(index):
            async with free:
                await ask(client, index, prompts, answers)

        await asyncio.gather(*map(one, requests))


@pytest.fixture(scope="module")
def prompts_and_texts():
    """Prompts, and the greedy tokens that `Generator` gives after each."""
    with open_generator("N150", BUNDLED, users=4, max_seq_len=640, precision="performance", block_size=64) as generator:
        chapters = known_by_heart(generator.args)
        prompts = [chapters[index % len(chapters)][:length] for index, length in enumerate(LENGTHS)]
        texts = []
        for first in range(0, len(prompts), 4):
            texts += greedy(generator, prompts[first : first + 4], COUNT)[0]
    return prompts, texts


def test_every_request_is_answered_and_greedy_texts_are_the_generators(bundled_server, prompts_and_texts, count=200):
    prompts, texts = prompts_and_texts
    memory, answers = [], Answers([])
    for half in (range(count // 2), range(count // 2, count)):
        asyncio.run(load(bundled_server, prompts, half, answers))
        memory.append(bundled_server.engine().memory_info().rss)
    assert answers.all == count
    for prompt, tokens in answers.finished:
        assert tokens == texts[prompt], f"prompt of {len(prompts[prompt])} tokens"
    print(memory, (memory[1]-memory[0])/1e6)
    assert bundled_server.answers()
