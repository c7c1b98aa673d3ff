"""What vLLM loads in each of its processes: the entry points that pyproject.toml names.

vLLM loads the entry points of all packages before it calls the first. Loading this module imports `models`, so that
`ttnn` is the chosen backend when the vendor's plugin imports it.
"""

import importlib.util
import multiprocessing
import os
import signal
import threading

VENDORS = "tt"  # the name of the vendor's entry point


def platform() -> str | None:
    """The class of our own platform; None where the vendor's plugin serves: where it is installed and VLLM_PLUGINS, the
    names of the entry points that vLLM loads, does not leave it out."""
    loaded = os.environ.get("VLLM_PLUGINS", VENDORS).split(",")
    if VENDORS in loaded and importlib.util.find_spec("vllm_tt_plugin"):
        return None
    return "models.tt_transformers.serving.platform.TTPlatform"


def register() -> None:
    """Adds the architecture that the vendor's plugin does not know, under the name that it gives to its own; and makes
    an engine's process end with the server or program that started it."""
    from vllm.model_executor.models.registry import ModelRegistry

    ModelRegistry.register_model("TTPhi3ForCausalLM", "models.tt_transformers.tt.generator_vllm:Phi3ForCausalLM")
    if multiprocessing.current_process().name.startswith("EngineCore"):
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # vLLM's engine would wait for requests, and keep the devices, for ever after its parent was killed.
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
