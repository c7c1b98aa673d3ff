"""The measurement of a conversion, at a tiny size; `make full-size` takes it at the size of an 8B."""

from math import prod

import pytest

from models.tt_transformers.measure import conversion
from models.tt_transformers.tt.checkpoints.safetensors_files import SafetensorsFiles
from models.tt_transformers.tt.checkpoints.state_dict import StateDict, shapes
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from tests.support.tiny_models import save_tiny


@pytest.fixture
def model(tmp_path):
    save_tiny("Llama", tmp_path)
    return tmp_path


@pytest.mark.parametrize("files", [False, True])
def test_the_weights_of_the_layers_that_are_asked_for_are_counted(model, files):
    arch = Architecture.from_hf_config(read_config(model / "config.json"))
    for num_layers in (None, 1):
        result = conversion.measure(str(model), num_layers=num_layers, files=files)
        assert result.converted == 2 * sum(map(prod, shapes(arch.with_layers(num_layers)).values()))
        assert result.peak > result.converted


def test_the_checkpoint_has_every_tensor_in_shards_of_a_limited_size(model, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "SHARD_BYTES", 100_000)
    arch = Architecture.from_hf_config(read_config(model / "config.json"))
    directory = tmp_path / "written"
    directory.mkdir()
    conversion.write_checkpoint(directory, arch)
    assert set(StateDict(directory, arch)) == set(shapes(arch))  # it checks names and shapes
    files = SafetensorsFiles(directory)
    sizes = [sum(info.size for info in files.tensors.values() if info.file == file) for file in files.files]
    assert len(sizes) > 4 and max(sizes) <= 100_000
