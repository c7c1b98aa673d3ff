"""Errors of wrong calls name the op, the wrong value and what is accepted."""

import pytest
import torch
import ttnn


@pytest.fixture
def x(device):
    return ttnn.zeros((1, 1, 32, 64), layout=ttnn.TILE_LAYOUT, device=device)


def test_missing_ops_are_named():
    with pytest.raises(AttributeError, match=r"`ttnn\.conv2d`"):
        ttnn.conv2d
    with pytest.raises(AttributeError, match=r"`ttnn\.experimental\.no_such_op`"):
        ttnn.experimental.no_such_op


def test_every_op_refuses_unknown_keywords():
    from models.common.ttnn_emulator.op import REGISTRY

    for name, function in REGISTRY.items():
        with pytest.raises(TypeError):
            function(no_such_keyword=1)
        assert function.__doc__, name


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: ttnn.add(x, x, bogus=1), "bogus"),
        (lambda x: ttnn.add(x, "2"), "ttnn.add: input_tensor_b takes Tensor or a number, not '2'"),
        (lambda x: ttnn.mul(x, x, input_tensor_a_activations=["silu"]), "UnaryOpType"),
        (lambda x: ttnn.silu(x, memory_config=ttnn.L1_MEMORY_CONFIG, output_tensor=x), "memory_config must be .*L1"),
        (lambda x: ttnn.typecast(ttnn.from_device(x), ttnn.int32, output_tensor=x), "leave output_tensor out"),
        (lambda x: ttnn.permute(x, (0, 1)), r"\[0, 1\] must name the 4 dimensions"),
        (lambda x: ttnn.slice(x, (0, 0, 0, 0), (1, 1, 33, 64)), r"not inside \[1, 1, 32, 64\]"),
        (lambda x: ttnn.concat([x, ttnn.from_device(x)], dim=2), "on the host"),
        (lambda x: ttnn.reshape(x, (3, 7)), r"\[1, 1, 32, 64\] cannot become \[3, 7\]"),
        (lambda x: ttnn.transpose(x, 0, 4), "dimension 4 is not in a tensor of rank 4"),
        (lambda x: ttnn.from_torch(torch.zeros(2, dtype=torch.complex64)), "complex64 has no ttnn dtype"),
        (lambda x: ttnn.from_torch(torch.zeros(2), layout=ttnn.ROW_MAJOR_LAYOUT, dtype=ttnn.bfloat8_b), "TILE"),
        (lambda x: ttnn.to_memory_config(x, ttnn.L1_WIDTH_SHARDED_MEMORY_CONFIG), "needs a shard_spec"),
        (lambda x: ttnn.all_reduce(x, cluster_axis=1), "there is no fabric"),
        (lambda x: ttnn.set_fabric_config(ttnn.FabricConfig.FABRIC_2D), "cannot be set while meshes are open"),
        (lambda x: ttnn.topk(x, k=65), r"k must be in \[1, 64\], got 65"),
        (lambda x: ttnn.open_mesh_device(ttnn.MeshShape(5, 8)), "at most 32 devices"),
        (lambda x: ttnn.dump_tensor("a.bin", x), "tensorbin"),
    ],
)
def test_message_says_what_is_wrong(x, call, words):
    with pytest.raises((RuntimeError, TypeError, ValueError), match=words):
        call(x)


def test_collective_over_one_device_is_refused(mesh):
    with pytest.raises(RuntimeError, match="needs more than one device along cluster_axis 0"):
        ttnn.all_reduce(ttnn.zeros((32, 32), layout=ttnn.TILE_LAYOUT, device=mesh), cluster_axis=0)


def test_tensors_of_two_meshes_do_not_mix(x):
    other = ttnn.open_mesh_device(ttnn.MeshShape(1, 1))
    with pytest.raises(RuntimeError, match="different meshes"):
        ttnn.add(x, ttnn.zeros((1, 1, 32, 64), layout=ttnn.TILE_LAYOUT, device=other))


def test_one_devices_part_is_not_a_tensor_of_the_mesh(mesh):
    tensor = ttnn.zeros((32, 32), layout=ttnn.TILE_LAYOUT, device=mesh)
    with pytest.raises(RuntimeError, match="one device's part"):
        ttnn.add(ttnn.get_device_tensors(tensor)[0], 1.0)


def test_uneven_division_over_devices_is_refused(mesh):
    with pytest.raises(RuntimeError, match=r"dimension 1 of \[1, 12\] does not divide into 8 devices"):
        ttnn.from_torch(torch.zeros(1, 12), mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=1))
