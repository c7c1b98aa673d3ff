"""Compares a functional bring-up with its Hugging Face reference, teacher-forced.

    python eval.py <model.py> --model <name or path> --prompt_file <file> --max_new_tokens N

The reference continues the prompt greedily; then the bring-up is given the same tokens, whatever it would have chosen,
and its logits are compared step by step. `<model.py>` is any file that follows the contract of `load_model_file`.
"""

import argparse
import importlib.util
import inspect
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import torch
import transformers
from safetensors import SafetensorError
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutputWithPast

import models  # noqa: F401
from models.common import backend, mesh
from models.common.mesh_names import requested_mesh_name
from models.common.pcc import pcc

# The `<system>` folder of models/<org>/<model_name>/<system>/functional/model.py, and the mesh that it stands for.
SYSTEMS = {"n150": ("N150", (1, 1)), "n300": ("N300", (1, 2)), "t3000": ("T3K", (2, 4))}
BUILD_ARGUMENTS = ["hf_model", "tt_device", "max_seq_len"]


class EvaluationError(ValueError):
    """What was asked for cannot be evaluated; the message says why."""


@dataclass(frozen=True)
class Evaluation:
    """How close a model is to its reference, and how fast it and its backend are.

    top1: percent of steps at which both find the same token most likely.
    top5: percent of steps at which the reference's most likely token is among the model's five.
    logits_pcc: Pearson correlation of all logits; logits_pcc_worst_step: of the worst step's alone.
    """

    top1: float
    top5: float
    logits_pcc: float
    logits_pcc_worst_step: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Task:
    """What to evaluate on. `prompt_tokens`: only so many of the file's first tokens; None takes all."""

    model: str
    prompt_file: Path
    max_new_tokens: int
    prompt_tokens: Optional[int] = None


class TeacherForcing(LogitsProcessor):
    """Makes `generate` choose the teacher's tokens [steps], or its own without a teacher; notes each step's time."""

    def __init__(self, teacher: Optional[torch.Tensor] = None):
        self.teacher = teacher
        self.times = [time.perf_counter()]

    def __call__(self, input_ids, scores):
        step = len(self.times) - 1
        self.times.append(time.perf_counter())
        if self.teacher is None:
            return scores
        return torch.full_like(scores, -torch.inf).index_fill(1, self.teacher[step : step + 1], 0.0)


def evaluate(task: Task, model_file: Optional[Path] = None, system: Optional[str] = None) -> Evaluation:
    """Evaluates the model of `model_file` on the mesh of its `system`; without a file, Hugging Face's own.

    Raises EvaluationError, before any weights are read, for what cannot be evaluated.
    """
    if model_file is None:
        config, prompt = read_task(task)
        reference = load_reference(task.model)
        return compare(reference, reference, prompt, task.max_new_tokens)
    module = load_model_file(model_file)
    mesh_name, mesh_shape = mesh_of(model_file, system)
    try:
        requested = requested_mesh_name()
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    if requested not in (None, mesh_name):
        raise EvaluationError(f"MESH_DEVICE={requested}, but {model_file} is for {mesh_name}: unset it, or give --system")
    if not backend.values_meaningful():
        raise EvaluationError(f"backend {backend.name()} computes no values that could be compared")
    config, prompt = read_task(task)
    max_seq_len = prompt.shape[1] + task.max_new_tokens
    with ExitStack() as stack:
        try:
            device = stack.enter_context(mesh.open_mesh(mesh_name, shape=mesh_shape))
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        check_fits(config, module, device, max_seq_len)
        reference = load_reference(task.model)
        model = module.build_model(reference, device, max_seq_len)
        check_output(model, model_file, prompt[:, :1], config.vocab_size)
        return compare(model, reference, prompt, task.max_new_tokens)


def load_model_file(path: Path):
    """Imports a bring-up by its path.

    The contract: `build_model(hf_model, tt_device, max_seq_len)` gives an object of a class that is a torch.nn.Module
    and a transformers GenerationMixin, whose `forward` gives CausalLMOutputWithPast(logits, past_key_values). A
    function `check_supported(config, num_devices, max_seq_len)`, if there is one, raises ValueError for a checkpoint
    that the file cannot run.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: there is no such model file")
    spec = importlib.util.spec_from_file_location("functional_bring_up", path)
    if spec is None:
        raise EvaluationError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise EvaluationError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    build_model = getattr(module, "build_model", None)
    if not callable(build_model):
        raise EvaluationError(f"{path}: has no function build_model({', '.join(BUILD_ARGUMENTS)})")
    arguments = list(inspect.signature(build_model).parameters)
    if arguments != BUILD_ARGUMENTS:
        raise EvaluationError(f"{path}: build_model takes ({', '.join(arguments)}), not ({', '.join(BUILD_ARGUMENTS)})")
    # Not those that it imports, such as Hugging Face's own.
    classes = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    classes = [kind for kind in classes if issubclass(kind, torch.nn.Module) and issubclass(kind, GenerationMixin)]
    if not classes:
        raise EvaluationError(f"{path}: has no class of its own that subclasses both torch.nn.Module and GenerationMixin")
    if all(kind.forward is torch.nn.Module.forward for kind in classes):
        raise EvaluationError(f"{path}: its class {classes[0].__name__} has no method forward")
    return module


def check_output(model, model_file: Path, token: torch.Tensor, vocab_size: int) -> None:
    """Raises EvaluationError if what `build_model` gave, or what its `forward` gives for a token [1, 1], breaks the contract."""
    for kind in (torch.nn.Module, GenerationMixin):
        if not isinstance(model, kind):
            raise EvaluationError(f"{model_file}: build_model gives a {type(model).__name__}, no {kind.__name__}")
    output = model(input_ids=token)
    if not isinstance(output, CausalLMOutputWithPast):
        raise EvaluationError(f"{model_file}: forward gives a {type(output).__name__}, no CausalLMOutputWithPast")
    if output.logits is None or output.logits.shape != (1, 1, vocab_size):
        shape = None if output.logits is None else tuple(output.logits.shape)
        raise EvaluationError(f"{model_file}: forward gives logits {shape} for one token, not {(1, 1, vocab_size)}")
    if output.past_key_values is None:
        raise EvaluationError(f"{model_file}: forward gives no past_key_values")


def mesh_of(model_file: Path, system: Optional[str]) -> tuple:
    """Mesh name and shape of `system`, which models/<org>/<model_name>/<system>/functional/model.py has in its path."""
    folder = model_file.resolve().parent.parent.name
    if (system or folder) not in SYSTEMS:
        hint = "" if system else f" (from the path of {model_file}; --system says otherwise)"
        raise EvaluationError(f"system {system or folder!r} is not known{hint}; known are {', '.join(SYSTEMS)}")
    return SYSTEMS[system or folder]


def read_task(task: Task) -> tuple:
    """The checkpoint's config and the prompt's tokens [1, prompt_tokens]."""
    if task.max_new_tokens < 1:
        raise EvaluationError(f"max_new_tokens {task.max_new_tokens} has to be at least 1")
    try:
        text = task.prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"prompt file {task.prompt_file} cannot be read: {error}") from error
    config = _from_pretrained(transformers.AutoConfig, task.model)
    tokenizer = _from_pretrained(transformers.AutoTokenizer, task.model)
    prompt = tokenizer(text, return_tensors="pt").input_ids
    if not text.strip() or prompt.shape[1] == 0:
        raise EvaluationError(f"prompt file {task.prompt_file} is empty")
    wanted = prompt.shape[1] if task.prompt_tokens is None else task.prompt_tokens
    if not 1 <= wanted <= prompt.shape[1]:
        raise EvaluationError(f"prompt_tokens {wanted} has to be from 1 to the {prompt.shape[1]} of {task.prompt_file}")
    length, limit = wanted + task.max_new_tokens, config.max_position_embeddings
    if length > limit:
        raise EvaluationError(f"{wanted} prompt tokens and {task.max_new_tokens} new ones are past the model's {limit}")
    return config, prompt[:, :wanted]


def check_fits(config, module, device, max_seq_len: int) -> None:
    """Raises EvaluationError if the bring-up does not support the checkpoint, or if its weights alone fill the DRAM."""
    num_devices = device.get_num_devices()
    if hasattr(module, "check_supported"):
        try:
            module.check_supported(config, num_devices, max_seq_len)
        except ValueError as error:
            raise EvaluationError(f"the checkpoint cannot be held: {error}") from error
    with torch.device("meta"):
        weights = transformers.AutoModelForCausalLM.from_config(config).parameters()
    needed = sum(weight.numel() for weight in weights) * 2 // num_devices
    held = mesh.dram_capacity(device)
    if needed > held:
        raise EvaluationError(f"the checkpoint cannot be held: {needed} B of bf16 weights a device, which has {held} B")


def load_reference(name: str):
    """The Hugging Face model in bf16, on the CPU. Raises EvaluationError if the checkpoint lacks a tensor."""
    options = dict(dtype=torch.bfloat16, output_loading_info=True)
    reference, info = _from_pretrained(transformers.AutoModelForCausalLM, name, **options)
    if info["missing_keys"]:  # transformers fills them with random values, and a bring-up would copy those
        raise EvaluationError(f"model {name!r}: the checkpoint lacks {', '.join(sorted(info['missing_keys']))}")
    return reference.eval()


def _from_pretrained(kind, name: str, **options):
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EvaluationError(f"model {name!r}: {kind.__name__} cannot read it: {error}") from error


def compare(model, reference, prompt: torch.Tensor, steps: int) -> Evaluation:
    """Runs the reference on prompt [1, prompt_tokens], and the model on the tokens that it chose."""
    expected, teacher, _ = generate(reference, prompt, steps)
    actual, _, times = generate(model, prompt, steps, teacher)
    for step, logits in enumerate(actual):
        if not logits.isfinite().all() or logits.min() == logits.max():
            raise EvaluationError(f"the model's logits of step {step} are not finite or all the same: nothing correlates with them")
    best = expected.argmax(dim=1, keepdim=True)
    prompt_tokens, (start, first, *_, last) = prompt.shape[1], [*times, times[-1]]
    return Evaluation(
        top1=100 * (actual.argmax(dim=1, keepdim=True) == best).double().mean().item(),
        top5=100 * (actual.topk(5, dim=1).indices == best).any(dim=1).double().mean().item(),
        logits_pcc=pcc(actual, expected),
        logits_pcc_worst_step=min(pcc(*step) for step in zip(actual, expected)),
        prefill_tokens_per_second=prompt_tokens / (first - start),
        decode_tokens_per_second=(steps - 1) / (last - first) if steps > 1 else 0.0,
        prompt_tokens=prompt_tokens,
        new_tokens=steps,
    )


def generate(model, prompt: torch.Tensor, steps: int, teacher: Optional[torch.Tensor] = None) -> tuple:
    """Logits [steps, vocab_size], tokens [steps], and the times of the start and of each step, in seconds."""
    forcing = TeacherForcing(teacher)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=LogitsProcessorList([forcing]),
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(output.logits).float(), output.sequences[0, prompt.shape[1] :], forcing.times


def report(result: Evaluation, task: Task, where: str) -> str:
    return "\n".join(
        (
            f"backend      {where}",
            f"model        {task.model}",
            f"tokens       {result.prompt_tokens} prompt, {result.new_tokens} new",
            f"top-1        {result.top1:.2f} %",
            f"top-5        {result.top5:.2f} %",
            f"logits PCC   {result.logits_pcc:.6f} (worst step {result.logits_pcc_worst_step:.6f})",
            f"prefill      {result.prefill_tokens_per_second:.2f} tokens/s",
            f"decode       {result.decode_tokens_per_second:.2f} tokens/s",
        )
    )


def main(arguments: Optional[list] = None) -> dict:
    """Runs the command line, prints the report and returns it as a dict. Exits with status 2 if it cannot run."""
    parser = argparse.ArgumentParser(description="Compare a functional bring-up with Hugging Face, teacher-forced.")
    parser.add_argument("model_file", type=Path, help="the bring-up's model.py")
    parser.add_argument("--model", required=True, help="checkpoint: a directory, or a name to download")
    parser.add_argument("--prompt_file", required=True, type=Path, help="a text file")
    parser.add_argument("--max_new_tokens", type=int, default=100, help="steps to compare (default 100)")
    parser.add_argument("--prompt_tokens", type=int, help="take only so many of the file's first tokens (default all)")
    parser.add_argument("--system", help=f"{', '.join(SYSTEMS)}; default: the <system> folder of the model file's path")
    args = parser.parse_args(arguments)
    task = Task(args.model, args.prompt_file, args.max_new_tokens, args.prompt_tokens)
    try:
        result = evaluate(task, args.model_file, args.system)
    except EvaluationError as error:
        parser.error(str(error))
    print(report(result, task, backend.describe()))
    return asdict(result)


if __name__ == "__main__":
    main()
    sys.exit(0)
