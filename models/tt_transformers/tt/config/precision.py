"""Number formats and math fidelity of each decoder layer.

Seven groups of tensors have a number format, eight groups of ops a math fidelity. A mode (`performance`, `accuracy`,
`bf16`) names one choice for all of them; `precision_config.py` reads users' changes to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import ttnn


class TensorGroup(Enum):
    """Tensors that share a number format; the value is the key users type."""

    FF1_FF3 = "ff1_3"
    FF2 = "ff2"
    WQKV = "wqkv"
    WO = "wo"
    KV_CACHE = "kv_cache"
    ACTIVATION = "activation"
    # The output projection. It belongs to no decoder, so the first decoder's settings apply. Default: WQKV's format.
    LM_HEAD = "lm_head"


class OpGroup(Enum):
    """Ops that share a math fidelity; the value is the key users type. `li` is a linear."""

    LI_FF1_FF3 = "li_ff1_3"
    LI_FF2 = "li_ff2"
    LI_QKV_DECODE = "li_qkv_decode"
    LI_O_DECODE = "li_o_decode"
    SDPA_DECODE = "sdpa_decode"
    LI_QKV_PREFILL = "li_qkv_prefill"
    LI_O_PREFILL = "li_o_prefill"
    SDPA_PREFILL = "sdpa_prefill"


class PrecisionSetting(Enum):
    BFP4 = "bfp4"
    BFP8 = "bfp8"
    BF16 = "bf16"
    MIXED = "mixed"


class MathFidelitySetting(Enum):
    LOFI = "lofi"
    HIFI2 = "hifi2"
    HIFI2_NA = "hifi2na"
    HIFI2_FP16 = "hifi2fp16"
    HIFI4 = "hifi4"


# `mixed` leaves the choice to each op (residual stream bf16, MLP intermediate bfp8), so only activations can have it.
# Activations in bfp4 are not offered: 3 bits of mantissa do not carry a residual stream.
ACCEPTED_PRECISION = {
    group: (PrecisionSetting.BFP4, PrecisionSetting.BFP8, PrecisionSetting.BF16) for group in TensorGroup
} | {TensorGroup.ACTIVATION: (PrecisionSetting.BFP8, PrecisionSetting.BF16, PrecisionSetting.MIXED)}
ACCEPTED_FIDELITY = {group: tuple(MathFidelitySetting) for group in OpGroup}

_DTYPES = {
    PrecisionSetting.BFP4: ttnn.bfloat4_b,
    PrecisionSetting.BFP8: ttnn.bfloat8_b,
    PrecisionSetting.BF16: ttnn.bfloat16,
    PrecisionSetting.MIXED: None,
}


def _kernel(fidelity, fp32_dest_acc_en, packer_l1_acc):
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity,
        math_approx_mode=False,
        fp32_dest_acc_en=fp32_dest_acc_en,
        packer_l1_acc=packer_l1_acc,
    )


# LoFi multiplies once with the top bits of both mantissas, HiFi2 twice, HiFi4 four times (all bits of bf16).
# fp32_dest_acc_en: partial sums stay fp32 in the destination registers, of which there are then half as many, so
# output subblocks hold at most 4 tiles instead of 8. packer_l1_acc: partial sums of a blocked matmul add up in L1.
_KERNELS = {
    MathFidelitySetting.LOFI: _kernel(ttnn.MathFidelity.LoFi, False, True),
    MathFidelitySetting.HIFI2: _kernel(ttnn.MathFidelity.HiFi2, True, True),
    MathFidelitySetting.HIFI2_NA: _kernel(ttnn.MathFidelity.HiFi2, False, False),
    MathFidelitySetting.HIFI2_FP16: _kernel(ttnn.MathFidelity.HiFi2, False, True),
    MathFidelitySetting.HIFI4: _kernel(ttnn.MathFidelity.HiFi4, True, True),
}


@dataclass(frozen=True)
class LayerPrecision:
    """Settings of one decoder layer: a `PrecisionSetting` per `TensorGroup`, a `MathFidelitySetting` per `OpGroup`."""

    tensors: Mapping
    ops: Mapping

    def __post_init__(self):
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "ops", MappingProxyType(dict(self.ops)))

    def dtype(self, group: TensorGroup):
        """`ttnn.DataType` of a tensor group; None for activations set to `mixed` (each op has its own)."""
        if group is TensorGroup.LM_HEAD and group not in self.tensors:
            group = TensorGroup.WQKV
        return _DTYPES[self.tensors[group]]

    def kernel(self, group: OpGroup):
        """`ttnn.WormholeComputeKernelConfig` of an op group."""
        return _KERNELS[self.ops[group]]

    def updated(self, tensors: Mapping, ops: Mapping) -> "LayerPrecision":
        return LayerPrecision({**self.tensors, **tensors}, {**self.ops, **ops})

    def describe(self) -> str:
        precision = ", ".join(f"{group.value}: {self.tensors[group].value}" for group in TensorGroup if group in self.tensors)
        fidelity = ", ".join(f"{group.value}: {self.ops[group].value}" for group in OpGroup)
        return f"precision_cfg = {{{precision}}}, fidelity_cfg = {{{fidelity}}}"


@dataclass(frozen=True)
class ModelOptimizations:
    """One named precision for all layers."""

    name: str
    layer: LayerPrecision

    @classmethod
    def performance(cls) -> "ModelOptimizations":
        """bfp4 MLP, bfp8 attention and KV cache."""
        return cls.of_mode("performance")

    @classmethod
    def accuracy(cls) -> "ModelOptimizations":
        """bfp8 MLP, bf16 attention and KV cache."""
        return cls.of_mode("accuracy")

    @classmethod
    def bf16(cls) -> "ModelOptimizations":
        """Everything bf16 at full fidelity, for comparison with a reference."""
        return cls.of_mode("bf16")

    @classmethod
    def of_mode(cls, name: str) -> "ModelOptimizations":
        """The precision of a mode. Raises ValueError for an unknown mode."""
        if name not in MODES:
            raise ValueError(f"precision mode {name!r} is not known; accepted: {', '.join(MODES)}")
        tensors, ops = ({group: column[name] for group, column in table.items()} for table in (_FORMATS, _FIDELITIES))
        return cls(name, LayerPrecision(tensors, ops))


MODES = ("performance", "accuracy", "bf16")
# The modes that have their own cases in the demo, and are validated and measured on every mesh.
DEMO_MODES = ("performance", "accuracy")


def _table(setting, rows: Mapping) -> dict:
    """group -> mode -> setting; a row has the settings' values in the order of MODES."""
    return {group: dict(zip(MODES, map(setting, values.split()), strict=True)) for group, values in rows.items()}


_FORMATS = _table(
    PrecisionSetting,
    {  #                         performance accuracy bf16
        TensorGroup.FF1_FF3:    "bfp4        bfp8     bf16",
        TensorGroup.FF2:        "bfp4        bfp8     bf16",
        TensorGroup.WQKV:       "bfp8        bf16     bf16",
        TensorGroup.WO:         "bfp8        bf16     bf16",
        TensorGroup.KV_CACHE:   "bfp8        bf16     bf16",
        TensorGroup.ACTIVATION: "mixed       mixed    bf16",
    },
)  # fmt: skip
_FIDELITIES = _table(
    MathFidelitySetting,
    {  #                        performance accuracy bf16
        OpGroup.LI_FF1_FF3:    "lofi        hifi2    hifi4",
        OpGroup.LI_FF2:        "lofi        hifi2    hifi4",
        OpGroup.LI_QKV_DECODE: "hifi2       hifi4    hifi4",
        OpGroup.LI_O_DECODE:   "hifi2       hifi4    hifi4",
        OpGroup.SDPA_DECODE:   "hifi2       hifi4    hifi4",
        OpGroup.LI_QKV_PREFILL: "hifi2      hifi4    hifi4",
        OpGroup.LI_O_PREFILL:  "hifi2       hifi4    hifi4",
        OpGroup.SDPA_PREFILL:  "hifi4       hifi4    hifi4",
    },
)  # fmt: skip


class DecodersPrecision:
    """The precision of every decoder layer of a model.

    `name` says where it comes from, e.g. `performance` or `accuracy + optimizations + decoder_config_file`.
    """

    def __init__(self, num_decoders: int, optimizations: ModelOptimizations):
        self.name = optimizations.name
        self._layers = [optimizations.layer] * num_decoders

    @property
    def num_decoders(self) -> int:
        return len(self._layers)

    def layer(self, index: int) -> LayerPrecision:
        if not 0 <= index < len(self._layers):
            raise IndexError(f"decoder {index}: the model has decoders 0 to {len(self._layers) - 1}")
        return self._layers[index]

    def of_layers(self, indices: Sequence[int]) -> "DecodersPrecision":
        """The precision of a model that has only these layers."""
        result = DecodersPrecision.__new__(DecodersPrecision)
        result.name, result._layers = self.name, [self.layer(index) for index in indices]
        return result

    def describe(self) -> str:
        """Name and, for each run of equal layers, their settings; one line."""
        runs = []
        for index, layer in enumerate(self._layers):
            if runs and runs[-1][2] == layer:
                runs[-1][1] = index
            else:
                runs.append([index, index, layer])
        if len(runs) == 1:
            return f"{self.name}: {self._layers[0].describe()}"
        return f"{self.name}: " + "; ".join(
            f"decoders {first}-{last}: {layer.describe()}" for first, last, layer in runs
        )

    def updated(self, source: str, settings: Mapping) -> "DecodersPrecision":
        """A copy in which `settings` (layer index -> (tensors, ops)) override its own, and `source` joins the name."""
        result = DecodersPrecision.__new__(DecodersPrecision)
        result.name = f"{self.name} + {source}"
        result._layers = [
            layer.updated(*settings[index]) if index in settings else layer for index, layer in enumerate(self._layers)
        ]
        return result
