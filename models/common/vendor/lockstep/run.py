"""One call on both sides: the emulator's answer, if the vendor's package gives the same one."""

import functools
import weakref

import torch

from models.common import ttnn_emulator as emulator

from models.common.vendor.lockstep.compare import differences, memory_facts, tensor_facts
from models.common.vendor.lockstep.translate import Pairs


class LockstepError(RuntimeError):
    """Emulator and vendor disagree; the message has the op, its arguments and both answers."""


class Lockstep:
    """Calls functions of the emulator and of `vendor` (the imported package) side by side."""

    def __init__(self, vendor):
        self.vendor = vendor
        self.pairs = Pairs(vendor)
        self._inside = False
        self._mesh = lambda: None

    def pair_function(self, name: str, ours, theirs):
        """A function that does both and returns what `ours` does.

        It raises LockstepError if one side refuses and the other does not, or if the outputs differ in anything
        but values. If both refuse it raises the emulator's error.
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
                # An error holds this frame, which must not hold the error and so keep the arguments from being freed.
                our_error = vendor_error = None
            self._agree(called, our_answer, vendor_answer)
            if ours is emulator.close_mesh_device:
                self._mesh = lambda: None
            self._agree_on_memory(called)
            return our_answer

        return both

    def pair_method(self, name: str, ours):
        """As `pair_function`, for a method of the emulator's Tensor and the vendor's of the same name."""

        def theirs(tensor, *args, **kwargs):
            return getattr(tensor, name)(*args, **kwargs)

        return self.pair_function(f"ttnn.Tensor.{name}", ours, theirs)

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
                self._mesh = weakref.ref(ours)
        else:
            self._raise_if(differences({"result": self.pairs.translate(ours)}, {"result": theirs}), called)

    def _agree_on_tensor(self, called: str, ours, theirs) -> None:
        if not isinstance(theirs, self.vendor.Tensor):
            raise LockstepError(f"{called}\nemulator: {ours!r}\nvendor: {theirs!r}")
        self._raise_if(differences(tensor_facts(ours), tensor_facts(theirs)), called)
        # An op that works in place, or has nothing to do, gives an input back.
        if not self.pairs.has(ours):
            self.pairs.put(ours, theirs)

    def _agree_on_memory(self, called: str) -> None:
        """What is allocated agrees after each call, so that no side keeps what the other has given back.

        L1 is compared on one device only: the vendor's collectives keep their semaphores there.
        """
        mesh = self._mesh()
        if mesh is None:
            return
        for kind in ("DRAM", "L1") if mesh.get_num_devices() == 1 else ("DRAM",):
            ours = emulator.get_memory_view(mesh, emulator.BufferType[kind])
            theirs = self.vendor.get_memory_view(self.pairs.get(mesh), getattr(self.vendor.BufferType, kind))
            self._raise_if(differences(memory_facts(ours), memory_facts(theirs)), f"{called}\n{kind} afterwards")

    @staticmethod
    def _raise_if(lines: list[str], called: str) -> None:
        if lines:
            raise LockstepError("\n".join([called, *lines]))


# Compared by what is done with them, not by value.
_MADE_TOGETHER = (
    emulator.MeshDevice,
    emulator.CppTensorToMesh,
    emulator.CppMeshToTensor,
    emulator.ReplicateTensorToMeshWrapper,
    emulator.MeshEvent,
)


def describe_call(name: str, args, kwargs) -> str:
    """The call as one line, tensors by their facts."""
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
