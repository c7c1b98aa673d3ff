"""Users' images on the devices: what prefill and decode steps need of them, and the pages of their keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import ttnn

from models.tt_transformers.tt.modules.cross_attention import DecodeImages, PromptImages
from models.tt_transformers.tt.runtime.page_table import PageTable
from models.tt_transformers.tt.vision.attended import Attended
from models.tt_transformers.tt.vision.images import UserImages
from models.tt_transformers.tt.vision.model import MASKED


def check_images(args, user: int, tokens: Sequence[int], images: UserImages | None) -> None:
    """Raises ValueError unless the prompt `tokens` has an image token for each image, and no more than the model takes."""
    given = 0 if images is None else len(images)
    if args.arch.vision is None:
        if given:
            raise ValueError(f"user {user} has {given} image(s); {args.model_name} runs without images (max_images is 0)")
        return
    places = sum(token == args.arch.vision.image_token for token in tokens)
    if places != given:
        raise ValueError(f"user {user}: the prompt has {places} image token(s) for {given} image(s)")
    if given > args.max_images:
        raise ValueError(f"user {user} has {given} images; max_images is {args.max_images}")


@dataclass(frozen=True)
class ImageKeys:
    """What decoded tokens attend to: the first `lengths[slot]` image tokens of each slot (0: it has no images), in the
    pages `page_table`, int32 [users, pages] (None: unpaged)."""

    lengths: tuple[int, ...]
    page_table: torch.Tensor | None

    def of(self, slots: slice) -> "ImageKeys":
        """Those of some slots."""
        return ImageKeys(self.lengths[slots], None if self.page_table is None else self.page_table[slots])


class ImageSlots:
    """The image tokens of each of `users` slots, and their pages. Every slot has room for `max_images` images, so pages
    never run out."""

    def __init__(self, args, users: int):
        self.args = args
        pages = args.image_pages
        self._pages = pages and PageTable(pages, users, args.max_image_tokens, args.max_batch_size)
        self._lengths = [0] * users

    def start(self, slot: int, tokens: Sequence[int], images: UserImages | None) -> None:
        """Makes room for the images of a new prompt, in place of those that the slot had."""
        self.release(slot)
        if images is None:
            return
        self._lengths[slot] = Attended.of(self.args.arch.vision, tokens, images.tile_counts).decode_keys
        if self._pages is not None:
            self._pages.grow(slot, self._lengths[slot])

    def release(self, slot: int) -> None:
        self._lengths[slot] = 0
        if self._pages is not None:
            self._pages.release(slot)

    def move(self, sources: Sequence[int]) -> None:
        """Slot i gets the images that slot `sources[i]` had."""
        self._lengths = [self._lengths[source] for source in sources]
        if self._pages is not None:
            self._pages.move(sources)

    @property
    def keys(self) -> ImageKeys:
        return ImageKeys(tuple(self._lengths), None if self._pages is None else self._pages.table.clone())


class NoImageSlots:
    """The same for a model without images."""

    keys = None

    def start(self, slot, tokens, images) -> None:
        """Nothing: `check_images` refuses images."""

    def release(self, slot) -> None:
        """Nothing."""

    def move(self, sources) -> None:
        """Nothing."""


def image_slots(args, users: int):
    """`ImageSlots` of a model with images, `NoImageSlots` of another."""
    return NoImageSlots() if args.arch.vision is None else ImageSlots(args, users)


class PrefillImages:
    """The images of one user's prompt, encoded once, for the prefill of its chunks."""

    def __init__(self, model, tokens: Sequence[int], images: UserImages, page_table: torch.Tensor | None):
        """`page_table`: int32 [1, pages], the user's; None if unpaged."""
        self.model, self._page_table = model, None
        self.attended = Attended.of(model.args.arch.vision, tokens, images.tile_counts)
        encoded = [model.vision.forward(*image) for image in zip(images.pixels, images.aspect_ratio_ids)]
        self._tokens = model.vision.gathered(encoded, self.attended.rows(model.vision.config.rows))
        if page_table is not None:
            used = model.args.image_pages.blocks_for(self.attended.decode_keys)
            self._page_table = _to_device(page_table[:, :used], ttnn.int32, ttnn.ROW_MAJOR_LAYOUT, model.mesh_device)

    def chunk(self, start: int, rows: int) -> PromptImages:
        """For the positions from `start` on."""
        masked, sees = self.attended.masked(start, start + rows), self.attended.sees(start, start + rows)
        mask = _to_device(masked.float()[None, None] * MASKED, ttnn.bfloat4_b, ttnn.TILE_LAYOUT, self.model.mesh_device)
        return PromptImages(self._tokens, mask, _column(sees, self.model.mesh_device), self._page_table)


class DecodeInputs:
    """The images of all slots at fixed places on the devices, for a decode step that is replayed."""

    def __init__(self, args, keys: ImageKeys):
        self.args, self._keys = args, keys
        self._host = self._hosts(keys)
        self._device = {name: ttnn.to_device(host, args.mesh_device) for name, host in self._host.items()}
        self.images = DecodeImages(**{"page_table": None, **self._device})

    def update(self, keys: ImageKeys) -> None:
        """Copies what changed to the devices."""
        if keys.lengths == self._keys.lengths and _equal(keys.page_table, self._keys.page_table):
            return
        self._keys = keys
        for name, host in self._hosts(keys).items():
            ttnn.copy_host_to_device_tensor(host, self._device[name])

    def _hosts(self, keys: ImageKeys) -> Mapping:
        mesh_device = self.args.mesh_device
        lengths = torch.tensor(keys.lengths)
        hosts = {
            # A slot without images attends to the first key of page 0, and the result counts nothing.
            "positions": _host(lengths.sub(1).clamp(min=0).int(), ttnn.int32, ttnn.ROW_MAJOR_LAYOUT, mesh_device),
            "sees": _host((lengths > 0).float()[None, None, :, None], ttnn.bfloat16, ttnn.TILE_LAYOUT, mesh_device),
        }
        if keys.page_table is not None:
            hosts["page_table"] = _host(keys.page_table, ttnn.int32, ttnn.ROW_MAJOR_LAYOUT, mesh_device)
        return hosts


class NoDecodeInputs:
    """The same for a model without images."""

    images = None

    def update(self, keys: None) -> None:
        """Nothing."""


def decode_inputs(args, keys: ImageKeys | None):
    """`DecodeInputs` of a model with images, `NoDecodeInputs` of another."""
    return NoDecodeInputs() if keys is None else DecodeInputs(args, keys)


def no_images(args) -> ImageKeys | None:
    """The keys of slots without images; None for a model without images."""
    return image_slots(args, args.max_batch_size).keys


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b or torch.equal(a, b)


def _column(flags: torch.Tensor, mesh_device):
    return _to_device(flags.float()[None, None, :, None], ttnn.bfloat16, ttnn.TILE_LAYOUT, mesh_device)


def _to_device(values: torch.Tensor, dtype, layout, mesh_device):
    return ttnn.to_device(_host(values, dtype, layout, mesh_device), mesh_device)


def _host(values: torch.Tensor, dtype, layout, mesh_device):
    return ttnn.from_torch(values, dtype=dtype, layout=layout, mesh_mapper=ttnn.ReplicateTensorToMesh(mesh_device))
