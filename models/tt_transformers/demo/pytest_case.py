"""A case of a demo as a pytest test."""

import pytest

from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.run import RunError, clear_errors, model_of, run
from models.tt_transformers.tt.checkpoints.formats import model_config
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config.architecture import Architecture


def run_case(settings: Case, mode: str, capsys, request) -> None:
    """Runs a case and prints as it goes; an error in the user's files or settings fails the test without a traceback."""
    with capsys.disabled():
        try:
            if request.config.getoption("max_seq_len") is None:
                _skip_beyond_the_model(settings)
            run(settings, mode)
        except RunError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None  # or pytest shows the causes as well


def _skip_beyond_the_model(settings: Case):
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
