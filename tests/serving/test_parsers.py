"""Tool calls and reasoning, by vLLM's parsers, of a Qwen3 whose logits are scripted."""

import json

import openai
import pytest
from transformers import AutoTokenizer

from models.tt_transformers.serving.local_server import serving
from tests.support.real_tokenizers import real_tokenizers  # noqa: F401
from tests.support.tiny_models import save_tiny

pytestmark = [pytest.mark.serving, pytest.mark.whole]

REASONING = "\nThe user asks for the weather.\n"
CALL = {"name": "weather", "arguments": {"city": "Toronto"}}
TEXT = f"<think>{REASONING}</think>\n\n<tool_call>\n{json.dumps(CALL)}\n</tool_call><|im_end|>"
TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory, real_tokenizers):  # noqa: F811
    """A small random Qwen3 with the real tokenizer."""
    directory = tmp_path_factory.mktemp("qwen3") / "tiny-qwen3"
    tokenizer = AutoTokenizer.from_pretrained(real_tokenizers / "qwen3")
    end = tokenizer.eos_token_id
    save_tiny("Qwen3", directory, vocab_size=151_936, max_position_embeddings=1024, eos_token_id=end, pad_token_id=end)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def request_of(qwen3, tmp_path_factory):
    """The function that asks a server of `qwen3` for a chat with a tool; the model answers `TEXT`."""
    script = AutoTokenizer.from_pretrained(qwen3).encode(TEXT)
    parsers = ("--enable-auto-tool-choice", "--tool-call-parser=hermes", "--reasoning-parser=qwen3")
    processor = "--logits-processors=tests.serving.script:Script"
    with serving(tmp_path_factory.mktemp("server") / "log", processor, *parsers, HF_MODEL=str(qwen3)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        def ask(**options):
            return client.chat.completions.create(
                model="tiny-qwen3",
                messages=[{"role": "user", "content": "What is the weather in Toronto?"}],
                tools=[{"type": "function", "function": TOOL}],
                extra_body={"vllm_xargs": {"script": script}},
                max_tokens=100,
                **options,
            )

        yield ask


def test_answer_is_parsed_into_reasoning_and_a_tool_call(request_of):
    (choice,) = request_of().choices
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (CALL["name"], CALL["arguments"])
    assert choice.message.reasoning.strip() == REASONING.strip()
    assert choice.finish_reason == "tool_calls" and not (choice.message.content or "").strip()


def test_streamed_answer_is_parsed_too(request_of):
    deltas = [piece.choices[0].delta for piece in request_of(stream=True)]
    calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert [call.name for call in calls if call.name] == [CALL["name"]]
    assert json.loads("".join(call.arguments or "" for call in calls)) == CALL["arguments"]
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas).strip() == REASONING.strip()
