"""Pearson correlation: the usual measure of how close a computed tensor is to its reference."""

import torch


def pcc(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson correlation coefficient of all elements of two tensors of the same shape, computed in float64.

    Equal constant tensors give 1.0. Raises ValueError for shapes that differ and for values that are not finite,
    because a correlation would hide both errors.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    actual, expected = actual.detach().double().flatten(), expected.detach().double().flatten()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        raise ValueError("a value is not finite")
    if torch.equal(actual, expected):
        return 1.0
    actual, expected = actual - actual.mean(), expected - expected.mean()
    return float(actual @ expected / (actual.norm() * expected.norm()))
