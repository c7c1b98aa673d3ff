"""`generate` of transformers over a generator gives Hugging Face's text, and takes what transformers' users pass to it."""

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.hf_generate import GenerationModel
from tests.support.generation import generator, greedy_of, known_by_heart, random_tokens, tiny  # noqa: F401
from tests.support.tiny_models import save_tiny

GREEDY = dict(do_sample=False, eos_token_id=None, pad_token_id=0)


@pytest.fixture
def model(generator):
    """A function that opens a generator and gives the model over it."""
    return lambda *args, **settings: GenerationModel(generator(*args, **settings))


def batch_of(prompts):
    """input_ids and attention_mask of prompts of several lengths, padded on the left."""
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    return dict(input_ids=padded, attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]))


@pytest.mark.parametrize("mesh", ["N150", "T3K"])
def test_a_padded_batch_gets_hugging_faces_greedy_text(model, mesh):
    """One prompt crosses LongRoPE's switch at 512 tokens; as in Hugging Face alone, not when the batch's longest does."""
    made = model(mesh, BUNDLED, users=4, max_seq_len=1024)
    prompts = [chapter[:length] for chapter, length in zip(known_by_heart(made.args), (9, 120, 508, 33))]
    new = made.generate(**batch_of(prompts), max_new_tokens=12, **GREEDY)[:, 508:]
    reference = made.args.reference_transformer()
    assert new.tolist() == [greedy_of(reference, prompt, 12)[0] for prompt in prompts]


def test_a_family_without_longrope_gets_hugging_faces_text(model, tmp_path):
    reference = save_tiny("Qwen2", tmp_path / "model")
    made, prompt = model("N300", tmp_path / "model", max_seq_len=64), random_tokens(20)
    new = made.generate(torch.tensor([prompt]), max_new_tokens=5, **GREEDY)[0, 20:]
    assert new.tolist() == greedy_of(reference, prompt, 5)[0]


def test_a_text_ends_at_the_checkpoints_stop_token_and_the_rest_of_its_row_is_padding(model, tiny):
    made, prompts = model("N150", tiny, users=2, max_seq_len=64), [[3, 4, 5], [7]]
    free = made.generate(**batch_of(prompts), max_new_tokens=8, **GREEDY)
    stop = made.generation_config.eos_token_id = int(free[0, 3])
    assert stop not in free[1, 3:]
    ended = made.generate(**batch_of(prompts), max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert ended[:, 3:].tolist() == [[stop] + [0] * 7, free[1, 3:].tolist()]


def test_sampling_depends_on_the_seed_and_gives_several_texts_of_a_prompt(model, tiny):
    made, texts = model("N150", tiny, users=4, max_seq_len=64), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        settings = dict(do_sample=True, temperature=2.0, num_return_sequences=4, eos_token_id=None, pad_token_id=0)
        texts.append(made.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=6, **settings))
    assert texts[0].shape == (4, 9) and len(set(map(tuple, texts[0].tolist()))) > 1
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])


class Stop(StoppingCriteria):
    def __call__(self, input_ids, scores, **_):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 6)


class Streamer(BaseStreamer):
    def __init__(self):
        self.tokens, self.is_ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.is_ended = True


def test_streamers_and_stopping_criteria_work(model, tiny):
    made, streamer = model("N150", tiny, max_seq_len=64), Streamer()
    text = made.generate(
        torch.tensor([[3, 4]]), max_new_tokens=20, streamer=streamer, stopping_criteria=StoppingCriteriaList([Stop()]), **GREEDY
    )
    assert text.shape == (1, 6) and streamer.tokens == text[0].tolist() and streamer.is_ended


def test_a_conversation_goes_on_with_the_cache_or_without_one(model, tiny):
    made = model("N150", tiny, max_seq_len=64)
    prompt, more = torch.tensor([[3, 4, 5]]), torch.tensor([[6, 7]])
    start = made.generate(prompt, max_new_tokens=4, return_dict_in_generate=True, **GREEDY)
    whole = torch.cat((start.sequences, more), dim=1)
    settings = dict(attention_mask=torch.ones_like(whole), max_new_tokens=3, **GREEDY)
    continued = made.generate(whole, past_key_values=start.past_key_values, **settings)
    again = made.generate(whole, use_cache=False, **settings)
    assert torch.equal(continued, made.generate(whole, **settings)) and torch.equal(again, continued)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(max_new_tokens=62), "sequences of up to 65 tokens are more than max_seq_len 64"),
        (dict(input_ids=torch.full((3, 3), 5), attention_mask=torch.ones(3, 3)), "3 prompts for a model set up for 1 to 2 users"),
        (dict(attention_mask=torch.tensor([[1, 1, 0]])), "attention_mask .* it must be 0s, for padding on the left, then 1s"),
        (dict(attention_mask=torch.tensor([[0, 0, 0]])), "the prompt of user 0 has no tokens"),
        (dict(num_beams=2), "(?i)beam"),
        (dict(cache_implementation="static"), "cache_implementation 'static' is not supported"),
    ],
)
def test_what_the_devices_cannot_do_is_refused(model, tiny, changes, message):
    made = model("N150", tiny, users=2, max_seq_len=64)
    given = dict(input_ids=torch.tensor([[3, 4, 5]]), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=2, **GREEDY)
    with pytest.raises(ValueError, match=message):
        made.generate(**{**given, **changes})


def test_a_cache_of_an_earlier_batch_is_refused(model, tiny):
    made = model("N150", tiny, max_seq_len=64)
    first = made(torch.tensor([[3, 4]])).past_key_values
    made(torch.tensor([[5]]))
    with pytest.raises(ValueError, match="past_key_values: it must be what the last call returned"):
        made(torch.tensor([[6]]), past_key_values=first)
    with pytest.raises(ValueError, match="logits_to_keep=0, return_dict=True: accepted are 1 and True"):
        made(torch.tensor([[6]]), logits_to_keep=0)
