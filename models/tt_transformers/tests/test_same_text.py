"""The bundled model generates the same greedy text on N150, N300 and T3K."""

import pytest

from models.common.pcc import pcc
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.support.generation import greedy, known_by_heart, open_generator

pytestmark = pytest.mark.whole

PROMPT_TOKENS = (40, 60, 80, 100)
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def generated():
    """Mesh -> texts and logits, in bf16."""
    results = {}
    for mesh in ("N150", "N300", "T3K"):
        with open_generator(mesh, BUNDLED, users=4, max_seq_len=256) as made:
            prompts = [chapter[:length] for chapter, length in zip(known_by_heart(made.args), PROMPT_TOKENS)]
            results[mesh] = greedy(made, prompts, NEW_TOKENS)
    return results


@pytest.mark.parametrize("mesh", ["N300", "T3K"])
@pytest.mark.parametrize("user", range(len(PROMPT_TOKENS)))
def test_text_on_more_devices_is_the_same(generated, mesh, user):
    texts, logits = generated["N150"]
    other_texts, other_logits = generated[mesh]
    assert other_texts[user] == texts[user]
    assert min(pcc(*step) for step in zip(other_logits[:, user], logits[:, user])) >= 0.999
