"""The settings of one run of the demo."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models.common import whole_file
from models.common.sampling import SamplingParams
from models.tt_transformers.demo import prompts

# With token_accuracy the reference determines these.
_SETTLED_BY_REFERENCE = (
    "input_prompts", "instruct", "enable_thinking", "repeat_batches", "sampling_params", "stop_at_eos"
)  # fmt: skip

SAMPLE_PROMPTS = Path(__file__).parent / "sample_prompts"


@dataclass(frozen=True)
class Case:
    """A case of a demo. All fields except `name` and `default_model` are options of the same name; options.py says what they
    mean. `default_model`: the model, in `model_params`, that runs with random weights if the environment names none; None:
    the bundled checkpoint.

    None means: for `instruct`, whatever the tokenizer supports; for `enable_thinking`, the chat template's default; for
    `optimizations`, the mode in the test id; for `reference_file`, the model's own file; for `max_generated_tokens`
    with token_accuracy, all tokens of the reference.
    """

    name: str
    input_prompts: str | Path
    max_seq_len: int
    batch_size: int
    max_generated_tokens: int | None
    page_params: dict
    sampling_params: dict
    instruct: bool | None = None
    enable_thinking: bool | None = None
    repeat_batches: int = 1
    paged_attention: bool = True
    stop_at_eos: bool = True
    optimizations: str | None = None
    decoder_config_file: str | None = None
    default_model: str | None = None
    max_images: int = 0
    enable_trace: bool = True
    num_layers: int | None = None
    dummy_weights: bool = False
    token_accuracy: bool = False
    reference_file: str | None = None
    profile: bool = False
    output_json: str | None = None

    def with_options(self, given: dict) -> "Case":
        """This case with the user's options; a dict changes only the keys that it names.

        Raises:
            ValueError: options that contradict each other.
        """
        if "page_params" in given and not given.get("paged_attention", self.paged_attention):
            raise ValueError("page_params are given, but paged_attention is false")
        if given.get("token_accuracy", self.token_accuracy):
            self._check_token_accuracy(given)
            given = {"max_generated_tokens": None, "stop_at_eos": False, **given}
        elif "reference_file" in given:
            raise ValueError("reference_file is given, but token_accuracy is false")
        merged = {name: getattr(self, name) | given[name] for name in ("page_params", "sampling_params") if name in given}
        changed = replace(self, **{**given, **merged})
        return changed._with_pages_for_a_context() if "max_seq_len" in given and "page_params" not in given else changed

    def _with_pages_for_a_context(self) -> "Case":
        """This case with enough pages for one user's whole context, but no more than all users can fill, because unused
        pages take memory too."""
        context = -(-self.max_seq_len // self.page_params["block_size"])
        pages = min(max(self.page_params["max_num_blocks"], context), self.batch_size * context)
        return replace(self, page_params=self.page_params | {"max_num_blocks": pages})

    def _check_token_accuracy(self, given):
        for name in _SETTLED_BY_REFERENCE:
            if name in given:
                raise ValueError(f"{name} does not go with token_accuracy, whose texts are the reference's")

    def with_reference(self, reference) -> "Case":
        """This case for a `Reference`. Raises ValueError if more tokens are asked for than it has."""
        tokens = self.max_generated_tokens or reference.generated
        if tokens > reference.generated:
            raise ValueError(f"max_generated_tokens is {tokens}, and the reference has {reference.generated}")
        return replace(self, max_generated_tokens=tokens)

    def sampling(self) -> SamplingParams:
        return SamplingParams(**self.sampling_params)

    def batches(self) -> list[list[prompts.Prompt]]:
        """Prompts by batch and user. Raises ValueError for a prompts file that cannot be used."""
        return prompts.batches(prompts.load_entries(self.input_prompts), self.batch_size, self.repeat_batches)

    def check(self):
        """Reads and checks the files that the run will need, before any device is opened. Raises ValueError."""
        self.batches()
        if self.decoder_config_file is not None and not Path(self.decoder_config_file).is_file():
            raise ValueError(f"decoder_config_file {self.decoder_config_file}: there is no such file")
        if self.reference_file is not None and not Path(self.reference_file).is_file():
            raise ValueError(f"reference_file {self.reference_file}: there is no such file")
        if self.output_json is not None:
            whole_file.check_writable(self.output_json, "output_json")

    def as_json(self) -> dict:
        """The fields as a JSON object, with all sampling parameters."""
        return {**asdict(self), "input_prompts": str(self.input_prompts), "sampling_params": asdict(self.sampling())}
