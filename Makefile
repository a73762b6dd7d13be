# make demo   install into .venv, then train both recipes on generated problems (no network beyond the package index)
# make test   install into .venv, then lint and run the tests (real data: REWARDPLUG_ASSETS, see tests/conftest.py)
# make test-all   the same with the whole matrix of launchers; its last result stands in tests/README.md
# make test-axolotl   the plugin against the real axolotl 0.19 and 0.21 with their pins, in .venv-axolotl-0.19 and -0.21
#                     (0.21 needs Python 3.12; one of them: make test-axolotl-0.19)
# make test-oldest    the tests on the lowest versions that pyproject.toml allows, in .venv-oldest (torch: OLDEST_TORCH)
# make test-cuda      the tests without a card, with a CUDA build of torch (several GB), in .venv-cuda (torch: CUDA_TORCH)

PYTHON ?= python3
VENV ?= .venv
PYTHON312 ?= python3.12
OLDEST_VENV ?= .venv-oldest
# constraints.txt's torch; its lowest version, torch==2.7.0, where the index has a build for this machine
OLDEST_TORCH ?= torch
CUDA_VENV ?= .venv-cuda
# PyPI's build for Linux; for another version name another folder too: CUDA_TORCH=torch==2.15.0 CUDA_VENV=.venv-cuda-2.15
CUDA_TORCH ?= torch==2.11.0
BIN := $(VENV)/bin
# two workers of one torch thread each: two threads of two workers would wait for each other on two cores
PYTEST_2 = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
export DS_ACCELERATOR ?= cpu
endif
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test test-all test-axolotl test-oldest test-cuda lint clean

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
	$(PYTEST_2) -m "not matrix" --durations=40

test-all: lint
	$(PYTEST_2)

test-axolotl: test-axolotl-0.19 test-axolotl-0.21

test-axolotl-%: .venv-axolotl-%/.installed
	.venv-axolotl-$*/bin/python -m pytest tests/with_axolotl tests/integrations

.PRECIOUS: .venv-axolotl-%/.installed
.venv-axolotl-0.21/.installed: PYTHON = $(PYTHON312)
.venv-axolotl-%/.installed: pyproject.toml constraints.txt tests/with_axolotl/axolotl-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	grep '^torch==' constraints.txt > $(@D)/torch.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check -c $(@D)/torch.txt -r tests/with_axolotl/axolotl-$*.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps axolotl==$*.0 axolotl-contribs-lgpl==0.0.7 \
		axolotl-contribs-mit==0.0.6
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -m pytest -m "not matrix"

$(OLDEST_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/pip install --quiet --upgrade pip setuptools
	$(OLDEST_VENV)/bin/pip install --quiet $(if $(findstring ==,$(OLDEST_TORCH)),,-c constraints.txt) $(OLDEST_TORCH)
	$(PYTHON) tests/versions/lowest.py torch > $(OLDEST_VENV)/lowest.txt
	$(OLDEST_VENV)/bin/pip freeze | grep '^torch==' > $(OLDEST_VENV)/torch.txt
	$(OLDEST_VENV)/bin/pip install --quiet -c $(OLDEST_VENV)/lowest.txt -c $(OLDEST_VENV)/torch.txt \
		--no-build-isolation -e '.[deepspeed,liger,plots,dev]'
	touch $@

test-cuda: $(CUDA_VENV)/.installed
	$(CUDA_VENV)/bin/python -m pytest tests/without_a_card

$(CUDA_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check $(CUDA_TORCH)
	grep -v '^torch==' constraints.txt > $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip freeze | grep '^torch==' >> $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CUDA_VENV)/constraints.txt -e . pytest
	touch $@

clean:
	rm -rf $(VENV) .venv-axolotl-0.19 .venv-axolotl-0.21 $(OLDEST_VENV) $(CUDA_VENV) runs build *.egg-info
