"""Phi-3-mini at full width passes the vendor's checks. The committed records and the README agree with that."""

import json
from itertools import product

import pytest

from models.common.mesh_names import LINES
from models.common.vendor import watching as validation
from models.tt_transformers.measure.vendor import table, validate
from tests.support.wide import some_of


@pytest.fixture(scope="module", params=some_of(LINES, "T3K"))
def records(request, tmp_path_factory):
    """The committed record of a mesh, and the record that this installation gives."""
    mesh = request.param
    output = tmp_path_factory.mktemp(mesh) / "record.json"
    validate.run("full_width", mesh, output)
    return json.loads(validate.committed("full_width", mesh).read_text()), json.loads(output.read_text())


@pytest.mark.vendor
def test_vendor_refuses_nothing(records):
    _, measured = records
    assert [case for case in measured["cases"] if case["outcome"] != "pass"] == []
    covered = {(case["mode"], case["users"], case["paged"]) for case in measured["cases"]}
    assert covered == set(product(("performance", "accuracy"), (1, 32), (True, False)))
    assert all(case["prompt_tokens"] == [128, 2048] for case in measured["cases"])


@pytest.mark.vendor
def test_committed_record_is_what_this_ttnn_says(records):
    committed, measured = records
    changes = validation.changes(committed, measured)
    assert committed == measured, "\n".join(["make validate writes new records; what changed:", *changes])


def test_table_in_the_readme_is_made_from_the_records():
    text = table.README.read_text(encoding="utf-8")
    assert text == table.with_table(text, table.markdown(table.read_records()))
