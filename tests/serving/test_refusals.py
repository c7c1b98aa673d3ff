"""What our own platform does not support is refused by its name, when vLLM makes its configuration."""

import pytest
from vllm.engine.arg_utils import EngineArgs

from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.serving.server import PLUGIN

pytestmark = [pytest.mark.serving, pytest.mark.skipif(PLUGIN, reason="the vendor's plugin has its own words")]


NGRAM = {"method": "ngram", "num_speculative_tokens": 2}
FABRIC = {"tt": {"fabric_config": "FABRIC_1D"}}


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(enable_lora=True), "LoRA is not supported"),
        (dict(speculative_config=NGRAM), "speculative decoding is not supported"),
        (dict(tensor_parallel_size=2), "an engine drives all devices of its mesh"),
        (dict(pipeline_parallel_size=2), "an engine drives all devices of its mesh"),
        (dict(additional_config=FABRIC), "tt has fabric_config; this platform takes optimizations"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(options, reason):
    with pytest.raises(ValueError, match=reason):
        EngineArgs(str(BUNDLED), max_model_len=1024, **options).create_engine_config()
