"""The worked examples of docs/adding.md run in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_phi3 import save_tiny_phi3

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/adding.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the library with the files that the guide shows."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "models", copy / "models", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "records"))
    for path, content in re.findall(r"^`([\w/.]+)`\n```python\n(.*?)^```", GUIDE, re.M | re.S):
        (copy / path).write_text(content, encoding="utf-8")
    package = copy / "models/common/ttnn_emulator/__init__.py"
    text = package.read_text(encoding="utf-8")
    assert text.count('    "transformer",\n') == 1
    package.write_text(text.replace('    "transformer",\n', '    "transformer",\n    "toy",\n'), encoding="utf-8")
    return copy


def run(project, code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


FAMILY = """
import json, sys
import models, torch
from models.common.mesh import open_mesh
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

with open_mesh("N300") as mesh_device:
    args = ModelArgs(mesh_device, hf_model=sys.argv[1], max_seq_len=64, optimizations="bf16")
    with Generator.build(args) as generator:
        logits = torch.stack([generator.prefill([list(range(3, 40))]), generator.decode([7])])
print(json.dumps([args.arch.architecture, logits[:, 0].tolist()]))
"""


def test_the_toy_family_runs_as_the_model_whose_weights_it_has(project, tmp_path):
    reference = save_tiny_phi3(tmp_path / "toy", rope_scaling=None, dtype=torch.bfloat16).float()
    file, config = tmp_path / "toy/model.safetensors", tmp_path / "toy/config.json"
    tensors = {}
    for name, tensor in load_file(file).items():
        if name.endswith("qkv_proj.weight"):
            parts = dict(zip(("q_proj", "k_proj", "v_proj"), tensor.split([128, 64, 64]), strict=True))
        elif name.endswith("gate_up_proj.weight"):
            parts = dict(zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True))
        else:
            parts = {name.split(".")[-2]: tensor}
        for part, values in parts.items():
            tensors[".".join([*name.split(".")[:-2], part, "weight"])] = values.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    facts = {**json.loads(config.read_text()), "architectures": ["ToyForCausalLM"], "model_type": "toy"}
    config.write_text(json.dumps(facts))

    architecture, logits = run(project, FAMILY, tmp_path / "toy")
    with torch.no_grad():
        expected = reference(torch.tensor([[*range(3, 40), 7]])).logits[0, -2:]
    assert architecture == "ToyForCausalLM"
    similarity = torch.nn.functional.cosine_similarity(torch.tensor(logits), expected, dim=1)
    assert similarity.min() >= 0.999


OP = """
import json
import models, ttnn
from models.common.ttnn_emulator import oplog

device = ttnn.open_mesh_device(ttnn.MeshShape(1, 1))
x = ttnn.full((1, 1, 32, 64), 2.0, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
with oplog.recording() as log:
    y = ttnn.square_sum(x)
refused = []
for arguments in ({"sub_core_grids": "nonsense"}, {"memory_config": 3}, {"dim": 1}):
    try:
        ttnn.square_sum(x, **arguments)
    except Exception as error:
        refused.append(str(error))
print(json.dumps([ttnn.to_torch(y).float().unique().tolist(), list(y.shape), log[0].name, sorted(log[0].arguments), refused]))
"""


def test_the_toy_op_computes_is_logged_whole_and_refuses_nonsense(project):
    values, shape, name, arguments, refused = run(project, OP)
    assert (values, shape, name) == ([256.0], [1, 1, 32, 1], "ttnn.square_sum")
    assert arguments == ["input_tensor", "memory_config", "sub_core_grids"]
    assert len(refused) == 3 and all("square_sum" in message for message in refused)


def test_the_guide_names_files_that_are_there():
    paths = {path for path in re.findall(r"`((?:models|tests)/[\w/.]+)`", GUIDE) if "toy" not in path}
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
