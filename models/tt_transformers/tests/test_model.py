"""The whole bundled model against Hugging Face: logits of a prefill and of 64 teacher-forced decode steps."""

import json
from itertools import product

import pytest
import torch

from models.common.mesh import open_mesh
from models.common.mesh_names import VALIDATED
from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.precision import ModelOptimizations
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.wide import some_of

pytestmark = pytest.mark.whole

PROMPTS = SAMPLE_PROMPTS / "input_data_questions_prefill_128.json"
STEPS = 64
# bf16 keeps 8 bits of a value, and four layers add up its rounding; the modes store weights in 7 and 3 bits.
LEAST_PCC = {"bf16": 0.999, "performance": 0.99, "accuracy": 0.99}


def make_args(mesh_device, precision="bf16", users=1, **options):
    return ModelArgs(
        mesh_device,
        hf_model=BUNDLED,
        max_batch_size=users,
        max_seq_len=512,
        optimizations=getattr(ModelOptimizations, precision)(),
        page_params={"block_size": 32, "max_num_blocks": 16 * users},
        **options,
    )


@pytest.fixture(scope="module")
def reference():
    """Prompt, Hugging Face's greedy continuation (float32) and its logits at the prompt's end and after each token."""
    with open_mesh("N150") as mesh_device:
        args = make_args(mesh_device)
        model = args.reference_transformer(dtype=torch.float32)
        prompt = args.encode_prompt(" ".join(entry["prompt"] for entry in json.loads(PROMPTS.read_text())[:3]))
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS)
        logits = model(ids).logits[0, len(prompt) - 1 :]
    return prompt, ids[0, len(prompt) :].tolist(), logits


@pytest.mark.parametrize(
    "mesh_name, precision",
    some_of(
        list(product(VALIDATED, LEAST_PCC)),
        ("N150", "bf16"), ("N150", "performance"), ("N300", "accuracy"), ("T3K", "performance"), ("P150", "performance"),
    ),
)  # fmt: skip
def test_logits_follow_hugging_face(reference, mesh_name, precision, recorded_pcc):
    prompt, continuation, expected = reference
    with open_mesh(mesh_name) as mesh_device:
        args = make_args(mesh_device, precision)
        with Generator.build(args) as generator:
            logits = [generator.prefill([prompt])] + [generator.decode([token]) for token in continuation]
    logits = torch.cat(logits)
    assert recorded_pcc(logits[1:], expected[1:]) >= LEAST_PCC[precision]
    # Each step too, so that one wrong position cannot hide among the others.
    assert min(map(recorded_pcc, logits, expected)) >= LEAST_PCC[precision]


@pytest.mark.parametrize(
    "mesh_name, precision, paged",
    some_of(
        [
            ("N300", "performance", True), ("N300", "performance", False), ("T3K", "accuracy", True),
            ("N150x4", "performance", True), ("P100", "performance", False), ("P150", "accuracy", True),
            ("P150x4", "performance", True),
        ],
        ("N300", "performance", True), ("N300", "performance", False), ("T3K", "accuracy", True),
    ),
)  # fmt: skip
def test_users_do_not_depend_on_each_other(mesh_name, precision, paged):
    """Logits of a user are bit for bit the same alone and among 32 of other lengths, in prefill and decode."""
    with open_mesh(mesh_name) as mesh_device:
        texts = [entry["prompt"] for entry in json.loads(PROMPTS.read_text())]

        def logits(users, chosen):
            args = make_args(mesh_device, precision, users)
            args.paged_attention_config = args.paged_attention_config if paged else None
            with Generator.build(args) as generator:
                rows = [generator.prefill([args.encode_prompt(text) for text in texts[chosen]])]
                for step in range(4):
                    rows.append(generator.decode([17 + 31 * step] * len(rows[0])))
            return torch.stack(rows)

        together = logits(32, slice(0, 32))
        for user in (0, 13, 31):
            assert torch.equal(logits(1, slice(user, user + 1))[:, 0], together[:, user])


def test_a_stopped_user_leaves_the_others_alone():
    with open_mesh("N150") as mesh_device:
        with Generator.build(make_args(mesh_device, users=2)) as generator:

            def run(active):
                generator.prefill([[5, 6, 7], [8, 9, 10, 11]])
                return [generator.decode([12, 13], step)[1] for step in active]

            both = run([[True, True]] * 3)
            alone = run([[True, True], [False, True], [False, True]])
    assert all(map(torch.equal, both, alone))
