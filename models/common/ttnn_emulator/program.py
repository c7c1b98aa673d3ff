"""Programs: the computation that an op asks for, and running it on every device of a mesh.

A program's kernel is a function of one device's torch tensors. A trace records kernels, and replays them without
running the Python code of their ops.
"""

from . import bfp, oplog
from .allocator import Buffer
from .dtypes import DataType, storage_dtype
from .side_by_side import side_by_side
from .tensor import Replicated, Storage, Tensor, TensorSpec, meta_shards


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
        step = _in_place_step(program.kernel, storages, [tensor.storage for tensor in changed], device.num_devices)
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
            rounders = [_as_it_is] * len(specs)
        elif not (program.exact or program.view):
            rounders = [_ROUNDINGS[spec.dtype] for spec in specs]
        if program.groups is not None:
            step = _collective_step(program.kernel, storages, targets, rounders, program.groups)
        else:
            step = _step(program.kernel, storages, targets, rounders, device.num_devices, program.exact)
    if device.shape_only:
        step = _shape_only_step(outputs, device.num_devices)
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


def _as_it_is(tensor):
    return tensor


def _to_storage(dtype):
    torch_dtype = storage_dtype(dtype)
    return lambda tensor: tensor if tensor.dtype is torch_dtype else tensor.to(torch_dtype)


_ROUNDINGS = {dtype: _to_storage(dtype) for dtype in DataType}
_ROUNDINGS[DataType.BFLOAT8_B] = bfp.round_bfp8
_ROUNDINGS[DataType.BFLOAT4_B] = bfp.round_bfp4


def _step(kernel, inputs, targets, rounders, num_devices, aliases):
    """The op's computation as a function without arguments. It reads and writes storages, so a trace can repeat it."""
    single = len(targets) == 1
    if num_devices == 1 and single and None not in inputs and rounders is not None:
        # A fast path for the most common case: a replayed decode step makes hundreds of these calls.
        target, rounder = targets[0], rounders[0]

        def step():
            target.shards = Replicated((rounder(kernel(*[storage.shards[0] for storage in inputs])),))

        return step

    def compute(index):
        result = kernel(*[None if storage is None else storage.shards[index] for storage in inputs])
        if rounders is None:
            return result
        return rounders[0](result) if single else [rounder(part) for rounder, part in zip(rounders, result)]

    live = [storage for storage in inputs if storage is not None]

    def step():
        for storage in live:
            if type(storage.shards) is not Replicated:
                keys = list(zip(*[map(id, storage.shards) for storage in live]))
                results = _once_each(compute, range(num_devices), keys, 0 if aliases else _elements(live))
                break
        else:
            results = Replicated((compute(0),) * num_devices)
        _store(results, targets)
        if aliases:
            for storage in (*live, *targets):
                storage.aliased = True

    return step


def _shape_only_step(outputs, num_devices):
    """As `_step`, without the kernel, whose results have no values: torch takes longer for these than for small ones."""
    results = [(output.storage, meta_shards(output.shape, output.dtype, num_devices)) for output in outputs]

    def step():
        for storage, shards in results:
            storage.shards = shards

    return step


# Computations that read fewer elements than this take as long side by side as one after another: most of their time is
# Python's, which one thread runs at a time.
_WORTH_A_THREAD = 1 << 17


def _elements(storages) -> int:
    """Elements of one device."""
    return sum([storage.shards[0].numel() for storage in storages])


def _once_each(compute, items, keys, elements: int):
    """The results of `compute` for all items. Those with the same key share one computation of so many elements."""
    distinct = {}
    for key, item in zip(keys, items):
        distinct.setdefault(key, item)
    run_all = side_by_side if elements >= _WORTH_A_THREAD else map
    results = dict(zip(distinct, run_all(compute, list(distinct.values()))))
    results = [results[key] for key in keys]
    return Replicated(results) if len(distinct) == 1 else results


def _collective_step(kernel, inputs, targets, rounders, groups):
    """As `_step`, for a kernel that takes the tensors of a group of devices."""

    def compute(group):
        results = kernel(*[[storage.shards[index] for index in group] for storage in inputs])
        if rounders is None:
            return results
        rounded = {id(result): rounders[0](result) for result in {id(result): result for result in results}.values()}
        return [rounded[id(result)] for result in results]

    def step():
        ids = list(zip(*[map(id, storage.shards) for storage in inputs]))
        keys = [tuple([ids[index] for index in group]) for group in groups]
        of_devices = [None] * len(ids)
        for group, results in zip(groups, _once_each(compute, groups, keys, _elements(inputs) * len(groups[0]))):
            for index, result in zip(group, results):
                of_devices[index] = result
        _store(Replicated(of_devices) if all(result is of_devices[0] for result in of_devices) else of_devices, targets)
        if rounders is None:
            for storage in (*inputs, *targets):
                storage.aliased = True

    return step


def _store(results, targets):
    if len(targets) == 1:
        targets[0].shards = results
    else:
        for index, target in enumerate(targets):
            target.shards = type(results)([result[index] for result in results])


def _in_place_step(kernel, inputs, targets, num_devices):
    """As `_step`, for a kernel that changes `targets`. Devices that shared an object and now differ get copies."""
    others = [storage for storage in inputs if storage is not None and storage not in targets]

    def step():
        for target in targets:
            if target.aliased:
                _unalias(target)
        before = [target.shards for target in targets]
        shards_of, first_device, claimed = {}, {}, set()
        after = []
        for index in range(num_devices):
            shards = [of_target[index] for of_target in before]
            key = (*map(id, shards), *[id(storage.shards[index]) for storage in others])
            if key not in shards_of:
                shards_of[key] = [
                    target.copied(shard) if id(shard) in claimed else shard for target, shard in zip(targets, shards)
                ]
                claimed.update(map(id, shards))
                first_device[key] = index
            after.append(shards_of[key])
        for target, shards in zip(targets, zip(*after)):
            target.shards = Replicated(shards) if len(shards_of) == 1 else list(shards)
            target.zeroed = False
        for index in first_device.values():
            kernel(*[None if storage is None else storage.shards[index] for storage in inputs])

    return step


def _unalias(storage):
    copies = {id(shard): storage.copied(shard) for shard in storage.shards}
    storage.shards = type(storage.shards)([copies[id(shard)] for shard in storage.shards])
    storage.aliased = False
