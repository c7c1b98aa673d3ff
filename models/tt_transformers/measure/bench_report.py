"""The sections of PERF.md that `make bench` measures: the emulator against other systems, and an 8B."""

import statistics

from models.common import cpu
from models.tt_transformers.measure import machine_limits
from models.tt_transformers.measure.benchmarks import BENCHMARKS, LLAMA_CPP_AIM, SYSTEMS, Workload
from models.tt_transformers.measure.large_model import MEMORY_AIM, STARTS
from models.tt_transformers.measure.tables import provenance, table

AT_MOST = ("peak memory", "start-up")  # less is better
LLAMAS = list(dict.fromkeys(kind for benchmark in BENCHMARKS.values() for kind in benchmark.llama_cpp))
BOUND = 0.5  # of what the machine can do


def section(records: dict) -> str | None:
    """`records`: file stem -> record of `measure.speed`."""
    if not records:
        return None
    rows = sorted((row for record in records.values() for row in _rows(record)), key=lambda row: row[0])
    header = [
        "model", "what", "processor", "threads wait", "emulator", "Hugging Face", "ratio", "its range", "aim", "met",
        *(f"to llama.cpp {kind}" for kind in LLAMAS), "weights read", "matmuls", "bound by",
    ]  # fmt: skip
    versions = {(work["version"], work["system_info"]) for r in records.values() if (work := r["facts"].get("llama_cpp"))}
    builds = "".join(f" llama-cpp-python {version} ({info})." for version, info in sorted(versions))
    return f"""## Emulator against Hugging Face transformers and llama.cpp (measured)

Figures are medians; a ratio (emulator / other) is the median of the rounds' ratios. {_work(records)} Prefill and decode of the emulator \
and of Hugging Face (bf16, sdpa) are timed in turn in one process, with {_threads(records)} torch threads; threads wait for each other as \
OMP_WAIT_POLICY says. On a processor that has more than AVX2, the rows of AVX2 are of processes that use no wider instructions. \
Start-up and peak memory are measured in a process for each system, with one user; peak memory is resident memory, mapped pages \
included; trained weights are in the emulator's cache. Hugging Face's process there imports nothing of this project and waits as torch \
does by default. Load averages were {_loads(records)}. If one is well above the number of cores, other work slowed the systems down.

llama.cpp runs random weights of a Llama of the same widths, with one user, in a process that takes its turn in every round. \
A ratio to it in decode is at equal bytes of weights a token: of GB/s, not of t/s; the aim is {LLAMA_CPP_AIM}. In prefill it is of t/s.{builds}

What bounds a figure: *weights read* is the bytes of weights of a decode step over its time, *matmuls* the operations of \
linear layers over theirs. Both are given also as a share of what this machine reached in the same run in a sum over a large array and in a matmul \
(torch, the same threads). Shares over 100 % are of weights that fit into the caches. A figure is bound by the larger share if that is at least \
{BOUND:.0%}, else by other work: attention, norms, sampling, the calls of ops.

{table(header, [list(row[1]) for row in rows], 4)}

{provenance({_label(record): record for record in records.values()})}
"""


def large_model(record: dict) -> str:
    values = {entry["name"]: entry["value"] for entry in record["measurements"] if entry["iteration"] is None}
    read = _median(record, machine_limits.READ)
    rows = []
    for kind in STARTS:
        rate, peak = values[f"{kind}/decode"], values[f"{kind}/peak memory"]
        rows.append([
            kind, f"{values[f'{kind}/start-up']:.1f}", f"{values[f'{kind}/making weights']:.1f}", f"{rate:.2f}",
            _share(rate * record["facts"]["weight_bytes"] / 1e9, read, "GB/s"), f"{peak:.0f}", f"{MEMORY_AIM}",
            "yes" if peak <= MEMORY_AIM else "no",
        ])  # fmt: skip
    header = ["start", "first token s", "making weights s", "decode t/s", "weights read", "peak memory MB", "aim", "met"]
    workload = Workload(**record["facts"]["workload"])
    return f"""## A large model on the emulator (measured)

{record['model']}, {record['facts']['layers']} layers, random weights, {record['precision']}, one user with a prompt of {workload.prompt} tokens and \
{workload.steps} decode steps. Each start is a process of its own: the first finds an empty weight cache, the second finds the first's \
({values['weight cache']:.0f} MB). Making the random weights is a part of the first start that a checkpoint would not have. Peak memory is resident \
memory, mapped pages included. The load average was {record['facts']['load_average']}.

{table(header, rows)}

{provenance({record['case']: record})}
"""


def kind_of_cpu(record: dict) -> str:
    """The widest instructions of a record's processes; records of before they were recorded do not say."""
    return cpu.kind(record["cpu"]["features"], record["cpu"]["limits"]) if "cpu" in record else "not recorded"


def _rows(record: dict):
    """(what to sort by, cells) for each workload and phase of a record."""
    facts, benchmark = record["facts"], BENCHMARKS[record["case"].removeprefix("bench ")]
    workloads = {workload.name: workload for workload in (Workload(**w) for w in facts["workloads"])}
    values, units = {}, {}
    for entry in record["measurements"]:
        what, _, system = entry["name"].rpartition("/")
        if what != "machine":
            values.setdefault(what, {}).setdefault(system, []).append(entry["value"])
            units.setdefault(what, entry["unit"])
    model = f"{record['model']}, {facts['layers']} layers, {record['precision']}"
    for index, (what, systems) in enumerate(values.items()):
        ratios = systems["ratio"]
        ratio = round(statistics.median(ratios), 2)
        aim = benchmark.aims.get(what) if record["precision"] == "performance" else None
        met = aim is not None and (ratio <= aim if what.endswith(AT_MOST) else ratio >= aim)
        batch, phase = what.split("/")
        cells = [
            model, what.replace("/", " "), kind_of_cpu(record), facts["wait_policy"],
            *(f"{statistics.median(systems[system]):.4g} {units[what]}" for system in SYSTEMS),
            f"{ratio:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}", *(("-", "-") if aim is None else (f"{aim:g}", "yes" if met else "no")),
            *(_to_llama_cpp(systems, kind, phase) for kind in LLAMAS), *_bounds(record, workloads[batch], phase, systems),
        ]  # fmt: skip
        yield (model, index, kind_of_cpu(record), facts["wait_policy"]), cells


def _to_llama_cpp(systems: dict, kind: str, phase: str) -> str:
    """The ratio, llama.cpp's speed, and in decode whether the ratio meets its aim."""
    name = f"ratio to llama.cpp {kind}"
    if name not in systems:
        return "-"
    ratio = round(statistics.median(systems[name]), 2)
    rate = f"{ratio:.2f} of {statistics.median(systems[f'llama.cpp {kind}']):.4g} t/s"
    if phase != "decode":
        return rate
    return f"{rate}, {'met' if ratio >= LLAMA_CPP_AIM else 'missed'}"


def _bounds(record: dict, workload: Workload, phase: str, systems: dict) -> tuple[str, str, str]:
    """What the emulator reads and multiplies a second, and which of them bounds it."""
    facts = record["facts"]
    if phase not in ("prefill", "decode") or "parameters" not in facts:
        return "-", "-", "-"
    rate, parameters = statistics.median(systems["emulator"]), facts["parameters"]
    steps = rate / workload.users  # tokens of one user a second
    heads = 1 if phase == "decode" else 1 / workload.prompt  # a prefill has logits of the last token only
    operations = 2 * rate * (parameters["layers"] + heads * parameters["head"]) / 1e12
    matmul = _median(record, machine_limits.MATMUL)
    shares = {"matmuls": operations / matmul}
    read = "-"
    if phase == "decode":
        limit, gigabytes = _median(record, machine_limits.READ), steps * facts["weight_bytes"]["emulator"] / 1e9
        shares["memory"] = gigabytes / limit
        read = _share(gigabytes, limit, "GB/s")
    largest = max(shares, key=shares.get)
    return read, _share(operations, matmul, "TFLOP/s"), largest if shares[largest] >= BOUND else "other work"


def _share(value: float, limit: float, unit: str) -> str:
    return f"{value:.3g} {unit}, {value / limit:.0%}"


def _median(record: dict, name: str) -> float:
    return statistics.median(entry["value"] for entry in record["measurements"] if entry["name"] == name)


def _label(record: dict) -> str:
    return f"{record['case'].removeprefix('bench ')} {record['precision']} {kind_of_cpu(record)} {record['facts']['wait_policy']}"


def _work(records: dict) -> str:
    """The workloads of each benchmark among the records, as sentences."""
    works, rounds = {}, {}
    for record in records.values():
        facts, model = record["facts"], record["model"]
        work = "; ".join(f"batch-{w['users']}: prompts of {w['prompt']} tokens, {w['steps']} decode steps" for w in facts["workloads"])
        weights = "random weights" if facts["random_weights"] else "trained weights"
        rounds.setdefault(model, set()).add(facts["rounds"])
        least, most = min(rounds[model]), max(rounds[model])
        times = f"{most} rounds" if least == most else f"{least} to {most} rounds"
        works[model] = f"{model} has {weights} and runs {times} of {work}."
    return " ".join(works.values())


def _threads(records: dict) -> str:
    return " or ".join(sorted({str(record["facts"]["threads"]) for record in records.values()}))


def _loads(records: dict) -> str:
    loads = [record["facts"]["load_average"] for record in records.values()]
    return f"{min(loads)} to {max(loads)}"
