"""Phi-3-mini at full width, random weights, on the emulated T3000."""

import json

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from models.common.pcc import pcc

from .conftest import FULL_SIZE_CONFIG


def test_logits_of_one_layer_follow_hugging_face(functional, mesh):
    torch.manual_seed(0)
    config = Phi3Config(**{**json.loads(FULL_SIZE_CONFIG.read_text()), "num_hidden_layers": 1})
    reference = Phi3ForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    model = functional.build_model(reference, mesh, max_seq_len=160)
    prompt, new = torch.randint(0, config.vocab_size, (1, 128)), torch.randint(0, config.vocab_size, (1, 1))
    ours, theirs = model(prompt), reference(prompt)
    assert pcc(ours.logits, theirs.logits) >= 0.999
    ours, theirs = (m(new, past_key_values=out.past_key_values) for m, out in ((model, ours), (reference, theirs)))
    assert pcc(ours.logits, theirs.logits) >= 0.999
