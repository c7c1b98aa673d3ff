"""Small random Llama 3.2 Vision checkpoints, made by transformers, prompts with images, and Hugging Face's logits for them."""

import json
from pathlib import Path

import torch
import transformers
from PIL import Image

from models.tt_transformers.tt.vision.images import UserImages

# Sizes that split over 8 devices. The head_dim of the vision model, 20, is padded; 5 tokens of a tile are padded to 8.
TEXT = dict(
    vocab_size=320,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    cross_attention_layers=[1, 3],
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
VISION = dict(
    hidden_size=256,
    intermediate_size=320,
    num_hidden_layers=3,
    num_global_layers=2,
    attention_heads=8,
    image_size=28,
    patch_size=14,
    intermediate_layers_indices=[0, 1],
    vision_output_dim=768,
)
IMAGE = TEXT["vocab_size"]  # the token that stands for an image
# Width and height of images that take 1, 2, 3 and 4 tiles.
SIZES = {1: (28, 20), 2: (56, 28), 3: (28, 84), 4: (56, 56)}


def save_tiny_mllama(directory: Path, *, dtype=torch.bfloat16, text=None, vision=None):
    """Writes a checkpoint and returns the model that Hugging Face loads from it, in float32. `text`, `vision`: keys of the
    two configs."""
    text, vision = {**TEXT, **(text or {})}, {**VISION, **(vision or {})}
    config = transformers.MllamaConfig(
        text_config={**text, "initializer_range": text["hidden_size"] ** -0.5},
        vision_config={**vision, "initializer_range": vision["hidden_size"] ** -0.5},
        image_token_index=text["vocab_size"],
    )
    torch.manual_seed(0)
    model = transformers.MllamaForConditionalGeneration(config)
    # transformers starts gates, biases and norms at 0 and 1, which would hide a lost one.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            is_norm = "norm" in name and name.endswith("weight")
            parameter.data.normal_(1.0 if is_norm else 0.5 if "gate" in name else 0.0, 0.2)
    model.to(dtype).save_pretrained(directory)
    processor = {"size": {"height": vision["image_size"], "width": vision["image_size"]}, "max_image_tiles": 4}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return transformers.MllamaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()


def picture(tiles: int, seed: int = 0) -> Image.Image:
    """A random image that takes `tiles` tiles."""
    width, height = SIZES[tiles]
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())


@torch.no_grad()
def hugging_face_logits(model, prompt: list[int], images: UserImages | None, text: list[int]) -> torch.Tensor:
    """Logits that Hugging Face gives for each token of `text` after `prompt`, float32 [len(text), vocab_size], in one pass."""
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    tokens, inputs = prompt + text[:-1], {}
    if images is not None:
        spans, tiles = [get_cross_attention_token_mask(prompt, IMAGE)], images.pixels.shape[1]
        mask = torch.tensor(convert_sparse_cross_attention_mask_to_dense(spans, [images.tile_counts], tiles, len(prompt)))
        # Decoded tokens attend to what the prompt's last one does.
        mask = torch.cat([mask, mask[:, -1:].expand(-1, len(text) - 1, -1, -1)], dim=1)
        counts = torch.tensor(images.tile_counts)
        inputs = dict(
            pixel_values=images.pixels[None],
            aspect_ratio_ids=torch.tensor([images.aspect_ratio_ids]),
            aspect_ratio_mask=(torch.arange(tiles) < counts[:, None]).long()[None],
            cross_attention_mask=mask,
        )
    return model(input_ids=torch.tensor([tokens]), use_cache=False, **inputs).logits[0, len(prompt) - 1 :].float()
