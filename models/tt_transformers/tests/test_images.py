"""Image files: what is read, what is refused, and the settings of the image processor."""

import json
import struct
import zlib

import pytest
import torch
from PIL import Image

from models.tt_transformers.tt.config.vision import VisionArchitecture
from models.tt_transformers.tt.vision.images import ImageProcessor, read_image

ARCH = VisionArchitecture.from_hf_config({"vision_config": {"image_size": 56}})


@pytest.fixture
def saved(tmp_path):
    """The function that writes an image of a mode and size, and returns its path."""

    def save(mode="RGB", size=(60, 40), name="image.png"):
        Image.new(mode, size, 1).save(tmp_path / name)
        return tmp_path / name

    return save


def png_of_size(path, width, height):
    """A PNG that says that it has this size, and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("mode, name", [("L", "a.png"), ("RGBA", "b.png"), ("P", "c.gif"), ("1", "d.png"), ("CMYK", "e.jpg")])
def test_images_of_common_modes_become_three_channels(saved, mode, name):
    images = ImageProcessor(saved().parent, ARCH)([read_image(saved(mode, name=name))])
    assert images.pixels.shape == (1, 4, 3, 56, 56) and images.tile_counts == (2,)


def test_an_image_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image .*missing.png: there is no such file"):
        read_image(tmp_path / "missing.png")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="image .*text.png cannot be read: cannot identify image file"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match="cannot be read: .*directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["image.png", "image.jpg"])
def test_a_truncated_image_is_refused(saved, name):
    file = saved(size=(300, 300), name=name)
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(ValueError, match=f"image .*{name} cannot be read: .*truncated"):
        read_image(file)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path, side):
    with pytest.raises(ValueError, match=f"huge.png cannot be read: .*{side**2} pixels.* could be decompression bomb"):
        read_image(png_of_size(tmp_path / "huge.png", side, side))


@pytest.mark.parametrize("mode, name", [("I;16", "a.png"), ("F", "b.tiff"), ("I", "c.tiff")])
def test_a_mode_without_colours_of_8_bits_is_refused(saved, mode, name):
    with pytest.raises(ValueError, match=f"image .*{name} has mode {mode}; accepted are 1, L, LA, P"):
        read_image(saved(mode, name=name))


def test_one_pixel_and_a_line_of_pixels_are_images(saved):
    images = [read_image(saved(size=(1, 1))), read_image(saved(size=(4000, 1), name="b.png"))]
    assert ImageProcessor(saved().parent, ARCH)(images).tile_counts == (1, 4)


@pytest.mark.parametrize("changes, message", [
    ({"size": {"height": 28, "width": 28}}, "size is {'height': 28, 'width': 28}; config.json implies {'height': 56, 'width': 56}"),
    ({"max_image_tiles": 2}, "max_image_tiles is 2; config.json implies 4"),
])  # fmt: skip
def test_a_processor_that_does_not_fit_the_model_is_refused(tmp_path, saved, changes, message):
    given = {"size": {"height": 56, "width": 56}, "max_image_tiles": 4, **changes}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(ValueError) as error:
        ImageProcessor(tmp_path, ARCH)([read_image(saved())])
    assert message in str(error.value)


def test_the_settings_of_the_checkpoints_processor_are_used(tmp_path, saved):
    default = ImageProcessor(tmp_path, ARCH)([read_image(saved())]).pixels
    given = {"size": {"height": 56, "width": 56}, "max_image_tiles": 4, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    pixels = ImageProcessor(tmp_path, ARCH)([read_image(saved())]).pixels
    assert not torch.equal(pixels, default) and torch.allclose(pixels[0, 0, 0, :8, :8], torch.full((8, 8), 1 / 255))
