"""The cases of text_demo.py. README.md in the folder above lists them."""

from pathlib import Path

from models.tt_transformers.demo.case import Case

SAMPLE_PROMPTS = Path(__file__).parent / "sample_prompts"
GREEDY = {"temperature": 0}


def _case(name: str, prompts: str, batch_size: int, max_seq_len: int, **settings) -> Case:
    """A case of up to 32 users who generate 128 tokens each, whatever their text is."""
    users_of_a_column = -(-batch_size // 4)
    return Case(
        name=name,
        input_prompts=SAMPLE_PROMPTS / prompts,
        max_seq_len=max_seq_len,
        batch_size=batch_size,
        page_params={"block_size": 64, "max_num_blocks": users_of_a_column * max_seq_len // 64},
        sampling_params=GREEDY,
        stop_at_eos=False,
        **{"max_generated_tokens": 128, **settings},
    )


SHORT, REPEATED = "input_data_questions_prefill_128.json", "eval_repeat_prompts.json"

CASES = [
    _case("batch-32", SHORT, 32, 2048),
    _case("batch-1", SHORT, 1, 2048),
    _case("repeat2", SHORT, 32, 2048, repeat_batches=2),
    # One user has room for 128k tokens in every case, so that --input_prompts can name a longer file.
    *(
        _case(f"long-{thousands}k-b1", f"input_data_long_{thousands}k.json", 1, 128 * 1024, shape_only=True)
        for thousands in (4, 8, 16, 32, 64, 128)
    ),
    _case("long-16k-b32", "input_data_long_16k.json", 32, 16 * 1024, shape_only=True),
    # The prompts repeat, within a batch and from batch to batch. Equal prompts must give equal texts.
    _case("evals-1", REPEATED, 1, 2048, repeat_batches=8, equal_texts=True),
    _case("evals-32", REPEATED, 32, 2048, repeat_batches=2, equal_texts=True),
    _case("apc-test", "input_data_shared_prefix.json", 32, 2048, max_generated_tokens=16, apc_test=True),
    _case("pcc-80L", SHORT, 1, 2048, max_generated_tokens=16, pcc_check=True),
    _case("prefill-profile", SHORT, 1, 2048, max_generated_tokens=1, prefill_profile=True),
    _case("ci-token-matching", SHORT, 1, 2048, max_generated_tokens=None, token_accuracy=True),
]
