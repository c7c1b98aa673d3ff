"""How heads, widths and tensors are distributed to the devices of a mesh."""

import pytest
import torch

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common.mesh import open_mesh
from models.tt_transformers.tt.placement import Placement, split_heads

GALAXY = Placement((8, 4), model_axis=0, residual_axis=1, users_axis=1)
CASES = [(n_heads, n_kv, ranks) for n_kv in range(1, 13) for n_heads in (n_kv, 2 * n_kv, 7 * n_kv) for ranks in (1, 2, 4, 8)]


@pytest.mark.parametrize("n_heads, n_kv_heads, ranks", CASES)
def test_every_query_head_is_on_one_device_beside_its_kv_head(n_heads, n_kv_heads, ranks):
    split = split_heads(n_heads, n_kv_heads, ranks)
    assert len(split.query) == len(split.kv) == ranks
    assert sorted(head for rank in split.query for head in rank if head is not None) == list(range(n_heads))
    for query, kv in zip(split.query, split.kv):
        assert (len(query), len(kv)) == (split.n_heads, split.n_kv_heads)
        queries_a_kv = len(query) // len(kv)
        for slot, head in enumerate(query):
            assert head is None or kv[slot // queries_a_kv] == head // (n_heads // n_kv_heads)


@pytest.mark.parametrize("n_heads, n_kv_heads, ranks", [case for case in CASES if case[1] % case[2] == 0])
def test_heads_that_divide_are_split_in_order_without_padding(n_heads, n_kv_heads, ranks):
    split = split_heads(n_heads, n_kv_heads, ranks)
    assert [head for rank in split.query for head in rank] == list(range(n_heads))
    assert [head for rank in split.kv for head in rank] == list(range(n_kv_heads))


@pytest.mark.parametrize(
    "n_heads, n_kv_heads, ranks, query, kv",
    [
        (14, 2, 2, 7, 1),  # Qwen2.5-0.5B
        (14, 2, 8, 2, 1),  # each KV head on 4 devices, which share 7 query heads
        (32, 8, 8, 4, 1),  # Llama-3.1-8B
        (40, 10, 8, 8, 2),  # Phi-3-medium: 10 KV heads padded to 16
        (12, 12, 8, 2, 2),
    ],
)
def test_shares_of_real_models(n_heads, n_kv_heads, ranks, query, kv):
    split = split_heads(n_heads, n_kv_heads, ranks)
    assert (split.n_heads, split.n_kv_heads) == (query, kv)


@pytest.mark.parametrize("columns, shape, width", [(8192, (1, 8), 1024), (4864, (1, 8), 608), (4864, (1, 32), 160), (96, (1, 2), 64)])
def test_widths_are_padded_to_whole_tiles_on_every_device(columns, shape, width):
    assert Placement(shape).model_width(columns) == width


@pytest.mark.parametrize(
    "dim, placement, width, padded",
    [
        (3072, Placement((1, 2)), 1536, 3072),  # divides: nothing is padded
        (896, Placement((1, 8)), 128, 1024),  # Qwen2.5-0.5B
        (896, GALAXY, 224, 896),
        (80, Placement((1, 1)), 96, 96),
    ],
)
def test_a_residual_stream_is_padded_to_whole_tiles_on_every_device(dim, placement, width, padded):
    assert (placement.residual_width(dim), placement.padded_dim(dim)) == (width, padded)


def test_more_kv_heads_than_a_device_takes_are_refused_with_the_meshes_that_work():
    assert Placement((1, 1)).heads(40, 10).n_heads == 40
    assert Placement((1, 2)).heads(40, 40).n_kv_heads == 20
    with pytest.raises(ValueError, match="40 KV heads are 40 on each device of N150, .* at most 32; meshes that work: N300, T3K$"):
        Placement((1, 1)).heads(40, 40)


def test_a_line_serves_all_users_everywhere_and_has_its_machines_name():
    for shape, name in (((1, 1), "N150"), ((1, 2), "N300"), ((1, 8), "T3K"), ((1, 4), "N150x4"), ((1, 3), "1x3")):
        line = Placement(shape)
        assert (line.name, line.num_devices, line.model_ranks, line.residual_ranks) == (name, *[shape[1]] * 3)
        assert line.users(32) == 32


def test_a_galaxy_splits_llama_70b_by_rows_and_columns():
    assert (GALAXY.name, GALAXY.num_devices, GALAXY.users(32)) == ("TG", 32, 8)
    split = GALAXY.heads(64, 8)
    assert (split.n_heads, split.n_kv_heads) == (8, 1)
    assert (GALAXY.residual_width(8192), GALAXY.matmul_width(8192), GALAXY.model_width(28672)) == (2048, 2048, 3584)
    assert GALAXY.model_width(11008) == 1408  # whole tiles on each device of a row, which has a quarter of the sum


@pytest.mark.parametrize("name, shape", [("N150", (1, 1)), ("N300", (1, 2)), ("TG", (8, 4))])
@pytest.mark.parametrize("split", [{"model": 3}, {"residual": 2}, {"model": 3, "residual": 2}, {"model": 2, "residual": 3}, {}])
def test_a_mapper_gives_each_device_its_part(name, shape, split):
    placement = GALAXY if name == "TG" else Placement(shape)
    whole = torch.arange(8 * 32 * 4 * 64, dtype=torch.float32).reshape(1, 1, 8 * 32, 4 * 64).bfloat16().float()
    with open_mesh(name) as device:
        if name != "TG" and len(split) == 2:
            with pytest.raises(ValueError, match="cannot both be split over axis 1"):
                placement.mapper(device, **split)
            return
        tensor = ttnn.from_torch(whole, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, mesh_mapper=placement.mapper(device, **split))
        parts = [ttnn.to_torch(part).float() for part in ttnn.get_device_tensors(tensor)]
    for index, part in enumerate(parts):
        place = (index // shape[1], index % shape[1])
        expected = whole
        for what, dim in split.items():
            axis = placement.model_axis if what == "model" else placement.residual_axis
            expected = expected.chunk(shape[axis], dim)[place[axis]]
        assert torch.equal(part, expected)


@pytest.mark.parametrize("name, placement", [("N150", Placement((1, 1))), ("T3K", Placement((1, 8))), ("TG", GALAXY)])
def test_a_composer_joins_what_a_mapper_split(name, placement):
    whole = torch.randn(1, 1, 32, 256 * 8).bfloat16()
    with open_mesh(name) as device:
        mapper, composer = placement.mapper(device, model=3), placement.composer(device, model=3)
        tensor = ttnn.from_torch(whole, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device, mesh_mapper=mapper)
        assert torch.equal(ttnn.to_torch(tensor, mesh_composer=composer)[:1], whole)


@pytest.mark.parametrize("name, shape, axes", [("T3K", (1, 8), (1, 1, None)), ("T3K", (8, 1), (0, 0, None)), ("T3K", (2, 4), (0, 1, 1)), ("TG", None, (0, 1, 1))])
def test_a_line_is_split_in_one_dimension_and_a_grid_in_two(name, shape, axes):
    with open_mesh(name, shape) as device:
        placement = Placement.of(device)
    assert (placement.model_axis, placement.residual_axis, placement.users_axis) == axes
    assert placement.layout == {
        (1, 1, None): "8 devices, tensor parallel",
        (0, 0, None): "8 devices, tensor parallel",
        (0, 1, 1): f"{'8' if name == 'T3K' else '32'} devices, tensor parallel over {'2' if name == 'T3K' else '8'} rows and 4 columns",
    }[axes]


def test_users_of_a_galaxy_are_neighbours_in_the_batch_with_a_pool_for_each_column():
    assert [GALAXY.pool_of(user, 32) for user in (0, 7, 8, 31)] == [0, 0, 1, 3]
    assert [(GALAXY.users(users), GALAXY.decode_rows(users)) for users in (1, 2, 8, 32)] == [(1, 4), (1, 4), (2, 8), (8, 32)]
    line = Placement((1, 8))
    assert (line.pools, line.pool_of(31, 32), line.decode_rows(32)) == (1, 0, 32)


def test_a_mapper_gives_each_column_of_a_galaxy_its_users():
    users = torch.arange(32, dtype=torch.int32)
    with open_mesh("TG") as device:
        tensor = ttnn.from_torch(users, dtype=ttnn.int32, mesh_mapper=GALAXY.mapper(device, users=0))
        parts = [ttnn.to_torch(part).tolist() for part in ttnn.get_device_tensors(tensor)]
    assert parts == [list(range(8 * column, 8 * column + 8)) for _ in range(8) for column in range(4)]


def test_more_query_heads_than_a_device_of_a_grid_takes_are_refused():
    with pytest.raises(ValueError, match="264 query heads are 33 on each device of TG, which takes at most 32"):
        GALAXY.heads(264, 8)
