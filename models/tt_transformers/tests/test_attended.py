"""Which image tokens each position attends to: as Hugging Face's processor and model have it, in another order of keys."""

import pytest
import torch
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from models.tt_transformers.tt.config.vision import VisionArchitecture
from models.tt_transformers.tt.vision.attended import Attended

ARCH = VisionArchitecture.from_hf_config(
    {"vision_config": {"image_size": 28, "vision_output_dim": 7680}, "image_token_index": 99}
)
I = ARCH.image_token
PROMPTS = {
    "one": ([1, 2, I, 3, 4], [3]),
    "at the end": ([1, 2, I], [1]),
    "at the start": ([I, 1, 2], [4]),
    "two apart": ([1, I, 2, 3, I, 4], [2, 4]),
    "two together": ([I, I, 2, 3], [1, 2]),
    "together, then apart": ([1, I, I, 2, I, 3], [3, 1, 2]),
    "apart, then together": ([I, 2, I, I, I, 3], [1, 4, 2, 3]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_positions_attend_to_the_tiles_that_hugging_face_gives_them(name):
    prompt, tile_counts = PROMPTS[name]
    attended = Attended.of(ARCH, prompt, tile_counts)
    spans = get_cross_attention_token_mask(prompt, I)
    dense = convert_sparse_cross_attention_mask_to_dense([spans], [tile_counts], ARCH.max_tiles, len(prompt))
    expected = torch.tensor(dense)[0].bool()  # [positions, images, tiles]
    before = ~expected.any(dim=(1, 2))
    expected[before] = True  # a position before the first image attends to everything
    masked, size = attended.masked(0, len(prompt)), ARCH.tokens_a_tile
    for place, (image, tile) in enumerate(attended.order):
        keys = masked[:, place * size : (place + 1) * size]
        assert torch.equal(~keys, expected[:, image, tile, None].expand(-1, size))
    assert masked[:, len(attended.order) * size :].all(), "padding"
    assert torch.equal(attended.sees(0, len(prompt)), ~before)


@pytest.mark.parametrize("name", PROMPTS)
def test_the_keys_of_decoded_tokens_come_first(name):
    prompt, tile_counts = PROMPTS[name]
    attended = Attended.of(ARCH, prompt, tile_counts)
    last = attended.masked(0, len(prompt))[-1]
    assert not last[: attended.decode_keys].any() and last[attended.decode_keys :].all()


def test_rows_are_the_class_token_and_the_patches_of_each_tile():
    attended = Attended.of(ARCH, [I, 5, I], [1, 2])
    rows = attended.rows(rows_an_image=128)
    assert attended.order[:3] == [(1, 0), (1, 1), (0, 0)]
    assert rows[:5] == [128, 129, 130, 131, 132] and rows[5:10] == [136, 137, 138, 139, 140] and rows[10:15] == [0, 1, 2, 3, 4]
    assert len(rows) == 128 and rows[40:] == [0] * 88
