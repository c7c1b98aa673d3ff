"""A model's text side: tokenizer, chat template, stop tokens."""

import json

import pytest
from transformers import Phi3ForCausalLM

import models  # noqa: F401  (makes `import ttnn` resolve)
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.model_args import (  # noqa: F401
    CHAT_TEMPLATE,
    MeshOf,
    args_of,
    change,
    checkpoint,
    environment,
    save_tokenizer,
)

MINI_128K = "microsoft/Phi-3-mini-128k-instruct"


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ raise_exception('System role not supported') }}", "TemplateError: System role not supported"),
        ("{% for m in messages %}{{ m['content'] }", "TemplateSyntaxError: "),
        ("{{ messages[7].content.strip() }}", "UndefinedError: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError: "),
        ("{{ messages + 1 }}", "TypeError: "),
        ("{# no text #}", "ValueError: it gives no text"),
    ],
)
@pytest.mark.parametrize("own_file", [False, True], ids=["tokenizer_config", "jinja"])
def test_a_chat_template_that_fails_is_named_with_its_file_in_one_line(checkpoint, template, reason, own_file):
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    if own_file:
        (checkpoint / "chat_template.jinja").write_text(template)
    else:
        change(checkpoint / "tokenizer_config.json", chat_template=template)
    name = "chat_template.jinja" if own_file else "tokenizer_config.json"
    with pytest.raises(ValueError, match=f"the chat template in {checkpoint}/{name} cannot be applied: {reason}") as error:
        args_of(checkpoint, instruct=True).encode_prompt("Hello")
    assert "\n" not in str(error.value)


def test_a_text_that_the_tokenizer_cannot_encode_is_said_with_its_directory(checkpoint):
    with pytest.raises(ValueError, match=f"the tokenizer in {checkpoint} cannot encode a text"):
        args_of(checkpoint).encode_prompt("\ud83d", instruct=False)


def test_a_random_model_without_tokenizer_uses_the_bundled_one_and_says_so():
    args = ModelArgs(MeshOf(1), hf_model=MINI_128K, dummy_weights=True)
    assert args.text.tokenizer_is_stand_in and args.text.tokenizer_dir == BUNDLED
    assert args.decode(args.encode_prompt("In the beginning")) == "In the beginning"


def test_a_random_model_whose_vocabulary_is_smaller_than_the_stand_in_is_refused(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="the bundled one has 4096 tokens, more than the model's vocabulary of 320"):
        args_of(checkpoint, dummy_weights=True).encode_prompt("hi")


def test_prompts_go_through_the_chat_template_only_with_instruct(checkpoint):
    ids = {token: args_of(checkpoint).tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>")}
    plain, instruct = args_of(checkpoint), args_of(checkpoint, instruct=True)
    assert plain.decode(plain.encode_prompt("héllo")) == "héllo"
    tokens = instruct.encode_prompt("hi")
    assert tokens[0] == ids["<|user|>"] and tokens[-1] == ids["<|assistant|>"]
    assert tokens[1:3] == plain.encode_prompt("hi") == instruct.encode_prompt("hi", instruct=False)


def test_instruct_without_a_chat_template_is_an_error(checkpoint):
    save_tokenizer(checkpoint)
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="instruct: .* has no chat template"):
        args_of(checkpoint, instruct=True)
    with pytest.raises(ValueError, match="instruct: .* has no chat template"):
        args_of(checkpoint).encode_prompt("hi", instruct=True)


def set_chat_template(directory, template):
    (directory / "chat_template.jinja").write_text(template)


def test_instruct_may_be_left_to_the_tokenizer(checkpoint):
    with_template = args_of(checkpoint, instruct=None)
    assert with_template.encode_prompt("hi") == with_template.encode_prompt("hi", instruct=True)
    (checkpoint / "chat_template.jinja").unlink()
    without = args_of(checkpoint, instruct=None)
    assert without.encode_prompt("hi") == without.encode_prompt("hi", instruct=False)


@pytest.mark.parametrize("generation_config", [{"eos_token_id": [7, 9]}, {"eos_token_id": 7}, None])
def test_without_instruct_texts_end_where_hugging_face_ends_them(checkpoint, generation_config):
    (checkpoint / "generation_config.json").unlink()
    if generation_config is not None:
        (checkpoint / "generation_config.json").write_text(json.dumps(generation_config))
    ends = Phi3ForCausalLM.from_pretrained(checkpoint).generation_config.eos_token_id
    assert args_of(checkpoint).stop_token_ids == set(ends if isinstance(ends, list) else [ends])


def test_where_no_file_names_a_stop_token_the_tokenizers_ends_a_text(checkpoint):
    (checkpoint / "generation_config.json").write_text("{}")
    args = args_of(checkpoint)
    assert args.stop_token_ids == {args.tokenizer.eos_token_id}


@pytest.mark.parametrize(
    "answer, end",
    [
        ("<|assistant|>{{ m['content'] }}<|user|>", "<|user|>"),
        ("<|assistant|> {{ m['content'] | trim }} \n<|user|>\n", "<|user|>"),
        ("<|assistant|>{{ m['content'] }}<|user|>{% if loop.last %}<|assistant|>{% endif %}", "<|user|>"),
        ("<|assistant|>{{ m['content'] }}", None),
        ("<|assistant|>{{ m['content'] }}\nUser: <|user|>", None),
        ("<|assistant|>", None),
    ],
    ids=["token", "after spaces", "before the next head", "nothing", "plain text", "no message"],
)
def test_with_instruct_texts_end_at_what_the_template_writes_after_an_answer(checkpoint, answer, end):
    set_chat_template(checkpoint, f"{{% for m in messages %}}{answer}{{% endfor %}}")
    args = args_of(checkpoint, instruct=True)
    ends = {"<|end|>", end} - {None}
    assert args.stop_token_ids == {2, *map(args.tokenizer.convert_tokens_to_ids, ends)}


THINKING_TEMPLATE = CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}-{% endif %}"


@pytest.mark.parametrize("enable_thinking, end", [(None, ""), (True, ""), (False, "-")])
def test_the_thinking_switch_reaches_the_chat_template(checkpoint, enable_thinking, end):
    set_chat_template(checkpoint, THINKING_TEMPLATE)
    args = args_of(checkpoint, instruct=True, enable_thinking=enable_thinking)
    assert args.tokenizer.decode(args.encode_prompt("hi")) == f"<|user|>hi<|end|><|assistant|>{end}"


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize(
    "template, instruct, message",
    [
        (CHAT_TEMPLATE, True, "enable_thinking: the chat template in .*/chat_template.jinja has no such switch"),
        (THINKING_TEMPLATE, False, "enable_thinking is a setting of the chat template, which needs instruct"),
        (None, None, "enable_thinking: the tokenizer in .* has no chat template"),
    ],
)
def test_a_thinking_switch_without_effect_is_refused_at_once(checkpoint, enable_thinking, template, instruct, message):
    (checkpoint / "chat_template.jinja").unlink()
    if template is not None:
        set_chat_template(checkpoint, template)
    with pytest.raises(ValueError, match=message):
        args_of(checkpoint, instruct=instruct, enable_thinking=enable_thinking)


def test_a_directory_without_tokenizer_is_an_error(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or tokenizer.model"):
        args_of(checkpoint).encode_prompt("hi")


def test_a_tokenizer_that_cannot_be_read_is_named(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=f"the tokenizer in {checkpoint} cannot be read"):
        args_of(checkpoint).encode_prompt("hi")


def test_stop_tokens_that_are_no_token_ids_are_refused_at_once(checkpoint):
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id must be an integer or a list"):
        args_of(checkpoint)
