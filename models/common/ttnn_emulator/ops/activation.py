"""Activations that are fused into other ops."""

import torch

from ..program_config import UnaryOpType, UnaryWithParam

# The values that ops accept as an activation. A tuple is a UnaryOpType and its parameter.
Activation = UnaryOpType | UnaryWithParam | tuple

# The names that `activation=` accepts as a string.
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


def parse_activation(activation) -> UnaryWithParam:
    """Makes a UnaryWithParam from a name, UnaryOpType, pair or UnaryWithParam. RuntimeError for an unknown name."""
    if isinstance(activation, UnaryWithParam):
        return activation
    if not isinstance(activation, str):
        return UnaryWithParam(activation)
    if activation not in _NAMED:
        raise RuntimeError(f"no activation {activation!r}; there are {', '.join(sorted(_NAMED))}")
    return _NAMED[activation]


def activation_function(activation: UnaryWithParam):
    """The function that `activation` means, for a torch tensor of floats.

    On a card, a parameter selects a cheaper approximation. Here the function is always exact.
    """
    return _FUNCTIONS[activation.op_type]


def chained(activations):
    """One torch function that applies a list of activations in order. None for an empty list."""
    functions = [activation_function(parse_activation(activation)) for activation in activations]
    if len(functions) < 2:
        return functions[0] if functions else None

    def chain(value):
        for function in functions:
            value = function(value)
        return value

    return chain
