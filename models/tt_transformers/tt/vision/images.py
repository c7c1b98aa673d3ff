"""Images on the host: files, Hugging Face's image processor, and the pixels of one user."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from models.common.library_errors import reported
from models.tt_transformers.tt.config.architecture import read_config
from models.tt_transformers.tt.config.vision import VisionArchitecture

PROCESSOR = "preprocessor_config.json"
# The modes whose colours PIL can turn into RGB; Hugging Face's processor lays what is transparent on white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass(frozen=True)
class UserImages:
    """The images of one user, ready for the vision model.

    Attributes:
        pixels: [images, max_tiles, channels, image_size, image_size] float32; tiles without content are zeros.
        aspect_ratio_ids: of each image: 1 for the first ratio of `config.vision.aspect_ratios`.
        tile_counts: of each image: its tiles with content.
    """

    pixels: torch.Tensor
    aspect_ratio_ids: tuple[int, ...]
    tile_counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tile_counts)


class ImageProcessor:
    """Hugging Face's image processor of a checkpoint, without torchvision. A checkpoint without a
    `preprocessor_config.json`, such as one in Meta's format, gets the settings of Llama 3.2 Vision.

    Raises ValueError for a `preprocessor_config.json` that does not fit the model.
    """

    def __init__(self, model_dir: Path, arch: VisionArchitecture):
        self.model_dir, self.arch = model_dir, arch

    @cached_property
    def _processor(self):
        from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

        file, size = self.model_dir / PROCESSOR, {"height": self.arch.image_size, "width": self.arch.image_size}
        if not file.is_file():
            # Mean and deviation of each channel: CLIP's, as in Meta's releases.
            return MllamaImageProcessorPil(
                size=size, max_image_tiles=self.arch.max_tiles,
                image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
            )  # fmt: skip
        given = read_config(file)
        for key, value in (("size", size), ("max_image_tiles", self.arch.max_tiles)):
            if given.get(key) != value:
                raise ValueError(f"{file}: {key} is {given.get(key)!r}; config.json implies {value!r}")
        with reported(f"{file}: Hugging Face refuses it"):
            return MllamaImageProcessorPil.from_dict(given)

    def __call__(self, images: Sequence) -> UserImages:
        """The images of one user, PIL images -> `UserImages`."""
        found = self._processor([list(images)], return_tensors="pt")
        return UserImages(
            pixels=found["pixel_values"][0].float(),
            aspect_ratio_ids=tuple(found["aspect_ratio_ids"][0].tolist()),
            tile_counts=tuple(found["num_tiles"][0]),
        )


def read_image(path: Path):
    """The image in a file, as a PIL image. Raises ValueError that names the file if it is missing, not an image,
    truncated, in a mode without colours of 8 bits, or has more pixels than PIL takes for safe (89 million; the model reads
    a million)."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode not in MODES:
                    raise ValueError(f"image {path} has mode {image.mode}; accepted are {', '.join(MODES)}")
                image.load()
                return image
    except FileNotFoundError as error:
        raise ValueError(f"image {path}: there is no such file") from error
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error
