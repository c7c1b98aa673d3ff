"""Makes a reference file for `--token_accuracy` with Hugging Face's model.

    python models/tt_transformers/tests/generate_reference_hf.py [--text FILE] [--users 32] [--output FILE]

The model is HF_MODEL, LLAMA_DIR or the bundled checkpoint. Texts come from --text, a UTF-8 file; each user gets the next
piece of it. Without --text, each prompt is made of the demo's sample prompts, joined, and the model continues it greedily.
"""

import argparse
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import whole_file
from models.common.library_errors import reported
from models.common.mesh import open_mesh
from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.demo.options import parse_count
from models.tt_transformers.demo.prompts import load_prompts
from models.tt_transformers.tt import reference
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.runner import check_tokens

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PROMPTS = SAMPLE_PROMPTS / "input_data_questions_prefill_128.json"


def make_reference(args, *, users=32, prefill=512, generated=511, dtype="bf16", text=None, prompts=PROMPTS):
    """A `Reference` for the model that `args` (`ModelArgs`) sets up.

    Args:
        users: number of texts.
        prefill, generated: number of tokens of each text in its prompt, and after it, which are predicted.
        dtype: dtype of Hugging Face's model: bf16 or fp32.
        text: file that the texts are cut from; None for prompts that the model continues greedily.
        prompts: prompts file for the latter.

    Raises:
        ValueError: the text, the prompts or the model's context are too short, a token is outside the vocabulary,
            Hugging Face cannot run the model, or its predictions are not finite.
    """
    if prefill + generated > args.arch.max_context_len:
        raise ValueError(
            f"{prefill} + {generated} tokens are more than the context of {args.model_name}, {args.arch.max_context_len}"
        )
    if text is None:
        tokens, source = _joined_prompts(args, prompts, users, prefill), f"{Path(prompts).name}, continued greedily"
    else:
        tokens, source = _pieces(args, text, users, prefill + generated), Path(text).name
    check_tokens(args, tokens.tolist())
    model = args.reference_transformer(DTYPES[dtype])
    with reported(f"Hugging Face cannot run the model of {args.model_dir}"):
        if text is None:
            tokens = reference.continue_greedily(model, tokens, generated, args.arch.rope)
        top5, log_probs = reference.predictions(model, tokens, prefill, args.arch.rope)
    if not log_probs.isfinite().all():
        raise ValueError(f"Hugging Face's predictions with the model of {args.model_dir} are NaN or infinite")
    facts = {
        "model": args.model_name,
        "identity": reference.model_identity(args),
        "text": source,
        "dtype": dtype,
        "versions": {"torch": torch.__version__, "transformers": _transformers_version()},
    }
    return reference.Reference(tokens.int(), top5, log_probs, prefill, facts)


def _joined_prompts(args, path, users, prefill):
    """[users, prefill] tokens: all prompts joined, beginning with a different one for each user."""
    texts = load_prompts(path)
    if users > len(texts):
        raise ValueError(f"{path} has {len(texts)} prompts, too few for {users} users")
    joined = ["\n".join(texts[user:] + texts[:user]) for user in range(users)]
    rows = [args.encode_prompt(text, instruct=False)[:prefill] for text in joined]
    if min(map(len, rows)) < prefill:
        raise ValueError(f"{path}: its prompts joined have {min(map(len, rows))} tokens, {prefill} are needed")
    return torch.tensor(rows)


def _pieces(args, path, users, length):
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text {path} cannot be read: {error}") from error
    ids = args.encode_prompt(content, instruct=False)
    if len(ids) < users * length:
        raise ValueError(f"text {path} has {len(ids)} tokens, too few for {users} users of {length}")
    return torch.tensor(ids[: users * length]).view(users, length)


def _transformers_version():
    import transformers

    return transformers.__version__


def _count(text):
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", metavar="FILE", help="text to predict (default: the sample prompts, continued greedily)")
    parser.add_argument("--users", type=_count, default=32, help="number of texts (default: 32)")
    parser.add_argument("--prefill", type=_count, default=512, help="tokens of the prompt (default: 512)")
    parser.add_argument("--generated", type=_count, default=511, help="tokens to predict (default: 511)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of Hugging Face's model (default: bf16)")
    parser.add_argument("--output", metavar="FILE", help="default: models/tt_transformers/model_params/<model>/reference.safetensors")
    options = parser.parse_args()
    with open_mesh("N150") as mesh_device:
        try:
            args = ModelArgs(mesh_device, max_seq_len=options.prefill + options.generated)
            output = options.output
            if output is None:
                output = reference.reference_path(args.model_name)
            # The model's own folder is made at the end, so that a run that fails leaves none.
            is_new = options.output is None and not output.parent.exists()
            whole_file.check_writable(output.parent if is_new else output, "--output")
            made = make_reference(
                args,
                users=options.users,
                prefill=options.prefill,
                generated=options.generated,
                dtype=options.dtype,
                text=options.text,
            )
        except (ValueError, OSError, RuntimeError) as error:
            parser.error(str(error))
    figures = f"{made.users} texts of {made.prefill} + {made.generated} tokens, perplexity {made.perplexity:.3f}"
    try:
        if is_new:
            output.parent.mkdir()
        made.save(output)
    except OSError as error:
        raise whole_file.NotWritten(f"--output {output}: {error.strerror}; lost: {figures}") from error
    print(f"{output}: {figures}")
