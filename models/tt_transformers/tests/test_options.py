"""The demo's options: parsing, the cases they change, and the command line."""

import re
from pathlib import Path

import pytest

from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.options import ALIASES, OPTIONS, markdown_table

ROOT = Path(__file__).resolve().parents[3]
DEMO = "models/tt_transformers/demo/simple_text_demo.py"
PARSERS = {option.name: option.parse for option in OPTIONS}
CASE = Case(
    name="test",
    input_prompts="prompts.json",
    max_seq_len=64,
    batch_size=1,
    max_generated_tokens=8,
    page_params={"block_size": 32, "max_num_blocks": 8},
    sampling_params={"temperature": 0.5, "top_p": 0.9},
)


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("paged_attention", "0", False),
        ("paged_attention", "True", True),
        ("stop_at_eos", "no", False),
        ("instruct", "yes", True),
        ("batch_size", "16", 16),
        ("max_generated_tokens", "1024", 1024),
        ("page_params", '{"block_size": 64, "max_num_blocks": 2048}', {"block_size": 64, "max_num_blocks": 2048}),
        ("page_params", "{'page_block_size': 64, 'page_max_num_blocks': 8}", {"block_size": 64, "max_num_blocks": 8}),
        ("sampling_params", '{"temperature": 0, "top_p": 0.08}', {"temperature": 0, "top_p": 0.08}),
        ("sampling_params", " {'top_k': 5, 'seed': 3}", {"top_k": 5, "seed": 3}),
        ("optimizations", "accuracy", "accuracy"),
    ],
)
def test_values_that_are_accepted(name, text, value):
    assert PARSERS[name](text) == value


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("paged_attention", "maybe", "'maybe' is not a truth value; accepted: true, 1, yes, false, 0, no"),
        ("paged_attention", "", "'' is not a truth value"),
        ("batch_size", "3", "'3' is not supported; supported: 1, 2, 4, 8, 16, 32"),
        ("max_seq_len", "0", "'0' is not accepted; accepted: a whole number >= 1"),
        ("max_seq_len", "1e3", "'1e3' is not accepted"),
        ("repeat_batches", "-1", "'-1' is not accepted"),
        ("page_params", "32", "'32' is not a dict"),
        ("page_params", "{block_size: 32}", "is not a dict"),
        ("page_params", '{"blocksize": 32}', "key 'blocksize' is not known; accepted: block_size, page_block_size"),
        ("page_params", '{"block_size": 32.0}', "block_size is 32.0; accepted: 32, 64, 128"),
        ("page_params", '{"block_size": 48}', "block_size is 48; accepted: 32, 64, 128"),
        ("page_params", '{"block_size": 32, "page_block_size": 64}', "block_size is given twice"),
        ("page_params", '{"max_num_blocks": 32, "max_num_blocks": 64}', "max_num_blocks is given twice"),
        ("page_params", '{"max_num_blocks": 0}', "max_num_blocks is 0"),
        ("sampling_params", '{"temprature": 0}', "key 'temprature' is not known; accepted: temperature, top_k"),
        ("sampling_params", "{[1]: 0}", "key [1] is not known"),
        ("sampling_params", '{"top_p": 2}', "top_p is 2; accepted: a number > 0 and <= 1"),
        ("sampling_params", '{"temperature": {"a": 1}}', "temperature is"),
        ("sampling_params", "{'seed': __import__('os')}", "is not a dict"),
        ("optimizations", "precision_cfg = {ff5: bfp4}", "'ff5' is not known"),
        ("output_json", "", "expected the name of a file"),
    ],
)
def test_values_that_are_refused(name, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PARSERS[name](text)


def test_every_option_is_a_field_of_a_case_and_the_other_way_round():
    assert {option.name for option in OPTIONS} - set(ALIASES) == set(Case.__dataclass_fields__) - {"name", "default_model"}
    assert set(ALIASES.values()) <= set(Case.__dataclass_fields__)


def test_options_change_a_case_and_dicts_only_the_keys_they_name():
    case = CASE.with_options(
        {"batch_size": 16, "page_params": {"max_num_blocks": 64}, "sampling_params": {"temperature": 0}}
    )
    assert (case.name, case.batch_size, case.max_seq_len) == ("test", 16, 64)
    assert case.page_params == {"block_size": 32, "max_num_blocks": 64}
    assert case.sampling_params == {"temperature": 0, "top_p": 0.9}
    assert CASE.batch_size == 1 and CASE.page_params["max_num_blocks"] == 8


def test_page_params_without_pages_are_refused():
    with pytest.raises(ValueError, match="page_params are given, but paged_attention is false"):
        CASE.with_options({"page_params": {"block_size": 32}, "paged_attention": False})


def test_readme_holds_the_current_table_of_options():
    assert markdown_table() in (ROOT / "models/tt_transformers/demo/README.md").read_text(encoding="utf-8")


@pytest.fixture
def collect(monkeypatch, capsys):
    """Runs `pytest --collect-only` on the demo from the project's root -> (exit code, test ids, printed text)."""
    monkeypatch.chdir(ROOT)

    class Ids(list):
        def pytest_collection_finish(self, session):
            self.extend(item.nodeid for item in session.items)

    def run(*arguments):
        ids = Ids()
        code = pytest.main(["-p", "no:cacheprovider", "--collect-only", "-q", DEMO, *arguments], plugins=[ids])
        return code, list(ids), "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "expression, selected",
    [
        ("performance and batch-1", "[performance-batch-1]"),
        ("accuracy and batch-32", "[accuracy-batch-32]"),
        ("performance and reasoning-1", "[performance-reasoning-1]"),
    ],
)
def test_documented_expressions_select_one_case(collect, expression, selected):
    code, ids, printed = collect("-k", expression, "--batch_size", "16", "--stop_at_eos=0")
    assert code == 0, printed
    assert ids == [f"{DEMO}::test_simple_text_demo{selected}"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--paged_attention", "maybe"], "argument --paged_attention: 'maybe' is not a truth value"),
        (["--input_prompts", "nowhere.json"], "prompts file nowhere.json: No such file"),
        (["--decoder_config_file", "nowhere.json"], "decoder_config_file nowhere.json: there is no such file"),
        (["--output_json", "nowhere/run.json"], "output_json nowhere/run.json: cannot write to nowhere"),
        (["--paged_attention", "0", "--page_params", "{'block_size': 32}"], "paged_attention is false"),
    ],
)
def test_bad_options_end_the_command_before_any_test(collect, arguments, message):
    code, _, printed = collect("-k", "performance and batch-1", *arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert message in printed and "Traceback" not in printed


def test_one_record_for_several_cases_is_refused(collect, tmp_path):
    code, _, printed = collect("-k", "batch-1", "--output_json", str(tmp_path / "run.json"))
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--output_json is for one case, but 2 are selected" in printed
