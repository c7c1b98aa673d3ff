"""Our own vLLM platform: it serves where the vendor's plugin is not installed. On a card it is for tests only."""

import os

import torch
from vllm.exceptions import VLLMValidationError
from vllm.logger import init_logger
from vllm.platforms.interface import Platform, PlatformEnum

from models.common.mesh import mesh_name_from_environment
from models.tt_transformers.serving import BLOCK_SIZE
from models.tt_transformers.serving.devices import check_groups
from models.tt_transformers.tt import generator_vllm
from models.tt_transformers.tt.runtime.page_table import BATCH_SIZES

logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name


class TTPlatform(Platform):
    """What vLLM asks about the machine. Its own tensors stay on the host; only the model runner talks to the devices."""

    _enum = PlatformEnum.OOT
    device_name = "tt"
    device_type = "cpu"
    simple_compile_backend = "eager"
    vocab_size: int  # `validate_request` gets no configuration, so the class keeps what it needs

    @classmethod
    def check_and_update_config(cls, vllm_config) -> None:
        """Sets what this platform decides. Raises ValueError for what it does not support, before any weight is read."""
        # The runner here has the interface of vLLM's first one. A new process, because forked threads of torch hang.
        os.environ.update(VLLM_USE_V2_MODEL_RUNNER="0", VLLM_WORKER_MULTIPROC_METHOD="spawn")
        if vllm_config.model_config is None:
            return
        _check_supported(vllm_config)
        cls.vocab_size = vllm_config.model_config.get_vocab_size()
        parallel, cache, scheduler = vllm_config.parallel_config, vllm_config.cache_config, vllm_config.scheduler_config
        parallel.worker_cls = "models.tt_transformers.serving.worker.TTWorker"
        _share_devices(vllm_config)
        if not cache.user_specified_block_size:
            cache.block_size = BLOCK_SIZE
        _limit_users(scheduler)
        _forbid_prefixes(vllm_config)

    @classmethod
    def validate_request(cls, processed_inputs, params) -> None:
        """Refuses a request (400) with what the model runner does not compute; there it would end the engine.

        vLLM's own check of token ids lets those pass that only the tokenizer has. After an exception of another class
        vLLM's server closes the connection, on which the client may have sent its next request.
        """
        outside = next((token for token in processed_inputs["prompt_token_ids"] if not 0 <= token < cls.vocab_size), None)
        if outside is not None:
            raise VLLMValidationError(f"token {outside} is outside the model's vocabulary of {cls.vocab_size}")
        if getattr(params, "prompt_logprobs", None) is not None:
            raise VLLMValidationError("prompt_logprobs are not supported; logprobs of generated tokens are")

    @classmethod
    def import_kernels(cls) -> None:
        """There are none."""

    @classmethod
    def inference_mode(cls):
        return torch.no_grad()

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False


# In `additional_config`, which vLLM hands on to the engines: how many engines share the mesh of this computer.
ENGINES = "tt_engines"


def tt_options(vllm_config) -> dict:
    """What `--additional-config '{"tt": {...}}'` gives, where the vendor's plugin too has its options."""
    return vllm_config.additional_config.get("tt", {})


def _check_supported(vllm_config) -> None:
    parallel, architectures = vllm_config.parallel_config, vllm_config.model_config.architectures
    generator_vllm.class_of(architectures)
    if parallel.world_size != 1:
        raise ValueError(
            "an engine drives all devices of its mesh: leave vLLM's parallel sizes at 1, but for data_parallel_size"
        )
    if unknown := sorted(tt_options(vllm_config).keys() - {"optimizations"}):
        raise ValueError(f"additional_config: tt has {', '.join(unknown)}; this platform takes optimizations, the vendor's plugin more")
    for name, asked in (("speculative decoding", vllm_config.speculative_config), ("LoRA", vllm_config.lora_config)):
        if asked is not None:
            raise ValueError(f"{name} is not supported")


def _share_devices(vllm_config) -> None:
    """With data parallel, each engine of this computer gets a group of the mesh's devices. An engine asks again, and sees
    itself as the only one."""
    parallel = vllm_config.parallel_config
    if ENGINES not in vllm_config.additional_config:
        vllm_config.additional_config[ENGINES] = parallel.data_parallel_size_local or 1
        check_groups(vllm_config.additional_config[ENGINES])
    # vLLM would start a process more for each engine's worker.
    parallel.distributed_executor_backend = "uni"


def _limit_users(scheduler) -> None:
    """The model's batch has one of a few sizes. More requests wait in vLLM's queue."""
    asked = scheduler.max_num_seqs
    scheduler.max_num_seqs = max(size for size in BATCH_SIZES if size <= asked)
    if scheduler.max_num_seqs != asked:
        logger.info("max_num_seqs: %d at a time instead of %d; other requests wait", scheduler.max_num_seqs, asked)


def _forbid_prefixes(vllm_config) -> None:
    """Turns off chunked prefill and prefix caching for a model whose keys depend on the length of the prompt."""
    model, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    reason = generator_vllm.prefix_caching_refusal(model.model, model.max_model_len, mesh_name_from_environment())
    if reason is None:
        return
    logger.info("chunked prefill and prefix caching are off: %s", reason)
    vllm_config.cache_config.enable_prefix_caching = False
    scheduler.enable_chunked_prefill = False
    scheduler.long_prefill_token_threshold = 0
    scheduler.max_num_batched_tokens = max(scheduler.max_num_batched_tokens, model.max_model_len)
