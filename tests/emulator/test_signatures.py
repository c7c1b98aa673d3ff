"""Every op takes the arguments of the vendor's op, and its outputs are compared with the vendor's."""

import json
import os
import subprocess
import sys

import pytest
import ttnn

from models.common.ttnn_emulator.op import FUNCTIONS, REGISTRY
from models.common.vendor.mock import runtime_root

from . import argument_calls, mesh_specs_like_vendor, nn_calls, specs_like_vendor, vendor_signatures

DECLARED = {**REGISTRY, **FUNCTIONS}
# The vendor's forms that the emulator lacks: op -> one of their parameters and the reason.
LEFT_OUT = {
    ("ttnn.slice", "*slice_dim=None"): "takes where to slice as tensors, so that the output's shape depends on values",
    ("ttnn.abs", "*memory_config=required"): "of complex tensors, which the emulator does not have",
    ("ttnn.reciprocal", "*memory_config=required"): "of complex tensors, which the emulator does not have",
}
# Parameters whose default differs from the vendor's, with the reason.
OTHER_DEFAULTS = {
    ("ttnn.empty", "device"): "Python has no required parameter after optional ones; the op refuses to go without",
    ("ttnn.wait_for_event", "mesh_event"): "the same",
}


@pytest.fixture(scope="module")
def vendors_forms():
    """Function -> its forms in the vendor's package. A separate process imports that package."""
    if runtime_root.find_ttnn() is None:
        absent = pytest.fail if os.environ.get("TT_REQUIRE_VENDOR") == "1" else pytest.skip
        absent("the vendor's package ttnn is not installed")
    command = [sys.executable, vendor_signatures.__file__, *DECLARED]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", DECLARED)
def test_signature_is_the_vendors(vendors_forms, name):
    theirs = {tuple(form): form for form in vendors_forms[name] if not _is_left_out(name, form)}
    ours = []
    for declaration in DECLARED[name].forms:
        form = vendor_signatures.form_of(declaration.signature)
        for parameter, default in theirs.get(tuple(form), {}).items():
            stands_for_it = form[parameter] == "ellipsis" and _is_of_class_that_is_lacking(default)
            if stands_for_it or default == "unknown" or (name, parameter) in OTHER_DEFAULTS:
                form[parameter] = default
        ours.append(_text(form))
    assert sorted(ours) == sorted(map(_text, theirs.values()))


def test_no_exception_is_out_of_date(vendors_forms):
    for name, parameter in LEFT_OUT:
        assert any(_is_left_out(name, form) for form in vendors_forms[name]), (name, parameter)
    for name, parameter in OTHER_DEFAULTS:
        ours = vendor_signatures.form_of(DECLARED[name].forms[0].signature)
        assert vendors_forms[name][0][parameter] != ours[parameter], (name, parameter)


def _text(form) -> str:
    return f"({', '.join(f'{parameter}={default}' for parameter, default in form.items())})"


def _is_left_out(name, form) -> bool:
    return any((name, f"{parameter}={default}") in LEFT_OUT for parameter, default in form.items())


def _is_of_class_that_is_lacking(default: str) -> bool:
    """Whether a default is an object of a class that the emulator lacks, such as "Tile" or "GeluVariant.Accurate"."""
    kind = default.split(".")[0]
    return kind[0].isupper() and kind not in ("None", "True", "False") and not hasattr(ttnn, kind)


def test_every_op_is_in_the_comparison_of_specs():
    calls = [*specs_like_vendor.CALLS, *mesh_specs_like_vendor.CALLS, *nn_calls.CALLS.splitlines()]
    calls += [*argument_calls.CALLS, *argument_calls.MESH_CALLS, *argument_calls.NN_CALLS]
    assert specs_like_vendor.ops_in(calls) == REGISTRY.keys()
