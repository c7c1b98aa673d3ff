"""The computation of a program as a function without arguments, for each kind of program.

A step reads and writes storages, so a trace can repeat it. Devices whose inputs are the same objects are computed once.
"""

from .side_by_side import side_by_side
from .tensor import Replicated, Storage, meta_shards


def as_it_is(tensor):
    """The rounding of what is rounded already."""
    return tensor


def plain_step(kernel, inputs, targets, rounders, num_devices, aliases):
    """The step of a kernel with new outputs. inputs: Storages or None; targets, rounders: a Storage and a rounding for each
    output, or no roundings if the kernel gives an input's values, which it may share (`aliases`)."""
    if num_devices == 1:
        return _of_one_device(kernel, inputs, targets, rounders, aliases)
    single = len(targets) == 1

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


_NOTHING = Storage((None,))  # for an input that the call left out


def _of_one_device(kernel, inputs, targets, rounders, aliases):
    """As `plain_step`, with little Python, because a replayed decode step makes hundreds of these calls."""
    touched = [storage for storage in (*inputs, *targets) if storage is not None] if aliases else ()
    inputs = [_NOTHING if storage is None else storage for storage in inputs]
    single, rounders = len(targets) == 1, [as_it_is] * len(targets) if rounders is None else rounders

    def step():
        results = kernel(*[storage.shards[0] for storage in inputs])
        for target, rounder, result in zip(targets, rounders, (results,) if single else results):
            target.shards = Replicated((rounder(result),))
        for storage in touched:
            storage.aliased = True

    return step


def shape_only_step(outputs, num_devices):
    """As `plain_step`, without the kernel, whose results have no values: torch takes longer for these than for small ones."""
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


def collective_step(kernel, inputs, targets, rounders, groups):
    """As `plain_step`, for a kernel that takes the tensors of a group of devices."""

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


def in_place_step(kernel, inputs, targets, num_devices):
    """As `plain_step`, for a kernel that changes `targets`. Devices that shared an object and now differ get copies."""
    if num_devices == 1:
        return _in_place_of_one_device(kernel, inputs, targets)
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


def _in_place_of_one_device(kernel, inputs, targets):
    inputs = [_NOTHING if storage is None else storage for storage in inputs]

    def step():
        for target in targets:
            if target.aliased:
                _unalias(target)
            target.zeroed = False
        kernel(*[storage.shards[0] for storage in inputs])

    return step


def _unalias(storage):
    copies = {id(shard): storage.copied(shard) for shard in storage.shards}
    storage.shards = type(storage.shards)([copies[id(shard)] for shard in storage.shards])
    storage.aliased = False
