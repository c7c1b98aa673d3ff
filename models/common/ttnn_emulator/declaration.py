"""The arguments that an op takes: its Python signature is read once, and every call is checked against it.

Every parameter has an annotation, which says which values are accepted. The default is always accepted. None is
accepted only as a default.

- A class, or several: `Tensor | float`. As for the vendor, an int is accepted for `float` and a bool for `int`.
- `Sequence[int]`: a list, a tuple or anything else with a length, if each item is accepted.
- A function that takes the value and returns whether it is accepted. Its docstring names the accepted values in
  error messages: "a whole number from 1".

The annotation also says how the argument is used:

    dim: int                                the op reads it
    numeric_stable: NoEffect[bool] = True   checked and logged, but changes no value; the op does not read it
    sub_device_id: NotEmulated = None       only the default is accepted
    variant: NotEmulated = ...              the same, if the vendor's default is of a class that the emulator lacks

A declaration raises TypeError if the op reads a parameter without effect, or does not read one that it should.
"""

import dis
import inspect
from collections.abc import Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin


class NotEmulated:
    """Annotates a parameter that the vendor's op has and the emulator does not support: it must be left out."""


class NoEffect:
    """`NoEffect[kind]` annotates a parameter that is checked and logged, but changes no value."""

    def __class_getitem__(cls, kind):
        return Annotated[kind, cls]


class _Kind:
    """The values that an annotation accepts: those of exactly `types`, others if `fits` is true. `words` names them."""

    __slots__ = ("types", "fits", "words")

    def __init__(self, types, fits, words: str):
        self.types, self.fits, self.words = frozenset(types), fits, words


_NUMBERS = {
    bool: _Kind([bool], lambda value: False, "True or False"),
    int: _Kind([int, bool], lambda value: isinstance(value, Integral), "a whole number"),
    float: _Kind([float, int, bool], lambda value: isinstance(value, Real), "a number"),
    NoneType: _Kind([NoneType], lambda value: False, "None"),
}


def _kind(annotation) -> _Kind:
    if annotation in _NUMBERS:
        return _NUMBERS[annotation]
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return _any_of([_kind(part) for part in get_args(annotation)])
    if origin is Sequence:
        return _sequence_of(_kind(*get_args(annotation)))
    if isinstance(annotation, type):
        return _Kind([annotation], lambda value: isinstance(value, annotation), annotation.__name__)
    if inspect.isfunction(annotation):
        return _Kind([], annotation, annotation.__doc__)
    raise TypeError(f"{annotation!r} is no class, Sequence[...] or function")


def _any_of(kinds) -> _Kind:
    types = frozenset().union(*[kind.types for kind in kinds])
    words = " or ".join(kind.words for kind in kinds)
    return _Kind(types, lambda value: any(kind.fits(value) for kind in kinds), words)


def _sequence_of(kind: _Kind) -> _Kind:
    def fits(value):
        if not hasattr(value, "__len__") or isinstance(value, str):
            return False
        for item in value:
            if type(item) not in kind.types and not kind.fits(item):
                return False
        return True

    return _Kind([], fits, f"a sequence, each item {kind.words}")


class _Parameter:
    """One parameter. `types` and `fits` are those of its kind, and also accept the default."""

    __slots__ = ("name", "position", "required", "read", "emulated", "types", "fits", "words")

    def __init__(self, parameter: inspect.Parameter, position: int):
        annotation, default = parameter.annotation, parameter.default
        if annotation is parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"parameter {parameter} must have an annotation and a name of its own")
        self.name = parameter.name
        # A keyword-only parameter cannot be given by position.
        self.position = position if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else float("inf")
        self.required = default is parameter.empty
        self.emulated = annotation is not NotEmulated
        has_effect = get_origin(annotation) is not Annotated
        self.read = has_effect and self.emulated
        if not self.emulated:
            kind = _Kind([], lambda value: value is default, "its default only")
        else:
            kind = _kind(annotation if has_effect else get_args(annotation)[0])
            if default is None:
                kind = _any_of([kind, _NUMBERS[NoneType]])
        self.types, self.fits, self.words = kind.types, kind.fits, kind.words

    def refusal(self, value) -> Exception:
        if not self.emulated:
            return NotImplementedError(f"{self.name}={value!r} is not emulated; leave it out")
        return TypeError(f"{self.name} takes {self.words}, not {value!r}")


class Declaration:
    """One signature of an op, with the function that implements it. An op with overloads has several declarations."""

    def __init__(self, function):
        self.function = function
        self.signature = inspect.signature(function, eval_str=True)
        parameters = [_Parameter(each, at) for at, each in enumerate(self.signature.parameters.values())]
        _check_uses(function, parameters)
        self._named = {parameter.name: parameter for parameter in parameters}
        self._positional = [parameter for parameter in parameters if parameter.position < len(parameters)]
        self._required = [parameter for parameter in self._positional if parameter.required]
        self._required_keywords = [each for each in parameters if each.required and each not in self._positional]

    def misfit(self, args: tuple, kwargs: dict):
        """None if a call's arguments are accepted, else an exception that names the wrong one and what is accepted."""
        given = len(args)
        if given > len(self._positional):
            return TypeError(f"takes at most {len(self._positional)} arguments without a name, got {given}")
        for parameter, value in zip(self._positional, args):
            if type(value) not in parameter.types and not parameter.fits(value):
                return parameter.refusal(value)
        for name, value in kwargs.items():
            parameter = self._named.get(name)
            if parameter is None:
                return TypeError(f"there is no argument {name!r}; there are {', '.join(self._named)}")
            if parameter.position < given:
                return TypeError(f"{name} is given twice")
            if type(value) not in parameter.types and not parameter.fits(value):
                return parameter.refusal(value)
        if given < len(self._required) or self._required_keywords:
            for parameter in (*self._required[given:], *self._required_keywords):
                if parameter.name not in kwargs:
                    return TypeError(f"{parameter.name} is missing")
        return None

    def bind(self, args: tuple, kwargs: dict) -> dict:
        """All arguments of an accepted call by name, including the defaults of those left out."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def _check_uses(function, parameters) -> None:
    """Raises TypeError if the function does not read a parameter that it must read, or reads one that it must not."""
    # Parameters that inner functions read are cell variables.
    read = set(function.__code__.co_cellvars)
    for instruction in dis.get_instructions(function):
        if instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
            names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
            read.update(names)
    for parameter in parameters:
        if parameter.read and parameter.name not in read:
            raise TypeError(f"{function.__name__} does not read {parameter.name}: use it, or declare it NoEffect")
        if not parameter.read and parameter.name in read:
            raise TypeError(f"{function.__name__} reads {parameter.name}, which is declared to have no effect")
