"""The prediction's rules and rates, against measured ops and against common sense."""

import csv
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from models.common import prediction
from models.common.prediction import trace_csv
from models.common.prediction.call import Call, Operand
from models.common.prediction.card import CARDS, card_of
from models.common.prediction.cost import RATES, time_of, times
from models.common.prediction.fitting import fit, mean_log_error
from models.common.prediction.rules import work_of
from models.common.prediction.work import Work

MEASURED = Path(prediction.__path__[0]) / "measured"
N150 = card_of("N150")
US = 1e-6


def seconds(calls, rates=RATES):
    return [time.seconds for time in times(calls, N150, rates)]


def test_each_call_of_a_measured_trace_is_predicted_from_the_others():
    """The constants that this trace decides are fitted, from values that did not see it, without the call."""
    names = ("op_start", "scalar_tile", "erf_tile", "line")
    unfitted = replace(RATES, op_start=1 * US, scalar_tile=1 * US, erf_tile=1 * US, line=0.02 * US)
    calls, measured = zip(*trace_csv.read(MEASURED / "wormhole_op_times.csv"))
    errors = []
    for left_out in range(len(calls)):
        others = [index for index in range(len(calls)) if index != left_out]
        loss = lambda rates: mean_log_error(seconds([calls[i] for i in others], rates), [measured[i] for i in others])
        (predicted,) = seconds([calls[left_out]], fit(unfitted, names, loss))
        errors.append(abs(predicted / measured[left_out] - 1))
    assert statistics.median(errors) < 0.2, sorted(errors)


def test_half_of_the_measured_matmuls_predict_the_other_half():
    """The table names no formats; `measured/README.md` says what is assumed."""
    with open(MEASURED / "n150_matmul_height_sharded.csv", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    unfitted = replace(RATES, matmul_start=1 * US, multicast_tile=0.3 * US)
    fitting, judging = rows[::20], rows[1::2]
    loss = lambda rates: mean_log_error(
        seconds(map(height_sharded, fitting), rates), [row["duration"] * 1e-9 for row in fitting]
    )
    rates = fit(unfitted, ("matmul_start", "multicast_tile"), loss)
    errors = [
        abs(p / (row["duration"] * 1e-9) - 1) for p, row in zip(seconds(map(height_sharded, judging), rates), judging)
    ]
    assert statistics.median(errors) < 0.2


def height_sharded(row) -> Call:
    m, k, n, cores = (int(row[name]) for name in ("m_size", "k_size", "n_size", "num_cores"))
    x = Operand((1, 1, m, k), "BFLOAT16", place="L1", sharding="HEIGHT_SHARDED", shards=cores)
    weight = Operand((1, 1, k, n), "BFLOAT16")
    out = Operand((1, 1, m, n), "BFLOAT16", place="L1", sharding="HEIGHT_SHARDED", shards=cores)
    return Call("MatmulDeviceOperation", (x, weight), (out,), "HiFi2", cores, {"program": "height_sharded"})


@pytest.mark.parametrize(
    "call, measured",
    [
        # tech_reports/GEMM_FLOPS: 4096^3 bf16 HiFi2 untuned, 2048^3 bfp8 LoFi.
        (("BFLOAT16", 4096, 4096, 4096, "HiFi2", (8, 8)), 2_008_533e-9),
        (("BFLOAT8_B", 2048, 2048, 2048, "LoFi", (8, 8)), 157_223e-9),
        # The vendor's roofline script: one of a Galaxy's chips, 72 cores.
        (("BFLOAT16", 13664, 3584, 5376, "HiFi2", (9, 8)), 6771e-6),
    ],
)
def test_a_large_matmul_takes_the_published_time(call, measured):
    dtype, m, k, n, fidelity, grid = call
    x, weight, out = (Operand((1, 1, *shape), dtype) for shape in ((m, k), (k, n), (m, n)))
    call = Call("MatmulDeviceOperation", (x, weight), (out,), fidelity, settings={"program": "mcast_2d", "grid": grid})
    assert seconds([call])[0] == pytest.approx(measured, rel=0.2)


AMOUNTS = ("products", "vector", "dram_pages", "l1_pages", "lines", "dram_bytes", "wire_bytes", "hops")
BUSY = [
    Work("compute", products=1000, passes=2),
    Work("DRAM", dram_bytes=1e8),
    Work("waiting", dram_pages=100, dram_page_bytes=2048, l1_pages=100, l1_page_bytes=2048, lines=100),
    Work("ethernet", wire_bytes=1e6, hops=3),
]


@pytest.mark.parametrize("work", BUSY, ids=lambda work: work.kind)
@pytest.mark.parametrize("name", (*AMOUNTS, "passes", "dram_page_bytes", "l1_page_bytes"))
def test_more_work_never_takes_less_time(work, name):
    more = replace(work, **{name: getattr(work, name) * 2 + 1})
    assert time_of(more, N150).seconds >= time_of(work, N150).seconds


@pytest.mark.parametrize("work", BUSY, ids=lambda work: work.kind)
def test_each_kind_of_work_takes_twice_as_long_when_doubled(work):
    """So that no kind is free."""
    doubled = replace(
        work,
        **{name: 2 * value for name, value in vars(work).items() if isinstance(value, float | int) and name in AMOUNTS},
    )
    assert time_of(doubled, N150).seconds == pytest.approx(2 * time_of(work, N150).seconds)


@pytest.mark.parametrize("work", BUSY, ids=lambda work: work.kind)
@pytest.mark.parametrize("fact", ["clock_hz", "dram_bytes_s", "reader_bytes_s", "link_bytes_s"])
def test_a_faster_card_is_not_slower(work, fact):
    faster = replace(N150, speed=replace(N150.speed, link_bytes_s=12.5e9))
    slower = replace(faster, speed=replace(faster.speed, **{fact: getattr(faster.speed, fact) / 2}))
    assert time_of(work, faster).seconds <= time_of(work, slower).seconds


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_no_op_reaches_more_than_its_bound(card):
    for call, _ in trace_csv.read(MEASURED / "wormhole_op_times.csv"):
        assert 0 < time_of(work_of(call, card), card).share <= 1


def test_an_op_without_a_cost_is_an_error():
    with pytest.raises(ValueError, match="no cost is known for ttnn.sort"):
        work_of(Call("SortDeviceOperation", (), (), name="ttnn.sort"), N150)


def test_a_mesh_without_facts_is_an_error():
    with pytest.raises(ValueError, match="'N151' is not known; known are N150, .*Galaxy"):
        card_of("N151")


def test_galaxy_is_another_name_of_tg():
    assert card_of("Galaxy") is card_of("TG")


def in_l1(rows, width, shards=None, sharding="WIDTH_SHARDED", dtype="BFLOAT16"):
    return Operand((1, rows, 32, width), dtype, place="L1", sharding=sharding if shards else "INTERLEAVED", shards=shards)


ROW = {"devices": 4, "axis": 1, "ring": True}
WIDE, QKV, SUMS, Q, K = in_l1(1, 2048, 32), in_l1(1, 1280, 8), in_l1(1, 32), in_l1(8, 128, 8), in_l1(8, 128, 8)
CACHE = Operand((1024, 1, 32, 128), "BFLOAT8_B")


@pytest.mark.parametrize(
    "fused, parts",
    [
        (
            Call("RMSAllGatherDeviceOperation", (WIDE,), (WIDE,), settings=ROW),
            [
                Call("LayerNormPreAllGatherDeviceOperation", (WIDE,), (SUMS,)),
                Call("AllGatherDeviceOperation", (SUMS,), (in_l1(1, 128),), settings=ROW),
                Call("LayerNormPostAllGatherDeviceOperation", (WIDE, in_l1(1, 128)), (WIDE,)),
            ],
        ),
        (
            Call("AllReduceCreateQkvHeadsDeviceOperation", (QKV,), (QKV, Q, K, K), settings=ROW),
            [
                Call("AllReduceDeviceOperation", (QKV,), (QKV,), settings=ROW),
                Call("NLPCreateQKVHeadsDecodeDeviceOperation", (QKV,), (Q, K, K)),
            ],
        ),
        (
            Call("RotaryEmbeddingLlamaFusedQKDeviceOperation", (Q, K), (Q, K)),
            [Call("RotaryEmbeddingLlamaDeviceOperation", (x,), (x,)) for x in (Q, K)],
        ),
        (
            Call("PagedFusedUpdateCacheDeviceOperation", (CACHE, K, CACHE, K), (CACHE, CACHE)),
            [Call("PagedUpdateCacheDeviceOperation", (CACHE, K), (CACHE,))] * 2,
        ),
    ],
    ids=["norm", "heads of a sum", "rotation", "caches"],
)
def test_a_fused_op_takes_less_time_than_its_parts_but_no_less_than_any_of_them(fused, parts):
    card = card_of("TG")
    (whole,), alone = times([fused], card), times(parts, card)
    assert max(time.seconds for time in alone) <= whole.seconds < sum(time.seconds for time in alone)
