"""Precision modes, `--optimizations` and decoder JSON files."""

import json
import re

import pytest

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import read_config
from models.tt_transformers.tt.config.model_params import overrides_folder
from models.tt_transformers.tt.config.precision import (
    MODES,
    DecodersPrecision,
    MathFidelitySetting,
    ModelOptimizations,
    OpGroup,
    PrecisionSetting,
    TensorGroup,
)
from models.tt_transformers.tt.config.precision_config import load_decoder_config, parse_optimizations, resolve_precision

README_EXAMPLE = (
    "precision_cfg = {ff1_3: bfp4, ff2: bfp4, wqkv: bfp8, wo: bfp8, kv_cache: bfp8, activation: mixed}, "
    "fidelity_cfg = {li_ff1_3: hifi2, li_ff2: lofi, li_qkv_decode: hifi2, li_o_decode: hifi2, sdpa_decode: hifi2na, "
    "li_qkv_prefill: hifi2, li_o_prefill: hifi2fp16, sdpa_prefill: hifi4}"
)


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def decoders(**by_index):
    return {"decoders": {name[1:]: sections for name, sections in by_index.items()}}


def test_performance_mode_is_bfp4_mlp_and_bfp8_attention():
    layer = DecodersPrecision(2, ModelOptimizations.performance()).layer(1)
    assert layer.dtype(TensorGroup.FF1_FF3) == layer.dtype(TensorGroup.FF2) == ttnn.bfloat4_b
    assert layer.dtype(TensorGroup.WQKV) == layer.dtype(TensorGroup.WO) == ttnn.bfloat8_b
    assert layer.dtype(TensorGroup.KV_CACHE) == ttnn.bfloat8_b
    assert layer.dtype(TensorGroup.ACTIVATION) is None


def test_accuracy_mode_is_bfp8_mlp_and_bf16_attention():
    layer = DecodersPrecision(2, ModelOptimizations.accuracy()).layer(0)
    assert layer.dtype(TensorGroup.FF1_FF3) == layer.dtype(TensorGroup.FF2) == ttnn.bfloat8_b
    assert layer.dtype(TensorGroup.WQKV) == layer.dtype(TensorGroup.WO) == ttnn.bfloat16
    assert layer.dtype(TensorGroup.KV_CACHE) == ttnn.bfloat16


@pytest.mark.parametrize(
    "setting, fidelity, fp32_dest, l1_acc",
    [
        ("lofi", "LoFi", False, True),
        ("hifi2", "HiFi2", True, True),
        ("hifi2na", "HiFi2", False, False),
        ("hifi2fp16", "HiFi2", False, True),
        ("hifi4", "HiFi4", True, True),
    ],
)
def test_fidelity_setting_becomes_a_compute_kernel_config(setting, fidelity, fp32_dest, l1_acc):
    precision = resolve_precision(1, f"fidelity_cfg = {{sdpa_prefill: {setting}}}")
    kernel = precision.layer(0).kernel(OpGroup.SDPA_PREFILL)
    assert isinstance(kernel, ttnn.WormholeComputeKernelConfig)
    assert kernel.math_fidelity == getattr(ttnn.MathFidelity, fidelity)
    assert (kernel.fp32_dest_acc_en, kernel.packer_l1_acc) == (fp32_dest, l1_acc)


def test_the_documented_optimizations_text_is_read_in_full():
    mode, (tensors, ops) = parse_optimizations(README_EXAMPLE, base="accuracy")
    assert mode == "accuracy"
    assert set(tensors) == set(TensorGroup) - {TensorGroup.LM_HEAD} and set(ops) == set(OpGroup)
    assert tensors[TensorGroup.ACTIVATION] is PrecisionSetting.MIXED
    assert ops[OpGroup.LI_O_PREFILL] is MathFidelitySetting.HIFI2_FP16
    assert ops[OpGroup.SDPA_DECODE] is MathFidelitySetting.HIFI2_NA


def test_the_bf16_mode_is_bf16_and_full_fidelity_everywhere():
    layer = resolve_precision(1, "bf16").layer(0)
    assert all(layer.dtype(group) == ttnn.bfloat16 for group in TensorGroup)
    assert all(layer.kernel(group).math_fidelity == ttnn.MathFidelity.HiFi4 for group in OpGroup)


@pytest.mark.parametrize("mode", MODES)
def test_the_lm_head_has_the_format_of_wqkv_until_it_is_given_its_own(mode):
    layer = resolve_precision(2, mode).layer(0)
    assert layer.dtype(TensorGroup.LM_HEAD) == layer.dtype(TensorGroup.WQKV)
    changed = resolve_precision(2, "precision_cfg = {wqkv: bfp4}", base=mode).layer(0)
    assert changed.dtype(TensorGroup.LM_HEAD) == ttnn.bfloat4_b
    own = resolve_precision(2, "precision_cfg = {lm_head: bfp4}", base=mode).layer(0)
    assert (own.dtype(TensorGroup.LM_HEAD), own.dtype(TensorGroup.WQKV)) == (ttnn.bfloat4_b, layer.dtype(TensorGroup.WQKV))


def test_the_lm_head_is_no_setting_of_a_decoder(tmp_path):
    path = write_json(tmp_path / "decoders.json", decoders(_0={"precision_cfg": {"lm_head": "bfp8"}}))
    with pytest.raises(ValueError, match="decoder '0': lm_head is part of no decoder; set it with optimizations"):
        load_decoder_config(path, 2)


def test_describe_gives_a_text_that_reads_back_as_the_same_settings():
    layer = ModelOptimizations.accuracy().layer
    assert parse_optimizations(layer.describe()) == ("performance", (dict(layer.tensors), dict(layer.ops)))


@pytest.mark.parametrize("base", MODES)
def test_keys_left_out_keep_the_setting_of_the_base_mode(base):
    layer = resolve_precision(3, "precision_cfg = {wo: bfp4}", base=base).layer(2)
    expected = ModelOptimizations.of_mode(base).layer
    assert layer.tensors == {**expected.tensors, TensorGroup.WO: PrecisionSetting.BFP4}
    assert layer.ops == expected.ops


@pytest.mark.parametrize(
    "text, message",
    [
        ("fast", "'fast'"),
        ("", "''"),
        ("precision_cfg = {ff3: bfp8}", "precision_cfg: 'ff3' is not known; accepted: ff1_3, ff2"),
        ("precision_cfg = {ff2: fp8}", "ff2: 'fp8' is not accepted; accepted: bfp4, bfp8, bf16"),
        ("precision_cfg = {ff2: mixed}", "ff2: 'mixed' is not accepted"),
        ("precision_cfg = {activation: bfp4}", "activation: 'bfp4' is not accepted; accepted: bfp8, bf16, mixed"),
        ("fidelity_cfg = {li_ff2: hifi3}", "li_ff2: 'hifi3' is not accepted; accepted: lofi, hifi2"),
        ("precision_cfg = {ff2: bfp4, ff2: bfp8}", "ff2 is given twice"),
        ("precision_cfg = {ff2: bfp4}, precision_cfg = {wo: bfp8}", "precision_cfg is given twice"),
        ("precision_cfg = {ff2 bfp4}", "'ff2 bfp4' is not of the form"),
        ("precision = {ff2: bfp4}", "'precision' is not known; accepted: precision_cfg, fidelity_cfg"),
        ("precision_cfg = {ff2: bfp4} fidelity_cfg = {}", "expected a comma before"),
        ("precision_cfg = {ff2: bfp4},", "cannot read"),
        ("precision_cfg = {ff2: bfp4", "cannot read"),
    ],
)
def test_malformed_optimizations_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_optimizations(text)


def test_decoder_config_changes_only_the_decoders_and_keys_it_names(tmp_path):
    path = write_json(
        tmp_path / "decoders.json",
        decoders(
            _0={"precision_cfg": {"ff2": "bf16"}},
            _2={"fidelity_cfg": {"li_ff2": "hifi4"}, "precision_cfg": {"wo": "bfp4"}},
        ),
    )
    precision = resolve_precision(3, "performance", decoder_config_file=path)
    base = ModelOptimizations.performance().layer
    assert precision.layer(0).tensors == {**base.tensors, TensorGroup.FF2: PrecisionSetting.BF16}
    assert precision.layer(1) == base
    assert precision.layer(2).dtype(TensorGroup.WO) == ttnn.bfloat4_b
    assert precision.layer(2).ops == {**base.ops, OpGroup.LI_FF2: MathFidelitySetting.HIFI4}
    assert re.search(r"decoders 0-0: .*decoders 1-1: .*decoders 2-2: ", precision.describe())


def test_sources_are_laid_over_each_other_in_the_documented_order(tmp_path):
    write_json(tmp_path / "accuracy_decoder_config.json", decoders(_0={"precision_cfg": {"ff2": "bfp4", "wo": "bfp4"}}))
    path = write_json(tmp_path / "decoders.json", decoders(_0={"precision_cfg": {"wo": "bfp8"}}))

    def formats(optimizations, **kwargs):
        layer = resolve_precision(1, optimizations, base="accuracy", model_params_dir=tmp_path, **kwargs).layer(0)
        return layer.tensors[TensorGroup.FF2].value, layer.tensors[TensorGroup.WO].value

    assert formats("performance") == ("bfp4", "bfp8")
    assert formats("accuracy") == ("bfp4", "bfp4")
    assert formats("precision_cfg = {ff2: bf16, wo: bf16}") == ("bf16", "bf16")
    assert formats("precision_cfg = {ff2: bf16, wo: bf16}", decoder_config_file=path) == ("bf16", "bfp8")


def test_a_range_of_decoders_is_given_at_once(tmp_path):
    path = write_json(tmp_path / "decoders.json", {"decoders": {"1-2": {"precision_cfg": {"ff2": "bf16"}}}})
    precision = resolve_precision(4, decoder_config_file=path)
    assert [precision.layer(i).tensors[TensorGroup.FF2].value for i in range(4)] == ["bfp4", "bf16", "bf16", "bfp4"]


def test_a_models_override_may_name_layers_that_a_run_leaves_out_and_a_users_file_may_not(tmp_path):
    path = write_json(tmp_path / "performance_decoder_config.json", decoders(_3={"precision_cfg": {"ff2": "bf16"}}))
    assert resolve_precision(2, model_params_dir=tmp_path, model_layers=4).layer(1) == ModelOptimizations.performance().layer
    with pytest.raises(ValueError, match="decoder '3': the model has decoders 0 to 2"):
        resolve_precision(2, model_params_dir=tmp_path, model_layers=3)
    with pytest.raises(ValueError, match="decoder '3': the model has decoders 0 to 1"):
        resolve_precision(2, decoder_config_file=path)


def test_a_models_override_of_its_decoders_leaves_the_lm_head_in_the_modes_format(tmp_path):
    write_json(tmp_path / "performance_decoder_config.json", decoders(_0={"precision_cfg": {"wqkv": "bf16"}}))
    layer = resolve_precision(1, model_params_dir=tmp_path).layer(0)
    assert (layer.dtype(TensorGroup.WQKV), layer.dtype(TensorGroup.LM_HEAD)) == (ttnn.bfloat16, ttnn.bfloat8_b)


@pytest.mark.parametrize("file", sorted(MODEL_PARAMS.glob("*/*_decoder_config.json")), ids=lambda file: file.parent.name)
def test_the_overrides_of_known_models_are_accepted(file):
    layers = read_config(file.parent / "config.json")["num_hidden_layers"]
    mode = file.name.removesuffix("_decoder_config.json")
    precision = resolve_precision(layers, mode, model_params_dir=file.parent)
    assert precision.name == f"{mode} + model_params"
    assert precision.layer(layers - 1) != ModelOptimizations.of_mode(mode).layer


@pytest.mark.parametrize("name", ["Llama3.1-8B", "Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct", "Qwen3-8B"])
def test_metas_names_have_the_overrides_of_hugging_faces(name):
    precision = resolve_precision(36, "performance", model_params_dir=overrides_folder(name))
    assert precision.name == "performance + model_params"


def test_a_broken_model_override_is_an_error_and_not_ignored(tmp_path):
    (tmp_path / "performance_decoder_config.json").write_text("{")
    with pytest.raises(ValueError, match="performance_decoder_config.json"):
        resolve_precision(1, "performance", model_params_dir=tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "decoders.json"),
        ("[]", "expected one object"),
        ('{"layers": {}}', "expected one object"),
        ('{"decoders": {"4": {}}}', "decoder '4': the model has decoders 0 to 3"),
        ('{"decoders": {"01": {}}}', "decoder '01'"),
        ('{"decoders": {"0": []}}', "decoder '0': expected an object"),
        ('{"decoders": {"2-4": {}}}', "decoder '2-4': the model has decoders 0 to 3"),
        ('{"decoders": {"3-1": {}}}', "decoder '3-1': the model has decoders 0 to 3"),
        ('{"decoders": {"1": {}, "0-2": {}}}', "decoder '0-2': decoder 1 is given twice"),
        ('{"decoders": {"0": {}, "0": {}}}', "'0' is given twice"),
        ('{"decoders": {"1": {"dtype": {}}}}', "decoder '1': 'dtype' is not known"),
        ('{"decoders": {"1": {"precision_cfg": {"ff1": "bfp4"}}}}', "decoder '1': precision_cfg: 'ff1' is not known"),
        ('{"decoders": {"1": {"precision_cfg": {"ff2": "FP8"}}}}', "decoder '1': precision_cfg: ff2: 'FP8'"),
        ('{"decoders": {"1": {"precision_cfg": {"ff2": ["bfp4"]}}}}', "ff2: ['bfp4'] is not accepted"),
    ],
)
def test_malformed_decoder_config_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "decoders.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_decoder_config(path, 4)


def test_missing_decoder_config_is_an_error_naming_the_file(tmp_path):
    with pytest.raises(ValueError, match="nowhere.json"):
        resolve_precision(4, decoder_config_file=tmp_path / "nowhere.json")
