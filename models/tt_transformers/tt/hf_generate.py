"""`generate` of transformers over a `Generator`: batches, sampling, logits processors, stopping criteria, streamers."""

from contextlib import suppress

import torch
from transformers import Cache, GenerationConfig, GenerationMixin
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.tt_transformers.tt.checkpoints.hugging_face import load_config
from models.tt_transformers.tt.generator import Generator, check_lengths


class _Batch(Cache):
    """Stands for the KV caches, which are on the devices: the batch of sequences that `forward` continues.

    `columns`: the columns of `input_ids` so far, padding included.
    """

    def __init__(self, users: int):
        super().__init__(layers=[])
        self.users, self.columns = users, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns


class GenerationModel(torch.nn.Module, GenerationMixin):
    """A model on the devices for programs that call `model.generate` of transformers.

        model = GenerationModel(generator)
        model.generate(**tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt"), max_new_tokens=20)

    Each sequence gets the text that it gets alone: LongRoPE's factors are those of its own length, where Hugging Face
    takes those of the longest sequence of a batch. A generator has one batch: starting one ends the one before.
    Beam search is refused, because it reorders caches.
    """

    main_input_name = "input_ids"
    base_model_prefix = ""
    _is_stateful = False
    _supported_generation_modes = [GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE]
    # The device and dtype of the tensors that `generate` sees.
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator, self.args = generator, generator.args
        self.config = load_config(self.args.model_dir)
        self.generation_config = GenerationConfig.from_model_config(self.config)
        with suppress(OSError):  # a checkpoint need not have the file
            self.generation_config = GenerationConfig.from_pretrained(self.args.model_dir)
        self._batch: _Batch | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """Logits of the last column, float32 [batch, 1, vocab_size], and the cache for the next call.

        input_ids: [batch, new], at most `max_batch_size` sequences; shorter prompts are padded on the left.
        attention_mask: [batch, columns so far + new], 0 for padding. None: no padding.
        past_key_values: what the last call returned; None starts new sequences.

        Raises ValueError for other padding, for a cache of an earlier batch, and for what `Generator` refuses.
        """
        if logits_to_keep != 1 or not return_dict:
            raise ValueError(f"logits_to_keep={logits_to_keep}, return_dict={return_dict}: accepted are 1 and True")
        if past_key_values is None:
            prompts = _without_padding(input_ids, attention_mask)
            logits = self.generator.prefill(prompts)
            self._batch = _Batch(len(prompts))
        else:
            if past_key_values is not self._batch or len(input_ids) != self._batch.users:
                raise ValueError("past_key_values: it must be what the last call returned, with as many sequences")
            for column in input_ids.T:
                logits = self.generator.decode(column.tolist())
        self._batch.columns += input_ids.shape[1]
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=self._batch if use_cache else None)

    # The other methods that `generate` needs.

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, mode, batch_size, *_) -> None:
        # `forward` makes the cache. But here `generate` tells how long the sequences may get, before any work.
        if (kind := generation_config.cache_implementation) is not None:
            raise ValueError(f"cache_implementation {kind!r} is not supported: the KV cache is on the devices")
        mask, longest = model_kwargs["attention_mask"], generation_config.max_length
        if longest > self.args.max_seq_len:
            raise ValueError(f"sequences of up to {longest} tokens are more than max_seq_len {self.args.max_seq_len}")
        # Without padding there is no mask, and nothing says how many of the tokens are the prompt's.
        prompts, columns = ([1] * batch_size, 1) if mask is None else (mask.sum(dim=1).tolist(), mask.shape[1])
        check_lengths(self.args, prompts, longest - columns)

    def can_generate(self) -> bool:
        return True

    def is_remote_code(self) -> bool:
        return False

    def get_experts_implementation(self) -> dict:
        return {}


def _without_padding(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    """The tokens of each prompt. ValueError unless the mask is 0s, for padding on the left, then 1s, one at least."""
    if mask is None:
        mask = torch.ones_like(input_ids)
    lengths, width = mask.sum(dim=1), input_ids.shape[1]
    is_left_padding = torch.equal(mask.bool(), torch.arange(width) >= width - lengths[:, None])
    if mask.shape != input_ids.shape or not is_left_padding or not lengths.all():
        raise ValueError(
            f"attention_mask {list(mask.shape)} for input_ids {list(input_ids.shape)}: it must be 0s, for padding on the "
            "left, then 1s, one at least, in every row"
        )
    return [row[-length:].tolist() for row, length in zip(input_ids, lengths.tolist())]
