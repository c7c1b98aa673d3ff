"""Every op takes the arguments that the vendor's op takes, by the same names and with the same defaults."""

import json
import os
import subprocess
import sys

import pytest
import ttnn

from models.common.mock import runtime_root
from models.common.ttnn_emulator.declaration import NotEmulated

from . import vendor_signatures

# Forms of the vendor's that the emulator does not have, by one of their parameters, with the reason.
LEFT_OUT = {
    ("ttnn.slice", "*slice_dim=None"): "takes where to slice as tensors, so that the output's shape depends on values",
    ("ttnn.abs", "*memory_config=required"): "of complex tensors, which the emulator does not have",
    ("ttnn.reciprocal", "*memory_config=required"): "of complex tensors, which the emulator does not have",
}
# Parameters with another default, with the reason.
OTHER_DEFAULTS = {
    ("ttnn.empty", "device"): "Python has no required parameter after optional ones; the op refuses to go without",
}


@pytest.fixture(scope="module")
def vendors_forms():
    """Op -> its forms in the vendor's package, which a process of its own imports."""
    if runtime_root.find_ttnn() is None:
        absent = pytest.fail if os.environ.get("TT_REQUIRE_VENDOR") == "1" else pytest.skip
        absent("the vendor's package ttnn is not installed")
    command = [sys.executable, vendor_signatures.__file__, *ttnn.REGISTRY]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", ttnn.REGISTRY)
def test_signature_is_the_vendors(vendors_forms, name):
    theirs = {tuple(form): form for form in vendors_forms[name] if not _is_left_out(name, form)}
    ours = []
    for declaration in ttnn.REGISTRY[name].forms:
        form = vendor_signatures.form_of(declaration.signature)
        for parameter, default in theirs.get(tuple(form), {}).items():
            annotation = declaration.signature.parameters[parameter.removeprefix("*")].annotation
            # Of a type that the emulator lacks no default can be written down, and none can be passed either.
            is_unwritable = annotation is NotEmulated and _is_of_unknown_type(default)
            if is_unwritable or (name, parameter) in OTHER_DEFAULTS:
                form[parameter] = default
        ours.append(_text(form))
    assert sorted(ours) == sorted(map(_text, theirs.values()))


def test_no_exception_is_out_of_date(vendors_forms):
    for name, parameter in LEFT_OUT:
        assert any(_is_left_out(name, form) for form in vendors_forms[name]), (name, parameter)
    for name, parameter in OTHER_DEFAULTS:
        ours = vendor_signatures.form_of(ttnn.REGISTRY[name].forms[0].signature)
        assert vendors_forms[name][0][parameter] != ours[parameter], (name, parameter)


def _text(form) -> str:
    return f"({', '.join(f'{parameter}={default}' for parameter, default in form.items())})"


def _is_left_out(name, form) -> bool:
    return any((name, f"{parameter}={default}") in LEFT_OUT for parameter, default in form.items())


def _is_of_unknown_type(default: str) -> bool:
    """Whether a default is an object, such as "Tile" or "GeluVariant.Accurate", of a class that the emulator lacks."""
    kind = default.split(".")[0]
    return kind[0].isupper() and kind not in ("None", "True", "False") and not hasattr(ttnn, kind)
