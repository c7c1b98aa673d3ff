"""The tokenizer of Meta's `tokenizer.model` as a Hugging Face tokenizer, with Meta's special tokens and chat format.

Llama 3's file is a list of tiktoken ranks, which transformers converts. LLaMA 1 and 2 have a sentencepiece model, which
transformers reads with the sentencepiece library.
"""

import base64
import binascii
from pathlib import Path

from models.common.library_errors import reported

TOKENIZER = "tokenizer.model"

# After the tokens of the file; the names of Llama 3.1 and later. Llama 3 has reserved tokens in place of some, with the
# same ids for those that it uses.
_NAMED = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
SPECIAL_TOKENS = (*_NAMED, *(f"<|reserved_special_token_{i}|>" for i in range(3, 256 - len(_NAMED) + 3)))
STOP_TOKENS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")

# The formats of Meta's ChatFormat (llama-models) and chat_completion (llama).
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for part in message['content'] %}"
    "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}{{ '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2_CHAT = (
    "{% set system = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((system if loop.first else '') + message['content']) | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def load_meta_tokenizer(directory: Path):
    """The Hugging Face tokenizer of a directory in Meta's format.

    Its `encode` puts the token that begins a text first. Its chat template is Meta's format for the generation.

    Raises FileNotFoundError if there is no `tokenizer.model`, ValueError if it cannot be read.
    """
    file = directory / TOKENIZER
    return _llama3(file) if is_tiktoken(file) else _llama2(file)


def is_named_for_chat(model_name: str) -> bool:
    """Whether a model was trained for chat by Meta's names: `Llama3.1-8B-Instruct`, `llama-2-7b-chat`. Its files do not
    say it."""
    return any(word in model_name.lower() for word in ("instruct", "chat"))


def token_count(file: Path) -> int:
    """The number of tokens of a `tokenizer.model`, special ones included; found without making the tokenizer."""
    return len(_ranks(file)) + len(SPECIAL_TOKENS) if is_tiktoken(file) else _sentencepiece(file).vocab_size()


def is_tiktoken(file: Path) -> bool:
    """Whether `file` is a list of tiktoken ranks (Llama 3), not a sentencepiece model (Llama 2), by its first line."""
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no {file.name}")
    with file.open("rb") as stream:
        return _rank(stream.readline(1 << 16)) is not None


def _rank(line: bytes) -> tuple[bytes, int] | None:
    """The token and its rank in a line `<base64> <number>`; None for another line."""
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except (ValueError, binascii.Error):
        return None


def _ranks(file: Path) -> dict[bytes, int]:
    # tiktoken's own reader keeps a copy of the first file that it read under a path, and would give it for a later one.
    ranks = {}
    for number, line in enumerate(file.read_bytes().splitlines()):
        parsed = _rank(line)
        if parsed is None or parsed[1] != number:
            raise ValueError(f"{file} is corrupt: line {number + 1} must be a token in base64 and its rank {number}")
        ranks[parsed[0]] = number
    return ranks


def _llama3(file: Path):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = _ranks(file)
    converter = TikTokenConverter(file, extra_special_tokens=list(SPECIAL_TOKENS))
    converter.load_tiktoken_bpe = lambda _: ranks
    with reported(f"{file} cannot be made a tokenizer"):
        tokenizer = converter.converted()
    begin = SPECIAL_TOKENS[0]
    begins = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begins])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        chat_template=LLAMA3_CHAT,
        clean_up_tokenization_spaces=False,
    )


def _sentencepiece(file: Path):
    import sentencepiece

    with reported(f"{file} is neither a list of tiktoken ranks nor a sentencepiece model"):
        return sentencepiece.SentencePieceProcessor(model_file=str(file))


def _llama2(file: Path):
    from tokenizers import normalizers
    from transformers import LlamaTokenizer

    _sentencepiece(file)  # transformers goes on with another reader if this one fails
    with reported(f"{file} cannot be made a tokenizer"):
        tokenizer = LlamaTokenizer.from_pretrained(file.parent, local_files_only=True, add_bos_token=True)
    # As sentencepiece does: a space before every text, also before one that begins with a space.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.chat_template = LLAMA2_CHAT
    return tokenizer
