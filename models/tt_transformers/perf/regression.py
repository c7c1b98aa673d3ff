"""What a change can make worse, measured where absolute times mean nothing: on the emulator.

    python -m models.tt_transformers.perf.regression

measures the bundled model and prints what `models/model_targets.yaml` should then say.
"""

import statistics
from collections.abc import Callable

import yaml

import models  # noqa: F401
from models.common.mesh import open_mesh
from models.tt_transformers.perf import step
from models.tt_transformers.perf.systems import HuggingFace, Ours, interleaved
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.model_location import BUNDLED
from models.tt_transformers.tt.reference import Reference, reference_path

USERS = 4
ROUNDS, STEPS = 5, 16
MODES = ("performance", "accuracy")

# How much worse than expected is accepted, in each metric's unit, and which direction is better. What is counted is exact.
# Accuracy moves by a token or two where a CPU's matrix library adds in another order. Ratios (tolerance: a share of what is
# expected) are of medians over short runs beside other work: half the expected speed is within a shared machine's noise.
METRICS = {
    "top1": ("%", 1.0, "higher"),
    "top5": ("%", 0.5, "higher"),
    "decode_ops": ("ops", 0, "lower"),
    "decode_bytes": ("bytes", 0, "lower"),
    "trace_misses": ("ops", 0, "lower"),
    "weight_cache_misses": ("weights", 0, "lower"),
    "prefill_ratio": ("x Hugging Face", 0.5, "higher"),
    "decode_ratio": ("x Hugging Face", 0.5, "higher"),
}
RATIOS = ("prefill_ratio", "decode_ratio")


def measure(make_args: Callable[[], ModelArgs], reference: Reference, make_system=Ours, rounds: int = ROUNDS, steps: int = STEPS) -> dict:
    """All of `METRICS` of the model that `make_args` sets up, name -> value.

    `make_system(args, state_dict)` builds what is measured, an `Ours`. It is built twice: the second time the weight cache
    has to hold every weight.
    """
    args = make_args()
    users = args.max_batch_size
    make_system(args, None).close()
    weights = step.CountingStateDict(args.load_state_dict())
    ours = make_system(args, weights)
    accuracy = token_accuracy.measure(ours.generator, reference, users)
    costs = step.decode_step_costs(ours.generator, reference.prefill)
    prompts = reference.tokens[:users, : min(128, reference.prefill)].tolist()
    ours.prefill(prompts)
    misses = step.trace_misses(ours.generator, [prompt[0] for prompt in prompts])
    results = interleaved([ours, HuggingFace(args.reference_transformer())], prompts, steps, rounds)
    ours.close()
    prefill, decode = (
        statistics.median(round_["hugging_face"][index] / round_["emulator"][index] for round_ in results)
        for index in range(2)
    )
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "decode_ops": costs.op_count,
        "decode_bytes": costs.bytes_moved,
        "trace_misses": misses,
        "weight_cache_misses": weights.reads,
        "prefill_ratio": prefill,
        "decode_ratio": decode,
    }


def bundled_args(mesh_device, mode: str, max_seq_len: int) -> ModelArgs:
    pages = {"block_size": 32, "max_num_blocks": USERS * -(-max_seq_len // 32)}
    return ModelArgs(
        mesh_device,
        max_batch_size=USERS,
        max_seq_len=max_seq_len,
        optimizations=mode,
        hf_model=BUNDLED,
        page_params=pages,
    )


def measure_bundled(mode: str) -> tuple[tuple, dict]:
    """Target key and metrics of the bundled model in a mode, on an emulated N150."""
    reference = Reference.load(reference_path(BUNDLED.name))
    with open_mesh("N150") as mesh_device:
        measured = measure(lambda: bundled_args(mesh_device, mode, reference.tokens.shape[1]), reference)
    return ("emulator", BUNDLED.name, "N150", mode, f"regression-{USERS}"), measured


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
    entries = [as_target(*measure_bundled(mode)) for mode in MODES]
    print(yaml.safe_dump(entries, sort_keys=False, default_flow_style=None, width=120))


if __name__ == "__main__":
    main()
