"""Errors of an evaluation: each is one line that names what cannot be evaluated."""

from models.common import library_errors


class EvaluationError(ValueError):
    """A model that cannot be evaluated as asked; the message says why, in one line."""


def reported(subject: str):
    """A context for reading a user's files: any error of a library becomes an EvaluationError about `subject`."""
    return library_errors.reported(subject, EvaluationError)
