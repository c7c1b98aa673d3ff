PYTEST := .venv/bin/python -m pytest

.PHONY: help setup demo test full-size validate bench long-context pareto accuracy perf-report

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## make .venv and install requirements.txt into it, once
	@scripts/setup_environment.sh

demo: setup  ## generate text with the bundled checkpoint (HF_MODEL and MESH_DEVICE choose others)
	$(PYTEST) models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

test: setup  ## run the tests
	$(PYTEST)

full-size: setup  ## run Phi-3-mini at full size with random weights, and report its peak memory
	$(PYTEST) models/tt_transformers/tests/test_full_size.py -m slow

validate: setup  ## run the models through the vendor's checks, rewrite the records and README's table
	.venv/bin/python -m models.tt_transformers.validation.validate
	TT_REQUIRE_VENDOR=1 $(PYTEST) -m vendor -k "not refuses_nothing and not whole_demo and not committed_record"

accuracy: setup  ## measure token accuracy against Hugging Face on N150, N300 and T3K, then write PERF.md
	.venv/bin/python -m models.tt_transformers.perf.accuracy --output models/tt_transformers/perf/records
	.venv/bin/python -m models.tt_transformers.perf.report

bench: setup  ## time the emulator against Hugging Face transformers, then write PERF.md
	.venv/bin/python -m models.tt_transformers.perf.bench --output models/tt_transformers/perf/records
	.venv/bin/python -m models.tt_transformers.perf.report

long-context: setup  ## time prefills of 1k to 16k tokens against Hugging Face transformers, then write PERF.md
	.venv/bin/python -m models.tt_transformers.long_context.prefill --output models/tt_transformers/perf/records
	.venv/bin/python -m models.tt_transformers.perf.report

pareto: setup  ## token accuracy and weight bytes of the settings in tests/configurations, then write PERF.md
	.venv/bin/python -m models.tt_transformers.perf.pareto --output models/tt_transformers/perf/records
	.venv/bin/python -m models.tt_transformers.perf.report

perf-report: setup  ## write PERF.md from the committed records
	.venv/bin/python -m models.tt_transformers.perf.report
