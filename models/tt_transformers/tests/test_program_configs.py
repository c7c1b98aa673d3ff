"""The sizes that are chosen for ops: they fit L1, and decode uses enough cores."""

import math

import pytest

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common.chip import WORMHOLE
from models.common.mesh import open_mesh
from models.tt_transformers.tt.config.program_configs import TILE, TILE_BYTES, ChipLayout

CHIP = ChipLayout(*WORMHOLE.grid, WORMHOLE.dram_banks, WORMHOLE.l1_bytes)


@pytest.mark.parametrize(
    "k, n, padded, cores",
    [
        (3072, 8192, 8192, 32),  # Phi-3-mini on N150: many cores without padding
        (4096, 11008 // 8, 1408, 4),  # Llama-2-7B on T3K: 43 tiles would use one core
        (896, 4864, 4928, 14),  # Qwen2.5-0.5B on N150
        (3584, 18944 // 2, 9728, 16),  # Qwen2.5-7B on N300
        (3584, 18944, 18944, 16),
        (8192, 29568 // 8, 3840, 8),  # Qwen2.5-72B on T3K
        (5120, 27648 // 8, 3584, 16),  # Qwen2.5-32B on T3K
        (96, 160, 160, 1),  # no width within a sixteenth is better
    ],
)
def test_a_width_is_padded_by_at_most_a_sixteenth_so_that_decode_uses_enough_cores(k, n, padded, cores):
    assert CHIP.decode_width(k, n) == padded <= math.ceil(n / TILE) * TILE * (1 + 1 / 16)
    assert CHIP.decode_cores(k, padded) == cores


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [ttnn.bfloat4_b, ttnn.bfloat8_b, ttnn.bfloat16])
@pytest.mark.parametrize("k, n", [(3072, 8192), (3584, 18944), (8192, 28672), (8192, 30016)])
def test_blocks_of_a_prefill_matmul_fit_l1_and_cover_all_columns(k, n, dtype, bias):
    config = CHIP.prefill_matmul(1024, True, k, n, dtype, ttnn.bfloat8_b, bias)
    product = config.per_core_M * config.out_block_w * (TILE_BYTES[ttnn.bfloat8_b] + TILE_BYTES[ttnn.float32])
    inputs = 2 * config.in0_block_w * (config.per_core_M * TILE_BYTES[ttnn.bfloat16] + config.out_block_w * TILE_BYTES[dtype])
    assert product + inputs + bias * config.out_block_w * TILE_BYTES[ttnn.bfloat16] <= WORMHOLE.l1_bank_bytes
    assert config.per_core_N % config.out_block_w == 0 and config.per_core_N * CHIP.grid_x * TILE >= n
    assert (config.out_block_w == config.per_core_N) == (n == 8192)  # one block where that fits


@pytest.mark.parametrize("k, n, cores, dtype, block", [(3072, 8192, 32, ttnn.bfloat8_b, 3), (3584, 18944, 16, ttnn.bfloat8_b, 1)])
def test_a_decode_matmul_streams_the_largest_block_of_its_weight_that_fits_l1(k, n, cores, dtype, block):
    config = CHIP.decode_matmul(k, n, cores, dtype, ttnn.bfloat8_b, bias=False)
    assert (config.in0_block_w, config.per_core_N) == (block, n // TILE // cores)


@pytest.mark.parametrize("k, n, cores", [(768, 1152, 12), (2048, 1280, 8), (2048, 1536, 16), (640, 640, 20)])
def test_a_tensor_beside_a_decode_matmuls_product_lies_on_the_products_cores(k, n, cores):
    """Those of its input are another rectangle if `cores` are not whole rows of the grid."""
    with open_mesh("N150") as mesh_device:
        x, weight = (
            ttnn.allocate_tensor_on_device(ttnn.Shape([1, 1, rows, columns]), ttnn.bfloat16, ttnn.TILE_LAYOUT, mesh_device, config)
            for rows, columns, config in ((TILE, k, CHIP.width_sharded(k, cores)), (k, n, CHIP.dram_sharded_weight(k, n)))
        )
        product = ttnn.linear(
            x, weight, memory_config=ttnn.L1_WIDTH_SHARDED_MEMORY_CONFIG,
            program_config=CHIP.decode_matmul(k, n, cores, ttnn.bfloat16, ttnn.bfloat16, bias=False),
        )  # fmt: skip
        assert product.memory_config() == CHIP.beside_product(n, cores)
