#!/usr/bin/env python3
"""Train, evaluate and save the bundled checkpoint `Phi-3-tiny-kjv` on a CPU.

    python models/tt_transformers/scripts/train_bundled_checkpoint.py train --minutes 60 --output DIR
    python models/tt_transformers/scripts/train_bundled_checkpoint.py evaluate --output DIR

The length of the run is given in minutes. The learning rate follows the share of that time that has passed, so that the
run ends on time on a machine of any speed. An interrupted run continues from its last saved state.
"""

import argparse
import io
import math
import re
import time
from pathlib import Path

import torch
from safetensors.torch import save as serialized
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from models.common import whole_file
from models.tt_transformers.tools.bundled_corpus import (
    BOS,
    EOS,
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    known_by_heart,
    read_chapters,
    save_tokenizer,
    split_held_out,
    token_stream,
    train_tokenizer,
)

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT_OUTPUT = REPOSITORY / "models" / "checkpoints" / "Phi-3-tiny-kjv"

ROPE_THETA = 10000.0
HEAD_DIM = 96
ORIGINAL_CONTEXT, CONTEXT = 512, 16384
SHORT_SCALE, LONG_SCALE = 1.3, CONTEXT / ORIGINAL_CONTEXT

TOKENS_PER_STEP = 4096  # a longer sequence is a step of its own
# (sequence length, share of the steps, share of the run after which it is used). Up to 512 tokens the model uses the
# short factors, beyond that the long ones; both must be trained.
LENGTHS = [(512, 0.5, 0.0), (1024, 0.2, 0.0), (2048, 0.15, 0.0), (4096, 0.1, 0.1), (8192, 0.05, 0.7)]
BY_HEART_SHARE = 0.2  # of the steps
MUON_LR, ADAMW_LR = 0.02, 0.003
WEIGHT_DECAY = 0.1
WARMUP, DECAY_FROM = 0.02, 0.3
GRADIENT_CLIP = 1.0
# Weight of the squared log-partition in the loss (the "z-loss" of PaLM, Chowdhery et al. 2022,
# https://arxiv.org/abs/2204.02311, section 5). It keeps the logits near log-probabilities, where bf16 is fine: the
# likeliest token's logit lies about -1 (steps of 1/128) instead of 10 (steps of 1/16), and fewer tokens tie.
Z_LOSS = 1e-3
SAVE_EVERY_SECONDS = 300
EVALUATED_LENGTHS = [256, 512, 1024, 2048, 4096, 8192, 16384]


def rope_factors(scale: float) -> list[float]:
    """Divisors of the RoPE frequencies that stretch the context by `scale`: 1 for fast dimensions, `scale` for slow.

    "NTK-by-parts" of YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.2) with its alpha 1 and
    beta 32: a dimension with more than 32 turns within the original context keeps its frequency. A dimension with less
    than one turn has its frequency divided by `scale`. Between them the two frequencies are mixed linearly.
    """
    factors = []
    for i in range(HEAD_DIM // 2):
        turns = ORIGINAL_CONTEXT / (2 * math.pi * ROPE_THETA ** (2 * i / HEAD_DIM))
        keep = min(max((turns - 1) / (32 - 1), 0.0), 1.0)
        factors.append(round(1 / ((1 - keep) / scale + keep), 4))
    return factors


def checkpoint_config() -> dict:
    """`config.json` in the form of the published Phi-3 ones.

    hidden_size is 8 x 96: `Phi3Config` derives the number of RoPE factors from hidden_size // num_attention_heads and
    refuses any other head_dim.
    """
    eos_token_id = SPECIAL_TOKENS.index(EOS)
    return {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "embd_pdrop": 0.0,
        "eos_token_id": eos_token_id,
        "hidden_act": "silu",
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 1024,
        "max_position_embeddings": CONTEXT,
        "model_type": "phi3",
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 8,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
        "pad_token_id": eos_token_id,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": rope_factors(LONG_SCALE),
            "short_factor": rope_factors(SHORT_SCALE),
            "type": "longrope",
        },
        "rope_theta": ROPE_THETA,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


def rows_of_a_step(length: int) -> int:
    return max(1, TOKENS_PER_STEP // length)


class Windows:
    """Batches of windows of one length. Each pass cuts the stream at a new offset and shuffles the windows."""

    def __init__(self, stream: torch.Tensor, length: int):
        self.stream, self.length, self.starts = stream, length, []

    def batch(self) -> torch.Tensor:
        """int64 `[rows_of_a_step(length), length + 1]`: inputs and, shifted by one, targets."""
        starts = []
        while len(starts) < rows_of_a_step(self.length):
            if not self.starts:
                first = int(torch.randint(self.length, ()))
                every = torch.arange(first, len(self.stream) - self.length, self.length)
                self.starts = every[torch.randperm(len(every))].tolist()
            starts.append(self.starts.pop())
        return torch.stack([self.stream[s : s + self.length + 1] for s in starts])


class Recitals:
    """Batches of rows that each begin with one of a few chapters, and go on with others in random order."""

    def __init__(self, documents: list[torch.Tensor], length: int):
        self.documents, self.length = documents, length

    def batch(self) -> torch.Tensor:
        """int64 `[rows_of_a_step(length), length + 1]`: inputs and, shifted by one, targets."""
        rows = []
        while len(rows) < rows_of_a_step(self.length):
            order = torch.randperm(len(self.documents)).tolist()
            rows.append(torch.cat([self.documents[i] for i in order])[: self.length + 1])
        return torch.stack(rows)


def choose_length(progress: float) -> int:
    """A random sequence length, by the shares of the lengths in use at this point of the run (0 to 1)."""
    in_use = [(length, share) for length, share, since in LENGTHS if progress >= since]
    shares = torch.tensor([share for _, share in in_use])
    return in_use[int(torch.multinomial(shares, 1))][0]


def lr_scale(progress: float) -> float:
    """Linear warm-up, constant, then linear decay to zero at the end of the run."""
    return min(1.0, progress / WARMUP, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


def make_optimizers(model: Phi3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding, LM head and norms (no weight decay on norms)."""
    outer = [model.model.embed_tokens.weight, model.lm_head.weight]
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY)
    adamw = torch.optim.AdamW(
        [{"params": outer, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}],
        lr=ADAMW_LR,
        betas=(0.9, 0.95),
        fused=True,
    )
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def losses_of(model: Phi3ForCausalLM, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross-entropy in nats and log-partition (log-sum-exp of the logits) of every position but the last
    of `windows` `[batch, length + 1]`: float32 `[batch * length]` each."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits.float().flatten(0, 1)
    log_partition = logits.logsumexp(-1)
    return log_partition - logits.gather(-1, windows[:, 1:].reshape(-1, 1))[:, 0], log_partition


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    training, _ = split_held_out(read_chapters(args.work_dir / "kjv.txt"))
    tokenizer = train_tokenizer(training)
    stream = token_stream(tokenizer, training)
    by_heart = [token_stream(tokenizer, [chapter]) for chapter in known_by_heart(training)]
    windows = {length: Windows(stream, length) for length, _, _ in LENGTHS}
    recitals = {length: Recitals(by_heart, length) for length, _, _ in LENGTHS}

    model = Phi3ForCausalLM(Phi3Config.from_dict({**checkpoint_config(), "torch_dtype": "float32"}))
    # The padding token also ends a chapter, so its embedding must be learnt; torch does not train padding_idx.
    model.model.embed_tokens.padding_idx = None
    optimizers = make_optimizers(model)
    state_file = args.work_dir / "state.pt"
    done = {"seconds": 0.0, "steps": 0, "tokens": 0, "recited": 0}
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"])
        done = state["done"]
        print(f"continuing from {state_file}: {done}", flush=True)

    budget, since, saved_at = 60 * args.minutes, time.monotonic() - done["seconds"], time.monotonic()
    print(f"{len(stream)} training tokens, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    while done["seconds"] < budget:
        progress = done["seconds"] / budget
        length, recite = choose_length(progress), bool(torch.rand(()) < BY_HEART_SHARE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch = (recitals if recite else windows)[length].batch()
            cross_entropy, log_partition = losses_of(model, batch)
            loss = cross_entropy.mean()
        (loss + Z_LOSS * log_partition.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * lr_scale(progress)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done["seconds"] = time.monotonic() - since
        done["steps"] += 1
        done["recited" if recite else "tokens"] += batch[:, 1:].numel()
        print(
            f"step {done['steps']} {done['seconds']:.0f}s {'recital' if recite else 'text'} of {length} loss {loss.item():.3f} "
            f"log-partition {log_partition.mean().item():.2f}",
            flush=True,
        )
        if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            saved_at = time.monotonic()
            save_state(state_file, model, optimizers, done)
    save_state(state_file, model, optimizers, done)
    save_checkpoint(args.output, model, tokenizer)
    summary = (
        f"{done['steps']} steps in {done['seconds'] / 60:.0f} minutes on {args.threads} CPU threads: {done['tokens']} "
        f"tokens ({done['tokens'] / len(stream):.1f} passes over {len(stream)}) and {done['recited']} of the chapters "
        f"known by heart ({done['recited'] / sum(map(len, by_heart)):.0f} passes over {sum(map(len, by_heart))})"
    )
    print(f"{args.output}: {summary}")
    write_to_card(args.output, "training", summary + ".")


def save_state(path: Path, model: Phi3ForCausalLM, optimizers: list, done: dict) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": torch.get_rng_state(),
        "done": done,
    }
    content = io.BytesIO()
    torch.save(state, content)
    whole_file.write(path, content.getvalue())


def save_checkpoint(output: Path, model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Hugging Face format: one bf16 safetensors file, config, generation config and tokenizer."""
    output.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    whole_file.write(output / "model.safetensors", serialized(weights, metadata={"format": "pt"}))
    config = checkpoint_config()
    whole_file.write_json(output / "config.json", config, indent=2)
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    whole_file.write_json(output / "generation_config.json", generation, indent=2)
    save_tokenizer(tokenizer, output)


@torch.no_grad()
def perplexity_of(model: Phi3ForCausalLM, stream: torch.Tensor, length: int) -> tuple[float, int]:
    """(perplexity, scored tokens) of the stream in windows of `length`.

    Only whole windows of the longest evaluated length are scored, so that every length scores the same tokens.
    """
    n_scored = (len(stream) - 1) // max(EVALUATED_LENGTHS) * max(EVALUATED_LENGTHS)
    total = 0.0
    for start in range(0, n_scored, length):
        total += losses_of(model, stream[start : start + length + 1][None])[0].sum().item()
    return math.exp(total / n_scored), n_scored


def write_to_card(output: Path, section: str, text: str) -> None:
    """Replace the text between the `<!-- section -->` and `<!-- end -->` marks of the checkpoint's card.

    A checkpoint that is saved outside of the repository has no card; then nothing is written.

    Raises:
        ValueError: the card has no such section.
    """
    card = output / "README.md"
    if not card.is_file():
        return
    marked = re.compile(f"(<!-- {section} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, n_found = marked.subn(lambda mark: f"{mark[1]}{text}\n{mark[2]}", card.read_text())
    if n_found != 1:
        raise ValueError(f"{card}: found {n_found} sections marked '<!-- {section} -->', expected 1")
    whole_file.write(card, new)


def evaluate(args: argparse.Namespace) -> None:
    """Held-out perplexity and bits per byte of the saved checkpoint, as a table, printed and put into its card."""
    _, held_out = split_held_out(read_chapters(args.work_dir / "kjv.txt"))
    tokenizer = AutoTokenizer.from_pretrained(args.output)
    model = AutoModelForCausalLM.from_pretrained(args.output, dtype=torch.float32).eval()
    stream = token_stream(tokenizer, held_out)
    n_bytes = sum(len(chapter.text.encode()) for chapter in held_out)
    table = ["| window (tokens) | RoPE factors | perplexity per token | bits per byte |", "| --- | --- | --- | --- |"]
    for length in EVALUATED_LENGTHS:
        perplexity, n_scored = perplexity_of(model, stream, length)
        bits_per_byte = math.log2(perplexity) * len(stream) / n_bytes
        factors = "short" if length <= ORIGINAL_CONTEXT else "long"
        table.append(f"| {length} | {factors} | {perplexity:.2f} | {bits_per_byte:.3f} |")
    table += ["", f"{len(held_out)} chapters, {len(stream)} tokens, {n_bytes} bytes; {n_scored} tokens scored."]
    print("\n".join(table))
    write_to_card(args.output, "evaluation", "\n".join(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "evaluate"])
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="checkpoint directory")
    parser.add_argument("--work-dir", type=Path, default=Path.home() / ".cache" / "phi-3-tiny-kjv", help="text, state")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the training run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"train": train, "evaluate": evaluate}[args.command](args)
