"""vLLM's OpenAI server for the model and the mesh of the environment. Arguments are added to those of `vllm serve`.

    HF_MODEL=... MESH_DEVICE=N300 PORT=8000 python -m models.tt_transformers.serving.serve --max-num-seqs 16
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.common.mesh_names import requested_mesh_name
from models.tt_transformers.serving import BLOCK_SIZE
from models.tt_transformers.tt.checkpoints.formats import checkpoint_files, model_config
from models.tt_transformers.tt.checkpoints.location import BUNDLED, in_environment, locate
from models.tt_transformers.tt.config.architecture import Architecture

# The bundled checkpoint has no chat template. It continues the text of the messages.
CONTINUATION = Path(__file__).with_name("continuation.jinja")

HOST = "127.0.0.1"

# The pool of pages has room for all users at full length. On the emulator it is memory of this computer.
MAX_NUM_SEQS = 16
MAX_MODEL_LEN = 4096

# Seconds that running requests get to finish after Ctrl-C, and the devices to be closed.
SHUTDOWN_TIMEOUT = 10


def command(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command line of `vllm serve`; `arguments` come last and replace what is set here.

    Raises ValueError for a model or a port that cannot be served, and what `locate` and `checkpoint_files` raise.
    """
    model = in_environment(environ)
    if model["llama_dir"] is not None:
        raise ValueError(f"LLAMA_DIR {model['llama_dir']!r}: vLLM reads Hugging Face's format only; set HF_MODEL")
    location = locate(model["hf_model"])
    checkpoint_files(location.weights_directory)  # refuses missing and truncated files
    port = _port(environ)
    context = Architecture.from_hf_config(model_config(location.directory)).max_context_len
    options = {
        "served-model-name": location.name,
        "host": HOST,
        "port": port,
        "block-size": BLOCK_SIZE,
        "max-num-seqs": MAX_NUM_SEQS,
        "max-model-len": min(MAX_MODEL_LEN, context),
        "shutdown-timeout": SHUTDOWN_TIMEOUT,
    }
    if location.directory == BUNDLED:
        options["chat-template"] = CONTINUATION
    settings = [f"--{name}={value}" for name, value in options.items()]
    return ["vllm", "serve", location.hub_name or str(location.directory), *settings, *arguments]


def check_port_is_free(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    """Raises ValueError if the server cannot listen on PORT. vLLM itself tries it late, after half of its start.

    Does nothing if `arguments` choose another port, address or socket.
    """
    if any(argument.startswith(("--port", "--host", "--uds")) for argument in arguments):
        return
    port = _port(environ)
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise ValueError(f"PORT {port}: {error.strerror}") from error


def _port(environ: Mapping[str, str]) -> int:
    port = environ.get("PORT", "8000")
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        raise ValueError(f"PORT is {port!r}; accepted are 1 to 65535")
    return int(port)


def main() -> None:
    arguments = sys.argv[1:]
    try:
        requested_mesh_name()  # refuses an unknown one
        sys.argv = command(arguments)
        check_port_is_free(arguments)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    main()
