"""The demo's options: one table, from which the command line, the help texts and README.md's table are made."""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from models.common.sampling import SamplingParams
from models.tt_transformers.tt.runtime.page_table import BATCH_SIZES, BLOCK_SIZES


@dataclass(frozen=True)
class Option:
    """One option. `parse` turns the text a user types into a value, or raises ValueError that says what is accepted.

    `default` describes the value that holds when the option is not given.
    """

    name: str
    parse: Callable
    metavar: str
    help: str
    default: str


def parse_bool(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is not a truth value; accepted: {', '.join(values)}")
    return values[text.lower()]


def parse_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError(f"{text!r} is not accepted; accepted: a whole number >= 1")
    return int(text)


def parse_position(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"{text!r} is not accepted; accepted: a whole number >= 0")
    return int(text)


def parse_weights(text: str) -> bool:
    """Whether the weights are random."""
    values = {"random": True, "instruct": False}
    if text not in values:
        raise ValueError(f"{text!r} is not accepted; accepted: {', '.join(values)}")
    return values[text]


def parse_batch_size(text: str) -> int:
    if text not in map(str, BATCH_SIZES):
        raise ValueError(f"{text!r} is not supported; supported: {', '.join(map(str, BATCH_SIZES))}")
    return int(text)


def parse_path(text: str) -> str:
    if not text:
        raise ValueError("expected the name of a file")
    return text


def parse_page_params(text: str) -> dict:
    """Block size and number of blocks, or one of them, under their short names."""
    spellings = {
        "block_size": "block_size",
        "page_block_size": "block_size",
        "max_num_blocks": "max_num_blocks",
        "page_max_num_blocks": "max_num_blocks",
    }
    params = {}
    for key, value in _parse_dict(text, spellings).items():
        if spellings[key] in params:
            raise ValueError(f"{spellings[key]} is given twice")
        if spellings[key] == "block_size":
            accepted, good = ", ".join(map(str, BLOCK_SIZES)), type(value) is int and value in BLOCK_SIZES
        else:
            accepted, good = "a whole number >= 1", type(value) is int and value >= 1
        if not good:
            raise ValueError(f"{key} is {value!r}; accepted: {accepted}")
        params[spellings[key]] = value
    return params


def parse_sampling_params(text: str) -> dict:
    params = _parse_dict(text, SamplingParams.__dataclass_fields__)
    SamplingParams(**params)
    return params


def parse_optimizations_option(text: str) -> str:
    # Imported when the option is used, so that `pytest --help` does not load a device's library.
    from models.tt_transformers.tt.config.precision_config import parse_optimizations

    parse_optimizations(text)
    return text


def _parse_dict(text, keys):
    """A dict in JSON or Python spelling whose keys are all in `keys`."""
    try:
        value = json.loads(text, object_pairs_hook=_pairs)
    except ValueError:
        try:
            value = _python_pairs(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
    if not isinstance(value, _Pairs):
        raise ValueError(f"{text!r} is not a dict; expected {{\"key\": value, ...}} with {', '.join(keys)}")
    for key, _ in value:
        if not isinstance(key, str) or key not in keys:
            raise ValueError(f"key {key!r} is not known; accepted: {', '.join(keys)}")
        if [name for name, _ in value].count(key) > 1:
            raise ValueError(f"{key} is given twice")
    return dict(value)


class _Pairs(list):
    """A dict as it was written, with keys that are given twice."""


def _pairs(pairs):
    return _Pairs(pairs)


def _python_pairs(text):
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Dict) or None in node.keys:
        raise ValueError("not a dict")
    return _Pairs((ast.literal_eval(key), ast.literal_eval(value)) for key, value in zip(node.keys, node.values))


_CASE = "of the case"

OPTIONS = (
    Option("input_prompts", parse_path, "FILE", "JSON file of prompts", _CASE),
    Option(
        "instruct",
        parse_bool,
        "BOOL",
        "put each prompt into the tokenizer's chat template",
        "true if the tokenizer has a chat template; with LLAMA_DIR, if the name says so too",
    ),
    Option(
        "enable_thinking",
        parse_bool,
        "BOOL",
        "let the model think before it answers, if the chat template has this switch (Qwen3)",
        "of the chat template",
    ),
    Option("repeat_batches", parse_count, "N", "batches to run one after another, each with users of its own", _CASE),
    Option("max_seq_len", parse_count, "N", "longest sequence in tokens, prompt and generated text together", _CASE),
    Option("batch_size", parse_batch_size, "N", f"users in a batch: {', '.join(map(str, BATCH_SIZES))}", _CASE),
    Option(
        "data_parallel",
        parse_count,
        "N",
        "cut the mesh into N groups of devices, each with a model and batch_size users of its own",
        _CASE,
    ),
    Option("max_generated_tokens", parse_count, "N", "tokens to generate for each user at most", _CASE),
    Option("paged_attention", parse_bool, "BOOL", "keep the KV cache in pages", _CASE),
    Option(
        "page_params",
        parse_page_params,
        "DICT",
        "of the paged KV cache: block_size (tokens in a page: 32, 64, 128), max_num_blocks (pages for all users of a group together)",
        _CASE,
    ),
    Option(
        "sampling_params",
        parse_sampling_params,
        "DICT",
        "temperature (0: greedy), top_k (0: all tokens), top_p (1: all tokens), seed",
        _CASE,
    ),
    Option("stop_at_eos", parse_bool, "BOOL", "stop a user at an end-of-sequence token", _CASE),
    Option(
        "optimizations",
        parse_optimizations_option,
        "TEXT",
        "performance, accuracy, bf16, or precision_cfg = {...}, fidelity_cfg = {...} laid over the case's mode",
        "the mode in the test id",
    ),
    Option("decoder_config_file", parse_path, "FILE", "JSON file of precision settings for single decoders", "none"),
    Option("max_images", parse_count, "N", "most images of a user, for a model that reads images", _CASE),
    Option("enable_trace", parse_bool, "BOOL", "replay decode steps from a trace, where the device can", _CASE),
    Option("num_layers", parse_count, "N", "run only the first N layers of the model", "all layers"),
    Option("dummy_weights", parse_bool, "BOOL", "random weights; only a config.json is needed", "false"),
    Option(
        "token_accuracy",
        parse_bool,
        "BOOL",
        "predict the texts of a reference file and compare with Hugging Face's predictions, instead of generating",
        "false",
    ),
    Option(
        "reference_file",
        parse_path,
        "FILE",
        "reference for token_accuracy, from tests/generate_reference_hf.py",
        "model_params/<model>/reference.safetensors",
    ),
    Option("layers", parse_count, "N", "the same as num_layers", "all layers"),
    Option("weights", parse_weights, "KIND", "random: the same as dummy_weights true; instruct: as dummy_weights false", "instruct"),
    Option("decode_only", parse_bool, "BOOL", "no prefill: prompts go through the model token by token", _CASE),
    Option(
        "start_pos",
        parse_position,
        "N",
        "with decode_only: the position of the first token; the KV cache before it is empty (zeros)",
        "0, or of the case",
    ),
    Option(
        "stress_test",
        parse_bool,
        "BOOL",
        "decode at one position again and again, max_generated_tokens times; an error if values change or memory grows",
        "false",
    ),
    Option(
        "apc_test",
        parse_bool,
        "BOOL",
        "generate twice, the second time from the cached pages of the prompts, and compare the logits",
        "false",
    ),
    Option("pcc_check", parse_bool, "BOOL", "compare the logits of every step with Hugging Face's (PCC)", "false"),
    Option("equal_texts", parse_bool, "BOOL", "an error if users with equal prompts get other texts; greedy only", "false"),
    Option("prefill_profile", parse_bool, "BOOL", "run the prefill only, and print where the emulator's time goes", "false"),
    Option(
        "shape_only",
        parse_bool,
        "BOOL",
        "lay out the model and run a prefill and a decode step without values, in little memory; emulator only",
        "false",
    ),
    Option("print_outputs", parse_bool, "BOOL", "print every user's token at every step; this takes time", "false"),
    Option("profile", parse_bool, "BOOL", "print where the emulator's time goes: op, calls, time", "false"),
    Option("output_json", parse_path, "FILE", "write a record of the run to this file", "none"),
)


# Another name of an option.
ALIASES = {"layers": "num_layers", "weights": "dummy_weights"}


def markdown_table() -> str:
    """The table of options in README.md."""
    rows = [f"| `--{o.name} {o.metavar}` | {o.help} | {o.default} |" for o in OPTIONS]
    return "\n".join(["| option | meaning | default |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(markdown_table())
