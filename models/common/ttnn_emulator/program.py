"""Programs: the computation that an op asks for, and running it on every device of a mesh.

A program's kernel is a function of one device's torch tensors. A trace records kernels, and replays them without
running the Python code of their ops.
"""

from . import bfp, oplog
from .allocator import Buffer
from .dtypes import DataType, storage_dtype
from .steps import as_it_is, collective_step, in_place_step, plain_step, shape_only_step
from .tensor import Storage, Tensor, TensorSpec


class Program:
    """A kernel, its input tensors, and the specs of its outputs.

    Args:
        kernel: takes one torch tensor per input (of the logical shape). Returns the output torch tensor, or a
            tuple of them for several specs. It must not return an input, or a view of
            one, unless `exact`. It must read index tensors when it runs, because a trace runs it again.
        inputs: device Tensors. None entries are passed to the kernel as None.
        specs: the output's TensorSpec, or a list or tuple of them. Several outputs are returned in the same type.
        groups: of a collective, the devices of each group that communicates, as row-major indices. The kernel takes, for
            each input, the list of a group's tensors. It returns a list with an output for each device, or, if `exact`,
            a tuple of outputs for several specs. Equal outputs should be one object.
        in_place: the one of `inputs` that the kernel changes, or a tuple of several. They are the program's result,
            and there are no `specs`.
        exact: the output has the input's stored values. It is not rounded, and may share storage with the input.
        rounds: the kernel rounds its outputs to the dtypes of their specs itself.
        view: the single output is the first input in another shape, in the same buffer.
        frees: the first input is deallocated afterwards.
        chosen: for the op log, values that the op chose for arguments that the call left out.
    """

    __slots__ = ("kernel", "inputs", "specs", "groups", "in_place", "exact", "rounds", "view", "frees", "chosen")

    def __init__(
        self,
        kernel,
        inputs: list,
        specs=(),
        *,
        groups=None,
        in_place=None,
        exact=False,
        rounds=False,
        view=False,
        frees=False,
        chosen=None,
    ):
        self.kernel, self.inputs, self.specs, self.groups = kernel, inputs, specs, groups
        self.in_place, self.exact, self.rounds, self.view = in_place, exact, rounds, view
        self.frees, self.chosen = frees, chosen


def run(name: str, program: Program, form, args: tuple, kwargs: dict):
    """Runs the program of one call of op `name` on every device. Returns the output Tensor or Tensors.

    `form` is the op's Declaration, which binds `args` and `kwargs` for the op log.
    Raises RuntimeError if an input is on the host, deallocated or on another mesh, and if memory runs out.
    """
    inputs, specs = program.inputs, program.specs
    device = _common_device(inputs)
    storages = [None if tensor is None else tensor.storage for tensor in inputs]
    if program.in_place is not None:
        outputs, result = (), program.in_place
        changed = result if type(result) is tuple else (result,)
        step = in_place_step(program.kernel, storages, [tensor.storage for tensor in changed], device.num_devices)
    else:
        single = type(specs) is TensorSpec
        if single:
            specs = (specs,)
        if program.view:
            outputs = (Tensor(specs[0], Storage(None), device, inputs[0]._buffer),)
        else:
            outputs = tuple([_allocate(spec, device) for spec in specs])
        result = outputs[0] if single else type(specs)(outputs)
        targets = [output.storage for output in outputs]
        rounders = None
        if program.rounds:
            rounders = [as_it_is] * len(specs)
        elif not (program.exact or program.view):
            rounders = [_ROUNDINGS[spec.dtype] for spec in specs]
        if program.groups is not None:
            step = collective_step(program.kernel, storages, targets, rounders, program.groups)
        else:
            step = plain_step(program.kernel, storages, targets, rounders, device.num_devices, program.exact)
    if device.shape_only:
        step = shape_only_step(outputs, device.num_devices)
    if oplog.active:
        oplog.add(name, program, outputs or changed, form.bind(args, kwargs), device)
    if device.capture is not None:
        device.capture.add(name, step, [storage for storage in storages if storage is not None], outputs)
    elif oplog.profile is None:
        step()
    else:
        oplog.timed(name, step)
    if program.frees:
        inputs[0].deallocate()
    return result


def _common_device(inputs):
    device = None
    for tensor in inputs:
        if tensor is None:
            continue
        if tensor._device is None:
            raise RuntimeError(f"{tensor._describe()} must be on a device, it is on the host")
        if not tensor._buffer.allocated:
            raise RuntimeError(f"{tensor._describe()} is not allocated: it was deallocated before this use")
        if device is None:
            device = tensor._device
        elif device is not tensor._device:
            raise RuntimeError(f"inputs are on different meshes, {device} and {tensor._device}")
        if len(tensor.storage.shards) != device.num_devices:
            raise RuntimeError(f"{tensor._describe()} is one device's part; ops run on whole tensors")
    if device is None:
        raise RuntimeError("needs at least one tensor")
    return device


def _allocate(spec, device) -> Tensor:
    buffer = Buffer(device.allocator, spec.memory_config.buffer_type, spec.bank_bytes)
    return Tensor(spec, Storage(None), device, buffer)


def rounding(dtype: DataType):
    """The function that rounds a torch tensor to `dtype`. It returns a tensor that is already stored so unchanged."""
    return _ROUNDINGS[dtype]


def _to_storage(dtype):
    torch_dtype = storage_dtype(dtype)
    return lambda tensor: tensor if tensor.dtype is torch_dtype else tensor.to(torch_dtype)


_ROUNDINGS = {dtype: _to_storage(dtype) for dtype in DataType}
_ROUNDINGS[DataType.BFLOAT8_B] = bfp.round_bfp8
_ROUNDINGS[DataType.BFLOAT4_B] = bfp.round_bfp4
