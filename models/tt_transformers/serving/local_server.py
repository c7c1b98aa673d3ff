"""A server in processes of its own, for tests and measurements."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil

from models.tt_transformers.tt.checkpoints.location import PROJECT

START_LIMIT = 600  # seconds; a server that has not answered by then never will


class Server:
    """`make serve`'s server on a free port. `process` is the HTTP server; the engine is a child of it.

    `options`: of `vllm serve`; `environment`: added to this process's; `log`: the file for its output.
    """

    def __init__(self, log: Path, *options: str, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "models.tt_transformers.serving.serve", *options]
        settings = {**os.environ, "PORT": str(self.port), "VLLM_NO_USAGE_STATS": "1", **environment}
        with open(log, "w") as output:
            self.process = subprocess.Popen(command, cwd=PROJECT, env=settings, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_ready(self) -> "Server":
        deadline = time.monotonic() + START_LIMIT
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server has not started:\n{self.log.read_text()[-8000:]}")
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=10).status == 200
        except OSError:
            return False

    def engine(self) -> psutil.Process:
        """The process that holds the model."""
        return next(child for child in psutil.Process(self.process.pid).children() if "EngineCore" in child.name())

    def stop(self) -> int:
        """Interrupts the server, as Ctrl-C does -> its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=START_LIMIT)


@contextmanager
def serving(log: Path, *options: str, **environment: str):
    """A `Server` that is ready; it is stopped at the end. RuntimeError with its log if it does not start."""
    server = Server(log, *options, **environment)
    try:
        yield server.wait_until_ready()
    finally:
        if server.process.poll() is None:
            server.stop()
