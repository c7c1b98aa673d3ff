"""The tokenizers of Meta's checkpoints: ids, chat format and stop tokens, and files that are none."""

import shutil

import pytest
import sentencepiece
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.demo.prompts import load_prompts
from models.tt_transformers.tt.checkpoints.meta_tokenizer import SPECIAL_TOKENS, load_meta_tokenizer
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.meta_checkpoints import TOKENS, VOCAB_SIZE, save_meta, save_tiktoken
from tests.support.model_args import MeshOf, environment  # noqa: F401
from tests.support.real_tokenizers import real_tokenizers  # noqa: F401
from tests.support.tiny_models import save_tiny

SIZES = dict(vocab_size=VOCAB_SIZE, hidden_size=128, intermediate_size=384)
SENTENCEPIECE_SIZE = 330


@pytest.fixture
def llama3(tmp_path):
    save_tiktoken(tmp_path)
    return load_meta_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    """A model trained with the settings of Llama 2's."""
    directory = tmp_path_factory.mktemp("llama-2")
    text = ["In the beginning God created the heaven and the earth.", "And the earth was without form, and void;"] * 30
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=SENTENCEPIECE_SIZE,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return directory / "tokenizer.model"


def named(token):
    return len(TOKENS) + SPECIAL_TOKENS.index(token)


def test_llama_3_merges_by_rank_within_the_pieces_of_its_pattern(llama3):
    ids = llama3.encode("the thing an é\n\n1234", add_special_tokens=False)
    pieces = [b"the", b" ", b"th", b"ing", b" an", b" ", b"\xc3", b"\xa9", b"\n", b"\n", b"1", b"2", b"3", b"4"]
    assert ids == [TOKENS.index(piece) for piece in pieces]
    assert llama3.decode(ids) == "the thing an é\n\n1234"


def test_llama_3_s_special_tokens_follow_the_ranks():
    """Their places in Meta's tokenizer of Llama 3.1, where the ranks end at 128000."""
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 256
    places = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|finetune_right_pad_id|>": 4, "<|start_header_id|>": 6}
    places |= {"<|end_header_id|>": 7, "<|eom_id|>": 8, "<|eot_id|>": 9, "<|python_tag|>": 10}
    assert {token: SPECIAL_TOKENS.index(token) for token in places} == places
    assert SPECIAL_TOKENS[-1] == "<|reserved_special_token_247|>"


@pytest.mark.parametrize("name", ["llama3", "llama3_1"])
def test_real_ranks_give_the_ids_of_hugging_faces_tokenizer(real_tokenizers, tmp_path, name):  # noqa: F811
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(real_tokenizers / name / "tokenizer.json"))
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    ranks = sorted((rank, token) for token, rank in theirs.get_vocab().items() if rank < 128_000)
    save_tiktoken(tmp_path, [bytes(byte_of[character] for character in token) for _, token in ranks])
    ours = load_meta_tokenizer(tmp_path)
    prompts = load_prompts(SAMPLE_PROMPTS / "input_data_questions_prefill_128.json")
    for text in (*prompts[:4], "  a\t\n\n 12345 it's WE'LL über 日本語 🙂🏽 def f(x):\n    return x", "<|eot_id|> a<|end_of_text|>"):
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == text
    used = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert ours.convert_tokens_to_ids(used) == theirs.convert_tokens_to_ids(used)


def test_llama_3_begins_a_text_with_its_token(llama3):
    assert llama3.encode("the") == [named("<|begin_of_text|>"), TOKENS.index(b"the")]


def test_llama_3_s_chat_format_is_metas(llama3):
    messages = [("system", "S"), ("user", " hi "), ("assistant", "yo"), ("user", "again")]
    text = llama3.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], add_generation_prompt=True, tokenize=False
    )
    turns = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{content.strip()}<|eot_id|>" for role, content in messages)
    assert text == f"<|begin_of_text|>{turns}<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert llama3.encode(text, add_special_tokens=False)[:2] == [named("<|begin_of_text|>"), named("<|start_header_id|>")]


def test_a_meta_directory_runs_instruct_with_its_stop_tokens(tmp_path):
    save_meta(tmp_path / "meta", save_tiny("Llama", tmp_path / "hf", **SIZES))
    args = ModelArgs(MeshOf(1), llama_dir=tmp_path / "meta", max_seq_len=64, instruct=True)
    assert args.stop_token_ids == {named(token) for token in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}
    prompt = args.encode_prompt("hi")
    assert prompt.count(named("<|begin_of_text|>")) == 1
    assert args.decode(prompt) == "user\n\nhiassistant\n\n"


@pytest.mark.parametrize(
    "folder, chat",
    [
        ("Llama3.2-1B", False),
        ("Llama3.2-1B-Instruct", True),
        ("llama-2-7b-chat", True),
        ("Meta-Llama-3-8B-Instruct/original", True),
        ("models--meta-llama--Llama-3.2-1B-Instruct/snapshots/0a1b/original", True),
    ],
)
def test_the_name_says_whether_the_chat_format_is_the_default(tmp_path, folder, chat):
    directory = tmp_path / folder
    directory.parent.mkdir(parents=True, exist_ok=True)
    save_meta(directory, save_tiny("Llama", tmp_path / "hf", **SIZES))
    args, given = (ModelArgs(MeshOf(1), llama_dir=directory, max_seq_len=64, instruct=value) for value in (None, not chat))
    assert (args.text.instruct, given.text.instruct) == (chat, not chat)
    assert [note.split(":")[0] for note in args.notes] == ([] if chat else ["not named Instruct or chat"])
    assert given.notes == []
    assert args.model_name == folder.split("/")[0].removeprefix("models--meta-llama--")


def test_metas_chat_format_has_no_thinking_switch(tmp_path):
    save_meta(tmp_path / "meta", save_tiny("Llama", tmp_path / "hf", **SIZES))
    with pytest.raises(ValueError, match="enable_thinking: Meta's chat format has no such switch"):
        ModelArgs(MeshOf(1), llama_dir=tmp_path / "meta", max_seq_len=64, instruct=True, enable_thinking=True)


@pytest.mark.parametrize("text", ["the earth", "  In the beginning é日", "a\nb", "void  form ", " x", ""])
def test_llama_2_encodes_as_sentencepiece(sentencepiece_file, text):
    tokenizer = load_meta_tokenizer(sentencepiece_file.parent)
    expected = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file)).encode(text)
    assert tokenizer.encode(text) == [1, *expected]
    assert tokenizer.decode(expected) == text


def test_llama_2_s_chat_format_is_metas(sentencepiece_file):
    tokenizer = load_meta_tokenizer(sentencepiece_file.parent)
    messages = [("system", "S"), ("user", " hi "), ("assistant", "yo"), ("user", "again")]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], add_generation_prompt=True, tokenize=False
    )
    first, second = "[INST] <<SYS>>\nS\n<</SYS>>\n\n hi [/INST] yo ", "[INST] again [/INST]"
    assert text == f"<s>{first}</s><s>{second}"
    encode = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file)).encode
    assert tokenizer.encode(text, add_special_tokens=False) == [1, *encode(first), 2, 1, *encode(second)]


@pytest.mark.parametrize("theta, context", [(10_000.0, 4096), (1_000_000.0, 16_384)], ids=["Llama 2", "Code Llama"])
def test_a_sentencepiece_model_means_llama_2(tmp_path, sentencepiece_file, theta, context):
    model = save_tiny("Llama", tmp_path / "hf", **{**SIZES, "vocab_size": SENTENCEPIECE_SIZE})
    save_meta(tmp_path / "meta", model, vocab_size=-1, rope_theta=theta)
    shutil.copy(sentencepiece_file, tmp_path / "meta")
    args = ModelArgs(MeshOf(1), llama_dir=tmp_path / "meta", max_seq_len=64)
    assert (args.arch.max_context_len, args.arch.vocab_size) == (context, SENTENCEPIECE_SIZE)
    assert (args.tokenizer.bos_token_id, args.stop_token_ids) == (1, {2})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x00\x01", "is neither a list of tiktoken ranks nor a sentencepiece model"),
        (b"dGhl 0\naGU= 2\n", "is corrupt: line 2 must be a token in base64 and its rank 1"),
        (b"dGhl 0\nno rank\n", "is corrupt: line 2"),
        (b"dGhl 0\naGU= 1\n", "tokenizer.model has 258 tokens; the model beside it has a vocabulary of 520"),
    ],
)
def test_a_file_that_is_no_tokenizer_of_the_model_is_named_before_any_work(tmp_path, content, message):
    save_meta(tmp_path / "meta", save_tiny("Llama", tmp_path / "hf", **SIZES))
    (tmp_path / "meta/tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ModelArgs(MeshOf(1), llama_dir=tmp_path / "meta", max_seq_len=64)
