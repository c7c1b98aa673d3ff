"""The facts in which a tensor of the emulator and one of the vendor must agree: everything but the values."""


def tensor_facts(tensor) -> dict:
    """Shape, padded shape, dtype, layout and place of a tensor of either side, as plain values."""
    facts = {
        "shape": tuple(tensor.shape),
        "padded shape": tuple(tensor.padded_shape),
        "dtype": tensor.dtype.name,
        "layout": tensor.layout.name,
        "storage": tensor.storage_type().name,
    }
    if facts["storage"] == "DEVICE" and tensor.is_allocated():
        config = tensor.memory_config()
        facts["memory layout"] = config.memory_layout.name
        facts["buffer type"] = config.buffer_type.name
        spec = config.shard_spec
        if spec is not None:
            facts["shard cores"] = cores_of(spec.grid)
            facts["shard shape"] = tuple(spec.shape)
            facts["shard orientation"] = spec.orientation.name
    return facts


def memory_facts(view) -> dict:
    """The facts of a memory view in which both sides must agree. Only the vendor models fragmentation."""
    names = ("num_banks", "total_bytes_per_bank", "total_bytes_allocated_per_bank", "total_bytes_free_per_bank")
    return {name: getattr(view, name) for name in names}


def cores_of(core_range_set) -> tuple:
    """The cores of a set as sorted (x, y), because the same set can be written as different rectangles."""
    return tuple(
        sorted(
            {
                (x, y)
                for cores in core_range_set.ranges()
                for x in range(cores.start.x, cores.end.x + 1)
                for y in range(cores.start.y, cores.end.y + 1)
            }
        )
    )


def differences(ours: dict, theirs: dict) -> list[str]:
    """One line for each fact that differs."""
    return [
        f"{name}: emulator {ours.get(name, 'none')}, vendor {theirs.get(name, 'none')}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
