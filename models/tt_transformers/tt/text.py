"""A model's text side: tokenizer, chat template, stop tokens."""

from functools import cached_property
from pathlib import Path

from models.common.library_errors import reported
from models.tt_transformers.tt.checkpoints.formats import is_meta
from models.tt_transformers.tt.checkpoints.hugging_face import load_config, quiet
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.meta_tokenizer import load_meta_tokenizer
from models.tt_transformers.tt.config.architecture import Architecture, read_config, token_ids

# Where an image stands in a prompt.
IMAGE_MARK = "<|image|>"
# An example, to see what a chat template makes of it.
_QUESTION = "What is the capital of France?"


class Text:
    """Text to token ids and back, for the model in `model_dir`.

    Args:
        stand_in: a model without a tokenizer of its own may use the bundled one, if its tokens fit the vocabulary.
        instruct: apply the tokenizer's chat template to prompts; None: if it has one.
        enable_thinking: the value of the chat template's switch of this name (Qwen3's has it); None: its default.

    Raises ValueError or FileNotFoundError that names the wrong file. `generation_config.json` is checked at once. The
    tokenizer is checked at once with `instruct` or `enable_thinking`, otherwise at its first use.
    """

    def __init__(
        self,
        model_dir: Path,
        arch: Architecture,
        *,
        stand_in: bool = False,
        instruct: bool | None = False,
        enable_thinking: bool | None = None,
    ):
        self.model_dir, self.arch = model_dir, arch
        self._may_stand_in = stand_in
        self._instruct = instruct
        self._template_settings = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        file = model_dir / "generation_config.json"
        self._eos_token_ids = arch.eos_token_ids
        if file.is_file():  # then Hugging Face's `generate` does not look at config.json, even if the file names no token
            self._eos_token_ids = token_ids(read_config(file).get("eos_token_id"), file)
        if instruct:
            self._check_chat_template()
        if enable_thinking is not None:
            self._check_thinking_switch()

    @cached_property
    def instruct(self) -> bool:
        """Whether prompts go through the chat template."""
        return self.tokenizer.chat_template is not None if self._instruct is None else self._instruct

    @cached_property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer is."""
        if any((self.model_dir / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return self.model_dir
        if not self._may_stand_in:
            raise FileNotFoundError(f"{self.model_dir} has no tokenizer.json or tokenizer.model")
        bundled_vocab_size = read_config(BUNDLED / "config.json")["vocab_size"]
        if bundled_vocab_size > self.arch.vocab_size:
            raise ValueError(
                f"{self.model_dir} has no tokenizer, and the bundled one has {bundled_vocab_size} tokens, "
                f"more than the model's vocabulary of {self.arch.vocab_size}"
            )
        return BUNDLED

    @property
    def tokenizer_is_stand_in(self) -> bool:
        """Whether the text goes through the bundled tokenizer, because the model has none of its own."""
        return self.tokenizer_dir != self.model_dir

    @cached_property
    def tokenizer(self):
        """Hugging Face's tokenizer."""
        from transformers import AutoTokenizer

        if is_meta(self.tokenizer_dir):
            return load_meta_tokenizer(self.tokenizer_dir)
        # Without the config the library would read config.json itself, and blame the tokenizer for the keys it refuses.
        config = load_config(self.tokenizer_dir)
        with quiet(), reported(f"the tokenizer in {self.tokenizer_dir} cannot be read"):
            return AutoTokenizer.from_pretrained(self.tokenizer_dir, config=config, local_files_only=True)

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end a text: those at which Hugging Face's `generate` stops, or the tokenizer's if there are none.

        With `instruct` the tokenizer's ends a text too, and so does the token that the chat template writes after an
        assistant's message: a chat model's config.json may name only the token that ends a document.
        """
        ids = set(self._eos_token_ids)
        if (self.instruct or not ids) and self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return frozenset(ids | self._end_of_message() if self.instruct else ids)

    def encode_prompt(self, text: str, instruct: bool | None = None) -> list[int]:
        """Token ids of a prompt; `instruct` (default: as constructed) applies the chat template first."""
        if not (self.instruct if instruct is None else instruct):
            return self._encode(text)
        # The template writes the special tokens itself.
        return self._encode(self._templated(("user", text), **self._template_settings), add_special_tokens=False)

    def encode_with_images(self, text: str, images: int, instruct: bool | None = None) -> list[int]:
        """Token ids of a prompt with `images` images. Each stands where the text has `IMAGE_MARK`; without any, all stand
        before the text.

        Without the chat template, images at the beginning come before the beginning-of-sequence token, as in Meta's
        prompts for base models. Raises ValueError if the marks are not as many as the images.
        """
        marks = text.count(IMAGE_MARK)
        if marks not in (0, images):
            raise ValueError(f"the text has {IMAGE_MARK} {marks} times for {images} image(s); leave it out or give one for each")
        pieces = [""] * images + [text] if marks == 0 else text.split(IMAGE_MARK)
        if self.instruct if instruct is None else instruct:
            content = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
            for piece in pieces[1:]:
                content += [{"type": "image"}, *([{"type": "text", "text": piece}] if piece else [])]
            pieces = self._templated(("user", content), **self._template_settings).split(IMAGE_MARK)
            if len(pieces) != images + 1:
                raise ValueError(f"{self._chat_template} gives {len(pieces) - 1} place(s) for {images} image(s)")
            encoded = [self._encode(piece, add_special_tokens=False) for piece in pieces]
        else:
            first = next((index for index, piece in enumerate(pieces) if piece), 0)  # after images at the beginning
            encoded = [self._encode(piece, add_special_tokens=index == first) for index, piece in enumerate(pieces)]
        return [token for tokens in encoded for token in (self.arch.vision.image_token, *tokens)][1:]

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        # Some tokenizers ask for a clean-up that removes spaces before punctuation, also those that the model wrote.
        return self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _encode(self, text: str, **options) -> list[int]:
        tokenizer = self.tokenizer  # outside: what keeps it from being read has an error of its own
        with reported(f"the tokenizer in {self.tokenizer_dir} cannot encode a text"):
            return tokenizer.encode(text, **options)

    def _templated(self, *messages: tuple[str, str | list], add_generation_prompt: bool = True, **settings) -> str:
        """The text that the chat template makes of messages (role, content), followed by the head of an answer."""
        self._check_chat_template()
        conversation = [{"role": role, "content": content} for role, content in messages]
        with reported(f"{self._chat_template} cannot be applied"):
            text = self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **settings
            )
            if not text:
                raise ValueError("it gives no text")
        return text

    def _end_of_message(self) -> set[int]:
        """The special token that the chat template writes after an assistant's message; empty if it writes none."""
        answer = "Paris"
        text = self._templated(("user", _QUESTION), ("assistant", answer), add_generation_prompt=False)
        _, found, rest = text.rpartition(answer)
        after = self._encode(rest.lstrip(), add_special_tokens=False)[:1] if found else []
        special = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return special.intersection(after)

    @property
    def _chat_template(self) -> str:
        """The chat template as messages call it."""
        if is_meta(self.tokenizer_dir):
            return "Meta's chat format"
        in_its_own_file = self.tokenizer_dir / "chat_template.jinja"
        file = in_its_own_file if in_its_own_file.is_file() else self.tokenizer_dir / "tokenizer_config.json"
        return f"the chat template in {file}"

    def _check_chat_template(self, needed_by: str = "instruct") -> None:
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{needed_by}: the tokenizer in {self.tokenizer_dir} has no chat template")

    def _check_thinking_switch(self) -> None:
        if self._instruct is False:
            raise ValueError("enable_thinking is a setting of the chat template, which needs instruct")
        self._check_chat_template(needed_by="enable_thinking")
        texts = {self._templated(("user", _QUESTION), enable_thinking=value) for value in (True, False)}
        if len(texts) == 1:
            raise ValueError(f"enable_thinking: {self._chat_template} has no such switch")
