"""Traces: captured ops run when the trace is executed, on the values that their inputs have at that time."""

import inspect

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.common.ttnn_emulator import oplog
from models.common.ttnn_emulator.device import shape_only


def put(device, value, shape=(1, 1, 32, 64)):
    return ttnn.from_torch(torch.full(shape, value), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)


def host(value, shape=(1, 1, 32, 64)):
    return ttnn.from_torch(torch.full(shape, value), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT)


def value_of(tensor):
    return ttnn.to_torch(ttnn.get_device_tensors(tensor)[0]).float().mean().item()


def capture(device, function):
    trace_id = ttnn.begin_trace_capture(device, cq_id=0)
    output = function()
    ttnn.end_trace_capture(device, trace_id, cq_id=0)
    return trace_id, output


@pytest.mark.parametrize("shape", ["device", "mesh", "grid"])
def test_replay_reads_the_inputs_of_the_moment_and_writes_the_same_output(shape, request):
    device = request.getfixturevalue(shape)
    x, y = put(device, 1.0), put(device, 10.0)
    trace_id, output = capture(device, lambda: ttnn.multiply(ttnn.add(x, y), 2.0))
    address = output.buffer_address()
    for value in (1.0, 2.0, 5.0):
        ttnn.copy_host_to_device_tensor(host(value), x)
        ttnn.execute_trace(device, trace_id, cq_id=0, blocking=False)
        ttnn.synchronize_device(device)
        assert value_of(output) == (value + 10) * 2 and output.buffer_address() == address


def test_capture_runs_nothing(device):
    position = ttnn.from_torch(torch.zeros(32, dtype=torch.int32), device=device)
    x = put(device, 1.0)

    def step():
        ttnn.plus_one(position)
        return ttnn.add(x, 1.0)

    trace_id, output = capture(device, step)
    assert ttnn.to_torch(position).max() == 0
    with pytest.raises(RuntimeError, match="has not been executed"):
        ttnn.to_torch(output)
    ttnn.execute_trace(device, trace_id)
    ttnn.execute_trace(device, trace_id)
    assert ttnn.to_torch(position).min() == 2 and value_of(output) == 2


def test_replay_does_not_change_what_the_host_wrote(device):
    position = ttnn.from_torch(torch.zeros(32, dtype=torch.int32), device=device)
    trace_id, _ = capture(device, lambda: ttnn.plus_one(position))
    start = ttnn.from_torch(torch.full((32,), 7, dtype=torch.int32))
    for _ in range(2):
        ttnn.copy_host_to_device_tensor(start, position)
        ttnn.execute_trace(device, trace_id)
        ttnn.execute_trace(device, trace_id)
        assert ttnn.to_torch(position).tolist() == [9] * 32 and ttnn.to_torch(start).tolist() == [7] * 32


def test_copy_made_in_a_trace_is_not_changed_by_a_later_in_place_op(device):
    position = ttnn.from_torch(torch.zeros(32, dtype=torch.int32), device=device)

    def step():
        before = ttnn.to_memory_config(position, ttnn.L1_MEMORY_CONFIG)
        ttnn.plus_one(position)
        return before

    trace_id, before = capture(device, step)
    for count in range(3):
        ttnn.execute_trace(device, trace_id)
        assert ttnn.to_torch(before).tolist() == [count] * 32
        assert ttnn.to_torch(position).tolist() == [count + 1] * 32


def test_tensors_of_the_capture_alone_take_no_memory_afterwards(device):
    x = put(device, 1.0)

    def step():
        y = x
        for _ in range(4):
            y = ttnn.add(y, 1.0)
        z = ttnn.multiply(y, 2.0)
        ttnn.deallocate(y)
        return z

    used = ttnn.get_memory_view(device, ttnn.BufferType.DRAM).total_bytes_allocated_per_bank
    trace_id, output = capture(device, step)
    grown = ttnn.get_memory_view(device, ttnn.BufferType.DRAM).total_bytes_allocated_per_bank - used
    assert grown == used
    for _ in range(2):
        ttnn.execute_trace(device, trace_id)
        assert value_of(output) == 10


def test_captured_ops_are_validated(device):
    x = put(device, 1.0)
    ttnn.begin_trace_capture(device)
    with pytest.raises(RuntimeError, match="cannot be broadcast"):
        ttnn.add(x, put_shape(device))


def put_shape(device):
    return ttnn.empty((1, 1, 32, 63), layout=ttnn.TILE_LAYOUT, device=device)


def test_host_traffic_during_capture_is_refused(device):
    x = put(device, 1.0)
    trace_id = ttnn.begin_trace_capture(device)
    for use in (
        lambda: ttnn.to_torch(x),
        lambda: ttnn.from_device(x),
        lambda: put(device, 2.0),
        lambda: ttnn.copy_host_to_device_tensor(host(2.0), x),
        lambda: ttnn.begin_trace_capture(device),
        lambda: ttnn.execute_trace(device, trace_id),
    ):
        with pytest.raises(RuntimeError, match="captur"):
            use()


def test_released_trace_cannot_be_executed(device):
    x = put(device, 1.0)
    trace_id, _ = capture(device, lambda: ttnn.add(x, 1.0))
    ttnn.release_trace(device, trace_id)
    with pytest.raises(RuntimeError, match="released"):
        ttnn.execute_trace(device, trace_id)


def test_replay_works_without_values():
    with shape_only(), open_mesh("N300") as device:
        x = ttnn.zeros((1, 1, 32, 64), layout=ttnn.TILE_LAYOUT, device=device)
        trace_id, output = capture(device, lambda: ttnn.all_reduce(ttnn.add(x, x), cluster_axis=1))
        ttnn.execute_trace(device, trace_id)
        assert output.shards[0].is_meta and output.shards[0].shape == (1, 1, 32, 64)


def test_op_log_has_specs_and_all_arguments(device):
    x = put(device, 1.0)
    with oplog.recording() as log:
        ttnn.add(x, x, dtype=ttnn.bfloat8_b)
        ttnn.concat([x, x], 2)
    added, joined = log
    assert (added.name, joined.name) == ("ttnn.add", "ttnn.concat")
    assert added.inputs == (x.spec, x.spec) and added.outputs[0].dtype is ttnn.bfloat8_b
    assert added.mesh_shape == (1, 1)
    assert set(added.arguments) == set(inspect.signature(ttnn.add).parameters)
    assert added.arguments["dtype"] is ttnn.bfloat8_b and added.arguments["input_tensor_b"] == x.spec
    assert added.arguments["fast_and_approximate_mode"] is True and added.arguments["sub_core_grids"] is None
    assert joined.arguments["tensors"] == [x.spec, x.spec] and joined.arguments["dim"] == 2


def test_op_log_has_what_links_a_collective_uses(grid):
    x = put(grid, 1.0)
    with oplog.recording() as log:
        ttnn.all_reduce(x, cluster_axis=1, num_links=2)
    record = log[0]
    assert record.mesh_shape == (2, 4) and record.arguments["num_links"] == 2 and record.arguments["cluster_axis"] == 1
    assert record.arguments["topology"] is ttnn.Topology.Linear, "what None stands for"


def test_profile_counts_traced_ops(device):
    x = put(device, 1.0)
    trace_id, _ = capture(device, lambda: ttnn.add(ttnn.add(x, x), x))
    with oplog.profiling() as profile:
        for _ in range(3):
            ttnn.execute_trace(device, trace_id)
    assert profile["ttnn.add"][0] == 6 and profile["ttnn.add"][1] > 0
