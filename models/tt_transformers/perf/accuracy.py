"""Measures the bundled model's token accuracy in each mode on each mesh, and writes it as a benchmark record.

    python -m models.tt_transformers.perf.accuracy [--users 8] [--mesh N150 ...] [--mode bf16 ...] [--output FOLDER]
"""

import argparse
import os
from pathlib import Path

import models  # noqa: F401
from models.common import benchmark_record
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.perf.step import decode_step_costs
from models.tt_transformers.perf.systems import Ours
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.model_location import BUNDLED
from models.tt_transformers.tt.precision import ModelOptimizations
from models.tt_transformers.tt.reference import Reference, reference_path

MESHES = ("N150", "N300", "T3K")
MODES = ("bf16", "accuracy", "performance")


def make_args(mesh_device, reference: Reference, users: int, optimizations=None, **settings) -> ModelArgs:
    """The bundled model, set up to predict a reference's texts."""
    length = reference.tokens.shape[1]
    args = ModelArgs(
        mesh_device,
        max_batch_size=users,
        max_seq_len=length,
        optimizations=optimizations,
        hf_model=BUNDLED,
        page_params={"block_size": 32, "max_num_blocks": users * -(-length // 32)},
        **settings,
    )
    reference.check_fits(args)
    return args


def measure(args: ModelArgs, reference: Reference) -> list[dict]:
    """Token accuracy of the model that `args` sets up, and its decode step's ops and bytes."""
    ours = Ours(args)
    accuracy = token_accuracy.measure(ours.generator, reference, args.max_batch_size)
    costs = decode_step_costs(ours.generator, reference.prefill)
    ours.close()
    first = accuracy.first_difference
    return [
        measurement("tokens", accuracy.tokens, "tokens"),
        measurement("top1", accuracy.top1, "%"),
        measurement("top5", accuracy.top5, "%"),
        measurement("perplexity", accuracy.perplexity, ""),
        measurement("reference perplexity", accuracy.reference_perplexity, ""),
        *([] if first is None else [measurement("first difference", first, "token")]),
        measurement("decode ops", costs.op_count, "ops"),
        measurement("decode bytes", costs.bytes_moved, "B"),
        measurement("weight bytes", costs.weight_bytes, "B"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8, help="texts of the reference to predict (default: 8)")
    parser.add_argument("--mesh", choices=MESHES, nargs="+", default=MESHES)
    parser.add_argument("--mode", choices=MODES, nargs="+", default=MODES)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="also write accuracy-<mesh>-<mode>.json there")
    options = parser.parse_args()
    reference = Reference.load(reference_path(BUNDLED.name))
    for mesh in options.mesh:
        with open_mesh(mesh) as mesh_device:
            for mode in options.mode:
                args = make_args(mesh_device, reference, options.users, getattr(ModelOptimizations, mode)())
                made = benchmark_record.make(
                    mesh=mesh,
                    model=args.model_name,
                    precision=mode,
                    case="token accuracy",
                    measurements=measure(args, reference),
                    users=options.users,
                    prefill=reference.prefill,
                    generated=reference.generated,
                    reference=reference.facts,
                )
                path = benchmark_record.write(made)
                top = {name: value for name, (value, _) in benchmark_record.medians(made).items()}
                print(f"{mesh} {mode}: top-1 {top['top1']:.2f} %, top-5 {top['top5']:.2f} % ({os.path.relpath(path)})", flush=True)
                if options.output is not None:
                    benchmark_record.write(made, options.output / f"accuracy-{mesh}-{mode}.json")


if __name__ == "__main__":
    main()
