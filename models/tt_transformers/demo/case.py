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

# What a run does in place of generating texts, or besides.
_WORK = ("token_accuracy", "stress_test", "apc_test", "pcc_check", "prefill_profile")

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
    data_parallel: int = 1
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
    decode_only: bool = False
    start_pos: int = 0
    stress_test: bool = False
    apc_test: bool = False
    pcc_check: bool = False
    equal_texts: bool = False
    prefill_profile: bool = False
    shape_only: bool = False
    print_outputs: bool = False
    profile: bool = False
    output_json: str | None = None

    def with_options(self, given: dict) -> "Case":
        """This case with the user's options; a dict changes only the keys that it names.

        Raises:
            ValueError: options that contradict each other.
        """
        for name in given:
            if name not in self.__dataclass_fields__:
                raise ValueError(f"{name} is not an option of this demo")
        if "page_params" in given and not given.get("paged_attention", self.paged_attention):
            raise ValueError("page_params are given, but paged_attention is false")
        self._check_work(given)
        if given.get("prefill_profile", self.prefill_profile):
            given = {"profile": True, "max_generated_tokens": 1, **given}
        if given.get("token_accuracy", self.token_accuracy):
            self._check_token_accuracy(given)
            given = {"max_generated_tokens": None, "stop_at_eos": False, **given}
        elif "reference_file" in given:
            raise ValueError("reference_file is given, but token_accuracy is false")
        merged = {name: getattr(self, name) | given[name] for name in ("page_params", "sampling_params") if name in given}
        changed = replace(self, **{**given, **merged})
        if changed.equal_texts and changed.sampling().temperature:
            raise ValueError(f"equal_texts needs greedy texts, and temperature is {changed.sampling().temperature}")
        return changed._with_pages_for_a_context() if "max_seq_len" in given and "page_params" not in given else changed

    def _with_pages_for_a_context(self) -> "Case":
        """This case with enough pages for one user's whole context, but no more than all users of a group can fill, because
        unused pages take memory too."""
        context = -(-self.max_seq_len // self.page_params["block_size"])
        pages = min(max(self.page_params["max_num_blocks"], context), self.batch_size * context)
        return replace(self, page_params=self.page_params | {"max_num_blocks": pages})

    def _check_work(self, given):
        """Raises ValueError for options that ask for more than one kind of run; see `work.py`."""
        chosen = [name for name in _WORK if given.get(name, getattr(self, name))]
        decode_only, start_pos = (given.get(name, getattr(self, name)) for name in ("decode_only", "start_pos"))
        if start_pos and not decode_only:
            raise ValueError(f"start_pos is {start_pos}, and decode_only is false: a prefill starts at position 0")
        if decode_only and chosen and chosen != ["stress_test"]:
            raise ValueError(f"{chosen[0]} needs a prefill, which decode_only leaves out")
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} do not go together: choose one")
        if chosen and chosen != ["token_accuracy"] and given.get("repeat_batches", self.repeat_batches) > 1:
            raise ValueError(f"{chosen[0]} runs one batch, and repeat_batches is {given.get('repeat_batches', self.repeat_batches)}")
        if given.get("shape_only", self.shape_only) and chosen and chosen != ["prefill_profile"]:
            raise ValueError(f"{chosen[0]} needs values, which shape_only leaves out")
        if given.get("apc_test", self.apc_test) and not given.get("paged_attention", self.paged_attention):
            raise ValueError("apc_test shares pages of the KV cache, and paged_attention is false")

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

    @property
    def users(self) -> int:
        """Users in a batch, of all groups of devices together."""
        return self.batch_size * self.data_parallel

    def sampling(self) -> SamplingParams:
        return SamplingParams(**self.sampling_params)

    def batches(self) -> list[list[prompts.Prompt]]:
        """Prompts by batch and user. Raises ValueError for a prompts file that cannot be used."""
        return prompts.batches(prompts.load_entries(self.input_prompts), self.users, self.repeat_batches)

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
