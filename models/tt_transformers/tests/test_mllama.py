"""Llama 3.2 Vision against Hugging Face: the image encoder, users with and without images in one batch, text only."""

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.common.mesh_names import LINES
from models.common.pcc import pcc
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import predictions
from models.tt_transformers.tt.runtime import dram
from models.tt_transformers.tt.vision.config import VisionConfig
from tests.support.generation import generator, open_generator, random_tokens  # noqa: F401
from tests.support.model_args import args_of
from tests.support.tiny_mllama import IMAGE, hugging_face_logits, picture, save_tiny_mllama
from tests.support.wide import some_of

STEPS = 16

# Prompts, and the number of tiles of each of their images.
PROMPTS = [
    ([1, *random_tokens(20, seed=1), IMAGE, *random_tokens(9, seed=2)], [1]),
    ([1, *random_tokens(40, seed=3)], []),
    ([IMAGE, 1, *random_tokens(30, seed=4)], [4]),
    # The text after the second image does not see the first; the last two are seen together.
    ([IMAGE, 1, *random_tokens(5, seed=5), IMAGE, *random_tokens(6, seed=6), IMAGE, IMAGE, 9, 8, 7], [2, 3, 4, 1]),
]
TEXTS = [random_tokens(STEPS + 1, seed=100 + user) for user in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The directory of a small checkpoint, and Hugging Face's model of it in float32."""
    directory = tmp_path_factory.mktemp("mllama") / "model"
    return directory, save_tiny_mllama(directory)


def images_of(made, tiles, seed=0):
    """`UserImages` of random pictures with these numbers of tiles; None for no picture."""
    pictures = [picture(count, seed=seed + number) for number, count in enumerate(tiles)]
    return made.args.image_processor(pictures) if pictures else None


def forced(made, prompts, images, texts):
    """The logits for each token of `texts` after `prompts`: [users, tokens, vocab_size]."""
    logits = [made.prefill(prompts, images)]
    for tokens in zip(*(text[:-1] for text in texts)):
        logits.append(made.decode(list(tokens)))
    return torch.stack(logits, dim=1)


@torch.no_grad()
def hugging_face_image(model, images, number):
    """Hugging Face's tokens of one image: [tiles, tokens of a tile, width]."""
    mask = torch.arange(images.pixels.shape[1]) < images.tile_counts[number]
    features = model.model.vision_model(
        pixel_values=images.pixels[None, number : number + 1],
        aspect_ratio_ids=torch.tensor([[images.aspect_ratio_ids[number]]]),
        aspect_ratio_mask=mask.long()[None, None],
    ).last_hidden_state
    return model.model.multi_modal_projector(features)[0, 0]


@pytest.mark.parametrize("mesh", some_of(LINES, "N300"))
def test_the_tokens_of_an_image_are_hugging_faces(generator, tiny, mesh):
    """Those of tiles without content too: text before the first image attends to them."""
    made = generator(mesh, tiny[0], max_seq_len=64, max_images=4)
    vision, images = made.args.arch.vision, images_of(made, [1, 2, 3, 4])
    for number, (pixels, ratio) in enumerate(zip(images.pixels, images.aspect_ratio_ids)):
        tokens = made.model.vision.forward(pixels, ratio)
        rows = ttnn.to_torch(tokens, mesh_composer=ttnn.ConcatMeshToTensor(made.args.mesh_device, dim=3))[0, 0].float()
        tiles = rows[: vision.max_tiles * vision.rows_a_tile].unflatten(0, (vision.max_tiles, -1))
        expected = hugging_face_image(tiny[1], images, number)
        assert min(map(pcc, tiles[:, : vision.tokens_a_tile], expected)) >= 0.999


CASES = [(mesh, paged) for mesh in LINES for paged in (True, False)]


def assert_users_follow(made, reference):
    """Users with and without images have Hugging Face's logits, in prefill and in each decode step."""
    prompts, tiles = zip(*PROMPTS)
    images = [images_of(made, counts, seed=10 * user) for user, counts in enumerate(tiles)]
    logits = forced(made, list(prompts), images, TEXTS)
    for user, (prompt, own, text) in enumerate(zip(prompts, images, TEXTS)):
        expected = hugging_face_logits(reference, prompt, own, text)
        assert min(map(pcc, logits[user], expected)) >= 0.999, f"user {user}"


@pytest.mark.parametrize("mesh, paged", some_of(CASES, ("N150", False), ("T3K", True)))
def test_a_batch_with_and_without_images_follows_hugging_face(generator, tiny, mesh, paged):
    made = generator(mesh, tiny[0], users=4, max_seq_len=128, max_images=4, paged=paged)
    assert_users_follow(made, tiny[1])


def test_groups_of_devices_have_users_with_images(generator, tiny):
    """Each group has pages of its own for the image tokens of its users."""
    made = generator("N300", tiny[0], users=2, max_seq_len=128, max_images=4, pages=8, data_parallel=2)
    assert_users_follow(made, tiny[1])


def test_users_with_images_do_not_depend_on_the_batch(generator, tiny):
    """A user joins a running batch in the place of another one, and gets the logits that it gets alone, to the last bit."""
    (long, tiles), (text_only, _), (prompt, four), _ = PROMPTS
    with open_generator("N150", tiny[0], max_seq_len=128, max_images=1) as alone:
        images = images_of(alone, four)
        expected = forced(alone, [prompt], [images], TEXTS[:1])[0]
    made = generator("N150", tiny[0], users=2, max_seq_len=128, max_images=1)
    made.prefill([text_only, long], [None, images_of(made, tiles, seed=5)])
    made.decode([5, 6])
    made.remove(1)
    found = [made.add(1, prompt, images)]
    found += [made.decode([7, token])[1] for token in TEXTS[0][:-1]]
    assert torch.equal(torch.stack(found), expected)
    made.remove(1)
    assert torch.equal(made.add(1, text_only), made.prefill([text_only])[0]), "no image is left of the user before"


def test_a_prompt_with_an_image_runs_in_chunks(generator, tiny, monkeypatch):
    monkeypatch.setenv("MAX_PREFILL_CHUNK_SIZE", "1")
    prompt = [1, *random_tokens(1000, seed=8), IMAGE, *random_tokens(90, seed=9), IMAGE, *random_tokens(40, seed=10)]
    made = generator("N150", tiny[0], max_seq_len=1280, max_images=2)
    images = images_of(made, [2, 3])
    logits = forced(made, [prompt], [images], TEXTS[:1])[0]
    assert min(map(pcc, logits, hugging_face_logits(tiny[1], prompt, images, TEXTS[0]))) >= 0.999


def test_without_images_the_layers_for_images_are_left_out(generator, tiny):
    """Hugging Face skips them; here they have no weights and no caches."""
    prompt, _ = PROMPTS[1]
    with open_generator("N300", tiny[0], max_seq_len=128, max_images=1):
        pass  # fills the cache of weights
    made = generator("N300", tiny[0], max_seq_len=128)
    assert (made.args.arch.layer_indices, made.model.vision, len(made.model.kv_caches)) == ((0, 2), None, 2)
    assert not any("vision" in name or "gate" in name for name in made.args.load_state_dict())
    logits = forced(made, [prompt], None, TEXTS[:1])[0]
    assert min(map(pcc, logits, hugging_face_logits(tiny[1], prompt, None, TEXTS[0]))) >= 0.999


def test_the_reference_has_the_checkpoints_weights_without_images_too(generator, tiny):
    args = generator("N150", tiny[0], max_seq_len=64).args
    theirs, ours = tiny[1].state_dict(), args.reference_transformer(dtype=torch.float32).state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_reference_for_token_accuracy_is_made_of_the_text_model(generator, tiny):
    """`generate_reference_hf` runs Hugging Face's model, which reads images too, on texts."""
    rope = generator("N150", tiny[0], max_seq_len=64).args.arch.rope
    texts = torch.tensor([random_tokens(24, seed=9)])
    top5, log_probs = predictions(tiny[1], texts, 16, rope)
    expected = hugging_face_logits(tiny[1], texts[0, :16].tolist(), None, texts[0, 16:].tolist()).log_softmax(-1)
    assert torch.equal(top5[0, :, 0], expected.argmax(-1).int())
    assert torch.allclose(log_probs[0], expected.gather(-1, texts[0, 16:, None])[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    "prompt, tiles, message",
    [
        ([1, 2], [1], r"user 0: the prompt has 0 image token\(s\) for 1 image\(s\)"),
        ([1, IMAGE], [], r"user 0: the prompt has 1 image token\(s\) for 0 image\(s\)"),
        ([1, IMAGE, IMAGE, 5], [1], r"user 0: the prompt has 2 image token\(s\) for 1 image\(s\)"),
        ([IMAGE] * 3, [1, 1, 1], "user 0 has 3 images; max_images is 2"),
        ([1, IMAGE + 8], [], "user 0: token 328 is outside the model's vocabulary of 328"),
    ],
)
def test_images_that_do_not_fit_the_prompt_are_refused(generator, tiny, prompt, tiles, message):
    made = generator("N150", tiny[0], max_seq_len=64, max_images=2)
    with pytest.raises(ValueError, match=message):
        made.prefill([prompt], [images_of(made, tiles)])
    with pytest.raises(ValueError, match=message):
        made.add(0, prompt, images_of(made, tiles))


@pytest.mark.parametrize("table", [None, torch.zeros(1, 0, dtype=torch.int32), torch.zeros(2, 1, dtype=torch.int32)])
def test_a_runner_refuses_pages_that_do_not_hold_the_image_tokens(generator, tiny, table):
    made = generator("N150", tiny[0], max_seq_len=64, max_images=1)
    pages = torch.arange(2, dtype=torch.int32)[None]
    with pytest.raises(ValueError, match=r"it must be \[1, 1 or more\], for 10 image tokens in pages of 32"):
        made.runner.prefill([[IMAGE, 5]], [0], page_table=pages, images=[images_of(made, [2])], image_page_table=table)


@pytest.mark.parametrize(
    "model, mesh, users, options, message",
    [
        ("11B", "N150", 32, dict(max_images=4), r"does not fit N150: 8.67 GB of weights and 18.84 GB of KV cache"),
        ("90B", "T3K", 1, dict(max_images=200), r"does not fit T3K: 8.1\d GB of weights .* fewer images \(max_images\)"),
        ("90B", "N300", 1, dict(max_images=1), "is not supported on N300; meshes it runs on: T3K"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers_before_weights_are_read(model, mesh, users, options, message):
    pages = {"block_size": 32, "max_num_blocks": 64 * users}
    with open_mesh(mesh) as mesh_device, pytest.raises(ValueError, match=message):
        args = ModelArgs(
            mesh_device, hf_model=f"meta-llama/Llama-3.2-{model}-Vision", max_batch_size=users, dummy_weights=True,
            page_params=pages, **options,
        )  # fmt: skip
        dram.check_fits(args)


def test_a_model_of_text_takes_no_images_and_a_grid_runs_none(tiny):
    with pytest.raises(ValueError, match="max_images 1: Phi-3-tiny-kjv \\(Phi3ForCausalLM\\) reads no images"):
        args_of(BUNDLED, max_images=1)
    with open_mesh("TG") as mesh_device, pytest.raises(ValueError, match="images need devices in a line; TG is a grid"):
        ModelArgs(mesh_device, hf_model=tiny[0], max_images=1)


def test_a_width_that_does_not_split_over_the_devices_is_refused(tmp_path):
    save_tiny_mllama(tmp_path, vision=dict(hidden_size=160, attention_heads=4, vision_output_dim=480))
    with pytest.raises(ValueError, match="hidden_size 160 does not split over T3K .*; it must be a multiple of 256"):
        VisionConfig.resolve(args_of(tmp_path, num_devices=8, max_images=1))


def test_a_model_of_text_refuses_images(generator, tiny):
    with open_generator("N150", tiny[0], max_seq_len=64, max_images=1) as with_images:
        images = images_of(with_images, [1])
    made = generator("N150", tiny[0], max_seq_len=64)
    with pytest.raises(ValueError, match=r"user 0 has 1 image\(s\); model runs without images \(max_images is 0\)"):
        made.prefill([[1, IMAGE]], [images])
