"""Reference files hold what Hugging Face predicts, and are refused for another model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from models.common.mesh import open_mesh
from models.common.whole_file import NotWritten
from models.tt_transformers.measure import make_reference as make_reference_module
from models.tt_transformers.measure.make_reference import make_reference
from models.tt_transformers.tt import reference, token_accuracy
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.config.precision import ModelOptimizations
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.tiny_models import save_tiny
from tests.support.tiny_phi3 import SWITCH_LEN, save_tiny_phi3, tiny_config

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[3]
PREFILL, GENERATED, USERS = SWITCH_LEN - 8, 24, 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny")
    model = save_tiny_phi3(directory)
    vocabulary = {"<pad>": 0, "<unk>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, tiny_config().vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)
    return directory, model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    ids = torch.randint(3, 320, (USERS * (PREFILL + GENERATED),), generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(f"w{i}" for i in ids.tolist()))
    return path


@pytest.fixture(scope="module")
def mesh_device():
    with open_mesh("N150") as mesh:
        yield mesh


def make_args(mesh_device, directory, **changes):
    settings = dict(max_seq_len=128, max_batch_size=USERS, optimizations=ModelOptimizations.bf16(), hf_model=directory)
    return ModelArgs(mesh_device, **{**settings, **changes})


@pytest.fixture(scope="module")
def made(mesh_device, checkpoint, text):
    args = make_args(mesh_device, checkpoint[0])
    return make_reference(args, users=USERS, prefill=PREFILL, generated=GENERATED, text=text)


def test_predictions_are_hugging_faces_for_each_prefix(checkpoint, made):
    """One plain forward call per position, so that Hugging Face chooses the factors on both sides of the switch."""
    model = checkpoint[1]
    for step in (0, SWITCH_LEN - PREFILL, SWITCH_LEN - PREFILL + 1, GENERATED - 1):
        prefix = made.tokens[:, : PREFILL + step].long()
        with torch.no_grad():
            expected = model(prefix).logits[:, -1].float()
        log_probs = expected.log_softmax(-1).gather(-1, made.tokens[:, PREFILL + step, None].long())[:, 0]
        torch.testing.assert_close(made.log_probs[:, step], log_probs, atol=0.02, rtol=0)
        best = expected.gather(-1, made.top5[:, step].long())
        torch.testing.assert_close(best, expected.topk(5).values, atol=0.02, rtol=0)


def test_greedy_continuation_is_generates(checkpoint):
    directory, model = checkpoint
    prompt = torch.randint(3, 320, (1, SWITCH_LEN - 10), generator=torch.Generator().manual_seed(3))
    expected = model.generate(prompt, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    rope = Architecture.from_hf_config(read_config(directory / "config.json")).rope
    assert torch.equal(reference.continue_greedily(model, prompt, 30, rope), expected)


@pytest.mark.parametrize("prefill", [SWITCH_LEN - 8, SWITCH_LEN, SWITCH_LEN + 8])
@pytest.mark.parametrize(
    "kind, max_len",
    [
        ({"rope_type": "dynamic", "factor": 4.0}, SWITCH_LEN),
        ({**tiny_config().rope_parameters, "rope_type": "longrope"}, 256),
    ],
    ids=lambda p: p["rope_type"] if isinstance(p, dict) else "",
)
def test_where_hugging_face_keeps_keys_of_other_frequencies_so_do_predictions(tmp_path, kind, max_len, prefill):
    """One text that is decoded token by token, by a new model, across the length at which the frequencies change."""
    save_tiny("Llama", tmp_path, max_position_embeddings=max_len, rope_parameters=kind, initializer_range=0.1)
    rope = Architecture.from_hf_config(read_config(tmp_path / "config.json")).rope
    text = torch.randint(3, 320, (1, prefill + 16), generator=torch.Generator().manual_seed(prefill))

    def new_model():
        return LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()

    with torch.no_grad():
        model, expected = new_model(), []
        output = model(text[:, :prefill])
        for position in range(prefill, prefill + 16):
            expected.append(output.logits[0, -1].log_softmax(-1)[text[0, position]])
            output = model(text[:, position : position + 1], past_key_values=output.past_key_values)
    model = new_model()
    model(torch.arange(200)[None])  # a longer sequence, which the predictions must not depend on
    _, log_probs = reference.predictions(model, text, prefill, rope)
    torch.testing.assert_close(log_probs[0], torch.stack(expected), atol=1e-4, rtol=0)
    continued = reference.continue_greedily(model, text[:, :prefill], 16, rope)
    generated = new_model().generate(text[:, :prefill], max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(continued, generated)


def test_a_saved_reference_reads_back_the_same(made, tmp_path):
    made.save(tmp_path / "r.safetensors")
    read = reference.Reference.load(tmp_path / "r.safetensors")
    assert (read.prefill, read.facts) == (made.prefill, made.facts)
    for name in ("tokens", "top5", "log_probs"):
        assert torch.equal(getattr(read, name), getattr(made, name))
    assert [path.name for path in tmp_path.iterdir()] == ["r.safetensors"]


def test_a_reference_is_saved_where_a_link_leads(made, tmp_path):
    (tmp_path / "link").symlink_to("r.safetensors")
    made.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert torch.equal(reference.Reference.load(tmp_path / "r.safetensors").tokens, made.tokens)


def test_a_missing_or_damaged_reference_is_an_error_that_names_it(made, tmp_path):
    path = tmp_path / "r.safetensors"
    with pytest.raises(ValueError, match="there is no such file.*generate_reference_hf"):
        reference.Reference.load(path)
    made.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="r.safetensors cannot be read"):
        reference.Reference.load(path)


def without(name):
    return lambda content: content.pop(name)


def with_changes(**changes):
    return lambda content: content.update(changes)


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("tensors", without("top5"), "tensors: top5 missing; expected tokens, top5, log_probs"),
        ("tensors", with_changes(logits=torch.zeros(1)), "tensors: logits not known"),
        ("tensors", with_changes(tokens=torch.zeros(4, dtype=torch.int32)), r"tokens has shape \(4,\); expected \(users, prefill"),
        ("tensors", with_changes(log_probs=torch.zeros(USERS, 3)), r"log_probs is torch.float32 \(2, 3\); expected torch.float32 \(2, 24\)"),
        ("tensors", with_changes(top5=torch.zeros(USERS, GENERATED, 5)), r"top5 is torch.float32 .*expected torch.int32 \(2, 24, 5\)"),
        ("facts", without("identity"), "facts: identity missing"),
        ("facts", with_changes(speed=3), "facts: speed not known"),
        ("facts", with_changes(identity={}), "facts of the identity: config, n_layers, weights missing"),
        ("facts", with_changes(identity="mine"), "facts of the identity are 'mine'; expected config, n_layers, weights"),
        ("facts", with_changes(prefill=PREFILL + GENERATED), "prefill is 80; accepted for texts of 80 tokens: 1 to 79"),
    ],
)
def test_a_reference_with_other_content_is_an_error_that_names_it(made, tmp_path, part, change, message):
    path = tmp_path / "r.safetensors"
    made.save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    facts = json.loads(metadata["facts"])
    change(tensors if part == "tensors" else facts)
    save_file(tensors, path, {**metadata, "facts": json.dumps(facts)})
    with pytest.raises(ValueError, match=f"r.safetensors: {message}"):
        reference.Reference.load(path)


def test_facts_that_are_not_json_are_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "r.safetensors"
    save_file({"tokens": torch.zeros(1, 2)}, path, {"format": reference.FORMAT, "facts": "{"})
    with pytest.raises(ValueError, match="r.safetensors: its facts are missing or not JSON"):
        reference.Reference.load(path)


def test_a_reference_of_other_weights_or_layers_is_refused(mesh_device, checkpoint, made, tmp_path):
    made.check_fits(make_args(mesh_device, checkpoint[0]))
    with pytest.raises(ValueError, match="its n_layers is 2"):
        made.check_fits(make_args(mesh_device, checkpoint[0], num_layers=1))
    other = tmp_path / "other"
    shutil.copytree(checkpoint[0], other)
    weights = next(other.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="another model.*its weights is"):
        made.check_fits(make_args(mesh_device, other))
    with pytest.raises(ValueError, match="random weights"):
        made.check_fits(make_args(mesh_device, other, dummy_weights=True))
    with pytest.raises(ValueError, match="2 texts, too few for a batch of 4"):
        made.check_fits(make_args(mesh_device, checkpoint[0], max_batch_size=4))


def test_too_short_a_text_is_an_error_that_says_how_long(mesh_device, checkpoint, text):
    with pytest.raises(ValueError, match="has 160 tokens, too few for 3 users of 80"):
        make_reference(make_args(mesh_device, checkpoint[0]), users=3, prefill=PREFILL, generated=GENERATED, text=text)


@pytest.fixture
def prompts(tmp_path):
    """Three prompts of 40 words each."""
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"prompt": " ".join(f"w{40 * user + i}" for i in range(3, 43))} for user in range(3)]))
    return path


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_prompts_are_joined_and_continued_greedily(mesh_device, checkpoint, prompts, dtype):
    args = make_args(mesh_device, checkpoint[0])
    made = make_reference(args, users=USERS, prefill=PREFILL, generated=GENERATED, dtype=dtype, prompts=prompts)
    assert (made.facts["text"], made.facts["dtype"]) == ("prompts.json, continued greedily", dtype)
    assert made.tokens[0, :45].tolist() == list(range(3, 48))
    assert made.tokens[1, :45].tolist() == list(range(43, 88))
    model = args.reference_transformer({"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
    expected = reference.continue_greedily(model, made.tokens[:, :PREFILL].long(), GENERATED, args.arch.rope)
    assert torch.equal(made.tokens.long(), expected)
    assert torch.equal(made.top5[:, :, 0], made.tokens[:, PREFILL:])


@pytest.mark.parametrize(
    "users, prefill, message", [(4, PREFILL, "has 3 prompts, too few for 4 users"), (2, 121, "joined have 120 tokens, 121 are needed")]
)
def test_prompts_that_are_too_few_or_short_are_an_error(mesh_device, checkpoint, prompts, users, prefill, message):
    args = make_args(mesh_device, checkpoint[0])
    with pytest.raises(ValueError, match=message):
        make_reference(args, users=users, prefill=prefill, generated=1, prompts=prompts)


def test_texts_with_a_token_outside_the_vocabulary_are_refused(mesh_device, checkpoint, text, tmp_path):
    directory = shutil.copytree(checkpoint[0], tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": 256}))
    weights = {name: w[:256] if w.shape[0] == 320 else w for name, w in load_file(directory / "model.safetensors").items()}
    save_file({name: w.contiguous() for name, w in weights.items()}, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="user 0: token [23].. is outside the model's vocabulary of 256"):
        make_reference(make_args(mesh_device, directory), users=USERS, prefill=PREFILL, generated=GENERATED, text=text)


def test_no_reference_is_made_of_predictions_that_are_no_numbers(mesh_device, checkpoint, text, monkeypatch):
    nothing = torch.full((USERS, GENERATED), float("nan"))
    monkeypatch.setattr(reference, "predictions", lambda *args: (torch.zeros(USERS, GENERATED, 5), nothing))
    with pytest.raises(ValueError, match=f"predictions with the model of {checkpoint[0]} are NaN or infinite"):
        make_reference(make_args(mesh_device, checkpoint[0]), users=USERS, prefill=PREFILL, generated=GENERATED, text=text)


def test_a_model_that_hugging_face_cannot_run_is_named(mesh_device, checkpoint, prompts, tmp_path):
    directory = shutil.copytree(checkpoint[0], tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "layer_types": ["sliding_attention"] * 2}))
    with pytest.raises(ValueError, match=f"Hugging Face cannot run the model of {directory}: TypeError: "):
        make_reference(make_args(mesh_device, directory), users=1, prefill=8, generated=2, prompts=prompts)


def test_the_model_scores_its_own_reference_high_across_the_switch(mesh_device, checkpoint, made):
    """The random model's logits are close together, so top-1 cannot be equal, but the perplexity can."""
    with Generator.build(make_args(mesh_device, checkpoint[0])) as generator:
        accuracy = token_accuracy.measure(generator, made, USERS)
    assert accuracy.tokens == USERS * GENERATED
    assert accuracy.top1 > 80 and accuracy.top5 > 95
    assert accuracy.perplexity == pytest.approx(made.perplexity, rel=5e-3)


def one_hot_logits(ids, vocab=320):
    return torch.nn.functional.one_hot(ids.long(), vocab).float() * 50


def test_teacher_forcing_counts_matches_and_feeds_the_text(made):
    forcing = token_accuracy.TeacherForcing(made, USERS)
    assert forcing.prompts == made.tokens[:, :PREFILL].tolist()
    for step in range(4):
        rank = 0 if step < 2 else step
        guess = made.top5[:, step, rank] if step < 3 else made.top5[:, step].amax(-1) + 1000
        logits = one_hot_logits(guess, vocab=2000)
        assert forcing(logits) == made.tokens[:, PREFILL + step].tolist()
    result = forcing.result()
    assert (result.tokens, result.top1, result.top5, result.first_difference) == (4 * USERS, 50, 75, 2)
    assert result.reference_perplexity == pytest.approx((-made.log_probs[:, :4].double().mean()).exp().item())


def test_teacher_forcing_refuses_nan_and_the_end_of_the_text(made):
    forcing = token_accuracy.TeacherForcing(made, USERS)
    with pytest.raises(ValueError, match="token 0 hold NaN"):
        forcing(torch.full((USERS, 320), float("nan")))
    for _ in range(GENERATED):
        forcing(torch.zeros(USERS, 320))
    with pytest.raises(ValueError, match="end after 24 tokens"):
        forcing(torch.zeros(USERS, 320))


@pytest.mark.parametrize(
    "program",
    [["models/tt_transformers/tests/generate_reference_hf.py"], ["-m", "models.tt_transformers.tests.generate_reference_hf"]],
    ids=["path", "module"],
)
def test_the_command_makes_the_reference_that_python_makes(program, checkpoint, text, made, tmp_path):
    """It runs from the project's root, without environment variables that help Python to find the project."""
    output = tmp_path / "r.safetensors"
    sizes = ["--users", str(USERS), "--prefill", str(PREFILL), "--generated", str(GENERATED)]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MESH_DEVICE", "FAKE_DEVICE")}
    result = subprocess.run(
        [sys.executable, *program, "--text", str(text), *sizes, "--output", str(output)],
        cwd=ROOT, env={**environment, "HF_MODEL": str(checkpoint[0])}, capture_output=True, text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"{USERS} texts of {PREFILL} + {GENERATED} tokens" in result.stdout
    read = reference.Reference.load(output)
    assert (read.prefill, read.facts) == (made.prefill, made.facts)
    assert torch.equal(read.tokens, made.tokens)
    torch.testing.assert_close(read.log_probs, made.log_probs, atol=0.02, rtol=0)


def test_a_reference_that_finds_the_disk_full_is_named_with_its_figures(checkpoint, made, monkeypatch):
    monkeypatch.setenv("HF_MODEL", str(checkpoint[0]))
    monkeypatch.setattr(make_reference_module, "make_reference", lambda *args, **kwargs: made)
    with open("/dev/full", "wb") as full:
        os.set_inheritable(full.fileno(), True)
        output = f"/dev/fd/{full.fileno()}"
        monkeypatch.setattr(sys, "argv", ["generate_reference_hf", "--prefill", "8", "--generated", "8", "--output", output])
        with pytest.raises(NotWritten, match=f"^--output {output}: No space left on device; lost: 2 texts of .* perplexity "):
            make_reference_module.main()


def test_the_command_refuses_a_text_that_is_too_short(checkpoint, text, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "models.tt_transformers.tests.generate_reference_hf", "--text", str(text), "--prefill", "100",
         "--generated", "100", "--users", "3", "--output", str(tmp_path / "r.safetensors")],
        cwd=ROOT, env={**os.environ, "HF_MODEL": str(checkpoint[0])}, capture_output=True, text=True,
    )
    assert result.returncode == 2 and "has 160 tokens, too few for 3 users of 200" in result.stderr
    assert list(tmp_path.iterdir()) == []
