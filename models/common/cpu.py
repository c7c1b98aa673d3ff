"""The processor's vector instructions, and how a process is kept to AVX2."""

import os
from collections.abc import Sequence
from pathlib import Path

# Those that matrix products choose their code by, under Linux's names.
FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip

# Variables that keep oneDNN, torch's own kernels, MKL and numba's loops to AVX2. numba needs both of its variables: with
# the name alone it still uses every feature of the host. llama.cpp obeys none, so `make setup-bench` builds it twice.
AVX2_ONLY = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c",
}


def features() -> list[str]:
    """The `FEATURES` of this machine's processor; empty where /proc/cpuinfo does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return [name for name in FEATURES if name in flags]


def limits() -> dict[str, str]:
    """The variables of `AVX2_ONLY` that this process has."""
    return {name: os.environ[name] for name in AVX2_ONLY if name in os.environ}


def has_more_than_avx2(found: Sequence[str]) -> bool:
    return any(name.startswith(("avx512", "amx")) for name in found)


def kind(found: Sequence[str], limited_by: dict[str, str]) -> str:
    """The widest instructions that a process uses, for a table: "AMX", "AVX-512", "AVX2" or "no AVX2"."""
    if "avx2" not in found:
        return "no AVX2"
    if not has_more_than_avx2(found) or limited_by == AVX2_ONLY:
        return "AVX2"
    widest = "AMX" if "amx_tile" in found else "AVX-512"
    return widest + "".join(f", {name}={value}" for name, value in limited_by.items())
