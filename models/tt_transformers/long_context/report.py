"""Writes LONG_CONTEXT.md from the committed records.

    python -m models.tt_transformers.long_context.report [--check]

`--check` writes nothing and exits with 1 if the file is not what would be written.
"""

import argparse
import json
import sys
from pathlib import Path

import models  # noqa: F401
from models.common.benchmark_record import medians
from models.tt_transformers.perf.report import agreed, provenance, read_records, table

RECORDS = Path(__file__).parent / "records"
FILE = Path(__file__).resolve().parents[1] / "LONG_CONTEXT.md"

_MESHES = ("N150", "N300", "T3K")

_HEAD = """# Long context: memory and prefill chunks

Written by `python -m models.tt_transformers.long_context.report` from the records in `long_context/records`; do not edit. \
None of these figures was measured on a card: memory is counted by the emulator's allocator and checked against the vendor's, \
chunk sizes are checked by the vendor's package on its mock device, and times are a CPU's. The time and memory of a prefill on the \
emulator are in [PERF.md](../../PERF.md).
"""


def read(pattern: str) -> list[dict]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob(pattern))]
    return sorted(records, key=lambda record: _MESHES.index(record["mesh"]))


def markdown() -> str:
    return "\n".join([_HEAD, capacity(), chunks(), cache_accuracy()])


def capacity() -> str:
    rows = []
    for record in read("capacity-*.json"):
        best = record["largest"]
        precision = record["optimizations_base"] + (", KV cache bfp4" if record["optimizations"] else "")
        parts = [f"{record[name] / 1e9:.2f}" for name in ("weights", "kv_cache", "activations")]
        total = sum(record[name] for name in ("weights", "kv_cache", "activations"))
        rows.append([
            record["mesh"], precision, f"{record['chunk'] // 1024}k", *parts, f"{total / 1e9:.2f}",
            f"{record['seconds']:.0f} s", "none" if best is None else f"{best['context']}",
        ])
    header = ["mesh", "precision", "prefill chunk", "weights", "KV cache", "activations", "together", "run took", "largest context"]
    return f"""## DRAM of a device, Phi-3-mini-128k-instruct, one user of 131072 tokens

In GB, of the 12.82 GB that a device has beside the trace region; `largest context` is what fits, found in steps of 1024 tokens. \
Each row is the whole model, run shape-only: a prefill that fills the context but for one token, and one decode step. Weights and \
caches agree with the vendor's allocator (tests/test_capacity.py).

{table(header, rows, 3)}

On N300 a chunk of 128k, the default for contexts of up to 32k, costs 3.7 GB of activations for a prompt of 128k; the default for longer \
contexts is 4k, whose activations take 0.13 GB. A bfp4 cache (`--optimizations 'precision_cfg = {{kv_cache: bfp4}}'`) takes N300 to 128k. Other \
settings: `python -m models.tt_transformers.scripts.capacity --help`.
"""


def chunks() -> str:
    rows = []
    for record in read("prefill_chunks-*.json"):
        refused = {answer for answers in record["answers"].values() for answer in answers.values()} - {"pass"}
        rows.append([
            record["mesh"], f"{record['default']}k", f"{record['largest']}k", "; ".join(sorted(refused)) or "none",
        ])
    first = read("prefill_chunks-*.json")[0]
    header = ["mesh", "default", "largest accepted", "refusals"]
    return f"""## Prefill chunk sizes, {first['model']} at full width

Every size of `MAX_PREFILL_CHUNK_SIZE` (1k to 128k) was tried in both modes with {first['layers']} of the 32 layers on the mock device \
of ttnn {first['ttnn']}. The defaults of N150 and N300 are those of the model's description (N300's for contexts of up to 32k, beyond which it is 4k); a larger chunk than the default \
is accepted wherever its activations fit beside all 32 layers' weights and caches.

{table(header, rows)}
"""


def cache_accuracy() -> str:
    records = {name: record for name, record in read_records().items() if name.startswith("kv-cache-")}
    rows = []
    for record in records.values():
        values = {name: value for name, (value, _) in medians(record).items()}
        rows.append([
            record["facts"]["kv_cache"], record["mesh"], f"{values['top1']:.2f} %", f"{values['top5']:.2f} %",
            f"{values['perplexity']:.3f}", f"{values['reference perplexity']:.3f}", f"{values['tokens']}",
        ])
    model = agreed(records, "model", lambda record: record["model"])
    dtype, text = (agreed(records, name, lambda record: record["facts"]["reference"][name]) for name in ("dtype", "text"))
    header = ["KV cache", "mesh", "top-1", "top-5", "perplexity", "Hugging Face's", "predictions"]
    return f"""## Token accuracy of the KV cache's formats

{model}, performance mode, by teacher forcing against Hugging Face in {dtype}; the texts are {text}.

{table(header, rows, 2)}

{provenance({record['precision']: record for record in records.values()})}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not current")
    if parser.parse_args().check:
        return int(FILE.read_text(encoding="utf-8") != markdown())
    FILE.write_text(markdown(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
