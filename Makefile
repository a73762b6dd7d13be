# make demo   install into .venv, then train both recipes on generated problems (no network beyond the package index)
# make test   install into .venv, then lint and run the tests (real data: REWARDPLUG_ASSETS, see tests/conftest.py)
# make test-all   the same with the whole matrix of launchers; its last result stands in tests/README.md

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
export DS_ACCELERATOR ?= cpu
endif
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test test-all lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed,liger,plots,dev]'
	touch $@

demo: install
	$(BIN)/python recipes/orm_gemma.py --demo --output_dir runs/demo_orm
	$(BIN)/python recipes/prm_qwen.py --demo --output_dir runs/demo_prm
	@echo && echo "runs/demo_orm/eval_results.json:" && cat runs/demo_orm/eval_results.json && echo
	@echo "runs/demo_prm/eval_results.json:" && cat runs/demo_prm/eval_results.json && echo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -m "not matrix"

test-all: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) runs build *.egg-info
