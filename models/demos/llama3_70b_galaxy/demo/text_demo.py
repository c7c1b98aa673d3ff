"""Text generation of Llama-3.3-70B on a Galaxy.

pytest models/demos/llama3_70b_galaxy/demo/text_demo.py -k "performance-batch-32"

README.md in the folder above lists the cases. The code is that of `models/tt_transformers/demo`.
"""

import pytest

from models.demos.llama3_70b_galaxy.demo.cases import CASES
from models.tt_transformers.demo.simple_text_demo import run_case
from models.tt_transformers.tt.config.precision import DEMO_MODES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("mode", DEMO_MODES)
def test_text_demo(case, mode, settings, capsys, request):
    with capsys.disabled():
        run_case(settings, mode, request.config)
