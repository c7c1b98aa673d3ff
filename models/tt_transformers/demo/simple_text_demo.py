"""Text generation: pytest models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

README.md in this folder lists the cases and the options that change them.
"""

import pytest

from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.pytest_case import run_case
from models.tt_transformers.tt.config.precision import DEMO_MODES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("mode", DEMO_MODES)
def test_simple_text_demo(case, mode, settings, capsys, request):
    run_case(settings, mode, capsys, request)
