"""What a change can make worse, measured where absolute times mean nothing: on the emulator.

    python -m models.tt_transformers.measure.regression [--mesh N150 ...] [--mode performance ...]

measures the bundled model, writes a benchmark record for each mesh and mode, and prints what `models/model_targets.yaml`
should then say.
"""

import argparse
import statistics
from collections.abc import Callable

import yaml

import models  # noqa: F401
from models.common.mesh_names import LINES
from models.common import benchmark_record, console
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import accuracy
from models.tt_transformers.measure import step
from models.tt_transformers.measure.systems import HuggingFace, interleaved
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.precision import DEMO_MODES
from models.tt_transformers.tt.reference import Reference
from models.tt_transformers.tt.checkpoints.weights import Weights

# Texts, and tokens of each that are predicted: so many that two more wrong predictions stay within the tolerance of top5.
USERS, TOKENS = 4, 128
ROUNDS, STEPS = 9, 16

# How much worse than expected is accepted, in each metric's unit, and which direction is better. What is counted is exact.
# Accuracy moves by a token or two where a CPU's matrix library adds in another order. Ratios (tolerance: a share of what is
# expected) are medians over short runs beside other work: those of five runs on a machine of 2 cores with a load of 5 lay from
# 27 % below their median to 19 % above it, where 5 rounds were taken.
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
# The emulator's time goes to the work of one card on N150 alone; the ratios would say nothing more elsewhere.
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
    """`METRICS` of the model that `make_args` sets up, name -> value; with 0 `rounds` all but the ratios.

    `build(args, weights)` makes the `Generator` that is measured. It is called twice: the second time the weight cache has to
    hold every weight. `tokens` (default: all) of each text are predicted.
    """
    args = make_args()
    users = args.max_batch_size
    build(args, Weights.of(args)).close()
    state_dict = step.CountingStateDict(args.load_state_dict())
    with build(args, Weights(args.mesh_device, args.placement, state_dict, args.weight_cache)) as generator:
        predicted = token_accuracy.measure(generator, reference, users, tokens)
        costs = step.decode_step_costs(generator, reference.prefill)
        prompts = reference.tokens[:users, : min(128, reference.prefill)].tolist()
        generator.prefill(prompts)
        misses = step.trace_misses(generator, [prompt[0] for prompt in prompts])
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
    """The medians of the rounds' ratios, Hugging Face's seconds / the emulator's: how many times as fast."""
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
    """The benchmark record of what was measured."""
    _, model, mesh, mode, case = key
    entries = [measurement(name, value, METRICS[name][0]) for name, value in measured.items()]
    timed = {"rounds": ROUNDS, "steps": STEPS} if RATIOS[0] in measured else {}
    return benchmark_record.make(mesh=mesh, model=model, precision=mode, case=case, measurements=entries, tokens=TOKENS, **timed)


def as_target(key: tuple, measured: dict) -> dict:
    """An entry of `model_targets.yaml` that expects what was measured."""
    metrics = {}
    for name, value in measured.items():
        unit, tolerance, better = METRICS[name]
        if name in RATIOS:
            tolerance = round(tolerance * value, 3)
        metrics[name] = {"expected": round(value, 3), "tolerance": tolerance, "unit": unit, "better": better}
    return {**dict(zip(("backend", "model", "mesh", "mode", "case"), key)), "source": "measured", "metrics": metrics}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", choices=LINES, nargs="+", default=LINES)
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
