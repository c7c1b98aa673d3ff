"""From the features of image patches to tokens that the language model attends to."""

import torch
import ttnn

from models.tt_transformers.tt.modules.linear import Linear
from models.tt_transformers.tt.vision.config import VisionConfig


class Projector:
    """A linear with bias over the last layer's and the intermediate layers' outputs, side by side.

    Each device has its columns of every output, so the weight is split over the devices by rows. In a checkpoint the
    intermediate outputs are interleaved: a column of the first, the same column of the second, and so on.
    """

    def __init__(self, config: VisionConfig, weights, ccl):
        self.ccl = ccl
        parts, ranks = 1 + len(config.arch.intermediate_layers), config.ranks

        def by_device(weight):
            last, intermediate = weight.split([config.arch.dim, weight.shape[1] - config.arch.dim], dim=1)
            intermediate = intermediate.unflatten(1, (config.arch.dim, parts - 1)).transpose(1, 2)
            outputs = torch.stack([last, *intermediate.unbind(1)], dim=1)  # [text dim, parts, dim]
            return outputs.unflatten(2, (ranks, -1)).transpose(1, 2).flatten(1)

        self.linear = Linear(config.projector, *weights.row_parallel("vision.projector", config.projector, by_device))

    def forward(self, outputs: list):
        """outputs: the last layer's and the intermediate layers', [1, 1, rows, dim / N] each -> tokens [1, 1, rows, text
        dim / N]."""
        x = ttnn.concat(outputs, dim=3, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_residual(self.linear.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)
