"""A `ttnn` that runs each op twice: on the emulator, whose values it returns, and on the vendor's mock device.

Types and constants are the emulator's; arguments are translated for the vendor. The first call on which the two
disagree raises a LockstepError: only one side refuses the call, or an output's shape, padded shape, dtype, layout
or memory config differs. There are no traces, because the mock device has none.
"""

import importlib
import inspect
from types import SimpleNamespace

from models.common import ttnn_emulator as emulator
from models.common.vendor.lockstep.run import Lockstep, LockstepError  # noqa: F401  (as ttnn.LockstepError)

# This import gives the vendor's package, because `sys.modules["ttnn"]` is not yet this module.
vendor = importlib.import_module("ttnn")

# These are the vendor's alone: the mock cluster says which devices the machine has.
_VENDORS_OWN = ("get_num_devices", "GetNumAvailableDevices", "get_device_ids", "cluster")
# Left out because each side has its own file format, and the mock device has no traces.
_LEFT_OUT = (
    "dump_tensor", "load_tensor", "begin_trace_capture", "end_trace_capture", "execute_trace", "release_trace",
    "create_mesh_device", "manage_device", "op", "run",
)
_TENSOR_METHODS = (
    "deallocate", "cpu", "to", "reshape", "to_torch", "__getitem__", "__add__", "__radd__", "__sub__", "__rsub__",
    "__mul__", "__rmul__", "__truediv__",
)

_MESH_METHODS = ("create_submesh", "create_submeshes", "reshape")

_lockstep = Lockstep(vendor)


class _Namespace(SimpleNamespace):
    """A group of ops, such as `ttnn.transformer`."""

    def __getattr__(self, name):
        raise AttributeError(f"the lockstep backend has no op {name!r} here: the emulator or the vendor's package lacks it")


def _vendors(name):
    """The vendor's function, looked up at each call, because `watching` replaces it during a run."""
    return lambda *args, **kwargs: getattr(vendor, name)(*args, **kwargs)


def _publish():
    for name, value in vars(emulator).items():
        if name.startswith("_") or inspect.ismodule(value) or name in _LEFT_OUT:
            continue
        if inspect.isfunction(value):
            if hasattr(vendor, name):
                globals()[name] = _lockstep.pair_function(f"ttnn.{name}", value, _vendors(name))
        elif not isinstance(value, SimpleNamespace):
            globals()[name] = value
    for dotted, function in emulator.REGISTRY.items():
        _, *groups, name = dotted.split(".")
        if not groups or name in _LEFT_OUT:
            continue
        target, theirs = globals(), vendor
        for group in groups:
            target, theirs = target.setdefault(group, _Namespace()).__dict__, getattr(theirs, group)
        target[name] = _lockstep.pair_function(dotted, function, getattr(theirs, name))
    for name in _VENDORS_OWN:
        globals()[name] = getattr(vendor, name)
    for kind, names in ((emulator.Tensor, _TENSOR_METHODS), (emulator.MeshDevice, _MESH_METHODS)):
        for name in names:
            if hasattr(kind, name):
                setattr(kind, name, _lockstep.pair_method(kind, name))


_publish()


def __getattr__(name):
    raise AttributeError(f"the lockstep backend has no `ttnn.{name}`: the emulator or the vendor's package lacks it")
