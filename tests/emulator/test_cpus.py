"""The same logits on every kind of CPU, where the weights are block floats: products, norms, rotation, attention and gates
are loops whose order of sums is written down. (bf16 weights are multiplied by torch, which adds as it likes.)"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from llvmlite import binding

from tests.support.generation import generator, open_generator, random_tokens, tiny  # noqa: F401  (fixtures)

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def logits(model):
    """Of two prompts and of two decode steps after them."""
    with open_generator("N150", model, users=2, max_seq_len=1024, precision="performance") as generator:
        found = [generator.prefill([random_tokens(130), random_tokens(7, seed=1)])]
        for _ in range(2):
            found.append(generator.decode(found[-1].argmax(-1).tolist()))
    return torch.stack(found)


def test_a_cpu_with_shorter_vectors_gives_the_same_bits(tiny, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    shorter = {name: on and not name.startswith(("avx512", "avx10")) for name, on in binding.get_host_cpu_features().items()}
    features = ",".join(f"{'+' if on else '-'}{name}" for name, on in shorter.items())
    added = {"NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path), **WITHOUT_AVX512}
    program = "import sys, torch; from tests.emulator.test_cpus import logits; torch.save(logits(sys.argv[1]), sys.argv[2])"
    found = tmp_path / "found.pt"
    subprocess.run([sys.executable, "-c", program, tiny, found], env={**os.environ, **added}, cwd=ROOT, check=True)
    assert torch.equal(torch.load(found), logits(tiny)), "also with the weights that the other kind of CPU kept"
