"""`ModelArgs` of small random checkpoints: what their tests share."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

import models  # noqa: F401  (makes `import ttnn` resolve)
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.tiny_phi3 import save_tiny_phi3

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class MeshOf:
    """The part of a mesh device that `ModelArgs` uses; nothing is computed here."""

    def __init__(self, num_devices):
        self.shape = (1, num_devices)

    def get_num_devices(self):
        return self.shape[1]

    def arch(self):
        return SimpleNamespace(name="WORMHOLE_B0")

    def compute_with_storage_grid_size(self):
        return SimpleNamespace(x=8, y=8)

    def dram_grid_size(self):
        return SimpleNamespace(x=12, y=1)


def save_tokenizer(directory, chat_template=None):
    """A byte-level tokenizer: one token per byte, then the special tokens."""
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    return {token: fast.convert_tokens_to_ids(token) for token in special}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for variable in ("HF_MODEL", "LLAMA_DIR", "TT_CACHE_PATH", "MAX_PREFILL_CHUNK_SIZE", "PAD_MLP_CORES"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "tiny-phi3"
    save_tiny_phi3(directory)
    save_tokenizer(directory, CHAT_TEMPLATE)
    return directory


def args_of(directory, *, num_devices=1, max_seq_len=128, **options):
    return ModelArgs(MeshOf(num_devices), hf_model=directory, max_seq_len=max_seq_len, **options)


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
