"""How `eval.py` reads checkpoints and prompts: it uses only the model's own files, and refuses bad ones in one line."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from loguru import logger
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

import eval as evaluation
from models.common.mesh import open_mesh

from .conftest import BUNDLED, MODEL_FILE, PROMPT_FILE, ROOT

CONFIG = json.loads((BUNDLED / "config.json").read_text())
ROPE = CONFIG["rope_scaling"]
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def bundled_with(tmp_path):
    """Returns `make(changes, tensors, **files) -> str`: a copy of the bundled checkpoint's directory.

    changes: keys of config.json. tensors: replacements by name; None removes a tensor.
    files: JSON files by their names without `.json`, as text or as a value.
    """

    def make(changes=None, tensors=None, **files) -> str:
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(BUNDLED / name, tmp_path)
        if tensors is None:
            (tmp_path / "model.safetensors").symlink_to(BUNDLED / "model.safetensors")
        else:
            weights = {**load_file(BUNDLED / "model.safetensors"), **tensors}
            weights = {name: weight for name, weight in weights.items() if weight is not None}
            save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        for name, content in {"config": {**CONFIG, **(changes or {})}, **files}.items():
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path)

    return make


def task(model, **changes) -> evaluation.Task:
    return evaluation.Task(**{**dict(model=model, prompt_file=PROMPT_FILE, max_new_tokens=3, prompt_tokens=16), **changes})


def agreement(model, *bring_up) -> dict:
    """All results of an evaluation except the speeds, which differ in every run."""
    result = asdict(evaluation.evaluate(task(model), *bring_up))
    return {figure: value for figure, value in result.items() if not figure.endswith("per_second")}


def refusal(function, *arguments) -> str:
    with pytest.raises(evaluation.EvaluationError) as refused:
        function(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def plain():
    """The results of the bring-up on one device with the unchanged bundled checkpoint."""
    return agreement(str(BUNDLED), MODEL_FILE, "n150")


@pytest.fixture(scope="module")
def reference():
    return evaluation.load_reference(str(BUNDLED), evaluation.read_config(str(BUNDLED)))


@pytest.mark.parametrize("system", ["n150", "n300", "t3000"])
def test_every_system_that_the_help_offers_runs(system):
    result = agreement(str(BUNDLED), MODEL_FILE, system)
    assert result["top1"] == 100 and result["logits_pcc"] > 0.999


# Text generation's defaults


@pytest.mark.parametrize(
    "defaults",
    [
        dict(num_beams=4),
        dict(num_return_sequences=2, num_beams=2),
        dict(cache_implementation="static"),
        dict(repetition_penalty=9.0),
        dict(no_repeat_ngram_size=1),
        dict(suppress_tokens=list(range(3000))),
        dict(begin_suppress_tokens=list(range(3000))),
        dict(bad_words_ids=[[token] for token in range(3000)]),
        dict(sequence_bias=[[[7], 99.0]]),
        dict(forced_bos_token_id=7, forced_eos_token_id=7),
        dict(max_time=0.0),
        dict(stop_strings=["e"]),
        dict(eos_token_id=list(range(4096))),
        dict(guidance_scale=3.0),
    ],
    ids=lambda defaults: next(iter(defaults)),
)
def test_generation_defaults_of_a_model_change_no_logit_and_no_token(reference, defaults):
    _, prompt = evaluation.read_task(task(str(BUNDLED)))
    reference.generation_config = GenerationConfig()
    logits, tokens, _ = evaluation.generate(reference, prompt, steps=12)
    reference.generation_config = GenerationConfig(**defaults)
    logits_with_defaults, tokens_with_defaults, _ = evaluation.generate(reference, prompt, steps=12)
    assert torch.equal(logits, logits_with_defaults)
    assert torch.equal(tokens, tokens_with_defaults)


@pytest.mark.parametrize("defaults", [{"num_beams": 4}, {"cache_implementation": "static"}, {"num_beams": "four"}, "{"], ids=str)
def test_generation_defaults_of_a_checkpoint_do_not_count(bundled_with, plain, defaults):
    model = bundled_with(generation_config=defaults)
    itself = agreement(model)
    assert (itself["top1"], itself["logits_pcc"], itself["logits_pcc_worst_step"]) == (100, 1, 1)
    assert agreement(model, MODEL_FILE, "n150") == plain


# config.json


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3", "output_attentions": True},
        {"output_hidden_states": True, "return_dict": False, "use_cache": False},
        {"num_beams": 4, "repetition_penalty": 9.0},
        {"architectures": None},
        {"model_type": None},
        {"dtype": "auto", "torch_dtype": "float17"},
        {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}},
        {"rope_scaling": {**ROPE, "type": "su"}},
        {"rope_scaling": {**ROPE, "type": "su", "rope_type": "su"}},
        {"rope_scaling": {**ROPE, "type": "yarn"}},
        {"rope_scaling": None, "rope_parameters": {**ROPE, "rope_type": "su", "rope_theta": 10000.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_configurations_that_mean_the_same_model_give_the_same_figures(bundled_with, plain, changes):
    assert agreement(bundled_with(changes), MODEL_FILE, "n150") == plain


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"hidden_size": "768"}, "refuses config.json, hidden_size '768': .*expected int"),
        ({"num_attention_heads": 0}, "refuses config.json, num_attention_heads 0: ZeroDivisionError"),
        ({"rope_scaling": {**ROPE, "long_factor": [1.0]}}, "refuses config.json, rope_scaling .*long_factor.*length 48"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "refuses config.json, rope_scaling .*got linear"),
        ({"rope_scaling": {**ROPE, "short_mscale": 1.1, "long_mscale": 1.2}}, "'longrope' has keys .*: long_mscale, short_mscale"),
        ({"rope_scaling": {**ROPE, "type": "default"}}, "'default' has keys .*: long_factor, short_factor"),
        ({"rope_scaling": {**ROPE, "original_max_position_embeddings": 99}}, "is 99 in rope_parameters but 512 at the top level"),
        ({"rope_theta": None}, "rope_theta must be a number, got None"),
        ({"model_type": "phi33"}, "model_type 'phi33' is not known"),
        ({"model_type": None, "architectures": None}, "model_type None is not known"),
    ],
)
def test_what_hugging_face_refuses_is_reported_with_key_and_value(bundled_with, changes, named):
    model = bundled_with(changes)
    message = refusal(evaluation.read_config, model)
    assert message.startswith(f"model {model!r}: ") and re.search(named, message)


@pytest.mark.parametrize("text, reason", [("{", "is not valid JSON"), ("[]", "must hold a JSON object"), ("", "not valid")])
def test_a_config_that_is_no_json_object_is_refused(bundled_with, text, reason):
    message = refusal(evaluation.read_config, bundled_with(config=text))
    assert re.search(f"config.json cannot be read: .*{reason}", message)


def test_a_name_that_is_no_model_is_refused(tmp_path):
    assert "config.json cannot be read: FileNotFoundError" in refusal(evaluation.read_config, str(tmp_path))
    assert "no directory here, nor to download" in refusal(evaluation.read_config, str(tmp_path / "nothing"))


def test_checkpoints_that_cannot_be_held_are_refused_before_weights_are_read(functional, make_tiny):
    def refused(config):
        return refusal(evaluation.check_fits, config, functional, device, 128)

    config = make_tiny().config
    with open_mesh("T3K", shape=(2, 4)) as device:
        evaluation.check_fits(config, functional, device, 128)
        config.intermediate_size = 10**9
        assert re.search(r"\d{12} B of bf16 weights a device, which has 12\d{9} B", refused(config))
        config.num_key_value_heads = 4
        assert "num_key_value_heads 4 does not divide by 8 devices" in refused(config)


# Weights


@pytest.mark.parametrize(
    "tensors, reason",
    [
        ({DOWN: None}, f"the checkpoint lacks {DOWN}"),
        ({DOWN: torch.zeros(2, 2)}, rf"the checkpoint has {DOWN} \[2, 2\], not \[768, 1024\]"),
        ({DOWN: torch.full((768, 1024), torch.nan)}, f"NaN or infinity in {DOWN}"),
        ({DOWN: torch.full((768, 1024), 3.4e38)}, f"NaN or infinity in {DOWN}"),  # too large for bf16
        ({"model.layers.0.self_attn.qkv_proj.bias": torch.zeros(2304)}, "no such tensor as model.layers.0.*bias"),
        ({"lm_head.weight": torch.zeros(4096, 768)}, "Hugging Face's logits of step 0 are .* all the same"),
    ],
    ids=["missing", "shape", "nan", "overflow", "unexpected", "zeros"],
)
def test_weights_that_are_not_the_models_are_refused_by_name(bundled_with, tensors, reason):
    assert re.search(reason, refusal(evaluation.evaluate, task(bundled_with(tensors=tensors))))


def test_a_config_with_more_layers_than_the_files_is_refused(bundled_with):
    model = bundled_with({"num_hidden_layers": 5})
    assert "lacks model.layers.4" in refusal(evaluation.load_reference, model, evaluation.read_config(model))


def test_layers_that_the_config_leaves_out_are_left_out_as_in_the_demo(bundled_with):
    model = bundled_with({"num_hidden_layers": 3})
    assert len(evaluation.load_reference(model, evaluation.read_config(model)).model.layers) == 3


def test_weights_that_are_not_read_are_named_as_in_the_demo(bundled_with, tmp_path):
    model = bundled_with({})
    (tmp_path / "model.fp16.safetensors").write_bytes(b"others")
    warnings = []
    handler = logger.add(warnings.append, level="WARNING", format="{message}")
    evaluation.load_reference(model, evaluation.read_config(model))
    logger.remove(handler)
    assert [f"model {model!r}: weights are read from model.safetensors, not from model.fp16.safetensors\n"] == warnings


def test_an_adapter_beside_the_weights_is_refused_as_in_the_demo(bundled_with, tmp_path):
    model = bundled_with({})
    (Path(model) / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    assert "holds an adapter" in refusal(evaluation.load_reference, model, evaluation.read_config(model))


def test_damaged_weights_are_refused(bundled_with, tmp_path):
    model = bundled_with(tensors={})
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:10000])
    message = refusal(evaluation.load_reference, model, evaluation.read_config(model))
    assert f"model {model!r}: AutoModelForCausalLM cannot read it: SafetensorError" in message


# Tokenizer and prompt


def tokenizer_with(**changes) -> dict:
    return {**json.loads((BUNDLED / "tokenizer.json").read_text()), **changes}


NOT_PARSED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
TOO_LARGE = {"id": 4096, "content": "the", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
NO_WORDS = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "x"}
NO_WORDS |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 5}


@pytest.mark.parametrize(
    "tokenizer, reason",
    [
        ("{", "cannot read its tokenizer files: JSONDecodeError"),
        ({}, "cannot read its tokenizer files: KeyError"),
        (tokenizer_with(model={"type": "None"}), "cannot read its tokenizer files: Exception"),
        (tokenizer_with(normalizer=NOT_PARSED), "cannot read its tokenizer files: PanicException"),
        (tokenizer_with(model=NO_WORDS), f"{PROMPT_FILE}: the tokenizer of .* cannot encode it: Exception: WordPiece"),
        (tokenizer_with(added_tokens=[{**TOO_LARGE, "special": False}]), "gives the token 4096, and vocab_size is 4096"),
    ],
    ids=["no JSON", "empty", "no model", "panic", "no words", "too large"],
)
def test_a_tokenizer_that_breaks_is_refused(bundled_with, tokenizer, reason):
    assert re.search(reason, refusal(evaluation.read_task, task(bundled_with(tokenizer=tokenizer))))


def test_a_byte_order_mark_is_no_part_of_the_prompt(tmp_path):
    path = tmp_path / "prompt.txt"
    prompts = []
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("And it came to pass", encoding=encoding)
        _, tokens = evaluation.read_task(task(str(BUNDLED), prompt_file=path, prompt_tokens=None))
        prompts.append(tokens.tolist())
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b" \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"And \xed\xa0\xbd it", "cannot be read: UnicodeDecodeError"),  # a lone surrogate
        ("And".encode("utf-16"), "cannot be read: UnicodeDecodeError"),
    ],
)
def test_a_prompt_file_that_is_no_text_is_refused(tmp_path, content, reason):
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    assert f"prompt file {path} {reason}" in refusal(evaluation.read_task, task(str(BUNDLED), prompt_file=path))


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(max_new_tokens=0), "max_new_tokens 0 has to be at least 1"),
        (dict(prompt_tokens=0), "prompt_tokens 0 has to be from 1 to the"),
        (dict(prompt_tokens=10**6), "prompt_tokens 1000000 has to be from 1 to the"),
        (dict(max_new_tokens=10**6), "1000000 new ones are past the model's 16384"),
        (dict(prompt_file=ROOT / "no_such_file.txt"), "no_such_file.txt cannot be read"),
        (dict(prompt_file=ROOT / "prompts"), "prompts cannot be read: IsADirectoryError"),
        (dict(model=str(ROOT / "prompts")), "config.json cannot be read: FileNotFoundError"),
    ],
)
def test_bad_tasks_are_refused(changes, reason):
    assert reason in refusal(evaluation.read_task, task(**{"model": str(BUNDLED), **changes}))
