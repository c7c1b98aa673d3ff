"""The JSON record of a demo run (`--output_json`). README.md beside this file documents the fields."""

import math
from datetime import datetime, timezone
from pathlib import Path

from loguru import logger

from models.common import backend, benchmark_record, whole_file
from models.tt_transformers.demo import prediction

SCHEMA_VERSION = 1

STOP_REASONS = ("eos", "max_generated_tokens", "max_seq_len", "repeated_step")

_NUMBER = (int, float)

# Field -> type, `[type]` for a list, `{...}` for an object. A name that ends in `?` may be left out.
_SCHEMA = {
    "schema_version": int,
    "created": str,
    "backend": str,
    "values_meaningful": bool,
    "mesh": str,
    "model": str,
    "precision": str,
    "precision_settings": str,
    "case": str,
    "settings": dict,
    "notes": [str],
    "versions": dict,
    "measurements": [{"name": str, "value": _NUMBER, "unit": str, "batch?": int}],
    "users": [
        {
            "batch": int,
            "user": int,
            "group?": int,
            "prompt": str,
            "prompt_tokens": int,
            "images?": [str],
            "token_ids": [int],
            "text": str,
            "stop_reason": str,
        }
    ],
    "accuracy?": {
        "top1": _NUMBER,
        "top5": _NUMBER,
        "tokens?": int,
        "perplexity?": _NUMBER,
        "reference_perplexity?": _NUMBER,
        "first_difference?": int,
    },
    "prediction?": {
        "what": str,
        "mesh": str,
        **{name: {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER} for name in ("decode_t/s/u", "decode_t/s")},
        "TTFT?": {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "unit": str},
    },
}


def validate(record: dict):
    """Checks a record against schema version 1.

    Raises:
        ValueError: naming the field and what it should hold.
    """
    _check("record", record, _SCHEMA)
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"record: schema_version is {record['schema_version']}; accepted: {SCHEMA_VERSION}")
    for index, user in enumerate(record["users"]):
        if user["stop_reason"] not in STOP_REASONS:
            raise ValueError(
                f"record.users[{index}].stop_reason is {user['stop_reason']!r}; accepted: {', '.join(STOP_REASONS)}"
            )


def _check(where, value, schema):
    if isinstance(schema, dict):
        _check(where, value, dict)
        fields = {name.rstrip("?"): (name.endswith("?"), kind) for name, kind in schema.items()}
        for name in value:
            if name not in fields:
                raise ValueError(f"{where}: field {name!r} is not known; accepted: {', '.join(fields)}")
        for name, (optional, kind) in fields.items():
            if name in value:
                _check(f"{where}.{name}", value[name], kind)
            elif not optional:
                raise ValueError(f"{where}: field {name!r} is missing")
    elif isinstance(schema, list):
        _check(where, value, list)
        for index, item in enumerate(value):
            _check(f"{where}[{index}]", item, schema[0])
    elif not isinstance(value, schema) or isinstance(value, bool) and schema is not bool:
        names = " or ".join(kind.__name__ for kind in (schema if isinstance(schema, tuple) else (schema,)))
        raise ValueError(f"{where} is {value!r}; expected {names}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")


def write_record(path: str | Path, record: dict):
    """Validates the record and writes it to `path`, whole or not at all.

    Raises NotWritten if it cannot be written; the record is printed then, as one line of JSON.
    """
    validate(record)
    with whole_file.printed_if_not_written(record, "output_json"):
        whole_file.write_json(path, record, indent=2)


def keep_benchmark(args, settings, measurements, accuracy):
    """Writes the measurements to generated/benchmarks, to be compared with other runs' records."""
    entries = [benchmark_record.measurement(m.name, m.value, m.unit, m.batch) for m in measurements]
    if accuracy is not None:
        entries += [benchmark_record.measurement(name, getattr(accuracy, name), "%") for name in ("top1", "top5")]
    benchmark = benchmark_record.make(
        mesh=args.mesh_name,
        model=args.model_name,
        precision=args.precision.name,
        case=settings.name,
        measurements=entries,
        settings=settings.as_json(),
        precision_settings=args.precision.describe(),
    )
    try:
        benchmark_record.write(benchmark)
    except OSError as error:
        logger.warning(f"no benchmark record is kept: {error}")


def make_record(args, settings, batches, measurements, notes, accuracy=None, predicted=None) -> dict:
    """The record of a run, as README.md documents it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "backend": backend.name(),
        "values_meaningful": backend.values_meaningful(),
        "mesh": args.mesh_name,
        "model": args.model_name,
        "precision": args.precision.name,
        "precision_settings": args.precision.describe(),
        "case": settings.name,
        "settings": settings.as_json(),
        "notes": notes,
        "versions": backend.versions(),
        "measurements": [m.as_json() for m in measurements],
        "users": [
            {
                "batch": user.batch,
                "user": user.index,
                **({} if args.data_parallel == 1 else {"group": user.index // settings.batch_size}),
                "prompt": user.prompt,
                "prompt_tokens": len(user.prompt_ids),
                **({"images": list(user.image_names)} if user.image_names else {}),
                "token_ids": user.token_ids,
                "text": args.decode(user.token_ids),
                "stop_reason": user.stop_reason,
            }
            for users in batches
            for user in users
        ],
        **({} if accuracy is None else {"accuracy": accuracy.as_json()}),
        **({} if predicted is None else {"prediction": prediction.as_record(predicted)}),
    }
