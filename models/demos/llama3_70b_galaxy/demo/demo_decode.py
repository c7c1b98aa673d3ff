"""Decode only: prompts go through the model token by token, and then the text that follows. For work on the decode step.

pytest models/demos/llama3_70b_galaxy/demo/demo_decode.py -k "full"

README.md in the folder above lists the cases and the options.
"""

import pytest

from models.demos.llama3_70b_galaxy.demo.cases import GREEDY, SAMPLE_PROMPTS
from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.simple_text_demo import run_case

_PAGES = {"block_size": 64, "max_num_blocks": 8 * 2048 // 64}


def _case(name: str, **settings) -> Case:
    """32 users, up to 2048 tokens."""
    return Case(
        name=name,
        decode_only=True,
        **{
            "input_prompts": SAMPLE_PROMPTS / "input_data_questions_prefill_128.json",
            "max_seq_len": 2048,
            "batch_size": 32,
            "max_generated_tokens": 128,
            "page_params": _PAGES,
            "sampling_params": GREEDY,
            "stop_at_eos": False,
            **settings,
        },
    )


CASES = [
    _case("full"),
    _case("quick", num_layers=1, max_generated_tokens=16),
    _case("stress-test", stress_test=True, max_generated_tokens=10_000, start_pos=1024),
    _case("mini-stress-test", stress_test=True, max_generated_tokens=100, start_pos=1024),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_demo_decode(case, settings, capsys, request):
    with capsys.disabled():
        run_case(settings, "performance", request.config)
