PYTEST := .venv/bin/python -m pytest

.PHONY: help setup demo test

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## make .venv and install requirements.txt into it, once
	@scripts/setup_environment.sh

demo: setup  ## generate text with the bundled checkpoint (HF_MODEL and MESH_DEVICE choose others)
	$(PYTEST) models/tt_transformers/demo/simple_text_demo.py -k "performance and batch-1"

test: setup  ## run the tests
	$(PYTEST)
