"""Runs one call on both sides, and returns the emulator's answer if the vendor's package agrees."""

import functools
import weakref

import torch

from models.common import ttnn_emulator as emulator
from models.common.ttnn_emulator.semaphore import GlobalSemaphore
from models.common.vendor.lockstep.compare import differences, memory_facts, tensor_facts
from models.common.vendor.lockstep.translate import Pairs


class LockstepError(RuntimeError):
    """Emulator and vendor disagree. The message gives the op, its arguments and both answers."""


class Lockstep:
    """Calls functions of the emulator and of `vendor` (the imported package) side by side."""

    def __init__(self, vendor):
        self.vendor = vendor
        self.pairs = Pairs(vendor)
        self._inside = False
        self._meshes = weakref.WeakSet()

    def pair_function(self, name: str, ours, theirs):
        """A function that calls `ours` and `theirs`, and returns the result of `ours`.

        It raises LockstepError if only one side refuses, or if the outputs differ in anything but their values.
        If both sides refuse, it raises the emulator's error.
        """

        @functools.wraps(ours)
        def both(*args, **kwargs):
            if self._inside:
                return ours(*args, **kwargs)
            vendor_args, vendor_kwargs = self.pairs.translate(args), self.pairs.translate(kwargs)
            called = describe_call(name, args, kwargs)
            self._inside = True
            try:
                our_answer, our_error = _try(ours, args, kwargs)
            finally:
                self._inside = False
            vendor_answer, vendor_error = _try(theirs, vendor_args, vendor_kwargs)
            try:
                if our_error is not None and vendor_error is not None:
                    raise our_error
                if our_error is not None:
                    raise LockstepError(f"{called}\nvendor: accepts\nemulator: {our_error}") from our_error
                if vendor_error is not None:
                    raise LockstepError(f"{called}\nemulator: accepts\nvendor: {vendor_error}") from vendor_error
            finally:
                # An error refers to this frame. If the frame also kept the error, the arguments would never be freed.
                our_error = vendor_error = None
            self._agree(called, our_answer, vendor_answer)
            if ours is emulator.close_mesh_device:
                self._meshes.discard(args[0])
            self._agree_on_memory(called)
            return our_answer

        return both

    def pair_method(self, kind: type, name: str):
        """As `pair_function`, for a method of one of the emulator's classes and the vendor's method of the same name."""

        def theirs(owner, *args, **kwargs):
            return getattr(owner, name)(*args, **kwargs)

        return self.pair_function(f"ttnn.{kind.__name__}.{name}", getattr(kind, name), theirs)

    def _agree(self, called: str, ours, theirs) -> None:
        if ours is None:
            return
        if isinstance(ours, emulator.Tensor):
            self._agree_on_tensor(called, ours, theirs)
        elif isinstance(ours, torch.Tensor):
            facts = [{"shape": tuple(tensor.shape), "dtype": tensor.dtype} for tensor in (ours, theirs)]
            self._raise_if(differences(*facts), called)
        elif isinstance(ours, emulator.MemoryView):
            pass  # DRAM is compared after every call
        elif isinstance(ours, (list, tuple)) and type(ours) in (list, tuple):
            self._raise_if(differences({"outputs": len(ours)}, {"outputs": len(theirs)}), called)
            for our_part, vendor_part in zip(ours, theirs):
                self._agree(called, our_part, vendor_part)
        elif isinstance(ours, _MADE_TOGETHER):
            self.pairs.put(ours, theirs)
            if isinstance(ours, emulator.MeshDevice):
                self._meshes.add(ours)
        else:
            self._raise_if(differences({"result": self.pairs.translate(ours)}, {"result": theirs}), called)

    def _agree_on_tensor(self, called: str, ours, theirs) -> None:
        if not isinstance(theirs, self.vendor.Tensor):
            raise LockstepError(f"{called}\nemulator: {ours!r}\nvendor: {theirs!r}")
        self._raise_if(differences(tensor_facts(ours), tensor_facts(theirs)), called)
        # An op that works in place, or has nothing to do, returns one of its inputs.
        if not self.pairs.has(ours):
            self.pairs.put(ours, theirs)

    def _agree_on_memory(self, called: str) -> None:
        """Compares the allocated bytes after each call, so that both sides free the same tensors.

        L1 is compared only on meshes of one device, because the vendor's collectives keep their semaphores there. A mesh
        that was cut into submeshes is left out: of the two, only the emulator's counts the submeshes' bytes too.
        """
        for mesh in self._meshes:
            if mesh.get_submeshes():
                continue
            for kind in ("DRAM", "L1") if mesh.get_num_devices() == 1 else ("DRAM",):
                ours = emulator.get_memory_view(mesh, emulator.BufferType[kind])
                theirs = self.vendor.get_memory_view(self.pairs.get(mesh), getattr(self.vendor.BufferType, kind))
                self._raise_if(differences(memory_facts(ours), memory_facts(theirs)), f"{called}\n{kind} afterwards")

    @staticmethod
    def _raise_if(lines: list[str], called: str) -> None:
        if lines:
            raise LockstepError("\n".join([called, *lines]))


# Results that are not compared themselves; the later calls that use them are.
_MADE_TOGETHER = (
    emulator.MeshDevice,
    emulator.CppTensorToMesh,
    emulator.CppMeshToTensor,
    emulator.ReplicateTensorToMeshWrapper,
    emulator.MeshEvent,
    GlobalSemaphore,
)


def describe_call(name: str, args, kwargs) -> str:
    """The call as one line of text. A tensor is shown by its facts."""
    parts = [_describe(value) for value in args] + [f"{key}={_describe(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def _describe(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"torch {tuple(value.shape)} {value.dtype}"
    if isinstance(value, emulator.Tensor):
        return f"Tensor({list(value.shape)}, {value.dtype.name}, {value.layout.name}, {value.memory_config()})"
    return repr(value)


def _try(function, args, kwargs):
    try:
        return function(*args, **kwargs), None
    except Exception as error:
        return None, error
