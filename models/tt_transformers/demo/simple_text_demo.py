"""Text generation: pytest models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

README.md in this folder lists the cases and the options that change them.
"""

import pytest

from models.common.mesh import mesh_name_from_environment
from models.common.mesh_names import MESH_SHAPES
from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.run import RunError, clear_errors, model_of, run
from models.tt_transformers.tt.checkpoints.formats import model_config
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.precision import DEMO_MODES
from models.tt_transformers.tt.placement import group_shape


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("mode", DEMO_MODES)
def test_simple_text_demo(case, mode, settings, capsys, request):
    with capsys.disabled():
        run_case(settings, mode, request.config)


def run_case(settings: Case, mode: str, config: pytest.Config):
    """Runs a case, or skips one that does not fit the model or the mesh by its own settings."""
    try:
        if config.getoption("max_seq_len") is None:
            skip_beyond_the_model(settings)
        if config.getoption("data_parallel") is None:
            skip_other_meshes(settings)
        run(settings, mode)
    except RunError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None  # or pytest shows the causes as well


def skip_other_meshes(settings: Case):
    """Skips a case whose own data_parallel does not divide the mesh. A number that the user gave is an error instead."""
    with clear_errors():
        shape = MESH_SHAPES[mesh_name_from_environment()]
    try:
        group_shape(shape, settings.data_parallel)
    except ValueError as error:
        print(f"\nskipped: {settings.name}: {error}")
        pytest.skip(str(error))


def skip_beyond_the_model(settings: Case):
    """Skips a case whose own max_seq_len is more than the model's context, so that `-k long` runs the cases that fit.

    A max_seq_len that the user gave is an error instead, found with the other settings.
    """
    with clear_errors():
        model = locate(**model_of(settings))
        context = Architecture.from_hf_config(model_config(model.directory)).max_context_len
    if settings.max_seq_len > context:
        reason = f"{settings.name} needs a context of {settings.max_seq_len} tokens, the model has {context}; give --max_seq_len"
        print(f"\nskipped: {reason}")
        pytest.skip(reason)
