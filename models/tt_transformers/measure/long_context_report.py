"""Writes LONG_CONTEXT.md from the committed records.

    python -m models.tt_transformers.measure.long_context_report [--check]

`--check` writes nothing and exits with 1 if the file is not current.
"""

import argparse
import json
import sys
from pathlib import Path

import models  # noqa: F401
from models.common import whole_file
from models.common.benchmark_record import medians
from models.common.mesh_names import LINES
from models.tt_transformers.measure.chunks import BFP4_CACHE, PRECISIONS
from models.tt_transformers.measure.report import agreed, read_records
from models.tt_transformers.measure.tables import provenance, table
from models.tt_transformers.tt.config.model_params import Limits

LONG_CONTEXT = Limits.of("Phi-3-mini-128k-instruct").long_context["N300"]["beyond"]
RECORDS = Path(__file__).parent / "records" / "long_context"
FILE = Path(__file__).resolve().parents[1] / "LONG_CONTEXT.md"


_HEAD = """# Long context: memory and prefill chunks

Written by `python -m models.tt_transformers.measure.long_context_report` from the records in `measure/records/long_context`; do not edit. \
None of these figures was measured on a card: memory is counted by the emulator's allocator and checked against the vendor's, \
chunk sizes are checked by the vendor's package on its mock device, and times are a CPU's. The time and memory of a prefill on the \
emulator are in [PERF.md](../../PERF.md).
"""


def read(pattern: str) -> list[dict]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob(pattern))]
    return sorted(records, key=lambda record: LINES.index(record["mesh"]))


def markdown() -> str:
    return "\n".join([_HEAD, capacity(), chunks(), cache_accuracy()])


def capacity() -> str:
    rows, records = [], read("capacity-*.json")
    size = agreed(dict(enumerate(records)), "capacity", lambda record: record["capacity"])
    large_chunk, small_chunk = (one(records, "N300", "performance", chunk) for chunk in (128, 4))
    small_cache = one(records, "N300", BFP4_CACHE, 4)
    for record in records:
        best = record["largest"]
        parts = [f"{record[name] / 1e9:.2f}" for name in ("weights", "kv_cache", "activations")]
        total = sum(record[name] for name in ("weights", "kv_cache", "activations"))
        rows.append([
            record["mesh"], precision_of(record), f"{record['chunk'] // 1024}k", *parts, f"{total / 1e9:.2f}",
            f"{record['seconds']:.0f} s", "none" if best is None else f"{best['context']}",
        ])
    header = ["mesh", "precision", "prefill chunk", "weights", "KV cache", "activations", "together", "run took", "largest context"]
    return f"""## DRAM of a device, Phi-3-mini-128k-instruct, one user of 131072 tokens

Sizes are in GB. A device has {size / 1e9:.2f} GB besides the trace region. `largest context` is the largest one that fits, in steps of \
1024 tokens. For each row the whole model ran shape-only: a prefill of all but one token of the context, and one decode step. The sizes \
of weights and caches agree with the vendor's allocator (tests/test_capacity.py).

{table(header, rows, 3)}

On N300 a chunk of 128k, the default for contexts of up to {LONG_CONTEXT // 1024}k, costs {large_chunk["activations"] / 1e9:.1f} GB of \
activations for a prompt of 128k; the default for longer contexts is 4k, whose activations take {small_chunk["activations"] / 1e9:.2f} GB. A \
bfp4 cache (`--optimizations '{PRECISIONS[BFP4_CACHE]}'`) takes N300 to {small_cache["largest"]["context"] // 1024}k. Other settings: \
`python -m models.tt_transformers.measure.capacity --help`.

{provenance({label(record): record for record in records})}
"""


def precision_of(record: dict) -> str:
    """The name that `PRECISIONS` gives the record's settings, or the settings."""
    settings = record["optimizations"] or record["optimizations_base"]
    return next((name for name, known in PRECISIONS.items() if known == settings), settings)


def one(records: list[dict], mesh: str, precision: str, chunk: int) -> dict:
    """The capacity record of these settings, the chunk in thousands of tokens."""
    (found,) = [r for r in records if label(r) == f"{mesh} {precision} {chunk}k"]
    return found


def label(record: dict) -> str:
    return f"{record['mesh']} {precision_of(record)} {record['chunk'] // 1024}k"


def chunks() -> str:
    rows, records = [], read("prefill_chunks-*.json")
    for record in records:
        refused = {answer for answers in record["answers"].values() for answer in answers.values()} - {"pass"}
        rows.append([
            record["mesh"], f"{record['default']}k", f"{record['largest']}k", "; ".join(sorted(refused)) or "none",
        ])
    first = records[0]
    header = ["mesh", "default", "largest accepted", "refusals"]
    return f"""## Prefill chunk sizes, {first['model']} at full width

Every size of `MAX_PREFILL_CHUNK_SIZE` (1k to 128k) was tried in both modes, and with a bfp4 KV cache, with {first['layers']} of the 32 layers on the mock device \
of ttnn {first['versions']['ttnn']}. The defaults of N150 and N300 are the vendor's. N300's is for contexts of up to {LONG_CONTEXT // 1024}k; for longer contexts the default is 4k. \
A chunk larger than the default is accepted if its activations fit beside the weights and caches of all 32 layers.

{table(header, rows)}

{provenance({record["mesh"]: record for record in records})}
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
    whole_file.write(FILE, markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
