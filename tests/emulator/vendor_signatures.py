"""Signatures of the emulator's and the vendor's functions, in one form that can be compared.

As a program, this imports the vendor's package as `ttnn` and needs no device. It prints as JSON, for each function
named by an argument, its forms (overloads). A form is a dict: parameter -> default as text, or "required". Positional
parameters come first. Keyword-only parameters have a star in front and are sorted, because their order has no meaning.
"""

import enum
import importlib
import inspect
import json
import re
import sys


def described(default) -> str:
    """A default as text. The emulator's and the vendor's object of one kind give the same text."""
    if isinstance(default, (list, tuple)):
        return str(list(default))
    if hasattr(default, "buffer_type"):
        return f"MemoryConfig({default.memory_layout.name}, {default.buffer_type.name})"
    if isinstance(default, enum.Enum) or hasattr(default, "name"):
        return f"{type(default).__name__}.{default.name}"
    return str(default) if isinstance(default, (bool, int, float, str, type(None))) else type(default).__name__


def form_of(signature: inspect.Signature) -> dict:
    """A Python function's form."""
    parameters = []
    for each in signature.parameters.values():
        default = "required" if each.default is each.empty else described(each.default)
        parameters.append((each.name, each.kind is each.KEYWORD_ONLY, default))
    return _form(parameters)


def _form(parameters) -> dict:
    parameters = [(f"*{name}" if keyword_only else name, default) for name, keyword_only, default in parameters]
    # The sort is stable, so parameters without a star keep their order.
    return dict(sorted(parameters, key=lambda each: each[0] if each[0].startswith("*") else ""))


def _compiled_form(text: str, defaults) -> dict:
    r"""The form of a compiled function, from nanobind's text: `def f(self, x: int, *, y: A[B, C] | None = \0) -> D`.

    Some texts are written by hand: they have `\*` for `*` and `= None` for `= \0`, and some defaults are missing.
    """
    by_hand = r"\*" in text
    inside = text[text.index("(") + 1 : text.split(" ->")[0].rindex(")")].replace(r"\*", "*")
    parameters, keyword_only, depth, part = [], False, 0, ""
    for character in inside + ",":
        depth += (character in "[(") - (character in "])")
        if character != "," or depth:
            part += character
            continue
        name, part = part.strip(), ""
        if name == "*":
            keyword_only = True
        elif name != "self":
            parameters.append((name.split(":")[0], keyword_only, _default_in(name, defaults, by_hand)))
    return _form(parameters)


def _default_in(parameter: str, defaults, by_hand: bool) -> str:
    written = re.search(r"= (\\?)(\w+)$", parameter)
    if written is None:
        return "unknown" if by_hand else "required"
    return described(defaults[int(written[2])]) if written[1] else written[2]


def _forms(function) -> list:
    function = getattr(function, "function", function)
    if inspect.isfunction(function):
        return [form_of(inspect.signature(function))]
    compiled = function if hasattr(function, "__nb_signature__") else type(function).__call__
    return [_compiled_form(text, defaults) for text, _, defaults in compiled.__nb_signature__]


def main():
    signatures = {}
    for dotted in sys.argv[1:]:
        package, *path = dotted.split(".")
        target = importlib.import_module(package)
        for name in path:
            target = getattr(target, name)
        signatures[dotted] = _forms(target)
    print(json.dumps(signatures))


if __name__ == "__main__":
    main()
