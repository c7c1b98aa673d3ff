"""The benchmarks of the emulator: their models, workloads and aims."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from models.common import cpu
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.model_args import ModelArgs

SYSTEMS = ("emulator", "hugging_face")
# What `make bench` runs in performance mode, each on the whole processor and, if it has more, with AVX2 only.
WAIT_POLICIES = ("passive", "active")
BLOCK = 32


@dataclass(frozen=True)
class Workload:
    """Users, tokens of each prompt and decode steps of one measurement."""

    users: int
    prompt: int
    steps: int

    @property
    def name(self) -> str:
        return f"batch-{self.users}"


@dataclass(frozen=True)
class Benchmark:
    """A model and its workloads.

    settings: arguments of `ModelArgs`.
    rounds: enough for a stable median.
    llama_cpp: the types of weights of a Llama of the same widths that llama.cpp runs beside it, for one user.
    aims: `<batch>/<what>` -> the ratio to Hugging Face in performance mode: at least, but at most for memory and time.
    """

    settings: dict
    workloads: tuple
    rounds: int = 9
    llama_cpp: tuple = ()
    aims: Mapping[str, float] = field(default_factory=dict)


BENCHMARKS = {
    "bundled": Benchmark(
        {"hf_model": BUNDLED},
        (Workload(1, 128, 64), Workload(32, 128, 16)),
        aims={"batch-1/decode": 1.3, "batch-32/decode": 1.3, "batch-1/prefill": 1.0, "batch-32/prefill": 1.0},
    ),
    "full-width": Benchmark(
        {"hf_model": "microsoft/Phi-3-mini-128k-instruct", "dummy_weights": True, "num_layers": 8},
        (Workload(1, 128, 8), Workload(32, 128, 4)),
        rounds=5,
        llama_cpp=("q8_0", "q4_0"),
        aims={
            "batch-1/decode": 2.0, "batch-32/decode": 1.5, "batch-1/prefill": 1.0, "batch-32/prefill": 1.0,
            "batch-1/peak memory": 0.5,
        },
    ),
}  # fmt: skip
# Of llama.cpp's tokens a second in decode, at equal bytes of weights a token.
LLAMA_CPP_AIM = 0.7


def record_name(model: str, mode: str, limits: Mapping[str, str], wait_policy: str) -> str:
    """The file name of a record, without its suffix; `limits`: see `cpu.limits`."""
    parts = ["bench", model, mode]
    parts += ["avx2"] * (limits == cpu.AVX2_ONLY) + [wait_policy] * (wait_policy != WAIT_POLICIES[0])
    return "-".join(parts)


def wait_policy() -> str:
    """How the threads of this process wait for each other."""
    return os.environ["OMP_WAIT_POLICY"].lower()


def make_args(mesh_device, benchmark: Benchmark, workload: Workload, mode: str) -> ModelArgs:
    longest = workload.prompt + workload.steps + 1
    pages = workload.users * -(-longest // BLOCK)
    return ModelArgs(
        mesh_device,
        max_batch_size=workload.users,
        max_seq_len=-(-longest // BLOCK) * BLOCK,
        optimizations=mode,
        page_params={"block_size": BLOCK, "max_num_blocks": pages},
        **benchmark.settings,
    )


def random_prompts(vocab_size: int, workload: Workload) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocab_size, (workload.users, workload.prompt), generator=generator).tolist()
