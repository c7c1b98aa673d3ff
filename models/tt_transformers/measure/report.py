"""Writes PERF.md from the committed records and targets.

    python -m models.tt_transformers.measure.report [--check]

`--check` writes nothing and exits with 1 if PERF.md is not current.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import models  # noqa: F401
from models.common import benchmark_record, model_targets, whole_file
from models.tt_transformers.measure import bench_report, pareto, prediction_report
from models.tt_transformers.measure.long_prefill import LENGTHS, SYSTEMS
from models.tt_transformers.measure.tables import provenance, table

RECORDS = Path(__file__).parent / "records"
PERF = benchmark_record.ROOT / "PERF.md"

_HEAD = """# Performance and accuracy

Written by `python -m models.tt_transformers.measure.report` from the records in `models/tt_transformers/measure/records` and from \
`models/model_targets.yaml`; do not edit.

There are four kinds of figures. **Measured**: by this project, on the backend and machine that the table names. \
**Predicted**: by this project, for a card that nobody ran it on. **Published**: by the vendor, for its own software on its cards. **Not known**: nobody has run this project on a card, so it has \
no speed there to report. An emulator's speed is a CPU's; it says how long tests take, not how fast a card is.
"""

_UNKNOWN = """## Not known

- Speed and token accuracy of this project on a card or on the vendor's simulator.
- Token accuracy of Phi-3-mini-128k-instruct itself: its weights were not available where the figures above were measured.
"""


def read_records(folder: Path = RECORDS) -> dict:
    """File stem -> record, in order of name."""
    return {path.stem: benchmark_record.read(path) for path in sorted(folder.glob("*.json"))}


def markdown(records: dict, targets: dict) -> str:
    sections = [
        _HEAD,
        _accuracy({name: record for name, record in records.items() if name.startswith("accuracy-")}),
        _pareto(records["pareto"]) if "pareto" in records else None,
        bench_report.section({name: record for name, record in records.items() if name.startswith("bench-")}),
        bench_report.large_model(records["large-model"]) if "large-model" in records else None,
        _prefill(records["prefill-N150"]) if "prefill-N150" in records else None,
        prediction_report.section(),
        _published(targets),
        _UNKNOWN,
    ]
    return "\n".join(section for section in sections if section)


def agreed(records: dict, what: str, get):
    """The value of `get(record)`, which must be the same for all records; else raises ValueError with their names."""
    found = {}
    for name, record in records.items():
        found.setdefault(json.dumps(get(record), sort_keys=True), []).append(name)
    if len(found) > 1:
        values = "; ".join(f"{value} in {', '.join(names)}" for value, names in found.items())
        raise ValueError(f"records of one table must agree in {what}: {values}")
    return get(next(iter(records.values())))


def _accuracy(records):
    if not records:
        return None
    rows = []
    order = {"bf16": 0, "accuracy": 1, "performance": 2}
    for record in sorted(records.values(), key=lambda record: (record["mesh"], order[record["precision"]])):
        values = {name: value for name, (value, _) in benchmark_record.medians(record).items()}
        first = values.get("first difference")
        rows.append([
            record["mesh"], record["precision"], str(record["facts"]["users"]), f"{values['top1']:.2f} %", f"{values['top5']:.2f} %",
            f"{values['perplexity']:.4f}", f"{values['reference perplexity']:.4f}", "none" if first is None else f"{first:.0f}",
            *(
                (f"{values['decode ops']:.0f}", f"{values['decode bytes'] / 1e6:.2f} MB", f"{values['weight bytes'] / 1e6:.2f} MB")
                if "decode ops" in values
                else ("-", "-", "-")
            ),
        ])
    model = agreed(records, "model", lambda record: record["model"])
    prefill, generated = (agreed(records, name, lambda record: record["facts"][name]) for name in ("prefill", "generated"))
    dtype, text = (agreed(records, name, lambda record: record["facts"]["reference"][name]) for name in ("dtype", "text"))
    easy = ", and such text repeats itself: its tokens are easier to predict than a book's" if "continued" in text else ""
    labelled = {f"{record['mesh']} {record['precision']}": record for record in records.values()}
    header = [
        "mesh", "mode", "texts", "top-1", "top-5", "perplexity", "Hugging Face's", "first difference", "decode ops",
        "bytes a step", "weight bytes a step",
    ]
    return f"""## Token accuracy (measured)

{model} against Hugging Face in {dtype}, by teacher forcing: texts of {prefill} tokens of prompt and {generated} to predict. \
The texts are {text}{easy}. Ops and bytes are those of each device in one decode step of all users at {prefill} tokens; every op counts as \
reading its inputs and writing its outputs once.

{table(header, rows, 2)}

{provenance(labelled)}
"""


def _pareto(record):
    return f"""## Precision settings (measured)

Token accuracy of {record['model']} against the weight bytes that a decode step reads (texts: \
{record['facts']['users']}, mesh: {record['mesh']}). `make pareto` evaluates the configurations in `models/tt_transformers/tests/configurations`.

{pareto.table(pareto.points_of(record))}

![Pareto front](models/tt_transformers/measure/records/pareto.png)

{provenance({record['case']: record})}
"""


def _prefill(record):
    values = {}
    for entry in record["measurements"]:
        values.setdefault(entry["name"], []).append(entry["value"])
    rows = []
    for length in LENGTHS:
        times = [statistics.median(values[f"prefill-{length}.{name}"]) for name in SYSTEMS]
        cpu = [statistics.median(values[f"prefill_cpu-{length}.{name}"]) for name in SYSTEMS]
        peaks = [values[f"peak_memory-{length}.{name}"][0] / 1e6 for name in SYSTEMS]
        ratios = [values[f"{name}-{length}"][0] for name in ("prefill_ratio", "prefill_cpu_ratio", "peak_memory_ratio")]
        rows.append([
            str(length), *(f"{value:.2f}" for value in (*times, *cpu)), f"{times[0] / length * 1e3:.2f}",
            *(f"{ratio:.2f}" for ratio in ratios[:2]), *(f"{peak:.0f}" for peak in peaks), f"{ratios[2]:.2f}",
        ])
    header = [
        "tokens", "emulator s", "Hugging Face s", "emulator CPU s", "Hugging Face CPU s", "emulator ms/token", "time ratio",
        "CPU time ratio", "emulator MB", "Hugging Face MB", "memory ratio",
    ]
    rounds = len(values[f"prefill-{LENGTHS[0]}.{SYSTEMS[0]}"])
    return f"""## Prefill of long prompts (measured)

{record['model']}, {record['precision']}, in chunks of {record['facts']['chunk']} tokens, against Hugging Face transformers (bf16, \
sdpa). Each system runs in its own process; they run in turn, for {rounds} rounds. Figures are medians; ratios (emulator / Hugging Face) are \
medians of the rounds' ratios. CPU time counts all threads. MB are the peaks of whole processes, model included. The load average was \
{record['facts']['load_average']}.

{table(header, rows, 0)}

{provenance({record['case']: record})}

The DRAM of full-size runs, the largest contexts and prefill chunks, and the accuracy of a bfp4 KV cache are in \
[LONG_CONTEXT.md](models/tt_transformers/LONG_CONTEXT.md).
"""


def _published(targets):
    rows = []
    for target in targets.values():
        if target.source == "vendor":
            backend_name, model, mesh, mode, case = target.key
            rows += [[model, mesh, mode, case, m.name, f"{m.expected:g} {m.unit}"] for m in target.metrics]
    return f"""## Published by the vendor, not measured here

For its own model code on its cards. They are this project's targets on a card.

{table(["model", "mesh", "mode", "case", "figure", "published"], rows, 5)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = markdown(read_records(), model_targets.load())
    if not options.check:
        whole_file.write(PERF, text)
    elif not PERF.is_file() or PERF.read_text(encoding="utf-8") != text:
        sys.exit("PERF.md is not current: run python -m models.tt_transformers.measure.report")


if __name__ == "__main__":
    main()
