"""The demos' cases. README.md in this folder lists them."""

from models.tt_transformers.demo.case import SAMPLE_PROMPTS, Case

CASES = [
    Case(
        name="batch-1",
        input_prompts=SAMPLE_PROMPTS / "input_data_questions_prefill_128.json",
        max_seq_len=2048,
        batch_size=1,
        max_generated_tokens=200,
        page_params={"block_size": 32, "max_num_blocks": 1024},
        sampling_params={"temperature": 0},
    ),
    Case(
        name="batch-32",
        input_prompts=SAMPLE_PROMPTS / "input_data_questions_prefill_128.json",
        max_seq_len=1024,
        batch_size=32,
        max_generated_tokens=200,
        page_params={"block_size": 32, "max_num_blocks": 1024},
        sampling_params={"temperature": 0},
    ),
    Case(
        name="reasoning-1",
        input_prompts=SAMPLE_PROMPTS / "input_data_reasoning.json",
        max_seq_len=16384,
        batch_size=1,
        max_generated_tokens=15000,
        page_params={"block_size": 32, "max_num_blocks": 1024},
        sampling_params={"temperature": 0.6, "top_p": 0.95},
    ),
    *(
        Case(
            name=f"long-context-{thousands}k",
            input_prompts=SAMPLE_PROMPTS / f"input_data_long_{thousands}k.json",
            max_seq_len=thousands * 1024,
            batch_size=1,
            max_generated_tokens=200,
            page_params={"block_size": 64, "max_num_blocks": thousands * 1024 // 64},
            sampling_params={"temperature": 0},
        )
        for thousands in (16, 32, 64, 128)
    ),
    # Data parallel: latency, throughput, and a long run of one user in each group.
    *(
        Case(
            name=name.format(groups=groups),
            input_prompts=SAMPLE_PROMPTS / "input_data_questions_prefill_128.json",
            max_seq_len=max_seq_len,
            batch_size=users,
            data_parallel=groups,
            max_generated_tokens=tokens,
            page_params={"block_size": 32, "max_num_blocks": 1024},
            sampling_params={"temperature": 0},
            stop_at_eos=stop_at_eos,
        )
        for name, users, max_seq_len, tokens, stop_at_eos in (
            ("DP-{groups}-b1", 1, 1024, 200, True),
            ("DP-{groups}-b32", 32, 1024, 200, True),
            ("ci-b1-DP-{groups}", 1, 8192, 4096, False),
        )
        for groups in (4, 8, 16, 32)
    ),
]

# The names are those of the vendor's demo.
VISION_CASES = [
    Case(
        name=name,
        input_prompts=SAMPLE_PROMPTS / f"input_data_{prompts}.json",
        max_seq_len=512,
        batch_size=users,
        max_generated_tokens=200,
        page_params={"block_size": 32, "max_num_blocks": 16 * users},
        sampling_params={"temperature": 0},
        default_model="random/Llama-3.2-Vision-tiny",
        max_images=2,
        enable_trace=trace,
    )
    for name, users, trace, prompts in (
        ("batch1-notrace", 1, False, "images"),
        ("batch1-trace", 1, True, "images"),
        ("batch32-trace", 32, True, "images"),
        ("batch4-trace-with-text-prompts", 4, True, "images_and_text"),
    )
]
