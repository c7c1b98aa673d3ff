"""Memory: bytes per bank, capacities, out of memory, use after free."""

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.tt_transformers.tt.runtime.process_memory import resident_bytes

DRAM, L1 = ttnn.BufferType.DRAM, ttnn.BufferType.L1


def in_use(device, kind=DRAM):
    return ttnn.get_memory_view(device, kind).total_bytes_allocated_per_bank


@pytest.mark.parametrize(
    "mesh, dram, l1, alignment",
    [
        ("N150", (12, 1_072_693_184), (64, 1_393_312), 32),
        ("P100", (7, 4_277_141_376), (110, 1_461_120), 64),
        ("P150", (8, 4_277_141_376), (130, 1_461_120), 64),
    ],
)
def test_capacities_are_the_chips(mesh, dram, l1, alignment):
    """The vendor's package reports the same numbers on its mock device."""
    with open_mesh(mesh, trace_region_size=0) as device:
        for kind, capacity in ((DRAM, dram), (L1, l1)):
            view = ttnn.get_memory_view(device, kind)
            assert (view.num_banks, view.total_bytes_per_bank) == capacity
        assert ttnn.get_dram_alignment() == alignment


def test_a_mesh_of_other_chips_is_not_opened_beside_an_open_one(device):
    with pytest.raises(RuntimeError, match="blackhole chips with 8 DRAM banks cannot be opened beside"):
        with open_mesh("P150"):
            pass
    assert ttnn.get_arch_name() == "wormhole_b0"


@pytest.mark.parametrize(
    "options, kind, expected",
    [
        ({"trace_region_size": 23_887_872}, DRAM, 1_070_702_528),
        ({"trace_region_size": 50_000_000}, DRAM, 1_068_523_456),
        ({"trace_region_size": 1}, DRAM, 1_072_684_992),
        ({"l1_small_size": 32_768}, L1, 1_360_544),
        ({"worker_l1_size": 1_000_000}, L1, 1_000_000),
    ],
)
def test_regions_are_taken_out_of_a_bank(options, kind, expected):
    """The vendor's package reports the same numbers for these options."""
    device = ttnn.open_mesh_device(ttnn.MeshShape(1, 1), **options)
    assert ttnn.get_memory_view(device, kind).total_bytes_per_bank == expected
    ttnn.close_mesh_device(device)


def test_dropping_the_last_reference_frees(device):
    before = in_use(device)
    tensor = ttnn.zeros((1, 1, 32, 3072), layout=ttnn.TILE_LAYOUT, device=device)
    view = ttnn.reshape(tensor, (32, 3072))
    assert in_use(device) == before + 8 * 2048
    del tensor
    assert in_use(device) == before + 8 * 2048
    del view
    assert in_use(device) == before


def test_deallocate_frees_at_once_and_forbids_reading(device):
    tensor = ttnn.ones((1, 1, 32, 64), layout=ttnn.TILE_LAYOUT, device=device)
    view = ttnn.reshape(tensor, (32, 64))
    ttnn.deallocate(tensor)
    assert in_use(device) == 0 and not tensor.is_allocated() and tensor.device() is None
    for use in (lambda: ttnn.add(tensor, 1.0), lambda: ttnn.to_torch(tensor), lambda: ttnn.add(view, 1.0)):
        with pytest.raises(RuntimeError, match="not allocated"):
            use()
    ttnn.deallocate(tensor)


def test_out_of_memory_says_how_much_and_takes_nothing(device):
    with pytest.raises(RuntimeError, match=r"Out of Memory.*each bank needs to store 1092268032 B.*1072693184 B"):
        ttnn.zeros((1, 1, 65536, 99999), layout=ttnn.TILE_LAYOUT, device=device)
    assert in_use(device) == 0


def test_op_output_can_run_out_of_memory(device):
    config = ttnn.create_sharded_memory_config(
        (1, 1, 8192, 1024), ttnn.CoreGrid(x=8, y=8), ttnn.ShardStrategy.HEIGHT
    )
    tensors = [ttnn.zeros((1, 1, 8192, 1024), layout=ttnn.TILE_LAYOUT, device=device, memory_config=config)] * 1
    held = in_use(device, L1)
    with pytest.raises(RuntimeError, match="Out of Memory.* L1 "):
        while True:
            tensors.append(ttnn.add(tensors[0], 1.0))
    assert in_use(device, L1) == held * len(tensors) <= 1_393_312


def test_submeshes_share_their_parents_banks(mesh):
    first, second = mesh.create_submeshes(ttnn.MeshShape(1, 4))
    assert first.get_device_ids() == [0, 1, 2, 3] and second.get_device_ids() == [4, 5, 6, 7]
    own = ttnn.zeros((32, 32), layout=ttnn.TILE_LAYOUT, device=first)
    shared = ttnn.zeros((32, 64), dtype=ttnn.float32, layout=ttnn.TILE_LAYOUT, device=mesh)
    assert (in_use(first), in_use(second), in_use(mesh)) == (2048 + 4096, 4096, 4096 + 2048)
    del own, shared


def test_in_place_ops_do_not_change_copies(device):
    """Copies that move no elements share torch storage until one of them is written to."""
    tensor = ttnn.from_torch(torch.zeros(32, dtype=torch.int32), device=device)
    copy = ttnn.to_memory_config(tensor, ttnn.L1_MEMORY_CONFIG)
    host = ttnn.from_device(tensor)
    view = ttnn.reshape(tensor, (1, 32))
    ttnn.plus_one(tensor)
    ttnn.plus_one(copy)
    ttnn.plus_one(copy)
    assert [ttnn.to_torch(t).max().item() for t in (tensor, copy, host)] == [1, 2, 0]
    del view


def test_view_sees_what_is_written_in_place(device):
    tensor = ttnn.from_torch(torch.zeros(4, 32, dtype=torch.int32), device=device)
    view = ttnn.reshape(tensor, (1, 4, 32))
    ttnn.plus_one(tensor)
    assert ttnn.to_torch(view).min() == 1 and view.buffer_address() == tensor.buffer_address()


def test_writing_to_a_replicated_tensor_can_make_devices_differ(mesh):
    cache = ttnn.zeros((1, 1, 32, 32), layout=ttnn.TILE_LAYOUT, device=mesh)
    parts = torch.arange(8).repeat_interleave(32).reshape(1, 1, 1, 256).expand(1, 1, 32, 256).bfloat16()
    mapper = ttnn.ShardTensorToMesh(mesh, dim=3)
    ttnn.copy(ttnn.from_torch(parts, layout=ttnn.TILE_LAYOUT, device=mesh, mesh_mapper=mapper), cache)
    joined = ttnn.to_torch(cache, mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=3))
    assert torch.equal(joined, parts)


def test_a_cache_takes_memory_of_the_computer_only_where_it_is_written():
    """One page is written in a cache of 400 MB of zeros: resident memory grows by far less than 400 MB."""
    with open_mesh("N300") as mesh_device:
        before = resident_bytes()
        cache = ttnn.zeros((2048, 32, 32, 96), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh_device)
        new = torch.arange(2 * 32 * 32 * 96).reshape(2, 32, 32, 96).bfloat16()
        new = ttnn.from_torch(
            new, layout=ttnn.TILE_LAYOUT, device=mesh_device, mesh_mapper=ttnn.ShardTensorToMesh(mesh_device, dim=0)
        )
        page_table = ttnn.from_torch(torch.tensor([[5]], dtype=torch.int32), device=mesh_device)
        ttnn.experimental.paged_fill_cache(cache, new, page_table, batch_idx=0)
        assert resident_bytes() - before < 100e6
        for index, shard in enumerate(ttnn.get_device_tensors(cache)):
            values = ttnn.to_torch(shard)
            assert torch.equal(values[5], ttnn.to_torch(ttnn.get_device_tensors(new)[index])[0])
            assert not values[4].any() and not values[6].any()
