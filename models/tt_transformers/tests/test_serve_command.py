"""`make serve`: the command line that the environment gives."""

import importlib.util
import socket

import pytest

from models.tt_transformers.serving.plugin import platform
from models.tt_transformers.serving.serve import CONTINUATION, check_port_is_free, command
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.support.tiny_models import save_tiny


def test_without_settings_the_bundled_model_is_served_on_this_machine_only():
    line = command([], {})
    assert line[:3] == ["vllm", "serve", str(BUNDLED)]
    assert {"--host=127.0.0.1", "--port=8000", "--max-model-len=4096", f"--chat-template={CONTINUATION}"} <= set(line)


def test_another_model_keeps_its_chat_template_and_its_shorter_context(tmp_path):
    save_tiny("Llama", tmp_path)
    line = command([], {"HF_MODEL": str(tmp_path), "PORT": "81"})
    assert line[2] == str(tmp_path) and {"--port=81", "--max-model-len=256"} <= set(line)
    assert not any(option.startswith("--chat-template") for option in line)


def test_arguments_come_last_so_that_they_replace_what_is_set():
    assert command(["--max-num-seqs=4"], {})[-1] == "--max-num-seqs=4"


@pytest.mark.parametrize(
    "environment, error",
    [
        ({"PORT": "http"}, "PORT is 'http'; accepted are 1 to 65535"),
        ({"PORT": "0"}, "PORT is '0'"),
        ({"LLAMA_DIR": "/somewhere"}, "vLLM reads Hugging Face's format only; set HF_MODEL"),
    ],
)
def test_what_cannot_be_served_is_refused(environment, error):
    with pytest.raises(ValueError, match=error):
        command([], environment)


def test_truncated_weights_are_refused_before_vllm_starts(tmp_path):
    save_tiny("Llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors is truncated"):
        command([], {"HF_MODEL": str(tmp_path)})


@pytest.mark.parametrize(
    "is_installed, loaded, is_own",
    [(False, None, True), (True, None, False), (True, "tt,tt_transformers", False), (True, "tt_transformers", True)],
)
def test_the_vendors_plugin_serves_where_it_is_installed_and_loaded(monkeypatch, is_installed, loaded, is_own):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    if loaded is not None:
        monkeypatch.setenv("VLLM_PLUGINS", loaded)
    assert (platform() is not None) == is_own


def test_a_port_in_use_is_refused_unless_the_arguments_choose_another():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {"PORT": str(taken.getsockname()[1])}
        with pytest.raises(ValueError, match=f"PORT {environment['PORT']}: Address already in use"):
            check_port_is_free([], environment)
        check_port_is_free(["--port=1"], environment)
    check_port_is_free([], environment)
