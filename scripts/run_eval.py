"""Runs eval.py for automation. Prints one line `YT_METRICS {json}` on success. Only success has exit status 0.

    python scripts/run_eval.py --mode tt --hf-model microsoft/Phi-3-mini-128k-instruct

`--mode tt` evaluates the bring-up on its mesh. `--mode hf` runs Hugging Face's model, for its speed on this computer.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import eval as evaluation  # noqa: E402
from models.common import backend  # noqa: E402

MODEL_FILE = ROOT / "models/microsoft/Phi-3-mini-128k-instruct/t3000/functional/model.py"
PROMPT_FILE = ROOT / "prompts/bringup_eval_long.txt"


def main(arguments: Optional[list] = None) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a bring-up and print YT_METRICS {json}.")
    parser.add_argument("--mode", required=True, choices=("tt", "hf"), help="bring-up, or Hugging Face itself")
    parser.add_argument("--hf-model", required=True, help="checkpoint: a directory, or a name to download")
    parser.add_argument("--model-file", type=Path, help="with --mode tt: the bring-up (default: Phi-3-mini, T3000)")
    parser.add_argument("--system", choices=evaluation.SYSTEMS, help="with --model-file (default: of its path)")
    parser.add_argument("--prompt-file", type=Path, default=PROMPT_FILE, help="text (default: bringup_eval_long.txt)")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="steps to compare (default 100)")
    parser.add_argument("--prompt-tokens", type=int, help="number of the file's first tokens to use (default all)")
    args = parser.parse_args(arguments)
    if args.mode == "hf" and args.model_file is not None:
        parser.error("--model-file has no meaning with --mode hf")
    if args.system is not None and args.model_file is None:
        parser.error("--system has no meaning without --model-file")

    task = evaluation.Task(args.hf_model, args.prompt_file, args.max_new_tokens, args.prompt_tokens)
    model_file = None if args.mode == "hf" else args.model_file or MODEL_FILE
    result = evaluation.run(parser, task, model_file, args.system)
    where = "cpu (transformers)" if args.mode == "hf" else backend.name()
    metrics = {"mode": args.mode, "model": args.hf_model, "backend": where, **asdict(result)}
    evaluation.print_result(parser, f"YT_METRICS {json.dumps(metrics)}")


if __name__ == "__main__":
    main()
