"""Compares a functional bring-up with its Hugging Face reference, teacher-forced.

    python eval.py <model.py> --model <name or path> --prompt_file <file> --max_new_tokens N

The reference continues the prompt greedily. The bring-up then gets the same tokens, even if it would have chosen
others, and its logits are compared step by step. `<model.py>` is any file that follows the contract of
`load_model_file`.

The checkpoint's defaults for text generation and its attention implementation are not used: both models generate with
`GREEDY` only, and transformers chooses the attention of the reference (see `models.evaluation.checkpoint`).
"""

import argparse
import errno
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

try:
    import models  # noqa: F401  (before torch and ttnn)
except (RuntimeError, ValueError) as unusable:  # a TT_BACKEND or a mesh that is not available
    print(f"error: {unusable}", file=sys.stderr)
    sys.exit(2)

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from models.common import backend, mesh
from models.common.library_errors import one_line
from models.common.mesh_names import requested_mesh_name
from models.common.pcc import pcc
from models.evaluation.checkpoint import load_reference, load_tokenizer, read_config
from models.evaluation.contract import SYSTEMS, check_fits, check_output, load_model_file, mesh_of
from models.evaluation.errors import EvaluationError, reported

GREEDY = dict(do_sample=False, output_logits=True, return_dict_in_generate=True)


@dataclass(frozen=True)
class Evaluation:
    """How close a model is to its reference, and how fast it is on its backend.

    top1: percent of steps at which both have the same most likely token.
    top5: percent of steps at which the reference's most likely token is among the model's five most likely ones.
    logits_pcc: Pearson correlation of all logits; logits_pcc_worst_step: the lowest one of a single step's logits.
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
    """The task of an evaluation. `prompt_tokens`: number of the file's first tokens to use; None uses all."""

    model: str
    prompt_file: Path
    max_new_tokens: int
    prompt_tokens: Optional[int] = None


class TeacherForcing(LogitsProcessor):
    """Makes `generate` choose the teacher's tokens [steps], or its own without a teacher; records each step's time."""

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

    Raises EvaluationError if the task cannot be evaluated, before any weights are read unless the weights are wrong.
    Errors of the bring-up's own code pass through, because its author needs the traceback.
    """
    if model_file is None:
        config, prompt = read_task(task)
        reference = load_reference(task.model, config)
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
        reference = load_reference(task.model, config)
        try:
            model = module.build_model(reference, device, max_seq_len)
            check_output(model, model_file, prompt[:, :1], config.vocab_size)
            return compare(model, reference, prompt, task.max_new_tokens)
        except RuntimeError as error:
            if "Out of Memory" not in str(error):
                raise
            raise EvaluationError(f"{max_seq_len} tokens do not fit the devices' memory: {one_line(error)}") from error


def read_task(task: Task) -> tuple:
    """The checkpoint's config and the prompt's tokens [1, prompt_tokens]."""
    if task.max_new_tokens < 1:
        raise EvaluationError(f"max_new_tokens {task.max_new_tokens} has to be at least 1")
    with reported(f"prompt file {task.prompt_file} cannot be read"):
        text = task.prompt_file.read_text(encoding="utf-8-sig")  # without the byte order mark that some editors write
    if not text.strip():
        raise EvaluationError(f"prompt file {task.prompt_file} is empty")
    config = read_config(task.model)
    tokenizer = load_tokenizer(task.model, config)
    with reported(f"prompt file {task.prompt_file}: the tokenizer of {task.model!r} cannot encode it"):
        prompt = tokenizer(text, return_tensors="pt").input_ids
    if prompt.shape[1] == 0:
        raise EvaluationError(f"prompt file {task.prompt_file}: the tokenizer of {task.model!r} finds no tokens in it")
    if (largest := prompt.max().item()) >= config.vocab_size:
        raise EvaluationError(
            f"model {task.model!r}: its tokenizer gives the token {largest}, and vocab_size is {config.vocab_size}"
        )
    wanted = prompt.shape[1] if task.prompt_tokens is None else task.prompt_tokens
    if not 1 <= wanted <= prompt.shape[1]:
        raise EvaluationError(f"prompt_tokens {wanted} has to be from 1 to the {prompt.shape[1]} of {task.prompt_file}")
    length, limit = wanted + task.max_new_tokens, config.max_position_embeddings
    if length > limit:
        raise EvaluationError(f"{wanted} prompt tokens and {task.max_new_tokens} new ones are past the model's {limit}")
    return config, prompt[:, :wanted]


def compare(model, reference, prompt: torch.Tensor, steps: int) -> Evaluation:
    """Runs the reference on prompt [1, prompt_tokens], and the model on the tokens that the reference chose."""
    with reported(f"model {reference.config.name_or_path!r}: Hugging Face cannot continue the prompt with it"):
        expected, teacher, _ = generate(reference, prompt, steps)
    actual, _, times = generate(model, prompt, steps, teacher)
    for whose, steps_logits in (("Hugging Face's", expected), ("the model's", actual)):
        for step, logits in enumerate(steps_logits):
            if not logits.isfinite().all() or logits.min() == logits.max():
                raise EvaluationError(
                    f"{whose} logits of step {step} are not finite or all the same: nothing correlates with them"
                )
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
    """Logits [steps, vocab_size], tokens [steps], and the times of the start and of each step, in seconds.

    Gives the model empty generation defaults: transformers takes settings that are not in `GREEDY` from there.
    """
    model.generation_config = GenerationConfig()
    forcing = TeacherForcing(teacher)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=GenerationConfig(max_new_tokens=steps, **GREEDY),
        logits_processor=LogitsProcessorList([forcing]),
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


def run(parser: argparse.ArgumentParser, task: Task, model_file: Optional[Path], system: Optional[str]) -> Evaluation:
    """`evaluate`, for a command line: an EvaluationError becomes one line on stderr and exit status 2."""
    try:
        return evaluate(task, model_file, system)
    except EvaluationError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def print_result(parser: argparse.ArgumentParser, text: str) -> None:
    """Prints to stdout. If that fails, prints to stderr, so that the result is not lost, and exits with status 2."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.reconfigure(errors="backslashreplace")  # it may not be able to hold a model's name
        print(text, flush=True)
    except OSError as error:
        if sys.stdout is not None:  # Python would write the rest of its buffer at exit, and fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit(2, f"{text}\n{parser.prog}: error: standard output cannot be written: {error.strerror}\n")


def main(arguments: Optional[list] = None) -> dict:
    """Runs the command line, prints the report and returns it as a dict. Exits with status 2 if it cannot run."""
    parser = argparse.ArgumentParser(description="Compare a functional bring-up with Hugging Face, teacher-forced.")
    parser.add_argument("model_file", type=Path, help="the bring-up's model.py")
    parser.add_argument("--model", required=True, help="checkpoint: a directory, or a name to download")
    parser.add_argument("--prompt_file", required=True, type=Path, help="a text file")
    parser.add_argument("--max_new_tokens", type=int, default=100, help="steps to compare (default 100)")
    parser.add_argument("--prompt_tokens", type=int, help="number of the file's first tokens to use (default all)")
    parser.add_argument("--system", help=f"{', '.join(SYSTEMS)}; default: the <system> folder of the model file's path")
    args = parser.parse_args(arguments)
    task = Task(args.model, args.prompt_file, args.max_new_tokens, args.prompt_tokens)
    result = run(parser, task, args.model_file, args.system)
    print_result(parser, report(result, task, backend.describe()))
    return asdict(result)


if __name__ == "__main__":
    main()
    sys.exit(0)
