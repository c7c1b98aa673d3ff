"""The contract of a functional bring-up: `load_model_file` states it, and the other functions check it."""

import importlib.util
import inspect
from pathlib import Path
from typing import Optional

import torch
import transformers
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.common import mesh
from models.evaluation.errors import EvaluationError, reported

# The `<system>` folder of models/<org>/<model_name>/<system>/functional/model.py, and the mesh that it stands for.
SYSTEMS = {"n150": ("N150", (1, 1)), "n300": ("N300", (1, 2)), "t3000": ("T3K", (2, 4))}
BUILD_ARGUMENTS = ["hf_model", "tt_device", "max_seq_len"]


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
    with reported(f"{path}: cannot be imported"):
        spec.loader.exec_module(module)
    build_model = getattr(module, "build_model", None)
    if not callable(build_model):
        raise EvaluationError(f"{path}: has no function build_model({', '.join(BUILD_ARGUMENTS)})")
    arguments = list(inspect.signature(build_model).parameters)
    if arguments != BUILD_ARGUMENTS:
        raise EvaluationError(f"{path}: build_model takes ({', '.join(arguments)}), not ({', '.join(BUILD_ARGUMENTS)})")
    # Without the classes that it imports, such as Hugging Face's own.
    classes = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    classes = [kind for kind in classes if issubclass(kind, torch.nn.Module) and issubclass(kind, GenerationMixin)]
    if not classes:
        raise EvaluationError(f"{path}: has no class of its own that subclasses both torch.nn.Module and GenerationMixin")
    if all(kind.forward is torch.nn.Module.forward for kind in classes):
        raise EvaluationError(f"{path}: its class {classes[0].__name__} has no method forward")
    return module


def check_output(model, model_file: Path, token: torch.Tensor, vocab_size: int) -> None:
    """Raises EvaluationError if the model, or the result of its `forward` for a token [1, 1], breaks the contract."""
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
    hint = "" if system is not None else f" (from the path of {model_file}; --system says otherwise)"
    system = folder if system is None else system
    if system not in SYSTEMS:
        raise EvaluationError(f"system {system!r} is not known{hint}; known are {', '.join(SYSTEMS)}")
    return SYSTEMS[system]


def check_fits(config, module, device, max_seq_len: int) -> None:
    """Raises EvaluationError if the bring-up does not support the checkpoint, or if its weights alone fill the DRAM."""
    num_devices = device.get_num_devices()
    if hasattr(module, "check_supported"):
        try:
            module.check_supported(config, num_devices, max_seq_len)
        except ValueError as error:
            raise EvaluationError(f"the checkpoint cannot be held: {error}") from error
    with reported(f"model {config.name_or_path!r}: Hugging Face cannot make it from config.json"), torch.device("meta"):
        weights = transformers.AutoModelForCausalLM.from_config(config).parameters()
    needed = sum(weight.numel() for weight in weights) * 2 // num_devices
    dram = mesh.dram_capacity(device)
    if needed > dram:
        raise EvaluationError(f"the checkpoint cannot be held: {needed} B of bf16 weights a device, which has {dram} B")
