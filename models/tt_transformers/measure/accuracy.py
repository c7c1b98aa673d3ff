"""Measures a model's token accuracy in each mode on each mesh, and writes each as a benchmark record.

    python -m models.tt_transformers.measure.accuracy [--users 8] [--mesh N150 ...] [--mode bf16 ...] [--output FOLDER]

`--kv_cache bfp8 bfp4` instead measures performance mode with the KV cache in each of these formats.
"""

import argparse
import os
from pathlib import Path

import models  # noqa: F401
from models.common import backend, benchmark_record, console, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.common.mesh_names import LINES, MESHES
from models.tt_transformers.measure.counts import decode_step_costs
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.checkpoints.location import BUNDLED, locate
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import Reference, model_identity, reference_path

# The project's targets in percent. A mode that misses one has lost precision somewhere, so do not lower them.
TOP1 = {"bf16": 99, "accuracy": 97, "performance": 92}
TOP5 = 99

KV_CACHES = ("bf16", "bfp8", "bfp4")


def make_args(mesh_device, reference: Reference, users: int, optimizations=None, model=BUNDLED, **settings) -> ModelArgs:
    """A model, set up to predict a reference's texts. Raises ValueError if the reference does not fit it."""
    length = reference.tokens.shape[1]
    args = ModelArgs(
        mesh_device,
        max_batch_size=users,
        max_seq_len=length,
        optimizations=optimizations,
        hf_model=model,
        page_params={"block_size": 32, "max_num_blocks": users * -(-length // 32)},
        **settings,
    )
    reference.check_fits(args)
    return args


def measure(args: ModelArgs, reference: Reference) -> list[dict]:
    """Token accuracy of the model that `args` sets up and, if the backend counts them, a decode step's ops and
    bytes."""
    with Generator.build(args) as generator:
        accuracy = token_accuracy.measure(generator, reference, args.max_batch_size)
        costs = decode_step_costs(generator, reference.prefill) if backend.name() == "emulator" else None
    first = accuracy.first_difference
    return [
        measurement("tokens", accuracy.tokens, "tokens"),
        measurement("top1", accuracy.top1, "%"),
        measurement("top5", accuracy.top5, "%"),
        measurement("perplexity", accuracy.perplexity, ""),
        measurement("reference perplexity", accuracy.reference_perplexity, ""),
        *([] if first is None else [measurement("first difference", first, "token")]),
        *([] if costs is None else _as_measurements(costs)),
    ]


def _as_measurements(costs) -> list[dict]:
    return [
        measurement("decode ops", costs.op_count, "ops"),
        measurement("decode bytes", costs.bytes_moved, "B"),
        measurement("weight bytes", costs.weight_bytes, "B"),
    ]


def measure_record(args: ModelArgs, reference: Reference, precision: str, case: str = "token accuracy", **facts) -> dict:
    """The benchmark record of `measure`. `precision`: the record's name for the precision settings of `args`."""
    return benchmark_record.make(
        mesh=args.device_name,
        model=args.model_name,
        precision=precision,
        case=case,
        measurements=measure(args, reference),
        identity=model_identity(args),
        precision_settings=args.precision.describe(),
        users=args.max_batch_size,
        prefill=reference.prefill,
        generated=reference.generated,
        reference=reference.facts,
        **facts,
    )


def measure_mode(mesh_device, mode: str, reference: Reference, users: int, model=BUNDLED) -> dict:
    args = make_args(mesh_device, reference, users, mode, model)
    return measure_record(args, reference, mode)


def measure_kv_cache(mesh_device, kv_cache: str, reference: Reference, users: int, model=BUNDLED) -> dict:
    """Performance mode with a KV cache in a format of `KV_CACHES`."""
    args = make_args(mesh_device, reference, users, f"precision_cfg = {{kv_cache: {kv_cache}}}", model)
    return measure_record(args, reference, f"performance, KV cache {kv_cache}", "KV cache accuracy", kv_cache=kv_cache)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8, help="texts of the reference to predict (default: 8)")
    parser.add_argument("--mesh", choices=MESHES, nargs="+", default=LINES)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--mode", choices=MODES, nargs="+", default=MODES)
    what.add_argument("--kv_cache", choices=KV_CACHES, nargs="+", help="formats of performance mode's KV cache")
    add_model_options(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="also write accuracy-<mesh>-<mode>.json or kv-cache-<mesh>-<format>.json there"
    )
    options = parser.parse_args()
    measure_one, variants, prefix = measure_mode, options.mode, "accuracy"
    if options.kv_cache:
        measure_one, variants, prefix = measure_kv_cache, options.kv_cache, "kv-cache"
    try:
        if options.output is not None:
            whole_file.make_folder(options.output, "--output")
        reference = load_reference(options)
        for mesh in options.mesh:
            with open_mesh(mesh) as mesh_device:
                for variant in variants:
                    record = measure_one(mesh_device, variant, reference, options.users, options.model)
                    keep(record, None if options.output is None else options.output / f"{prefix}-{mesh}-{variant}.json")
    except (ValueError, OSError) as error:
        parser.error(str(error))


def add_model_options(parser) -> None:
    """`--model` and `--reference`, for `load_reference`."""
    parser.add_argument("--model", default=str(BUNDLED), help="directory or org/name (default: the bundled model)")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="default: the model's in model_params")


def load_reference(options) -> Reference:
    """The given reference, or the model's own. Raises ValueError or FileNotFoundError that names the missing file."""
    return Reference.load(options.reference or reference_path(locate(options.model).name))


def keep(record: dict, output: Path | None) -> None:
    """Keeps a record, as `benchmark_record.keep`, and prints its accuracy."""
    path = benchmark_record.keep(record, output)
    top = {name: value for name, (value, _) in benchmark_record.medians(record).items()}
    line = f"{record['mesh']} {record['precision']}: top-1 {top['top1']:.2f} %, top-5 {top['top5']:.2f} %"
    print(f"{line} ({os.path.relpath(path)})", flush=True)


if __name__ == "__main__":
    console.run(main)
