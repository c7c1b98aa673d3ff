"""What the Galaxy demos run where the user has not said which model, mesh and size."""

import os

from models.common import backend
from models.tt_transformers.demo.case import Case

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
# Two layers of the model's width take 12 GB of a computer's memory; all 80 would take 150 GB.
LAYERS = 2


def with_defaults(case: Case, given: dict, monkeypatch) -> Case:
    """`case` with the `given` options, on a Galaxy (MESH_DEVICE) and with Llama-3.3-70B's sizes, unless the user says else.

    Without HF_MODEL and LLAMA_DIR the weights are random. On the emulator a case then runs `LAYERS` layers, or its own
    number; a case that is `shape_only` runs all layers, without values.
    """
    has_card = backend.name() == "silicon"
    if not has_card and not {"MESH_DEVICE", "FAKE_DEVICE"} & set(os.environ):
        monkeypatch.setenv("MESH_DEVICE", "TG")
    if {"HF_MODEL", "LLAMA_DIR"} & set(os.environ):
        return case.with_options({"shape_only": False, **given})
    monkeypatch.setenv("HF_MODEL", MODEL)
    whole = case.shape_only and backend.name() == "emulator" and "num_layers" not in given
    defaults = {"dummy_weights": True, "shape_only": whole}
    if not has_card and case.num_layers is None and not given.get("shape_only", whole):
        defaults["num_layers"] = LAYERS
    return case.with_options({**defaults, **given})
