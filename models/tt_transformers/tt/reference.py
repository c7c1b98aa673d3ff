"""Reference files: predictions of Hugging Face's model for texts, to compare this library's with (`--token_accuracy`).

A file (safetensors) holds, for each of `users` texts of prefill + generated tokens:

| tensor | shape | dtype | holds |
| --- | --- | --- | --- |
| `tokens` | [users, prefill + generated] | int32 | the text |
| `top5` | [users, generated, 5] | int32 | ids of the likeliest tokens at each position after the prefill, likeliest first |
| `log_probs` | [users, generated] | float32 | natural log of the probability of the text's own token there |

The metadata holds the identity of the model, so that a reference of another model is refused.
The command `models/tt_transformers/tests/generate_reference_hf.py` makes the files.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from models.common import whole_file
from models.tt_transformers.tt.checkpoints.formats import checkpoint_files, config_file
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS

FORMAT = "token accuracy reference 1"
TOP = 5

_DTYPES = {"tokens": torch.int32, "top5": torch.int32, "log_probs": torch.float32}
_FACTS = ("prefill", "model", "identity", "text", "dtype", "versions")
_IDENTITY = ("config", "n_layers", "weights")

_SAMPLES = 64
_SAMPLE_BYTES = 4096


def reference_path(model_name: str) -> Path:
    """The default path of a model's reference."""
    return MODEL_PARAMS / model_name / "reference.safetensors"


@dataclass(frozen=True)
class Reference:
    """Texts and Hugging Face's predictions for them; see the module's docstring for the shapes.

    Attributes:
        prefill: number of tokens of each text that are its prompt.
        facts: the file's metadata: `model`, `identity`, `text`, `dtype`, `versions`.
    """

    tokens: torch.Tensor
    top5: torch.Tensor
    log_probs: torch.Tensor
    prefill: int
    facts: dict

    @property
    def users(self) -> int:
        return self.tokens.shape[0]

    @property
    def generated(self) -> int:
        return self.tokens.shape[1] - self.prefill

    @property
    def perplexity(self) -> float:
        """Hugging Face's perplexity of the tokens after the prefill."""
        return math.exp(-self.log_probs.double().mean().item())

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all. Raises OSError."""
        tensors = {"tokens": self.tokens, "top5": self.top5, "log_probs": self.log_probs}
        metadata = {"format": FORMAT, "facts": json.dumps({"prefill": self.prefill, **self.facts}, sort_keys=True)}
        content = serialized({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        whole_file.write(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Reads a file. Raises ValueError if it is missing, damaged or of another format, or has missing or unexpected
        entries."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError as error:
            raise ValueError(
                f"reference {path}: there is no such file; "
                "python -m models.tt_transformers.tests.generate_reference_hf makes one"
            ) from error
        except (OSError, SafetensorError) as error:
            raise ValueError(f"reference {path} cannot be read: {error}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"reference {path}: format is {metadata.get('format')!r}; accepted: {FORMAT!r}")
        try:
            facts = json.loads(metadata["facts"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"reference {path}: its facts are missing or not JSON: {error}") from error
        _check_content(f"reference {path}", tensors, facts)
        return cls(**tensors, prefill=facts.pop("prefill"), facts=facts)

    def check_fits(self, args) -> None:
        """Raises ValueError if this reference is of another model than that of `args` (`ModelArgs`), or has too few
        texts."""
        if args.dummy_weights:
            raise ValueError("token accuracy needs a trained model: random weights predict nothing")
        found = model_identity(args)
        for name, expected in self.facts["identity"].items():
            if found[name] != expected:
                raise ValueError(
                    f"the reference is of another model than {args.model_name}: its {name} is {expected}, "
                    f"the model's is {found[name]}"
                )
        if args.users > self.users:
            raise ValueError(f"the reference has {self.users} texts, too few for a batch of {args.users} users")


def _check_content(where: str, tensors: dict, facts: dict) -> None:
    """Raises ValueError that names a missing or unknown entry, or one whose type or shape differs from the module's
    docstring."""
    _check_names(f"{where}: tensors", tensors, _DTYPES)
    _check_names(f"{where}: facts", facts, _FACTS)
    _check_names(f"{where}: facts of the identity", facts["identity"], _IDENTITY)
    shape, prefill = tuple(tensors["tokens"].shape), facts["prefill"]
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{where}: tokens has shape {shape}; expected (users, prefill + generated)")
    users, length = shape
    if type(prefill) is not int or not 1 <= prefill < length:
        raise ValueError(f"{where}: prefill is {prefill!r}; accepted for texts of {length} tokens: 1 to {length - 1}")
    generated = length - prefill
    shapes = {"tokens": shape, "top5": (users, generated, TOP), "log_probs": (users, generated)}
    for name, dtype in _DTYPES.items():
        found = tensors[name]
        if (tuple(found.shape), found.dtype) != (shapes[name], dtype):
            raise ValueError(f"{where}: {name} is {found.dtype} {tuple(found.shape)}; expected {dtype} {shapes[name]}")


def _check_names(where, found, expected):
    if not isinstance(found, dict):
        raise ValueError(f"{where} are {found!r}; expected {', '.join(expected)}")
    for wrong, names in (("missing", set(expected) - set(found)), ("not known", set(found) - set(expected))):
        if names:
            raise ValueError(f"{where}: {', '.join(sorted(names))} {wrong}; expected {', '.join(expected)}")


def model_identity(args) -> dict:
    """The identity of a checkpoint, to match it with its reference: its config file, layers in use, and the weights.

    The weights' digest covers each file's size and 64 samples of 4 KiB, spread evenly over it. Samples are enough,
    because training changes every part of a file. Hashing a large model whole would take longer than a run.
    """
    directory = args.weights_directory
    config = hashlib.blake2b(config_file(directory).read_bytes(), digest_size=16).hexdigest()
    weights = hashlib.blake2b(digest_size=16)
    for path in checkpoint_files(directory).files:
        size = path.stat().st_size
        weights.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(max(size - _SAMPLE_BYTES, 0) * sample // (_SAMPLES - 1))
                weights.update(file.read(_SAMPLE_BYTES))
    return {"config": config, "n_layers": args.arch.n_layers, "weights": weights.hexdigest()}


@torch.no_grad()
def predictions(model, texts: torch.Tensor, prefill: int, rope, chunk: int = 8):
    """Runs Hugging Face's model over texts [users, length] -> (top5 [users, generated, 5], log_probs [users, generated]).

    Position p is predicted from the p tokens before it, as by a new model that prefills `prefill` tokens and decodes the
    rest. `rope`: the model's RoPE. `chunk` texts run at a time.
    """
    top5, log_probs = [], []
    for part in texts.long().split(chunk):
        _forget_lengths(model)
        cache, logits = None, []
        for start, first, last in _passes(prefill, part.shape[1] - 1, rope):
            output = model(
                part[:, start:last],
                past_key_values=cache if start else None,
                use_cache=True,
                logits_to_keep=last - first + 1,
            )
            cache = output.past_key_values
            logits.append(output.logits.float())
        logits = torch.cat(logits, dim=1)
        top5.append(logits.topk(TOP, dim=-1).indices.int())
        chosen = logits.log_softmax(-1).gather(-1, part[:, prefill:, None])
        log_probs.append(chosen[..., 0])
    return torch.cat(top5), torch.cat(log_probs)


@torch.no_grad()
def continue_greedily(model, prompts: torch.Tensor, count: int, rope) -> torch.Tensor:
    """Prompts [users, prefill], each followed by `count` greedily chosen tokens, as by a new model with this RoPE."""
    _forget_lengths(model)
    tokens, cache = prompts.long(), None
    for _ in range(count):
        new = tokens if cache is None or tokens.shape[1] == rope.recompute_len else tokens[:, -1:]
        output = model(
            new, past_key_values=None if new is tokens else cache, use_cache=True, logits_to_keep=1
        )
        cache = output.past_key_values
        tokens = torch.cat([tokens, output.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


def _passes(prefill: int, longest: int, rope) -> Iterator[tuple[int, int, int]]:
    """(start, first, last) of each call of the model that has one set of rotary frequencies.

    The call runs the tokens from `start` to `last`, and gives the logits after `first` to `last` tokens; all calls
    together, after `prefill` to `longest`. The keys of earlier tokens are cached; `start` is 0 where there are none, or
    where they are computed again.
    """
    cached = 0
    for _, lengths in groupby(range(prefill, longest + 1), rope.frequency_set):
        first, last = (lengths := list(lengths))[0], lengths[-1]
        yield 0 if first == rope.recompute_len else cached, first, last
        cached = last


def _forget_lengths(model) -> None:
    """Hugging Face's dynamic RoPE keeps the frequencies of the longest sequence so far; this makes it like new."""
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(model.config.get_text_config())
