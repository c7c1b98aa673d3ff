"""A process that is kept to AVX2 uses nothing wider, and a record says which instructions its process could use."""

import os
import subprocess
import sys

import pytest

from models.common import cpu
from models.common.benchmark_record import ROOT

AVX2 = ["avx2", "fma", "f16c"]
AVX512 = [*AVX2, "avx512f", "avx512_bf16"]
AMX = [*AVX512, "amx_tile", "amx_bf16"]


@pytest.mark.parametrize(
    "features, limits, kind",
    [
        ([], {}, "no AVX2"),
        (AVX2, {}, "AVX2"),
        (AVX512, {}, "AVX-512"),
        (AMX, {}, "AMX"),
        (AMX, cpu.AVX2_ONLY, "AVX2"),
        (AVX512, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX-512, ONEDNN_MAX_CPU_ISA=AVX2"),
    ],
)
def test_the_kind_of_a_processor_is_its_widest_instructions_within_the_limits(features, limits, kind):
    assert cpu.kind(features, limits) == kind


PROGRAM = """
import numba, numpy, torch
@numba.njit(fastmath=True)
def total(values):
    sum_ = numpy.float32(0)
    for value in values:
        sum_ += value * value
    return sum_
total(numpy.ones(64, numpy.float32))
(assembly,) = total.inspect_asm().values()
print(torch.backends.cpu.get_cpu_capability(), "zmm" in assembly, "ymm" in assembly)
"""


@pytest.mark.skipif("avx2" not in cpu.features(), reason="the processor has no AVX2")
def test_torch_and_compiled_loops_are_kept_to_avx2():
    environment = {**os.environ, **cpu.AVX2_ONLY}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["AVX2", "False", "True"]


def test_the_variables_that_a_process_has_are_its_limits(monkeypatch):
    for name in cpu.AVX2_ONLY:
        monkeypatch.delenv(name, raising=False)
    assert cpu.limits() == {}
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert cpu.limits() == {"ATEN_CPU_CAPABILITY": "default"}
