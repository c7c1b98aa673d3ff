"""What `lt` runs: commands, models and devices, and the runs that they mean."""

import difflib
import itertools
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from models.common import benchmark_record
from models.common.mesh_names import LINES, MESH_SHAPES, check_mesh_name, requested_mesh_name
from models.tt_transformers.measure.lt.runs import Spec
from models.tt_transformers.measure.pareto import precision_settings
from models.tt_transformers.tt.checkpoints.formats import is_meta
from models.tt_transformers.tt.checkpoints.location import BUNDLED, HUB_NAME, MODEL_PARAMS

CONFIGURATIONS = benchmark_record.ROOT / "models/tt_transformers/tests/configurations"

_DEMOS = "models/tt_transformers/demo/"
_TEXT_DEMO = _DEMOS + "simple_text_demo.py"
_VISION_DEMO = _DEMOS + "simple_vision_demo.py"
_VISION_CASES = ("batch1-notrace", "batch1-trace", "batch32-trace", "batch4-trace-with-text-prompts")
_MODULE_TESTS = "models/tt_transformers/tests/test_modules.py"
_MODEL_TEST = "models/tt_transformers/tests/test_model.py"
_LTS_OWN = ("--output_json", "--junitxml", "--junit-xml")


@dataclass(frozen=True)
class Command:
    """A name for a pytest line.

    select: the text for -k; `{device}` stands for the device.
    model: the only model that the tests have; None if they take any.
    default: the model that runs if neither the user nor the environment names one.
    """

    name: str
    help: str
    file: str
    select: str
    options: tuple[str, ...] = ()
    model: str | None = None
    default: str = BUNDLED.name
    devices: tuple[str, ...] = tuple(MESH_SHAPES)

    def arguments(self, device: str) -> list[str]:
        return [self.file, "-k", self.select.format(device=device), *self.options]


def _demo(name, help, case, *options):
    return Command(name, help, _TEXT_DEMO, case, options)


def _tests(name, select, file=_MODULE_TESTS, model="microsoft/Phi-3-mini-128k-instruct", what="tests of the module"):
    # -m takes back that pytest.ini leaves out the tests marked `wide`, among them those of most devices.
    options = ("-m", "not slow")
    what = f"{what}, against Hugging Face"
    return Command(name, what, file, f"{select} and {{device}}", options, model, devices=LINES)


def _vision(case):
    tiny = "a tiny vision model"  # with random weights
    return Command(f"vision-{case}", "the vision demo", _VISION_DEMO, f"performance and {case}", default=tiny)


_COMMANDS = (
    _demo("demo", "the text demo, performance mode, one user", "performance and batch-1"),
    _demo("demo-acc", "the same in accuracy mode", "accuracy and batch-1"),
    _demo("demo-32", "32 users", "performance and batch-32"),
    _demo(
        "demo-long", "a prompt of 64k tokens; the option --max_seq_len shortens it", "performance and long-context-64k"
    ),
    _demo("accuracy", "token accuracy in performance mode", "performance and batch-1", "--token_accuracy", "True"),
    _demo("accuracy-acc", "token accuracy in accuracy mode", "accuracy and batch-1", "--token_accuracy", "True"),
    _tests("attention", "attention"),
    _tests("mlp", "mlp"),
    _tests("rmsnorm", "norm"),
    _tests("embedding", "embedding"),
    _tests("decoder", "decoder"),
    _tests("lm-head", "lm_head"),
    _tests("model", "logits_follow", _MODEL_TEST, BUNDLED.name, "tests of the whole bundled model"),
    *map(_vision, _VISION_CASES),
)

TABLE = ("accuracy", "demo", "accuracy-acc", "demo-acc")
GROUPS = {"table": TABLE, "modules": ("rmsnorm", "attention", "mlp", "lm-head", "embedding", "decoder")}
PARETO, PARETO_FROM_JSON = "pareto", "pareto_from_json"

_FORMATS = ("bfp4", "bfp8", "bf16")


def commands() -> dict[str, Command]:
    """The commands whose file is there, by name."""
    return {command.name: command for command in _COMMANDS if (benchmark_record.ROOT / command.file).is_file()}


def descriptions() -> dict[str, str]:
    """All names that a user can give, with what they mean."""
    return {
        **{command.name: command.help for command in commands().values()},
        **{name: "runs " + ", ".join(members) for name, members in GROUPS.items()},
        PARETO: "token accuracy with each pair of formats of the MLP's weights",
        PARETO_FROM_JSON: f"token accuracy with each file in {CONFIGURATIONS.relative_to(benchmark_record.ROOT)}",
        "pytest …": "any pytest line",
    }


def model_names() -> list[str]:
    """The bundled model, then each model whose config.json is in `model_params`."""
    entries = json.loads((MODEL_PARAMS / "compatible.json").read_text(encoding="utf-8"))
    return [BUNDLED.name, *sorted((name for name, entry in entries.items() if "config" in entry), key=str.lower)]


def specs(
    names: str, models: str = "", devices: str = "", options: str = "", configurations: Path = CONFIGURATIONS
) -> list[Spec]:
    """The runs of a user's texts, each combination one run.

    names: of commands, or one pytest line. names, models and devices may have commas between them. "" is demo, and the
    environment's model and device, else the bundled model and N150. options: of pytest, added to every line.
    configurations: the folder of `pareto_from_json`.

    Raises ValueError that names the text and what is accepted.
    """
    extra = _split(options)
    model_texts = [models] if Path(models).is_dir() else _listed(models)
    return [
        _spec(line, model_text, device_text, extra)
        for model_text, device_text in itertools.product(model_texts, _listed(devices))
        for line in _lines(names, device(device_text), configurations)
    ]


@dataclass(frozen=True)
class _Line:
    """One run of a command, or of a pytest line if `command` is None, before a model is chosen."""

    name: str
    arguments: list[str]
    command: Command | None = None
    setting: str | None = None


def _spec(line: _Line, model_text: str, device_text: str, extra: list[str]) -> Spec:
    # A pytest line runs in the environment as it is, apart from what the user names.
    name, variables = model(model_text, line.command.default if line.command else "")
    mesh = device(device_text) if line.command or device_text else ""
    if line.command is not None and line.command.model is not None:
        only = line.command.model
        if model_text and name != only:
            raise ValueError(f"{line.name}: its tests are of {only} only, not of {name}; leave the model out")
        name, variables = model(only)
    arguments = (*line.arguments, *extra)
    keeps_record = any(argument.startswith(_DEMOS) for argument in arguments)
    environment = {**variables, **({"MESH_DEVICE": mesh, "FAKE_DEVICE": None} if mesh else {})}
    return Spec(line.name, name, mesh, arguments, environment, keeps_record, line.setting)


def _lines(names: str, mesh: str, configurations: Path) -> list[_Line]:
    if names.split(maxsplit=1)[:1] == ["pytest"]:
        return [_Line("pytest", _split(names)[1:])]
    return [line for name in _listed(names or "demo") for line in _named_lines(name, mesh, configurations)]


def _named_lines(name: str, mesh: str, configurations: Path) -> list[_Line]:
    known = commands()
    if name in (PARETO, PARETO_FROM_JSON):
        settings = format_pairs() if name == PARETO else files_in(configurations)
        command = known["accuracy"]
        return [
            _Line(name, [*command.arguments(mesh), *options], command, setting) for setting, options in settings.items()
        ]
    members = GROUPS.get(name, (name,))
    for member in members:
        if member not in known:
            raise ValueError(f"command {member!r} is not known; known are {', '.join(descriptions())}")
        if mesh not in known[member].devices:
            raise ValueError(f"{member}: device {mesh} has no such test; accepted: {', '.join(known[member].devices)}")
    return [_Line(member, known[member].arguments(mesh), known[member]) for member in members]


def format_pairs() -> dict[str, list[str]]:
    """Name -> options of the demo, for each pair of formats of the MLP's weights."""
    return {
        f"ff1_3_{up}_ff2_{down}": ["--optimizations", f"precision_cfg = {{ff1_3: {up}, ff2: {down}}}"]
        for up, down in itertools.product(_FORMATS, _FORMATS)
    }


def files_in(folder: Path) -> dict[str, list[str]]:
    """Name -> options of the demo, for each JSON file of a folder.

    Raises ValueError for a wrong file, and if there is no file.
    """
    files = sorted(Path(folder).resolve().glob("*.json"))
    if not files:
        raise ValueError(f"configurations {folder}: there are no .json files")
    return {file.stem: [f"--{name}={value}" for name, value in precision_settings(file).items()] for file in files}


def _listed(text: str) -> list[str]:
    """The names in a text with commas between them; [""] for an empty text."""
    return [name.strip() for name in text.split(",") if name.strip()] or [""]


def _split(text: str) -> list[str]:
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    for argument in arguments:
        if argument.split("=")[0] in _LTS_OWN:
            raise ValueError(f"{argument}: lt keeps the record and the report of each run itself; leave the option out")
    return arguments


def device(name: str) -> str:
    """A device's name; for "" the one that MESH_DEVICE names, else N150."""
    return check_mesh_name(name, source="device") if name else requested_mesh_name() or "N150"


def model(text: str, default: str = BUNDLED.name) -> tuple[str, dict[str, str | None]]:
    """A model's name and the environment variables that choose it.

    For "" it is the environment's model, else `default`, which runs without a choice.
    """
    if not text:
        for variable in ("HF_MODEL", "LLAMA_DIR"):
            if variable in os.environ:
                return os.environ[variable], {variable: os.environ[variable]}
        return default, {"HF_MODEL": None, "LLAMA_DIR": None}
    if text == BUNDLED.name:
        return text, {"HF_MODEL": str(BUNDLED), "LLAMA_DIR": None}
    directory = Path(text).expanduser()
    if directory.is_dir():
        meta = is_meta(directory)
        path = str(directory.resolve())
        return path, {"HF_MODEL": None if meta else path, "LLAMA_DIR": path if meta else None}
    known = model_names()
    same_name = [name for name in known if text in (name, name.split("/")[-1])]
    if len(same_name) != 1 and not HUB_NAME.fullmatch(text):
        near = difflib.get_close_matches(text, [*known, *(name.split("/")[-1] for name in known)], n=3)
        like = f", like {', '.join(near)}" if near else ""
        raise ValueError(
            f"model {text!r} is not known; accepted: a directory, org/name, or a name in model_params{like}"
        )
    name = text if HUB_NAME.fullmatch(text) else same_name[0]
    return name, {"HF_MODEL": name, "LLAMA_DIR": None}
