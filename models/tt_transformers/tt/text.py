"""A model's text side: tokenizer, chat template, stop tokens."""

from functools import cached_property
from pathlib import Path

from models.common.library_errors import reported
from models.tt_transformers.tt.checkpoints.formats import is_meta
from models.tt_transformers.tt.checkpoints.hugging_face import load_config, quiet
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.meta_tokenizer import load_meta_tokenizer
from models.tt_transformers.tt.config.architecture import Architecture, read_config, token_ids


class Text:
    """Text to token ids and back, for the model in `model_dir`.

    Args:
        stand_in: a model without a tokenizer of its own may use the bundled one, if its tokens fit the vocabulary.
        instruct: apply the tokenizer's chat template to prompts.

    Raises ValueError or FileNotFoundError that names the wrong file. `generation_config.json` is checked at once. The
    tokenizer is checked at once with `instruct`, otherwise at its first use.
    """

    def __init__(self, model_dir: Path, arch: Architecture, *, stand_in: bool = False, instruct: bool = False):
        self.model_dir, self.arch, self.instruct = model_dir, arch, instruct
        self._may_stand_in = stand_in
        file = model_dir / "generation_config.json"
        self._generation_eos_token_ids = token_ids(read_config(file).get("eos_token_id"), file) if file.is_file() else ()
        if instruct:
            self._check_chat_template()

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
        """Tokens that end a text, from `config.json`, `generation_config.json` and the tokenizer."""
        ids = set(self.arch.eos_token_ids + self._generation_eos_token_ids)
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return frozenset(ids)

    def encode_prompt(self, text: str, instruct: bool | None = None) -> list[int]:
        """Token ids of a prompt; `instruct` (default: as constructed) applies the chat template first."""
        if not (self.instruct if instruct is None else instruct):
            return self._encode(text)
        self._check_chat_template()
        messages = [{"role": "user", "content": text}]
        with reported(f"the chat template in {self._chat_template_file} cannot be applied"):
            templated = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            if not templated:
                raise ValueError("it gives no text")
        # The template writes the special tokens itself.
        return self._encode(templated, add_special_tokens=False)

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def _encode(self, text: str, **options) -> list[int]:
        tokenizer = self.tokenizer  # outside: what keeps it from being read has an error of its own
        with reported(f"the tokenizer in {self.tokenizer_dir} cannot encode a text"):
            return tokenizer.encode(text, **options)

    @property
    def _chat_template_file(self) -> Path:
        in_its_own_file = self.tokenizer_dir / "chat_template.jinja"
        return in_its_own_file if in_its_own_file.is_file() else self.tokenizer_dir / "tokenizer_config.json"

    def _check_chat_template(self) -> None:
        if self.tokenizer.chat_template is None:
            raise ValueError(f"instruct: the tokenizer in {self.tokenizer_dir} has no chat template")
