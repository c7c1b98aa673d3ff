"""Run on the mock device: compares the emulator's ops with the vendor's golden functions, and lists ops not compared.

Runs the comparisons of `tests/emulator`, and here those of every other op that has a golden function. Prints one line
per comparison: op, dtype, Pearson correlation (1 if all values are equal). The last line is "not compared" with the
ops that were left out.
"""

import models  # noqa: F401
import torch
import ttnn as vendor

import models.common.ttnn_emulator as emulator
from models.common.mesh import open_mesh
from tests.emulator import nn_values_like_golden, values_like_golden
from tests.emulator.values_like_golden import correlation

# These ops move values between torch, files, host and device. Every comparison uses them.
CARRIERS = {
    "ttnn.from_torch", "ttnn.to_torch", "ttnn.as_tensor", "ttnn.to_device", "ttnn.from_device", "ttnn.load_tensor",
    "ttnn.copy_host_to_device_tensor", "ttnn.copy_device_to_host_tensor", "ttnn.allocate_tensor_on_device",
}

DIM, HIDDEN, HEADS, HEAD_DIM = 3072, 8192, 32, 96
X = (1, 1, 32, DIM)
DEVICES = 8

# Public name: (shapes of the inputs, arguments after them, keywords), the same for both sides.
ALIKE = {
    "add_": ([X, X], (), {}),
    "subtract_": ([X, X], (), {}),
    "multiply_": ([X, X], (), {}),
    "sub": ([X, X], (), {}),
    "mul": ([(1, 1, 32, HIDDEN)] * 2, (), {}),
    "divide": ([X, X], (), {}),
    "ge": ([X, X], (), {}),
    "le": ([X, X], (), {}),
    "lt": ([X, X], (), {}),
    "ne": ([X, X], (), {}),
    "swish": ([(1, 1, 32, HIDDEN)], (), {}),
    "chunk": ([X], (3, 3), {}),
    "split": ([X], (1024, 3), {}),
    "squeeze": ([X], (0,), {}),
    "unsqueeze": ([X], (0,), {}),
    "repeat_interleave": ([(1, 8, 32, HEAD_DIM)], (4,), {"dim": 1}),
    "view": ([X], ((32, DIM),), {}),
    "copy": ([X, X], (), {}),
    "zeros_like": ([X], (), {}),
    "ones_like": ([X], (), {}),
    "full_like": ([X], (0.3,), {}),
    "to_layout": ([X], (emulator.ROW_MAJOR_LAYOUT,), {}),
    "to_memory_config": ([X], (emulator.L1_MEMORY_CONFIG,), {}),
    "untilize": ([X], (), {}),
    "untilize_with_unpadding": ([X], ((0, 0, 16, DIM - 1),), {}),
    "transformer.concatenate_heads": ([(1, HEADS, 128, HEAD_DIM)], (), {}),
    "kv_cache.fill_cache_for_user_": ([(4, 8, 128, HEAD_DIM), (1, 8, 64, HEAD_DIM)], (2,), {}),
    "kv_cache.update_cache_for_token_": ([(4, 8, 128, HEAD_DIM), (1, 8, 32, HEAD_DIM)], (77,), {}),
}


def op(module, name):
    for part in name.split("."):
        module = getattr(module, part)
    return module


def golden(name):
    return vendor.get_golden_function(op(vendor, name))


def on(device, value, layout=emulator.TILE_LAYOUT):
    return emulator.from_torch(value, layout=layout, device=device)


def worst(actual, expected):
    """The correlation of two outputs. For lists, the lowest of their items."""
    if not isinstance(actual, (list, tuple)):
        actual, expected = [actual], [expected]
    assert len(actual) == len(expected)
    return min(correlation(emulator.to_torch(a), e) for a, e in zip(actual, expected))


def alike(device, dtype):
    for name, (shapes, arguments, keywords) in ALIKE.items():
        inputs = [torch.randn(shape).to(dtype) for shape in shapes]
        expected = golden(name)(*[value.clone() for value in inputs], *arguments, **keywords)
        yield name, worst(op(emulator, name)(*[on(device, value) for value in inputs], *arguments, **keywords), expected)


def roots(device, dtype):
    x = torch.rand(X).to(dtype) + 0.1
    for name in ("sqrt", "rsqrt"):
        yield name, worst(getattr(emulator, name)(on(device, x)), golden(name)(x))


def filled(device, dtype):
    own_dtype, their_dtype = (getattr(module, "bfloat16" if dtype is torch.bfloat16 else "float32") for module in (emulator, vendor))
    placed = {"dtype": own_dtype, "device": device}
    for name in ("zeros", "ones"):
        yield name, worst(getattr(emulator, name)(X, **placed), golden(name)(X, their_dtype))
    yield "full", worst(emulator.full(X, 0.3, **placed), golden("full")(X, 0.3, their_dtype))
    yield "arange", worst(emulator.arange(0, 256, 2, **placed), golden("arange")(0, 256, 2, dtype=their_dtype))


def converted(device, dtype):
    x = torch.randn(X).to(dtype)
    for name in ("bfloat16", "float32"):
        own, theirs = getattr(emulator, name), getattr(vendor, name)
        yield "typecast", worst(emulator.typecast(on(device, x), own), golden("typecast")(x, theirs))
        yield "to_dtype", worst(emulator.to_dtype(emulator.from_torch(x), own), golden("to_dtype")(x, theirs))
    counts = torch.arange(-1, 31, dtype=torch.int32)
    for skip in (False, True):
        actual = on(device, counts, emulator.ROW_MAJOR_LAYOUT)
        emulator.plus_one(actual, skip_negative_entries=skip)
        yield "plus_one", worst(actual, golden("plus_one")(counts.clone(), skip_negative_entries=skip))


def moved(device, dtype):
    x = torch.randn(X).to(dtype)
    for name in ("move", "reallocate"):
        yield name, worst(getattr(emulator, name)(on(device, x)), golden(name)(x))
    rows = on(device, x, emulator.ROW_MAJOR_LAYOUT)
    yield "tilize", worst(emulator.tilize(rows), golden("tilize")(x))
    odd = torch.randn(1, 1, 20, 70).to(dtype)
    rows = on(device, odd, emulator.ROW_MAJOR_LAYOUT)
    yield "tilize_with_zero_padding", worst(emulator.tilize_with_zero_padding(rows), golden("tilize_with_zero_padding")(odd))
    padded = [1, 1, 32, 96]
    actual = emulator.tilize_with_val_padding(rows, padded, 0.0)
    yield "tilize_with_val_padding", worst(actual, golden("tilize_with_val_padding")(odd, padded, 0.0))


def sharded(device, dtype):
    x = torch.randn(X).to(dtype)

    def config(cores):
        grid = emulator.num_cores_to_corerangeset(cores, emulator.CoreCoord(8, 8), row_wise=True)
        shard = (32, DIM // cores)
        return emulator.create_sharded_memory_config(
            shard, grid, emulator.ShardStrategy.WIDTH, use_height_and_width_as_shard_shape=True
        )

    wide = emulator.interleaved_to_sharded(on(device, x), config(8))
    yield "interleaved_to_sharded", worst(wide, golden("interleaved_to_sharded")(x))
    narrow = emulator.reshard(wide, config(32))
    yield "reshard", worst(narrow, golden("reshard")(x))
    yield "sharded_to_interleaved", worst(emulator.sharded_to_interleaved(narrow), golden("sharded_to_interleaved")(x))


def rotated(device, dtype):
    x, cos, sin = (torch.randn(shape).to(dtype) for shape in ((1, HEADS, 32, 64), (1, 1, 128, 64), (1, 1, 128, 64)))
    actual = emulator.experimental.rotary_embedding(*[on(device, value) for value in (x, cos, sin)], 77)
    yield "experimental.rotary_embedding", worst(actual, golden("experimental.rotary_embedding")(x, cos, sin, 77))


def distributed_norms(device, dtype):
    x, weight = torch.randn(X).to(dtype), torch.randn(1, 1, 1, DIM).to(dtype)
    stats = golden("rms_norm_pre_all_gather")(x)
    actual = emulator.rms_norm_pre_all_gather(on(device, x))
    # Only the first column of the tile of statistics has a meaning.
    yield "rms_norm_pre_all_gather", correlation(emulator.to_torch(actual)[..., 0], stats[..., 0])
    expected = golden("rms_norm_post_all_gather")(x, stats, epsilon=1e-5, weight=weight)
    actual = emulator.rms_norm_post_all_gather(on(device, x), actual, epsilon=1e-5, weight=on(device, weight))
    yield "rms_norm_post_all_gather", worst(actual, expected)


def collectives(mesh, dtype):
    x = torch.randn(1, 1, 32, DIM).to(dtype)
    split = emulator.from_torch(
        x, layout=emulator.TILE_LAYOUT, device=mesh, mesh_mapper=emulator.ShardTensorToMesh(mesh, dim=3)
    )
    on_mesh = {"_ttnn_golden_mesh_shape": (1, DEVICES), "_ttnn_golden_mesh_shard_dims": (None, 3), "cluster_axis": 1}
    run = {"cluster_axis": 1, "topology": emulator.Topology.Linear}
    parts = list(x.chunk(DEVICES, 3))
    first = lambda tensor: emulator.get_device_tensors(tensor)[0]  # noqa: E731
    yield "all_gather", worst(first(emulator.all_gather(split, dim=3, **run)), golden("all_gather")(parts, 3, **on_mesh))

    sums = torch.randn(DEVICES, 1, 32, DIM).to(dtype)
    parts = list(sums.chunk(DEVICES))
    split = emulator.from_torch(
        sums, layout=emulator.TILE_LAYOUT, device=mesh, mesh_mapper=emulator.ShardTensorToMesh(mesh, dim=0)
    )
    yield "all_reduce", worst(first(emulator.all_reduce(split, **run)), golden("all_reduce")(parts, **on_mesh))
    actual = emulator.reduce_scatter(split, dim=3, **run)
    joined = emulator.to_torch(actual, mesh_composer=emulator.ConcatMeshToTensor(mesh, dim=3))
    yield "reduce_scatter", correlation(joined, golden("reduce_scatter")(parts, 3, **on_mesh))


def fused_norm(mesh, dtype):
    x, weight = torch.randn(X).to(dtype), torch.randn(DIM).to(dtype)
    width = DIM // DEVICES
    config = emulator.create_sharded_memory_config(
        (32, width // 4), emulator.CoreGrid(x=4, y=1), emulator.ShardStrategy.WIDTH, use_height_and_width_as_shard_shape=True
    )
    tile = emulator.create_sharded_memory_config(
        (32, 32 * DEVICES), emulator.CoreGrid(x=1, y=1), emulator.ShardStrategy.WIDTH, use_height_and_width_as_shard_shape=True
    )
    program = emulator.LayerNormShardedMultiCoreProgramConfig(
        compute_with_storage_grid_size=(4, 1), subblock_w=1, block_h=1, block_w=width // 128, inplace=False
    )

    def split(value, dim, **place):
        return emulator.from_torch(value, device=mesh, mesh_mapper=emulator.ShardTensorToMesh(mesh, dim=dim), **place)

    actual = emulator.fused_rms_minimal(
        split(x, 3, layout=emulator.TILE_LAYOUT, memory_config=config), program, 1, mesh,
        emulator.create_global_semaphore(mesh, emulator.num_cores_to_corerangeset(64, emulator.CoreCoord(8, 8), True), 0),
        epsilon=1e-5, weight=split(weight.view(1, 1, -1, 32), 2),
        stats=emulator.from_torch(torch.zeros(1, 1, 32, 32 * DEVICES).bfloat16(), layout=emulator.TILE_LAYOUT, device=mesh, memory_config=tile),
    )  # fmt: skip
    joined = emulator.to_torch(actual, mesh_composer=emulator.ConcatMeshToTensor(mesh, dim=3))
    yield "fused_rms_minimal", correlation(joined, golden("fused_rms_minimal")(x, epsilon=1e-5, weight=weight))


def print_comparisons():
    emulator.set_fabric_config(emulator.FabricConfig.FABRIC_1D)
    device = emulator.open_mesh_device(emulator.MeshShape(1, 1))
    mesh = emulator.open_mesh_device(emulator.MeshShape(1, DEVICES))
    for dtype in (torch.bfloat16, torch.float32):
        for group in (alike, roots, filled, converted, moved, sharded, rotated, distributed_norms, collectives, fused_norm):
            for name, value in group(mesh if group in (collectives, fused_norm) else device, dtype):
                print(name, str(dtype).removeprefix("torch."), value, sep="\t")


def not_compared(compared):
    """The emulator's ops whose golden function was not compared."""
    for dotted in emulator.REGISTRY:
        operation = op(vendor, dotted.removeprefix("ttnn."))
        try:
            vendor.get_golden_function(operation)
        except RuntimeError:
            continue  # the vendor has none
        # Compared by the vendor's name, because some ops have two names.
        if operation.python_fully_qualified_name not in compared | CARRIERS:
            yield dotted


def main():
    torch.manual_seed(0)
    compared, ask = set(), vendor.get_golden_function

    def noted(operation):
        compared.add(operation.python_fully_qualified_name)
        return ask(operation)

    vendor.get_golden_function = noted
    with open_mesh():
        print_comparisons()
    values_like_golden.main()
    nn_values_like_golden.main()
    vendor.get_golden_function = ask
    print("not compared", *not_compared(compared), sep="\t")


if __name__ == "__main__":
    main()
