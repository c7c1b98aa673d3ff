PYTEST := .venv/bin/python -m pytest

.PHONY: help setup demo test validate

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## make .venv and install requirements.txt into it, once
	@scripts/setup_environment.sh

demo: setup  ## generate text with the bundled checkpoint (HF_MODEL and MESH_DEVICE choose others)
	$(PYTEST) models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

test: setup  ## run the tests
	$(PYTEST)

validate: setup  ## run the models through the vendor's checks, rewrite the records and README's table
	.venv/bin/python -m models.tt_transformers.validation.validate
	TT_REQUIRE_VENDOR=1 $(PYTEST) -m vendor -k "not refuses_nothing and not whole_demo and not committed_record"
