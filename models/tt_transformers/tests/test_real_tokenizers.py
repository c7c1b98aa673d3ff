"""Instruct with the tokenizers and chat templates of real models, and random weights of their vocabularies."""

import json
import re
from functools import cache

import pytest
import transformers
from safetensors.torch import load_file, save_file

from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.run import RunError, run
from models.tt_transformers.demo.text_stream import TextStream
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.text import Text
from tests.support.real_tokenizers import real_tokenizers  # noqa: F401
from tests.support.tiny_models import save_tiny

# The family and vocabulary of each tokenizer's models. eos_token_id is the one in the config.json of their base models.
# The package calls it llama2, but its tokens are those of Mistral-7B-v0.1.
MODELS = {
    "llama2": ("Mistral", dict(vocab_size=32000, eos_token_id=2)),
    "llama3": ("Llama", dict(vocab_size=128256, eos_token_id=128001)),
    "llama3_1": ("Llama", dict(vocab_size=128256, eos_token_id=128001)),
    "llama3_2": ("Llama", dict(vocab_size=128256, eos_token_id=128001)),
    "mistral_nemo": ("Mistral", dict(vocab_size=131072, eos_token_id=2)),
    "qwen2_5": ("Qwen2", dict(vocab_size=151936, eos_token_id=151643)),
    "qwen3": ("Qwen3", dict(vocab_size=151936, eos_token_id=151643)),
}
WITH_TEMPLATE = [name for name in MODELS if name != "llama2"]

_LLAMA3 = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "llama3": f"<|begin_of_text|>{_LLAMA3}",
    "llama3_1": f"<|begin_of_text|>{_LLAMA3}",
    "llama3_2": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    f"Today Date: DATE\n\n<|eot_id|>{_LLAMA3}",
    "mistral_nemo": "<s>[INST]Hi[/INST]",
    "qwen2_5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    f"{_CHATML}",
    "qwen3": _CHATML,
}


@pytest.fixture(scope="module")
def text(real_tokenizers, tmp_path_factory):  # noqa: F811
    """The `Text` of a tokenizer's model, by the tokenizer's name; with its chat template, if it has one."""

    @cache
    def make(name, instruct=None, **settings):
        folder = tmp_path_factory.mktemp(name)
        save_config(name, folder)
        add_tokenizer(folder, real_tokenizers / name)
        arch = Architecture.from_hf_config(read_config(folder / "config.json"))
        return Text(folder, arch, instruct=instruct, **settings)

    return make


def save_config(name, folder, **changes):
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}Config")(architectures=[f"{family}ForCausalLM"], **{**settings, **changes})
    config.save_pretrained(folder)


def add_tokenizer(folder, tokenizer):
    for file in tokenizer.iterdir():
        (folder / file.name).symlink_to(file)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_prompt_is_what_hugging_face_makes_of_it(text, name):
    made = text(name)
    ids = made.encode_prompt("Hi")
    expected = made.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert ids == expected["input_ids"]
    assert re.sub(r"(?<=Today Date: )\d\d \w{3} \d{4}", "DATE", made.tokenizer.decode(ids)) == PROMPTS[name]
    assert made.encode_prompt("Hi", instruct=False) == made.tokenizer("Hi")["input_ids"]


# What the chat models' own generation_config.json names, but for Llama 3.1's <|eom_id|>, which ends a call of a tool.
@pytest.mark.parametrize(
    "name, ends",
    [
        ("llama3", ["<|end_of_text|>", "<|eot_id|>"]),
        ("llama3_1", ["<|end_of_text|>", "<|eot_id|>"]),
        ("llama3_2", ["<|end_of_text|>", "<|eot_id|>"]),
        ("mistral_nemo", ["</s>"]),
        ("qwen2_5", ["<|endoftext|>", "<|im_end|>"]),
        ("qwen3", ["<|endoftext|>", "<|im_end|>"]),
    ],
)
def test_an_answer_ends_at_the_token_of_the_template_even_if_config_names_only_the_documents(text, name, ends):
    made = text(name)
    assert made.stop_token_ids == set(made.tokenizer.convert_tokens_to_ids(ends))


def test_a_base_model_says_that_it_has_no_chat_template(text):
    with pytest.raises(ValueError, match="instruct: the tokenizer in .* has no chat template"):
        text("llama2", instruct=True)
    base = text("llama2")
    assert base.encode_prompt("Hi")[0] == base.tokenizer.bos_token_id and base.stop_token_ids == {2}


def test_qwen3_thinks_unless_it_is_told_not_to(text):
    made = text("qwen3")
    assert text("qwen3", enable_thinking=True).encode_prompt("Hi") == made.encode_prompt("Hi")
    silent = text("qwen3", enable_thinking=False).encode_prompt("Hi")
    assert made.tokenizer.decode(silent) == f"{_CHATML}<think>\n\n</think>\n\n"


def test_qwen2_5_has_no_thinking_switch(text):
    with pytest.raises(ValueError, match="enable_thinking: .*/tokenizer_config.json has no such switch"):
        text("qwen2_5", enable_thinking=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_streamed_text_is_the_text_without_special_tokens(text, name):
    made = text(name)
    written = "Straße , naïve\n\n中文字 🙂👩‍👩‍👧 it 's"
    words = made.tokenizer.encode(written, add_special_tokens=False)
    ends = list(made.stop_token_ids)
    stream = TextStream(made.decode)
    ids = [*words, *ends, *words, *ends]
    assert "".join([*map(stream.add, ids), stream.finish()]) == made.decode(ids)
    assert made.decode([*words, *ends]) == written


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs batch-1 with a model and options -> the user in its record."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    for variable in ("MESH_DEVICE", "FAKE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": "Hi"}]))

    def run_case(model, **options):
        monkeypatch.setenv("HF_MODEL", str(model))
        files = dict(input_prompts=str(tmp_path / "prompts.json"), output_json=str(tmp_path / "run.json"))
        (case,) = (case for case in CASES if case.name == "batch-1")
        run(case.with_options({"max_seq_len": 128, "max_generated_tokens": 6, **files, **options}), "performance")
        (user,) = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["users"]
        return user

    return run_case


def save_random(name, folder, tokenizer):
    family, settings = MODELS[name]
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    # With larger weights the last token outweighs its context, and the text may be one token again and again.
    save_tiny(family, folder, **settings, **sizes, head_dim=32, tie_word_embeddings=False, initializer_range=0.02)
    add_tokenizer(folder, tokenizer)


def exchange_outputs(folder, first, second):
    """Makes the model generate one token where it would generate the other."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][[first, second]] = weights["lm_head.weight"][[second, first]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.whole
@pytest.mark.parametrize("name, end", [("llama3", "<|eot_id|>"), ("qwen3", "<|im_end|>")])
def test_the_demo_ends_an_answer_at_the_templates_token(real_tokenizers, tmp_path, demo, capsys, name, end):  # noqa: F811
    model = tmp_path / "model"
    save_random(name, model, real_tokenizers / name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    free = demo(model)
    assert free["prompt_tokens"] == len(prompt) and free["stop_reason"] == "max_generated_tokens"

    place = next(place for place in range(1, 6) if free["token_ids"][place] not in free["token_ids"][:place])
    end_id = tokenizer.convert_tokens_to_ids(end)
    exchange_outputs(model, free["token_ids"][place], end_id)
    capsys.readouterr()
    ended = demo(model)
    assert (ended["token_ids"], ended["stop_reason"]) == ([*free["token_ids"][:place], end_id], "eos")
    assert ended["text"] == tokenizer.decode(free["token_ids"][:place])
    printed = capsys.readouterr().out
    assert f"Generated:\n{ended['text']}\n" in printed and end not in printed


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused(real_tokenizers, tmp_path, demo):  # noqa: F811
    add_tokenizer(tmp_path, real_tokenizers / "qwen2_5")
    save_config("qwen2_5", tmp_path, vocab_size=151643, eos_token_id=0)
    with pytest.raises(RunError, match="user 0: token 151644 is outside the model's vocabulary of 151643"):
        demo(tmp_path, dummy_weights=True)
