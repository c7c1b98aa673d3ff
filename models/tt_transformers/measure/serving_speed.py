"""Speed of the server on the emulator, as a ratio to Hugging Face transformers on the same machine. Written to a record.

`vllm bench serve` asks for 64 texts, 16 at a time. Hugging Face runs the same numbers of tokens in batches of 16. Both
are speeds of this computer, not of a card.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from models.common import benchmark_record
from models.tt_transformers.measure import plain_hugging_face
from models.tt_transformers.serving.local_server import Server, serving
from models.tt_transformers.tt.checkpoints.location import BUNDLED

RECORD = Path(__file__).with_name("records") / "serving" / "bundled.json"

PROMPTS, USERS, PROMPT_TOKENS, NEW_TOKENS = 64, 16, 128, 64
WORKLOAD = dict(prompts=PROMPTS, users=USERS, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)


def of_the_server(server: Server, folder: Path) -> dict:
    """What `vllm bench serve` measured, by its own names."""
    command = [
        Path(sys.executable).with_name("vllm"), "bench", "serve", f"--base-url={server.url}", f"--model={BUNDLED.name}",
        f"--tokenizer={BUNDLED}", "--dataset-name=random", f"--random-input-len={PROMPT_TOKENS}",
        f"--random-output-len={NEW_TOKENS}", f"--num-prompts={PROMPTS}", f"--max-concurrency={USERS}", "--ignore-eos",
        f"--num-warmups={USERS}", "--temperature=0", "--disable-tqdm", "--save-result", f"--result-dir={folder}",
        "--result-filename=result.json",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "result.json").read_text())


def of_hugging_face() -> float:
    """Generated tokens a second of Hugging Face in batches of `USERS`, prefills included; the first batch warms up."""
    prompts = torch.randint(6, 4096, (USERS, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    batch = {"prompts": prompts, "steps": NEW_TOKENS - 1}
    with plain_hugging_face.served([sys.executable, plain_hugging_face.__file__, str(BUNDLED)]) as answer:
        answer(batch)
        start = time.perf_counter()
        for _ in range(PROMPTS // USERS):
            answer(batch)
        return PROMPTS * NEW_TOKENS / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RECORD, help="the record's file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder) / "log", HF_MODEL=str(BUNDLED), MESH_DEVICE="N150") as server:
            result = of_the_server(server, Path(folder))
    reference = of_hugging_face()
    measurement = benchmark_record.measurement
    record = benchmark_record.make(
        mesh="N150",
        model=BUNDLED.name,
        precision="performance",
        case="serving",
        vllm=importlib.metadata.version("vllm"),
        **WORKLOAD,
        measurements=[
            measurement("tokens", result["output_throughput"], "tokens/s"),
            measurement("tokens of Hugging Face", reference, "tokens/s"),
            measurement("ratio to Hugging Face", result["output_throughput"] / reference, "1"),
            measurement("time to first token, median", result["median_ttft_ms"], "ms"),
            measurement("time of a further token, median", result["median_tpot_ms"], "ms"),
            measurement("requests that failed", result["failed"], "1"),
        ],
    )
    benchmark_record.write(record, options.output)
    print(f"{options.output}: {result['output_throughput'] / reference:.2f} of Hugging Face's tokens a second, on this computer")


if __name__ == "__main__":
    main()
