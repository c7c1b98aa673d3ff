"""Activations that are fused into other ops."""

import torch

from ..program_config import UnaryOpType, UnaryWithParam

# The activations by the names that `activation=` takes as a string.
_NAMED = {
    "exp": UnaryWithParam(UnaryOpType.EXP, 0.0),
    "gelu": UnaryWithParam(UnaryOpType.GELU, 0.0),
    "gelu_approx": UnaryWithParam(UnaryOpType.GELU, 1.0),
    "relu": UnaryWithParam(UnaryOpType.RELU),
    "sigmoid": UnaryWithParam(UnaryOpType.SIGMOID),
    "silu": UnaryWithParam(UnaryOpType.SILU),
    "sqrt": UnaryWithParam(UnaryOpType.SQRT),
    "square": UnaryWithParam(UnaryOpType.SQUARE),
    "tanh": UnaryWithParam(UnaryOpType.TANH),
}

_FUNCTIONS = {
    UnaryOpType.ABS: torch.abs,
    UnaryOpType.EXP: torch.exp,
    UnaryOpType.GELU: torch.nn.functional.gelu,
    UnaryOpType.IDENTITY: lambda values: values,
    UnaryOpType.NEG: torch.neg,
    UnaryOpType.RECIP: torch.reciprocal,
    UnaryOpType.RELU: torch.relu,
    UnaryOpType.RSQRT: torch.rsqrt,
    UnaryOpType.SIGMOID: torch.sigmoid,
    UnaryOpType.SILU: torch.nn.functional.silu,
    UnaryOpType.SQRT: torch.sqrt,
    UnaryOpType.SQUARE: torch.square,
    UnaryOpType.TANH: torch.tanh,
}


def parse_activation(name: str, activation) -> UnaryWithParam:
    """`activation=` of the op `name` as a UnaryWithParam. RuntimeError if there is no such activation."""
    if isinstance(activation, str):
        if activation not in _NAMED:
            raise RuntimeError(f"{name}: no activation {activation!r}; there are {', '.join(sorted(_NAMED))}")
        return _NAMED[activation]
    if isinstance(activation, (UnaryOpType, tuple)):
        return UnaryWithParam(activation)
    if isinstance(activation, UnaryWithParam):
        return activation
    raise TypeError(f"{name}: activation takes a name, a UnaryOpType or a UnaryWithParam, not {activation!r}")


def activation_function(activation: UnaryWithParam):
    """The function of a float torch tensor that `activation` stands for.

    A parameter asks a card for a cheaper approximation; values here are the exact function's.
    """
    return _FUNCTIONS[activation.op_type]
