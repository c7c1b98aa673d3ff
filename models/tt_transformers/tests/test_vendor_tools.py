"""The vendor's tools read what the prediction writes: tt-perf-report its CSV, ttnn-visualizer its report."""

import csv
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request

import pytest

from models.common import benchmark_record
from models.common.prediction import perf_report, visualizer
from models.tt_transformers.measure.scenario import Predicted, Scenario

TOOLS = benchmark_record.ROOT / ".venv-tools" / "bin"

pytestmark = [pytest.mark.whole, pytest.mark.tools]


@pytest.fixture(scope="module", autouse=True)
def tools():
    if not (TOOLS / "ttnn-visualizer").exists():
        assert "TT_REQUIRE_TOOLS" not in os.environ, f"{TOOLS} has no ttnn-visualizer: run make setup-tools"
        pytest.skip("make setup-tools installs the vendor's tools")


@pytest.fixture(scope="module")
def predicted():
    return Predicted.of(Scenario("Llama-3.2-1B", mesh="N300", num_layers=1), memory=False)


def test_tt_perf_report_reads_the_predicted_ops(predicted, tmp_path):
    ops, table = predicted.forecast.decode, tmp_path / "table.csv"
    perf_report.write(tmp_path / "ops.csv", ops, predicted.forecast.card)
    command = [TOOLS / "tt-perf-report", tmp_path / "ops.csv", "--csv", table, "--no-summary"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "MPLCONFIGDIR": str(tmp_path)})
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == len(ops.order)
    for row, index in zip(rows, ops.order):
        call, seconds = ops.calls[index], ops.times[index].seconds
        assert row["OP Code"].startswith(call.op)
        assert float(row["Device Time"]) == pytest.approx(seconds * 1e6, abs=0.01)
    matmuls = [row for row in rows if row["OP Code"].startswith("Matmul")]
    assert {row["Bound"] for row in matmuls} == {"DRAM"}
    assert all(row["Cores"] == "12" and 50 < float(row["DRAM %"]) < 100 for row in matmuls)


@pytest.fixture(scope="module")
def visualizer_answers(predicted, tmp_path_factory):
    """Asks the running ttnn-visualizer for a path of its API."""
    folder = tmp_path_factory.mktemp("report")
    visualizer.write(folder, predicted.log.decode, predicted.forecast.card, predicted.scenario.mean_context)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "server.log").open("w+")
    environment = {**os.environ, "HOME": str(folder), "USAGE_RECORDING_DISABLED": "true", "BROWSER": "true"}
    command = [TOOLS / "ttnn-visualizer", "--profiler-path", folder, "--host", "127.0.0.1", "--port", str(port)]
    # It starts gunicorn, and ends without ending that. So both get a group of their own, which is ended as a whole.
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        yield lambda path: json.load(
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}?{instance(folder / 'server.log', server)}")
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()


def instance(log, server) -> str:
    """The query that names the loaded report, which the server prints once it answers."""
    while server.poll() is None:
        text = log.read_text()
        if "Launching browser" in text:
            return re.search(r"instanceId=\w+", text)[0]
        time.sleep(0.2)
    pytest.fail(log.read_text())


def test_ttnn_visualizer_shows_operations_tensors_and_buffers(predicted, visualizer_answers):
    log = predicted.log.decode
    operations = visualizer_answers("operations")
    assert [operation["name"] for operation in operations] == [record.name for record in log]
    assert sum(operation["duration"] for operation in operations) == pytest.approx(predicted.forecast.decode.seconds)

    tensors = visualizer_answers("tensors")
    shapes = {tensor["shape"] for tensor in tensors}
    assert {f"Shape({list(spec.shape)})" for record in log for spec in record.outputs} <= shapes

    matmul = next(number for number, record in enumerate(log, start=1) if record.name == "ttnn.linear")
    shown = visualizer_answers(f"operations/{matmul}")
    addresses = {(buffer["buffer_type"], buffer["address"]) for buffer in shown["buffers"]}
    assert {(tensor["buffer_type"], tensor["address"]) for tensor in shown["inputs"] + shown["outputs"]} <= addresses
    assert len(visualizer_answers("buffers")) > len(log)


def test_buffers_of_a_report_never_overlap(predicted, tmp_path):
    visualizer.write(tmp_path, predicted.log.decode, predicted.forecast.card, predicted.scenario.mean_context)
    database = sqlite3.connect(tmp_path / "db.sqlite")
    live = {}
    for operation, kind, address, size in database.execute(
        "SELECT operation_id, buffer_type, address, max_size_per_bank FROM buffers"
    ):
        live.setdefault((operation, kind), []).append((address, address + size))
    assert len(live) > len(predicted.log.decode)
    for places in live.values():
        places.sort()
        assert all(end <= start for (_, end), (start, _) in zip(places, places[1:]))
