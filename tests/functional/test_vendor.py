"""The vendor's mock device accepts every op of the bring-up at full width, and agrees with the emulator everywhere."""

import json

import pytest

from models.evaluation.contract import SYSTEMS

from .conftest import BUNDLED, FULL_SIZE_CONFIG, MODEL_FILE

LOAD = """
import importlib.util, json, sys
import models
import torch
from models.common import mesh

spec = importlib.util.spec_from_file_location("functional", sys.argv[1])
functional = importlib.util.module_from_spec(spec)
spec.loader.exec_module(functional)
"""

FULL_WIDTH = (
    LOAD
    + """
from transformers import Phi3Config, Phi3ForCausalLM
from transformers.initialization import no_init_weights

def shapes(out):
    return [*out.logits.shape, out.past_key_values.get_seq_length()]

config = Phi3Config(**{**json.load(open(sys.argv[2])), "num_hidden_layers": 1})
answer = {}
with no_init_weights():
    weights = Phi3ForCausalLM._from_config(config, dtype=torch.bfloat16)
with mesh.open_mesh("T3K", shape=(2, 4)) as device, torch.no_grad():
    model = functional.build_model(weights, device, max_seq_len=4160)
    for users, seq_len in ((1, 128), (32, 32), (1, 2048), (1, 4096)):
        tokens = torch.ones(users, seq_len, dtype=torch.long)
        out = model(tokens, logits_to_keep=1)
        answer[f"prefill {users} x {seq_len}"] = shapes(out)
        # From 4096 on, this is the call that crosses the switch.
        out = model(tokens[:, :1], past_key_values=out.past_key_values)
        out = model(tokens[:, :1], past_key_values=out.past_key_values)
        answer[f"decode {users} x {seq_len}"] = shapes(out)
    mask = torch.ones(3, 40, dtype=torch.long)
    mask[1, :25] = 0
    answer["generate"] = list(model.generate(mask, attention_mask=mask, max_new_tokens=4, do_sample=False).shape)
print(json.dumps(answer))
"""
)


@pytest.mark.vendor
def test_vendor_accepts_every_op_on_a_2x4_t3k(run_on_mock):
    answer = json.loads(run_on_mock("T3K", FULL_WIDTH, str(MODEL_FILE), str(FULL_SIZE_CONFIG)).splitlines()[-1])
    vocab_size = 32064
    expected = {"generate": [3, 44]}
    for users, seq_len in ((1, 128), (32, 32), (1, 2048), (1, 4096)):
        expected[f"prefill {users} x {seq_len}"] = [users, 1, vocab_size, seq_len]
        expected[f"decode {users} x {seq_len}"] = [users, 1, vocab_size, seq_len + 2]
    assert answer == expected


BUNDLED_MODEL = (
    LOAD
    + """
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
reference = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16)
texts = torch.arange(3, 4003).view(2, 2000)
short, mask, long = texts[:, :40], torch.ones(2, 40, dtype=torch.long), texts[:1, :511]
mask[1, :15] = 0
rows, columns = map(int, sys.argv[3:])
with mesh.open_mesh(shape=(rows, columns)) as device:
    model = functional.build_model(reference, device, max_seq_len=520)
    settings = dict(max_new_tokens=3, do_sample=False, eos_token_id=None)
    for prompt, mask in ((short, mask), (long, torch.ones_like(long))):
        print(model.generate(prompt, attention_mask=mask, **settings).shape[1])
"""
)


@pytest.mark.vendor
@pytest.mark.parametrize("mesh_name, shape", SYSTEMS.values(), ids=SYSTEMS)
def test_emulator_and_vendor_agree_on_every_output_in_lockstep(run_on_mock, mesh_name, shape):
    """Compared are shape, padded shape, dtype, layout and memory config. The second text crosses the switch at 512."""
    output = run_on_mock(mesh_name, BUNDLED_MODEL, str(MODEL_FILE), str(BUNDLED), *map(str, shape), backend="lockstep")
    assert output.split()[-2:] == ["43", "514"]
