"""Prints the demo's output."""

from models.common import backend
from models.tt_transformers.demo.text_stream import TextStream

# How to read a speed of each backend; no speed is shown without this note.
SPEEDS_ARE = {
    "silicon": "measured on the card",
    "simulator": "measured on the simulator, not a card's speed",
    "emulator": "of the emulator on this CPU, not a card's speed",
    "lockstep": "of the emulator checked op by op against the mock device, not a card's speed",
}

_LABELS = {
    "load_weights": "load and convert weights",
    "compile_prefill": "compile prefill",
    "compile_decode": "compile decode",
    "inference_prefill": "prefill",
    "inference_decode": "decode",
    "generate": "generate",
    "TTFT": "time to first token (TTFT)",
    "prefill_t/s": "prompt tokens/s",
    "decode_t/s/u": "tokens/s/user",
    "decode_t/s": "tokens/s",
    "least_pcc": "least PCC of a step",
    "repeated_steps": "equal repetitions of a step",
    "memory_growth": "growth of the process",
}


# Of prompts longer than this only the two ends are shown.
_SHOWN_CHARACTERS = 2000


def _shown(prompt):
    left_out = len(prompt) - _SHOWN_CHARACTERS
    if left_out <= 0:
        return prompt
    half = _SHOWN_CHARACTERS // 2
    return f"{prompt[:half]}\n[... {left_out} characters not shown ...]\n{prompt[-half:]}"


def _prompt_of(user) -> str:
    images = f", with {', '.join(user.image_names)}" if user.image_names else ""
    return f"Prompt of user {user.index}, batch {user.batch}{images}:\n{_shown(user.prompt)}"


def _line(label, value):
    print(f"  {label:<28}{value}", flush=True)


def notes(args, settings) -> list[str]:
    """Notes that a reader needs to understand the run's texts and numbers."""
    found = []
    if settings.shape_only:
        found.append("shape-only: every op is laid out and checked on the emulator, without values: no text and no speed")
    elif not backend.values_meaningful():
        found.append("validated, values meaningless: no text and no speed")
    else:
        found.append(f"speeds are {SPEEDS_ARE[backend.name()]}")
    if args.num_layers is not None and args.num_layers < args.model_layers:
        found.append(f"{args.num_layers} of the model's {args.model_layers} layers")
    if args.reads_images and not args.max_images:
        found.append("the model runs without its layers for images")
    if args.dummy_weights:
        found.append("random weights: the text means nothing")
    if args.dummy_weights and args.text.tokenizer_is_stand_in:
        found.append("the model has no tokenizer here: text goes through the bundled checkpoint's")
    if settings.instruct is None and args.text.instruct and not settings.token_accuracy:
        found.append("prompts are put into the chat template; --instruct 0 leaves them as they are")
    if settings.token_accuracy:
        found.append("token accuracy: the text is the reference's, and what the model would have chosen is counted")
    return found + args.notes


def print_header(args, settings):
    print(f"\n\n{args.model_name}, {settings.name}")
    _line("backend", backend.describe())
    _line("mesh", _mesh(args))
    _line("precision", args.precision.name)


def _mesh(args) -> str:
    """The mesh and how the model lies on it; with data parallel, on each of its groups of devices."""
    in_groups = f"{args.data_parallel} groups (data parallel) of " if args.data_parallel > 1 else ""
    return f"{args.mesh_name}, {in_groups}{args.placement.layout}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class Stream:
    """Prints one user's prompt, then the text as its tokens come."""

    def __init__(self, user, decode):
        self._text = TextStream(decode)
        print(f"\n{_prompt_of(user)}\n\nGenerated:", flush=True)

    def add(self, token_id: int):
        print(self._text.add(token_id), end="", flush=True)

    def finish(self):
        print(self._text.finish(), flush=True)


def print_tokens(users, args):
    """Prints the last token of every user that has one, and its text."""
    tokens = [f"{u.index}: {u.token_ids[-1]} {args.decode(u.token_ids[-1:])!r}" for u in users if u.token_ids]
    print(f"\n[{'; '.join(tokens)}]", flush=True)


def print_texts(batches, args):
    """Prints the texts of all users except the streamed ones, and why each user stopped."""
    for users in batches:
        for user in users[1:]:
            print(f"\n{_prompt_of(user)}")
            print(f"\nGenerated:\n{args.decode(user.token_ids)}", flush=True)
    if batches:
        print("\nUsers")
    for users in batches:
        for user in users:
            _line(
                f"batch {user.batch}, user {user.index}",
                f"{len(user.prompt_ids)} prompt tokens, {len(user.token_ids)} generated, stopped by {user.stop_reason}",
            )


def print_profile(profile: dict, seconds: float):
    """Prints ops by time. `profile`: op -> (calls, seconds); `seconds`: the total time, also outside of ops."""
    print(f"\n{'op':<60}{'calls':>8}{'seconds':>10}{'share':>8}")
    outside = seconds - sum(spent for _, spent in profile.values())
    rows = sorted(profile.items(), key=lambda row: -row[1][1]) + [("outside of ops", ("", outside))]
    for name, (calls, spent) in rows:
        print(f"{name:<60}{calls:>8}{spent:>10.3f}{spent / seconds:>8.1%}", flush=True)


def print_summary(args, settings, measurements, notes, accuracy=None):
    print("\nSummary")
    in_groups = f", {settings.batch_size} in each of {args.data_parallel} groups" if args.data_parallel > 1 else ""
    _line("case", f"{settings.name}: {_counted(settings.users, 'user')}{in_groups}")
    _line("backend", backend.name())
    _line("mesh", _mesh(args))
    _line("precision", args.precision.name)
    for m in measurements:
        batch = f"  (batch {m.batch})" if m.batch is not None and settings.repeat_batches > 1 else ""
        _line(_LABELS[m.name], f"{m.value:.2f} {m.unit}{batch}")
    if accuracy is not None:
        _line("token accuracy", accuracy.describe())
    for note in notes:
        _line("note", note)


def print_prediction(predicted):
    """Prints a `Forecast`, apart from what was measured."""
    print(f"\nPrediction for a card ({predicted.card.name}), not a measurement")
    for name, value, unit in (
        ("tokens/s/user", predicted.tokens_per_user, "t/s/u"), ("tokens/s", predicted.tokens, "t/s"), ("TTFT", predicted.ttft_ms, "ms")
    ):  # fmt: skip
        if value is not None:
            _line(f"predicted {name}", f"{value} {unit}")
