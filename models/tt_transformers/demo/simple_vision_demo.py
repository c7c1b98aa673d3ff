"""Text about images: pytest models/tt_transformers/demo/simple_vision_demo.py -k "performance and batch1-trace"

README.md in this folder lists the cases and the options that change them. Without HF_MODEL and LLAMA_DIR a tiny model runs
with random weights, whose text means nothing.
"""

import pytest

from models.tt_transformers.demo.cases import VISION_CASES
from models.tt_transformers.demo.simple_text_demo import run_case
from models.tt_transformers.tt.config.precision import DEMO_MODES


@pytest.mark.parametrize("case", VISION_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("mode", DEMO_MODES)
def test_simple_vision_demo(case, mode, settings, capsys, request):
    with capsys.disabled():
        run_case(settings, mode, request.config)
