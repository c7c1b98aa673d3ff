"""Records of validation: the counts, the differences of two records, and the table made from them."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.common.vendor import watching as validation
from models.tt_transformers.measure.vendor import table, validate


def case(mode="performance", **changes):
    return {
        "mode": mode, "outcome": "pass", "op_calls": 10, "peak_dram_bytes": 2_000_000, "peak_l1_bytes": 300_000, **changes
    }


def op(calls=1, signature="a", specs="b"):
    return {"calls": calls, "signature": signature, "specs": specs}


def record(**changes):
    facts = {"ttnn": "1.0", "backend": "mock", "mesh": "N150", "model": "M", "layers": 2}
    return {**facts, "cases": [case()], "ops": {"ttnn.add": op()}, **changes}


def test_same_records_have_no_changes():
    assert validation.changes(record(), record()) == []


@pytest.mark.parametrize(
    "after, line",
    [
        ({"ttnn": "2.0"}, "ttnn 1.0 -> 2.0"),
        ({"ops": {"ttnn.add": op(signature="c")}}, "ttnn.add has other signature"),
        ({"ops": {"ttnn.add": op(specs="c", calls=2)}}, "ttnn.add has other calls, specs"),
        ({"ops": {}}, "ttnn.add is no longer called, or was refused"),
        ({"ops": {"ttnn.add": op(), "ttnn.mul": op()}}, "ttnn.mul is called for the first time"),
    ],
)
def test_each_change_is_named(after, line):
    assert validation.changes(record(), record(**after)) == [line]


def test_other_cases_are_shown_with_both():
    (line,) = validation.changes(record(), record(cases=[case(op_calls=11)]))
    assert "'op_calls': 10" in line and "'op_calls': 11" in line


def test_table_has_a_row_for_each_mode_and_a_column_for_each_mesh():
    records = [record(cases=[case(), case(peak_dram_bytes=5_000_000), case("accuracy")]), record(mesh="T3K")]
    assert table.markdown(records).splitlines()[4:] == [
        "| M, 2 layers | performance | mock | 5 | - | - | 2 | - | - | - | - |",
        "| M, 2 layers | accuracy | mock | 2 | - | - | - | - | - | - | - |",
    ]


def test_table_says_what_the_vendor_said():
    refused = case(outcome="refused", op="ttnn.linear", message="a | b")
    assert "ttnn.linear: a \\| b" in table.markdown([record(cases=[case(), refused])])


def test_table_goes_between_its_markers_and_nowhere_else():
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.with_table(text, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    with pytest.raises(ValueError, match="needs one line"):
        table.with_table("no markers", "new")


def test_vendors_message_is_cut_out_of_its_report():
    report = "TT_FATAL @ /x/y.cpp:1: a == b\ninfo:\nwidth 3\nis not 4\nbacktrace:\n --- main"
    assert validation.vendor_message(RuntimeError(report)) == "width 3 is not 4"
    assert validation.vendor_message(RuntimeError("plain")) == "plain"


class FakeTensor:
    """A tensor with the methods that a `Watch` calls."""

    shape = padded_shape = (1, 32)
    dtype, layout = "BFLOAT16", "TILE"

    def __init__(self, place="DRAM"):
        self._place = place

    def is_allocated(self):
        return True

    def storage_type(self):
        return SimpleNamespace(name="DEVICE")

    def memory_config(self):
        return self._place


class FakeOperation:
    """As in the vendor's package: one class for all ops, called through the class."""

    is_cpp_operation = False

    def __init__(self, name, function):
        self.python_fully_qualified_name, self.function = name, function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class FakeVendor:
    """A package with an op that calls another, an op that refuses, and memory that grows and shrinks."""

    Tensor = FakeTensor
    BufferType = SimpleNamespace(DRAM="DRAM", L1="L1")

    def __init__(self):
        self.allocated = iter([5, 1, 9, 1, 2, 1])
        self.inner = FakeOperation("ttnn.inner", lambda tensor: FakeTensor())
        self.linear = FakeOperation("ttnn.linear", lambda tensor: self.inner(tensor))
        self.wrong = FakeOperation("ttnn.wrong", self._refuse)

    @staticmethod
    def _refuse(tensor):
        raise RuntimeError("info:\nno")

    def open_mesh_device(self, submeshes=()):
        return SimpleNamespace(get_submeshes=lambda: submeshes)

    def close_mesh_device(self, mesh):
        pass

    def get_memory_view(self, mesh, kind):
        return SimpleNamespace(num_banks=2, total_bytes_allocated_per_bank=next(self.allocated))


def test_outermost_calls_are_counted_and_peaks_kept():
    vendor = FakeVendor()
    with validation.watching(vendor) as watch:
        mesh = vendor.open_mesh_device()
        for place in ("DRAM", "DRAM", "L1"):
            vendor.linear(FakeTensor(place))
        vendor.close_mesh_device(mesh)
    vendor.linear(FakeTensor())
    assert {name: seen.calls for name, seen in watch.ops.items()} == {"ttnn.linear": 3}
    assert len(watch.ops["ttnn.linear"].specs) == 2
    assert watch.peak == {"DRAM": 18, "L1": 2}


def test_peaks_are_also_those_of_submeshes():
    vendor = FakeVendor()
    with validation.watching(vendor) as watch:
        vendor.open_mesh_device(submeshes=["submesh"])
        vendor.linear(FakeTensor())
    # Of each kind of memory, the mesh's and the submesh's bytes in a bank: the stand-in's first numbers.
    first, second, third, fourth = itertools.islice(FakeVendor().allocated, 4)
    assert watch.peak == {"DRAM": 2 * max(first, second), "L1": 2 * max(third, fourth)}


def test_a_whole_context_has_rows_of_its_own():
    rows = table.markdown([record(context=131072)]).splitlines()
    assert rows[-1].startswith("| M, 2 layers, 128k tokens | performance | mock |")


def test_data_parallel_has_rows_records_and_arguments_of_its_own(monkeypatch):
    rows = table.markdown([record(data_parallel=4)]).splitlines()
    assert rows[-1].startswith("| M, 2 layers, 4 groups | performance | mock |")
    monkeypatch.setattr(validate, "IN_GROUPS", (("org/model", "P150", 4), ("org/model", "N150", 4)))
    ((program, mesh, *model),) = validate.runs(["org/model"], ["P150"])
    assert validate.committed(program, mesh, *model).name == "full_width-model-DP-4-P150.json"
    started = []
    monkeypatch.setattr(validate.subprocess, "run", lambda command, **_: started.append(command))
    validate.run(program, mesh, Path("record.json"), *model)
    assert started[0][-2:] == ["--data_parallel", "4"]


def test_refusal_is_an_outcome_and_other_errors_are_not():
    vendor = FakeVendor()

    def fail():
        raise RuntimeError("not the vendor's")

    with validation.watching(vendor) as watch:
        refused = validation.outcome_of(watch, lambda: vendor.wrong(FakeTensor()))
        with pytest.raises(RuntimeError, match="not the vendor's"):
            validation.outcome_of(watch, fail)
        assert validation.outcome_of(watch, lambda: vendor.linear(FakeTensor())) == {"outcome": "pass"}
    assert refused == {"outcome": "refused", "op": "ttnn.wrong", "message": "no"}


def test_only_the_chosen_meshes_are_validated(monkeypatch):
    monkeypatch.setattr(validate, "models", lambda: ["org/model", "org/other"])
    monkeypatch.setattr(validate, "meshes", lambda model: ["N150", "P150"])
    monkeypatch.setattr(validate, "FULL_CONTEXT", (("org/long", "P150"), ("org/long", "N150")))
    assert list(validate.runs(["org/model"], ["P150"])) == [("full_width", "P150", "org/model")]
    assert list(validate.runs(["org/long"], ["P150"])) == [("full_context", "P150", "org/long")]
    assert list(validate.runs(None, ["P150"]))[-1] == ("whole_demo", "P150", None)


def test_validating_names_what_changed_and_fails_for_what_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["validate"])
    monkeypatch.setattr(validate, "runs", lambda names, meshes: [("program", "N150", None)])
    monkeypatch.setattr(table, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    table.RECORDS.mkdir()
    table.README.write_text(f"{table.BEGIN}\n{table.END}\n")

    def validating(made):
        monkeypatch.setattr(validate, "run", lambda program, mesh, output, model: validation.write_json(output, made))
        return validate.main()

    assert validating(record()) == 0
    assert "0 case(s) refused" in capsys.readouterr().out
    refused = case(outcome="refused", op="ttnn.add", message="no more")
    assert validating(record(ttnn="2.0", cases=[refused])) == 1
    assert "program-N150: ttnn 1.0 -> 2.0" in capsys.readouterr().out
    assert "ttnn.add: no more" in table.README.read_text()
