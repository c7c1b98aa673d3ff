"""Our own vLLM worker: opens the mesh, makes the model, its pool of pages and the model runner, and closes them again."""

import os
from contextlib import ExitStack

from vllm.logger import init_logger
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from models.tt_transformers.serving.devices import open_group
from models.tt_transformers.serving.model_runner import ModelRunner
from models.tt_transformers.serving.platform import ENGINES, tt_options
from models.tt_transformers.tt import generator_vllm

logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name


class TTWorker(WorkerBase):
    """vLLM calls the methods in the order in which they stand here."""

    def init_device(self) -> None:
        self._opened = ExitStack()
        rank, engines = self.parallel_config.data_parallel_rank_local or 0, self.vllm_config.additional_config[ENGINES]
        self.mesh_device = self._opened.enter_context(open_group(rank, engines))
        if engines > 1:
            logger.info("data parallel: engine %d drives devices %s", rank, os.environ["TT_VISIBLE_DEVICES"])

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        config = self.model_config
        model_class = generator_vllm.class_of(config.architectures)
        self.served = model_class.initialize_vllm_model(
            config.hf_config, self.mesh_device, self.scheduler_config.max_num_seqs, config.max_model_len,
            optimizations=tt_options(self.vllm_config).get("optimizations"),
        )
        self._opened.callback(self.served.close)

    def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        """One layer that stands for all: they share the page tables."""
        config = self.model_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=config.get_num_kv_heads(self.parallel_config),
            head_size=config.get_head_size(),
            dtype=config.dtype,
        )
        return {"all layers": spec}

    def determine_available_memory(self) -> int:
        """The bytes that make vLLM plan as many pages as the devices have room for."""
        (spec,) = self.get_kv_cache_spec().values()
        tokens = self.served.get_max_tokens_all_users(
            self.model_config.model, self.mesh_device.get_num_devices(), 1, self.model_config.max_model_len,
            self.scheduler_config.max_num_seqs,
        )
        return tokens // spec.block_size * spec.page_size_bytes

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        arch = self.served.args.arch
        heads = self.served.args.placement.heads(arch.n_heads, arch.n_kv_heads)
        shape = (kv_cache_config.num_blocks, heads.n_kv_heads, self.cache_config.block_size, arch.head_dim)
        kv_cache = self.served.allocate_kv_cache(shape, self.model_config.dtype, arch.n_layers)
        self.model_runner = ModelRunner(self.vllm_config, self.served, kv_cache, kv_cache_config.num_blocks)

    def compile_or_warm_up_model(self) -> CompilationTimes:
        return self.model_runner.warm_up()

    def execute_model(self, scheduler_output):
        return self.model_runner.execute_model(scheduler_output)

    def sample_tokens(self, grammar_output):
        return self.model_runner.sample_tokens(grammar_output)

    def shutdown(self) -> None:
        self._opened.close()
