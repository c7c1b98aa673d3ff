"""Errors of an evaluation: each is one line that names what cannot be evaluated."""

from models.common import library_errors


class EvaluationError(ValueError):
    """What was asked for cannot be evaluated; the message says why, in one line."""


def reported(subject: str):
    """Around the reading of a user's files: whatever a library raises becomes an EvaluationError about `subject`."""
    return library_errors.reported(subject, EvaluationError)
