"""The bundled model generates the same greedy text on N150, N300 and T3K, but for rounding."""

import pytest

from models.common.pcc import pcc
from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.demo.prompts import load_prompts
from models.tt_transformers.tests.generation import bf16_step, greedy, open_generator
from models.tt_transformers.tt.model_location import BUNDLED

TOKENS = 32
# Where a text differs from N150's, the two tokens' logits on N150 are at most this many bf16 steps apart: on either mesh
# sums are rounded in another order.
ROUNDING_STEPS = 1


@pytest.fixture(scope="module")
def generated():
    """Mesh -> texts and logits of two prompts, in bf16."""
    results = {}
    for mesh in ("N150", "N300", "T3K"):
        with open_generator(mesh, BUNDLED, users=2, max_seq_len=256) as made:
            texts = load_prompts(SAMPLE_PROMPTS / "input_data_questions_prefill_128.json")[:2]
            results[mesh] = greedy(made, [made.args.encode_prompt(text) for text in texts], TOKENS)
    return results


@pytest.mark.parametrize("mesh", ["N300", "T3K"])
@pytest.mark.parametrize("user", [0, 1])
def test_text_on_more_devices_differs_first_where_two_tokens_are_equally_likely(generated, mesh, user):
    texts, logits = generated["N150"]
    others, other_logits = generated[mesh]
    text, other = texts[user], others[user]
    same = next((place for place in range(TOKENS) if text[place] != other[place]), TOKENS)
    # Up to here both have seen the same tokens.
    for step in range(min(same + 1, TOKENS)):
        assert pcc(other_logits[step, user], logits[step, user]) >= 0.999, step
    print(f"N150 and {mesh}: the first {same} of {TOKENS} tokens are the same")
    if same < TOKENS:
        likeliest = logits[same, user, text[same]].item()
        gap = likeliest - logits[same, user, other[same]].item()
        assert gap <= ROUNDING_STEPS * bf16_step(likeliest), f"token {same}: the logits are {gap} apart on N150"
