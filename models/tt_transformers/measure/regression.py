"""Regression metrics on the emulator: counts and ratios, not times.

    python -m models.tt_transformers.measure.regression [--mesh N150 ...] [--mode performance ...]

measures the bundled model, writes a benchmark record for each mesh and mode, and prints the entries that
`models/model_targets.yaml` should then have.
"""

import argparse
import statistics
from collections.abc import Callable

import yaml

import models  # noqa: F401
from models.common import benchmark_record, console
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.common.mesh_names import LINES, MESHES
from models.tt_transformers.measure import accuracy
from models.tt_transformers.measure import counts
from models.tt_transformers.measure.systems import HuggingFace, interleaved
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.precision import DEMO_MODES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import Reference

# Number of texts, and of predicted tokens of each: enough that two more wrong predictions stay within top5's tolerance.
USERS, TOKENS = 4, 128
ROUNDS, STEPS = 9, 16

# Unit, tolerance (how much worse than expected is accepted) and better direction of each metric. Counts are exact.
# Accuracy changes by a token or two if a CPU's matrix library adds in another order. Ratios are medians over short runs
# beside other work; their tolerance is a share of the expected value. In five runs of 5 rounds, on a machine of 2 cores
# with a load of 5, they were from 27 % below to 19 % above their median.
METRICS = {
    "top1": ("%", 1.0, "higher"),
    "top5": ("%", 0.5, "higher"),
    "decode_ops": ("ops", 0, "lower"),
    "decode_bytes": ("bytes", 0, "lower"),
    "trace_misses": ("ops", 0, "lower"),
    "weight_cache_misses": ("weights", 0, "lower"),
    "prefill_ratio": ("x Hugging Face", 0.35, "higher"),
    "decode_ratio": ("x Hugging Face", 0.35, "higher"),
}
RATIOS = ("prefill_ratio", "decode_ratio")
# Only on N150 does the emulator do the work of a single device. Ratios on other meshes would say nothing new.
MESH_OF_RATIOS = "N150"


def metrics_of(mesh: str) -> set[str]:
    """Names of `METRICS` that are measured on a mesh."""
    return {name for name in METRICS if mesh == MESH_OF_RATIOS or name not in RATIOS}


def measure(
    make_args: Callable[[], ModelArgs],
    reference: Reference,
    build=Generator.build,
    *,
    tokens: int | None = None,
    rounds: int = ROUNDS,
    steps: int = STEPS,
) -> dict:
    """`METRICS` of the model that `make_args` sets up, name -> value; with 0 `rounds`, all except the ratios.

    `build(args, weights)` makes the `Generator` that is measured. It is called twice: the second time the weight cache
    must hold every weight. `tokens` (default: all) of each text are predicted.
    """
    args = make_args()
    users = args.max_batch_size
    build(args, Weights.of(args)).close()
    state_dict = counts.CountingStateDict(args.load_state_dict())
    with build(args, Weights(args.mesh_device, args.placement, state_dict, args.weight_cache)) as generator:
        predicted = token_accuracy.measure(generator, reference, users, tokens)
        costs = counts.decode_step_costs(generator, reference.prefill)
        prompts = reference.tokens[:users, : min(128, reference.prefill)].tolist()
        generator.prefill(prompts)
        misses = counts.trace_misses(generator, [prompt[0] for prompt in prompts])
        measured = {
            "top1": predicted.top1,
            "top5": predicted.top5,
            "decode_ops": costs.op_count,
            "decode_bytes": costs.bytes_moved,
            "trace_misses": misses,
            "weight_cache_misses": state_dict.reads,
        }
        if rounds:
            systems = {"emulator": generator, "hugging_face": HuggingFace(args.reference_transformer())}
            measured |= ratios(interleaved(systems, prompts, steps, rounds))
    return measured


def ratios(results: list[dict]) -> dict:
    """The medians of the rounds' ratios: Hugging Face's seconds / the emulator's seconds."""
    return {
        name: statistics.median(round_["hugging_face"][index] / round_["emulator"][index] for round_ in results)
        for index, name in enumerate(RATIOS)
    }


def measure_on(mesh: str, mode: str, reference: Reference, model=BUNDLED) -> tuple[tuple, dict]:
    """Target key and metrics of a model in a mode on an emulated mesh. All texts must have `TOKENS` tokens to predict."""
    with open_mesh(mesh) as mesh_device:

        def make_args():
            return accuracy.make_args(mesh_device, reference, USERS, mode, model)

        name = make_args().model_name
        rounds = ROUNDS if mesh == MESH_OF_RATIOS else 0
        measured = measure(make_args, reference, tokens=TOKENS, rounds=rounds)
    return ("emulator", name, mesh, mode, f"regression-{USERS}"), measured


def as_record(key: tuple, measured: dict) -> dict:
    """The benchmark record of the measured values."""
    _, model, mesh, mode, case = key
    entries = [measurement(name, value, METRICS[name][0]) for name, value in measured.items()]
    timed = {"rounds": ROUNDS, "steps": STEPS} if RATIOS[0] in measured else {}
    return benchmark_record.make(mesh=mesh, model=model, precision=mode, case=case, measurements=entries, tokens=TOKENS, **timed)


def as_target(key: tuple, measured: dict) -> dict:
    """An entry of `model_targets.yaml` that expects the measured values."""
    metrics = {}
    for name, value in measured.items():
        unit, tolerance, better = METRICS[name]
        if name in RATIOS:
            tolerance = round(tolerance * value, 3)
        metrics[name] = {"expected": round(value, 3), "tolerance": tolerance, "unit": unit, "better": better}
    return {**dict(zip(("backend", "model", "mesh", "mode", "case"), key)), "source": "measured", "metrics": metrics}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", choices=MESHES, nargs="+", default=LINES)
    parser.add_argument("--mode", choices=DEMO_MODES, nargs="+", default=DEMO_MODES)
    accuracy.add_model_options(parser)
    options = parser.parse_args()
    entries = []
    try:
        reference = accuracy.load_reference(options)
        for mesh in options.mesh:
            for mode in options.mode:
                key, measured = measure_on(mesh, mode, reference, options.model)
                benchmark_record.keep(as_record(key, measured))
                entries.append(as_target(key, measured))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(yaml.safe_dump(entries, sort_keys=False, default_flow_style=None, width=120))


if __name__ == "__main__":
    console.run(main)
