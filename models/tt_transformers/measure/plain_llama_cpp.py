"""llama.cpp as its users run it, with random weights, in a process that imports nothing of this project.

Run as a file by the Python of .venv-bench, which `make setup-bench` makes:

    python models/tt_transformers/measure/plain_llama_cpp.py CONFIG_JSON TYPE --layers N --threads N --context N

Writes a Llama of the widths of a Hugging Face `config.json`, with weights of the TYPE (q8_0 or q4_0), to a temporary
folder and loads it. Then answers each line of standard input, `{"prompts": [[ids...]], "steps": N}`, with one of JSON:
see `LlamaCpp.answer`. There is one prompt.
"""

import argparse
import ctypes
import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy


def write_random_llama(path: Path, config: dict, kind: gguf.GGMLQuantizationType, layers: int) -> int:
    """Writes a Llama in GGUF; returns the bytes of weights that a decode step reads: all but the token embeddings.

    Layers have the same values, each in bytes of its own, because quantizing takes longer than reading.
    """
    dim, hidden, vocab = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or dim // heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("none")
    random, quantized, sizes = numpy.random.default_rng(0), {}, {}

    def add(name: str, *shape: int) -> None:
        if shape not in quantized:
            is_norm = len(shape) == 1
            values = numpy.ones(shape, numpy.float32) if is_norm else random.standard_normal(shape, numpy.float32) * 0.02
            quantized[shape] = values if is_norm else gguf.quants.quantize(values, kind)
        sizes[name] = quantized[shape].nbytes
        writer.add_tensor(f"{name}.weight", quantized[shape], raw_dtype=None if len(shape) == 1 else kind)

    add("token_embd", vocab, dim)
    for layer in range(layers):
        for part, *shape in (
            ("attn_norm", dim), ("attn_q", heads * head_dim, dim), ("attn_k", kv_heads * head_dim, dim),
            ("attn_v", kv_heads * head_dim, dim), ("attn_output", dim, heads * head_dim),
            ("ffn_norm", dim), ("ffn_gate", hidden, dim), ("ffn_up", hidden, dim), ("ffn_down", dim, hidden),
        ):  # fmt: skip
            add(f"blk.{layer}.{part}", *shape)
    add("output_norm", dim)
    add("output", vocab, dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sum(sizes.values()) - sizes["token_embd"]


class LlamaCpp:
    """A GGUF file in llama.cpp, for one sequence of up to `context` tokens."""

    def __init__(self, path: Path, threads: int, context: int):
        llama_cpp.llama_backend_init()
        self._log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        settings = llama_cpp.llama_model_default_params()
        settings.use_mmap = False  # the file is removed
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp {importlib.metadata.version('llama-cpp-python')} cannot load {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def answer(self, prompts: list[list[int]], steps: int) -> dict:
        """Seconds of the prefill of the one prompt, and of `steps` greedy decode steps."""
        (prompt,) = prompts
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        start = time.perf_counter()
        token = self._next(prompt)
        prefilled = time.perf_counter()
        for _ in range(steps):
            token = self._next([token])
        return {"prefill_seconds": prefilled - start, "decode_seconds": time.perf_counter() - prefilled}

    def _next(self, tokens: list[int]) -> int:
        """The most probable token after `tokens`, which are appended to the sequence."""
        given = (llama_cpp.llama_token * len(tokens))(*tokens)
        if status := llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(given, len(tokens))):
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens returned {status}")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(numpy.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("type", choices=("q8_0", "q4_0"))
    for name in ("--layers", "--threads", "--context"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    kind = gguf.GGMLQuantizationType[options.type.upper()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        weight_bytes = write_random_llama(path, json.loads(options.config.read_text()), kind, options.layers)
        model = LlamaCpp(path, options.threads, options.context)
    facts = {
        "weight_bytes": weight_bytes,
        "version": importlib.metadata.version("llama-cpp-python"),
        "system_info": llama_cpp.llama_print_system_info().decode().strip(" |"),
    }
    for line in sys.stdin:
        print(json.dumps({**model.answer(**json.loads(line)), **facts}), flush=True)


if __name__ == "__main__":
    main()
