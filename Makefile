PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Tests run side by side, a process for each core. Tests of one file stay together, because they share what is slow to make.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
SIDE_BY_SIDE := $(PYTEST) -n $(WORKERS) --dist loadfile
SERVING := .venv-serving/bin/python
# vLLM on our own platform, also where the vendor's plugin is installed.
OWN_PLATFORM := VLLM_PLUGINS=tt_transformers $(SERVING)
PERF_RECORDS := models/tt_transformers/measure/records
LONG_RECORDS := models/tt_transformers/measure/records/long_context
CAPACITY := $(PYTHON) -m models.tt_transformers.measure.capacity --largest

.PHONY: help setup setup-serving setup-tools setup-bench demo lt serve test test-fast test-wide test-plugin full-size validate bench long-context capacity pareto accuracy compatible predict perf-report

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## make .venv and install requirements.txt into it, once
	@scripts/setup_environment.sh

setup-serving:  ## make .venv-serving, with vLLM over the packages of .venv, once
	@scripts/setup_serving.sh

setup-tools:  ## make .venv-tools, with the vendor's tt-perf-report and ttnn-visualizer, once
	@scripts/setup_tools.sh

setup-bench:  ## make .venv-bench, with llama.cpp built from source, once; needs a C++ compiler
	@scripts/setup_bench.sh

demo: setup  ## generate text with the bundled checkpoint (HF_MODEL and MESH_DEVICE choose others)
	$(PYTEST) models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

lt: setup  ## queue and watch runs, make tables and Pareto fronts, in the terminal (ARGS= as in `lt --help`)
	@$(PYTHON) models/tt_transformers/lt $(ARGS)

serve: setup-serving  ## start an OpenAI server of the same model on 127.0.0.1 (PORT=8000; ARGS= adds options of `vllm serve`)
	exec $(SERVING) -m models.tt_transformers.serving.serve $(ARGS)

test: setup setup-serving setup-tools  ## run the tests, but for the wide sweeps
	$(SIDE_BY_SIDE) -m "not slow and not wide and not alone and not serving and not bench"
	$(OWN_PLATFORM) -m pytest -m "serving and not wide" tests/serving
	@if $(SERVING) -c "import vllm_tt_plugin" 2>/dev/null; then $(MAKE) test-plugin; \
	else echo "vllm-tt-plugin is not installed in .venv-serving: vLLM ran on our own platform only"; fi
	$(PYTEST) -m "alone and not slow and not wide"

test-fast: setup  ## run the tests of single modules, in a few minutes
	$(SIDE_BY_SIDE) -m "not slow and not wide and not alone and not whole and not vendor and not bench" tests/common tests/emulator \
	    models/tt_transformers/tests

test-wide: setup setup-serving  ## run the wide sweeps, which `make test` leaves out, and record that they passed
	TT_REQUIRE_VENDOR=1 $(SIDE_BY_SIDE) -m "wide and not slow" -p tests.support.wide_record --wide_record tests/records/wide.json
	$(OWN_PLATFORM) -m pytest -m "serving and wide" tests/serving

test-plugin: setup-serving  ## run the tests of vLLM through the vendor's plugin; an error where it is not installed
	$(SERVING) -m pytest -m "plugin and not wide" tests/serving

full-size: setup  ## run models at full size with random weights, convert an 8B, and report the peak memory (18 GB)
	$(PYTEST) models/tt_transformers/tests/test_full_size.py -m slow

validate: setup  ## run the models through the vendor's checks, rewrite the records and README's table
	$(PYTHON) -m models.tt_transformers.measure.vendor.validate $(if $(MODELS),--models $(MODELS)) $(if $(MESH),--mesh $(MESH))
	TT_REQUIRE_VENDOR=1 $(PYTEST) -m vendor -k "not refuses_nothing and not whole_demo and not committed_record"

accuracy: setup  ## measure token accuracy against Hugging Face on N150, N300 and T3K, then write PERF.md and LONG_CONTEXT.md
	$(PYTHON) -m models.tt_transformers.measure.accuracy --output $(PERF_RECORDS)
	$(PYTHON) -m models.tt_transformers.measure.accuracy --mesh N150 --kv_cache bfp8 bfp4 --output $(PERF_RECORDS)
	$(PYTHON) -m models.tt_transformers.measure.report
	$(PYTHON) -m models.tt_transformers.measure.long_context_report

bench: setup setup-bench  ## time the emulator against Hugging Face transformers and llama.cpp, a Galaxy against one device, and an 8B, then write PERF.md
	$(PYTEST) -m bench tests/performance
	$(PYTHON) -m models.tt_transformers.measure.speed --model bundled --mode bf16 --output $(PERF_RECORDS)
	OMP_WAIT_POLICY=passive $(PYTHON) -m models.tt_transformers.measure.speed --output $(PERF_RECORDS)
	OMP_WAIT_POLICY=active $(PYTHON) -m models.tt_transformers.measure.speed --output $(PERF_RECORDS)
	OMP_WAIT_POLICY=passive $(PYTHON) -m models.tt_transformers.measure.speed --avx2 --output $(PERF_RECORDS)
	OMP_WAIT_POLICY=active $(PYTHON) -m models.tt_transformers.measure.speed --avx2 --users 1 --output $(PERF_RECORDS)
	$(PYTHON) -m models.tt_transformers.measure.devices --output $(PERF_RECORDS)/devices-TG.json
	$(PYTHON) -m models.tt_transformers.measure.large_model --output $(PERF_RECORDS)/large-model.json
	$(PYTHON) -m models.tt_transformers.measure.report

bench-serving: setup-serving  ## time the server against Hugging Face transformers on this computer, and record it
	$(SERVING) -m models.tt_transformers.measure.serving_speed

long-context: setup  ## time prefills of 1k to 16k tokens against Hugging Face transformers, then write PERF.md
	$(PYTHON) -m models.tt_transformers.measure.long_prefill --output $(PERF_RECORDS)
	$(PYTHON) -m models.tt_transformers.measure.report

capacity: setup  ## lay out full-size Phi-3-mini, search its prefill chunks on the mock device, then write LONG_CONTEXT.md
	for mesh in N150 N300 T3K; do \
	    TT_BACKEND=mock MESH_DEVICE=$$mesh $(PYTHON) -m models.tt_transformers.measure.chunks \
	        --output $(LONG_RECORDS)/prefill_chunks-$$mesh.json || exit 1; \
	    for mode in performance accuracy; do \
	        $(CAPACITY) --mesh $$mesh --mode $$mode --output $(LONG_RECORDS)/capacity-$$mesh-$$mode.json || exit 1; \
	    done; \
	done
	for mesh in N150 N300; do \
	    $(CAPACITY) --mesh $$mesh --optimizations 'precision_cfg = {kv_cache: bfp4}' \
	        --output $(LONG_RECORDS)/capacity-$$mesh-performance-bfp4-cache.json || exit 1; \
	done
	for mode in performance accuracy; do \
	    MAX_PREFILL_CHUNK_SIZE=128 $(CAPACITY) --mesh N300 --mode $$mode \
	        --output $(LONG_RECORDS)/capacity-N300-$$mode-chunk-128k.json || exit 1; \
	done
	$(PYTHON) -m models.tt_transformers.measure.long_context_report

pareto: setup  ## token accuracy and weight bytes of the settings in tests/configurations, then write PERF.md
	$(PYTHON) -m models.tt_transformers.measure.pareto --configurations models/tt_transformers/tests/configurations --output $(PERF_RECORDS)
	$(PYTHON) -m models.tt_transformers.measure.report

compatible: setup  ## count the largest context of each model of the vendor's list, then write the library's README
	$(PYTHON) -m models.tt_transformers.measure.compatible

predict: setup  ## predict the speed of every model of the verified table on its meshes, then write PERF.md
	$(PYTHON) -m models.tt_transformers.measure.calibration --record
	$(PYTHON) -m models.tt_transformers.measure.prediction_table
	$(PYTHON) -m models.tt_transformers.measure.report

perf-report: setup  ## write PERF.md from the committed records
	$(PYTHON) -m models.tt_transformers.measure.report
