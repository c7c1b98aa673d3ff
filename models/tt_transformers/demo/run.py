"""Runs a case of the demo: users, prefill, decode, texts, measurements, record."""

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

from models.common import backend, op_costs
from models.common.mesh import open_mesh, without_values
from models.common.profiler import Measurement, Profiler
from models.common.sampling import Sampler
from models.tt_transformers.demo import prediction, record, report, work
from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.measures import has_values
from models.tt_transformers.tt.checkpoints.location import in_environment
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.generator import Generator, check_lengths, check_tokens
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import Reference, reference_path
from models.tt_transformers.tt.runtime import dram
from models.tt_transformers.tt.runtime.images import check_images
from models.tt_transformers.tt.token_accuracy import TeacherForcing
from models.tt_transformers.tt.vision.images import UserImages, read_image


@dataclass
class User:
    """One user's sequence. `stop_reason` is None while it grows; `note` says how the prompt was changed."""

    batch: int
    index: int
    prompt: str
    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    stop_reason: str | None = None
    note: str | None = None
    images: UserImages | None = None
    image_names: tuple[str, ...] = ()

    def add(self, token_id: int, stop_token_ids, max_generated_tokens: int, max_seq_len: int):
        self.token_ids.append(token_id)
        if token_id in stop_token_ids:
            self.stop_reason = "eos"
        elif len(self.token_ids) == max_generated_tokens:
            self.stop_reason = "max_generated_tokens"
        elif len(self.prompt_ids) + len(self.token_ids) == max_seq_len:
            self.stop_reason = "max_seq_len"


def run(settings: Case, mode: str, make_weights=Weights.of):
    """Runs a case, printing as it goes, and writes its record if one is asked for. `make_weights`: `ModelArgs` -> `Weights`."""
    profiler = Profiler()
    with ExitStack() as stack:
        with clear_errors():
            if settings.profile:
                op_costs.check_available()
            if settings.shape_only:
                stack.enter_context(without_values())
            mesh_device = stack.enter_context(open_mesh())
            args = make_args(settings, mode, mesh_device)
            reference = load_reference(settings, args) if settings.token_accuracy else None
            if reference is not None:
                settings = settings.with_reference(reference)
            batches = make_users(settings, args, reference)
            work.check_no_images(settings, batches)
            for users in batches:
                lengths = [settings.start_pos + len(user.prompt_ids) for user in users]
                check_lengths(args, lengths, settings.max_generated_tokens)
                check_tokens(args, [user.prompt_ids for user in users])
                for user in users:
                    check_images(args, user.index, user.prompt_ids, user.images)
            stop_token_ids = args.stop_token_ids if settings.stop_at_eos else frozenset()
            dram.check_fits(args)
            weights = make_weights(args)
        report.print_header(args, settings)
        with profiler.timed("load_weights"), clear_errors((ValueError, OSError)):
            generator = stack.enter_context(Generator.build(args, weights))

        # Compilation (on the emulator: laying tensors out for speed) is not part of the times measured below.
        prefill_log = decode_log = None
        if not settings.decode_only:
            with profiler.timed("compile_prefill"), prediction.logged() as prefill_log:
                generator.compile_prefill(batches[0][0].prompt_ids, batches[0][0].images)
        with profiler.timed("compile_decode"), prediction.logged() as decode_log:
            generator.compile_decode(trace=settings.enable_trace)
        predicted, reason = prediction.of_run(args, settings, len(batches[0][0].prompt_ids), prefill_log, decode_log)
        steps = ("load_weights", "compile_prefill", "compile_decode")
        measurements = [Measurement(name, profiler.seconds(name), "s") for name in steps if profiler.count(name)]
        accuracy = None
        with op_costs.profiling() if settings.profile else nullcontext() as profile, profiler.timed("batches"):
            for users in batches:
                sampler = make_sampler(settings, users, reference)
                with clear_errors(ValueError):
                    measurements += work.of(settings)(generator, users, sampler, settings, args, stop_token_ids)
                if reference is not None and backend.values_meaningful():
                    accuracy = sampler.result()
        if settings.equal_texts:
            with clear_errors(ValueError):
                work.check_equal_texts(batches)

        if has_values(settings):
            record.keep_benchmark(args, settings, measurements, accuracy)
        else:
            batches, measurements = [], []
        report.print_texts(batches, args)
        if settings.profile:
            report.print_profile(profile, profiler.seconds("batches"))
        notes = report.notes(args, settings) + [user.note for users in batches for user in users if user.note]
        notes += [reason] if reason else []
        report.print_summary(args, settings, measurements, notes, accuracy)
        if predicted is not None:
            report.print_prediction(predicted)
        if settings.output_json is not None:
            run_record = record.make_record(args, settings, batches, measurements, notes, accuracy, predicted)
            with clear_errors():
                record.write_record(settings.output_json, run_record)


class RunError(Exception):
    """An error in the user's files or settings. Its message explains it, so no traceback is needed."""


@contextmanager
def clear_errors(kinds=(ValueError, OSError, RuntimeError)):
    """Turns errors of these kinds into RunErrors."""
    try:
        yield
    except kinds as error:
        raise RunError(str(error)) from error


def model_of(settings) -> dict:
    """The arguments that name the model of a run: the environment's, or the default of the case with random weights."""
    named = in_environment()
    if settings.default_model is None or any(value is not None for value in named.values()):
        return {**named, "dummy_weights": settings.dummy_weights}
    return {"hf_model": settings.default_model, "dummy_weights": True}


def make_args(settings, mode, mesh_device) -> ModelArgs:
    return ModelArgs(
        mesh_device,
        **model_of(settings),
        data_parallel=settings.data_parallel,
        max_batch_size=settings.batch_size,
        max_seq_len=settings.max_seq_len,
        instruct=settings.instruct,
        enable_thinking=settings.enable_thinking,
        optimizations=settings.optimizations,
        optimizations_base=mode,
        decoder_config_file=settings.decoder_config_file,
        num_layers=settings.num_layers,
        page_params=settings.page_params if settings.paged_attention else None,
        max_images=settings.max_images,
    )


def load_reference(settings, args) -> Reference:
    """The reference for token_accuracy. Raises ValueError if it is missing or of another model."""
    reference = Reference.load(settings.reference_file or reference_path(args.model_name))
    reference.check_fits(args)
    return reference


def make_users(settings, args, reference=None) -> list[list[User]]:
    """The users of each batch; with a reference, one batch of users with its texts."""
    if reference is not None:
        prompts = TeacherForcing(reference, settings.users).prompts
        return [[User(0, index, args.decode(prompt), prompt) for index, prompt in enumerate(prompts)]]
    return [
        [make_user(settings, args, batch, index, prompt) for index, prompt in enumerate(prompts)]
        for batch, prompts in enumerate(settings.batches())
    ]


def make_user(settings, args, batch, index, prompt) -> User:
    """The user of a prompt. The prompt's context is cut to leave room to generate within max_seq_len."""
    limit = settings.max_seq_len - settings.start_pos - settings.max_generated_tokens
    try:
        fitted = prompt.fitted(lambda text: len(encode(args, text, prompt)), limit)
        names = tuple(file.name for file in prompt.images)
        user = User(batch, index, fitted.text, encode(args, fitted.text, prompt), images=read(args, prompt), image_names=names)
    except ValueError as error:
        raise ValueError(f"{prompt.source}: {error}") from error
    if fitted != prompt:
        user.note = (
            f"batch {batch}, user {index}: context cut from {len(prompt.context)} to {len(fitted.context)} characters, "
            f"for {settings.max_generated_tokens} tokens to fit max_seq_len {settings.max_seq_len}"
        )
    return user


def encode(args, text: str, prompt) -> list[int]:
    """Token ids of a prompt's text. ValueError for a prompt with images if the model runs without."""
    if not prompt.images:
        return args.encode_prompt(text)
    if len(prompt.images) > args.max_images:
        raise ValueError(f"{len(prompt.images)} image(s); at most {args.max_images} for this run of {args.model_name}")
    return args.text.encode_with_images(text, len(prompt.images))


def read(args, prompt) -> UserImages | None:
    """The images of a prompt, read and cut into tiles; None if it has none. ValueError that names a file."""
    return args.image_processor([read_image(file) for file in prompt.images]) if prompt.images else None


def make_sampler(settings, users, reference=None):
    """The sampler of a batch's next tokens: by the model's logits, or by the reference's text."""
    if reference is not None:
        return TeacherForcing(reference, len(users))
    # Users are numbered through all batches, so that a user draws the same tokens with any batch size.
    return Sampler(settings.sampling(), [user.batch * settings.users + user.index for user in users])
