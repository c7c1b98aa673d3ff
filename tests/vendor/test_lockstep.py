"""Lockstep: the two sides agree on the whole demo on every mesh, and every kind of disagreement is detected."""

import json
from itertools import product
from textwrap import dedent

import pytest

from models.common.mesh_names import VALIDATED
from models.common.vendor import watching as validation
from models.tt_transformers.measure.vendor import validate
from tests.support.wide import some_of


@pytest.fixture(scope="module", params=some_of(VALIDATED, "N150", "T3K", "P150"))
def records(request, tmp_path_factory):
    """The committed record of a mesh, and the record that this installation gives."""
    mesh = request.param
    output = tmp_path_factory.mktemp(mesh) / "record.json"
    validate.run("whole_demo", mesh, output)
    return json.loads(validate.committed("whole_demo", mesh).read_text()), json.loads(output.read_text())


@pytest.mark.vendor
def test_emulator_and_vendor_agree_on_the_whole_demo(records):
    _, measured = records
    runs = {(case["mode"], case["case"]) for case in measured["cases"]}
    assert runs == set(product(("performance", "accuracy"), ("batch-1", "batch-32")))
    assert all(case["outcome"] == "pass" and case["op_calls"] > 500 for case in measured["cases"])


@pytest.mark.vendor
def test_committed_record_is_what_this_ttnn_says(records):
    committed, measured = records
    changes = validation.changes(committed, measured)
    assert committed == measured, "\n".join(["make validate writes new records; what changed:", *changes])


PRELUDE = """
import models
import torch, ttnn
from models.common import ttnn_emulator as emulator
from models.common.mesh import open_mesh

def plant(name, function):
    setattr(ttnn, name, ttnn._lockstep.pair_function(f"ttnn.{name}", function, getattr(ttnn.vendor, name)))

def expect_disagreement(call, *texts):
    try:
        call()
    except ttnn.LockstepError as error:
        missing = [text for text in texts if text not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"{texts} were not noticed")
"""

PLANTED = {
    "layout": """
        plant("add", lambda a, b: emulator.to_layout(emulator.add(a, b), emulator.ROW_MAJOR_LAYOUT))
        expect_disagreement(lambda: ttnn.add(x, x), "ttnn.add(", "layout: emulator ROW_MAJOR, vendor TILE")
    """,
    "dtype": """
        plant("add", lambda a, b: emulator.add(a, b, dtype=emulator.float32))
        expect_disagreement(lambda: ttnn.add(x, x), "dtype: emulator FLOAT32, vendor BFLOAT16")
    """,
    "shape": """
        plant("transpose", lambda t, a, b: emulator.clone(t))
        expect_disagreement(
            lambda: ttnn.transpose(x, 2, 3),
            "shape: emulator (1, 1, 40, 64), vendor (1, 1, 64, 40)",
        )
    """,
    "buffer type": """
        plant("add", lambda a, b: emulator.add(a, b, memory_config=emulator.L1_MEMORY_CONFIG))
        expect_disagreement(lambda: ttnn.add(x, x), "buffer type: emulator L1, vendor DRAM")
    """,
    "shard cores": """
        def config(row):
            cores = emulator.CoreRangeSet([emulator.CoreRange(emulator.CoreCoord(0, row), emulator.CoreCoord(1, row))])
            return emulator.create_sharded_memory_config(
                (64, 32), cores, emulator.ShardStrategy.WIDTH, use_height_and_width_as_shard_shape=True
            )
        ttnn.interleaved_to_sharded(x, config(0))
        plant("interleaved_to_sharded", lambda t, _: emulator.interleaved_to_sharded(t, config(1)))
        expect_disagreement(
            lambda: ttnn.interleaved_to_sharded(x, config(0)),
            "shard cores: emulator ((0, 1), (1, 1)), vendor ((0, 0), (1, 0))",
        )
    """,
    "a call that only the emulator accepts": """
        plant("add", lambda a, b: emulator.clone(a))
        wider = ttnn.from_torch(torch.zeros(1, 1, 40, 96), layout=ttnn.TILE_LAYOUT, device=device)
        expect_disagreement(lambda: ttnn.add(x, wider), "emulator: accepts", "vendor: ")
    """,
    "a call that only the vendor accepts": """
        def refuse(a, b):
            raise RuntimeError("not today")
        plant("add", refuse)
        expect_disagreement(lambda: ttnn.add(x, x), "vendor: accepts", "emulator: not today")
    """,
    "memory that is not given back": """
        kept = []
        def keep(a, b):
            kept.append(emulator.clone(a))
            return emulator.add(a, b)
        plant("add", keep)
        expect_disagreement(lambda: ttnn.add(x, x), "DRAM afterwards", "total_bytes_allocated_per_bank")
    """,
    "a tensor from elsewhere": """
        other = emulator.zeros((1, 1, 40, 64), dtype=emulator.bfloat16, layout=emulator.TILE_LAYOUT)
        try:
            ttnn.add(x, other)
        except TypeError as error:
            assert "was not made by `ttnn`" in str(error)
        else:
            raise AssertionError("not noticed")
    """,
}


@pytest.mark.vendor
@pytest.mark.parametrize("what", PLANTED)
def test_planted_disagreement_is_caught(run_on_mock, what):
    body = dedent(PLANTED[what])
    code = PRELUDE + dedent(
        """
        with open_mesh() as device:
            x = ttnn.from_torch(torch.randn(1, 1, 40, 64), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
            assert torch.equal(ttnn.to_torch(ttnn.add(x, x)), 2 * ttnn.to_torch(x))
        """
    )
    code += "".join(f"    {line}\n" for line in body.strip().splitlines())
    run_on_mock("N150", code, backend="lockstep")


FREED = """
with open_mesh() as device:
    def make():
        return ttnn.zeros((1, 1, 1024, 1024), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
    def allocated():
        view = ttnn.vendor.get_memory_view(ttnn._lockstep.pairs.get(device), ttnn.vendor.BufferType.DRAM)
        return view.total_bytes_allocated_per_bank
    before = allocated()
    a, b, c = make(), make(), make()
    held = allocated() - before
    ttnn.deallocate(a)
    b.deallocate()
    del c
    assert held > 0 and allocated() == before
"""


@pytest.mark.vendor
def test_vendors_tensors_are_freed_with_the_emulators(run_on_mock):
    run_on_mock("N150", PRELUDE + FREED, backend="lockstep")


def test_grids_are_compared_as_sets_of_cores():
    from models.common import ttnn_emulator as emulator
    from models.common.vendor.lockstep.compare import cores_of

    def cores(*corners):
        return emulator.CoreRangeSet(
            [emulator.CoreRange(emulator.CoreCoord(*start), emulator.CoreCoord(*end)) for start, end in corners]
        )

    whole, halves = cores(((0, 0), (3, 1))), cores(((0, 1), (3, 1)), ((0, 0), (3, 0)))
    assert cores_of(whole) == cores_of(halves) != cores_of(cores(((0, 0), (3, 0))))
