"""The README's lists of models: the smallest mesh and the largest context of each, by its count of DRAM.

    python -m models.tt_transformers.measure.compatible [--readme]

Lays out each model of `model_params/compatible.json` shape-only on every mesh (in a minute or two), writes the record
and then the README; with `--readme`, only the README. Models with equal sizes are laid out once.
"""

import argparse
import json
import math
import tempfile
from functools import cache
from pathlib import Path

import models  # noqa: F401
from models.common import benchmark_record, console, whole_file
from models.common.mesh_names import VALIDATED
from models.tt_transformers.measure import capacity
from models.tt_transformers.measure.tables import table
from models.tt_transformers.measure.vendor.table import with_table
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import Architecture, architecture_name, read_config
from models.tt_transformers.tt.config.reader import language_config

RECORD = Path(__file__).parent / "records" / "compatible" / "contexts.json"
README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- lists of models: written by `make compatible`, do not edit -->"
END = "<!-- end of the lists of models -->"
# Weights are counted at this context, at which the RoPE tables have both sets of LongRoPE's factors.
PROBE = 8192


def read_models() -> dict[str, dict]:
    """org/model -> its entry in `compatible.json`, in which `config` is now its whole config, if that is known."""
    entries = json.loads((MODEL_PARAMS / "compatible.json").read_text(encoding="utf-8"))
    for entry in entries.values():
        if "config" in entry:
            config = read_config(MODEL_PARAMS / entry["config"] / "config.json")
            entry["config"] = {**config, **entry.get("changes", {})}
    return entries


def count(name: str, config: dict) -> dict[str, int | str]:
    """Mesh -> the largest context there, in tokens; 0 if none fits, or the reason why the model does not run there.

    For one user, performance mode and the mesh's default prefill chunk.
    """
    folder = name.split("/")[1]
    own = any((MODEL_PARAMS / folder).glob("*_decoder_config.json"))
    sizes = {key: value for key, value in config.items() if not key.endswith("_token_id")}
    return _count(json.dumps(sizes, sort_keys=True), folder if own else "model")


@cache
def _count(config: str, name: str) -> dict[str, int | str]:
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / name
        directory.mkdir()
        (directory / "config.json").write_text(config, encoding="utf-8")
        return {mesh: _largest(mesh, directory) for mesh in VALIDATED}


def _largest(mesh: str, directory: Path) -> int | str:
    most = language_config(read_config(directory / "config.json"))["max_position_embeddings"]
    probe = min(most, PROBE)
    try:
        whole = capacity.measure(mesh, probe, chunks=1, model=str(directory))
        near, far = (
            capacity.measure(mesh, tokens, chunks=2, num_layers=1, model=str(directory)) for tokens in (probe, most)
        )
    except ValueError as error:
        return str(error).replace(f"{directory.name} is", "it is")
    # RoPE tables and caches grow by the token; no context has larger activations than the longest.
    rope = 0 if most == probe else (far.weights - near.weights) / (most - probe)
    fixed = whole.weights - rope * probe + far.activations
    fitting = math.floor((whole.capacity - fixed) / (whole.kv_cache / probe + rope))
    return max(0, min(most, fitting)) // capacity.STEP * capacity.STEP


def count_with_image(name: str) -> dict[str, int | str]:
    """As `count`, for a prompt with one image. The model is laid out whole for each context that is tried."""
    most = language_config(read_config(MODEL_PARAMS / name.split("/")[1] / "config.json"))["max_position_embeddings"]

    def largest(mesh: str) -> int | str:
        try:
            found = capacity.largest(mesh, most, model=name, max_images=1)
        except ValueError as error:
            return str(error)
        return 0 if found is None else found.context

    return {mesh: largest(mesh) for mesh in VALIDATED}


def markdown(entries: dict[str, dict], contexts: dict[str, dict], with_image: dict[str, dict]) -> str:
    """The two lists; `contexts` has a `count` for each model whose config is known, `with_image` a `count_with_image`."""
    verified, compatible = (
        _list({name: entry for name, entry in entries.items() if entry["list"] == kind}, contexts)
        for kind in ("verified", "compatible")
    )
    return f"""A context is the largest that fits a device's DRAM, in thousands (1024s) of tokens, for one user in \
performance mode. The emulator counts weights, KV cache, RoPE tables and the activations of a prefill in chunks of the \
default size. `-` means that none fits, or that the model is refused there \
([the record](measure/records/compatible/contexts.json) says why). `vendor's mesh` is the smallest mesh in the vendor's \
list for TT-Transformers. `config` says where a model's sizes are from: its `own` config.json, a `copy` that names it \
(a fine-tune or quantisation), the model that it is based on (`base`), the sizes of its `files`, or the `params` that its \
publisher gives. A model that reads images is counted as a model of text.

{verified}

With one image in the prompt, whose encoder and keys need DRAM too:

{_contexts_with_image(with_image)}

<details>
<summary>{sum(entry["list"] == "compatible" for entry in entries.values())} compatible models</summary>

{compatible}

</details>"""


def _contexts_with_image(contexts: dict[str, dict]) -> str:
    return table(["model", *VALIDATED], [[name, *_sizes(found)] for name, found in contexts.items()], 1 + len(VALIDATED))


def _sizes(found: dict[str, int | str]) -> list[str]:
    return [f"{tokens // 1024}k" if isinstance(tokens, int) and tokens else "-" for tokens in map(found.get, VALIDATED)]


def _list(entries: dict[str, dict], contexts: dict[str, dict]) -> str:
    header = ["model", "architecture", "vendor's mesh", "smallest mesh", *VALIDATED, "config"]
    return table(header, [_row(name, entry, contexts.get(name)) for name, entry in entries.items()], len(header))


def _row(name: str, entry: dict, found: dict | None) -> list[str]:
    link = f"[{name}](https://huggingface.co/{name})"
    if found is None:
        return [link, entry["note"], entry["mesh"], *["?"] * (1 + len(VALIDATED)), "?"]
    fits = {mesh: tokens for mesh, tokens in found.items() if isinstance(tokens, int) and tokens}
    checked = {"config": "own"}.get(entry["checked"], entry["checked"])
    return [link, architecture_name(entry["config"]), entry["mesh"], next(iter(fits), "none"), *_sizes(found), checked]


def _reads_images(entry: dict) -> bool:
    return "config" in entry and Architecture.from_hf_config(entry["config"]).vision is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the README from the record as it is")
    entries = read_models()
    if not parser.parse_args().readme:
        contexts = {name: count(name, entry["config"]) for name, entry in entries.items() if "config" in entry}
        with_image = {name: count_with_image(name) for name, entry in entries.items() if _reads_images(entry)}
        whole_file.write_json(RECORD, {**benchmark_record.origin(), "contexts": contexts, "with_image": with_image}, indent=1)
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    lists = markdown(entries, record["contexts"], record["with_image"])
    whole_file.write(README, with_table(README.read_text(encoding="utf-8"), lists, BEGIN, END))


if __name__ == "__main__":
    console.run(main)
