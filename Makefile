# A thin list of the commands the README shows. `make demo` from a fresh clone needs Python 3.11+, git and make, nothing else.
PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON) 2>/dev/null))
PYTHON := python3
endif
TRAIN_FLAGS ?=
EVAL_FLAGS ?=
BIN := .venv/bin
NOT_IMPORTED := transformers/models|tests|testing|_inductor|setuptools|fontTools|networkx|pygments
PIP_FLAGS := --quiet --disable-pip-version-check
# what depends on the packages: the mechanisms against the golden numbers, the models, the scripts from end to end
PACKAGE_TESTS := tests/parity.py tests/test_model.py tests/test_train.py tests/test_generate.py tests/test_eval_vqa.py \
	tests/test_precision.py tests/test_environment.py tests/test_parallel.py tests/test_runs.py \
	tests/test_checkpoint.py tests/test_llms.py

.PHONY: demo demo-vqa demo-audio speedrun test test-all lint test-oldest test-newest lock clean-demo

demo: .venv/installed
	$(BIN)/python prepare.py demo
	$(BIN)/python train.py config/demo.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_blind.py $(TRAIN_FLAGS)
	$(BIN)/python -m tools.linear_limit config/demo.py $(TRAIN_FLAGS)
	$(BIN)/python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind $(EVAL_FLAGS)
	$(BIN)/python eval_caption.py --out_dir=out/demo --split=test_composition $(EVAL_FLAGS)

demo-vqa: .venv/installed
	$(BIN)/python prepare.py demo-vqa
	$(BIN)/python train.py config/demo_vqa.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_vqa.py config/demo_vqa_colours.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_vqa_blind.py $(TRAIN_FLAGS)
	$(BIN)/python eval_vqa.py --out_dir=out/demo_vqa_colours --blind_dir=out/demo_vqa_blind --num_beams=1 --max_new_tokens=4 --max_rows=3000 $(EVAL_FLAGS)

demo-audio: .venv/installed
	$(BIN)/python prepare.py demo-audio
	$(BIN)/python train.py config/demo_audio.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_audio_blind.py $(TRAIN_FLAGS)
	$(BIN)/python eval_caption.py --out_dir=out/demo_audio --blind_dir=out/demo_audio_blind $(EVAL_FLAGS)

# seconds of training until half of the validation pictures are named exactly (docs/speedrun.md)
speedrun: .venv/installed
	$(BIN)/python prepare.py demo
	$(BIN)/python -m tools.speedrun config/demo.py $(TRAIN_FLAGS)

# the quick tests, and those that take more than two seconds or run a script from end to end
test: .venv/installed
	$(BIN)/python -m pytest -q -n 2 -m 'not slow'

test-all: test
	$(BIN)/python -m pytest -q -n 2 -m slow

# style: 100 columns, sorted imports, no unused names
lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# the same for the oldest and the newest packages that requirements.txt allows, each in an environment of its own
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -q -n 2 $(PACKAGE_TESTS)

test-newest: .venv-newest/installed
	.venv-newest/bin/python -m pytest -q -n 2 $(PACKAGE_TESTS)

clean-demo:  ## forget the trained demos, keep what was fetched
	rm -rf out/demo out/demo_blind out/demo_vqa out/demo_vqa_colours out/demo_vqa_blind
	rm -rf out/demo_audio out/demo_audio_blind out/stamps out/stamps_blind out/speedrun

# what is installed is exact; `make lock` writes anew which releases that is: the newest that requirements.txt allows, but
# the oldest torch, of which there is a build without CUDA in more package indexes
.venv/installed: requirements.txt constraints.txt
	@echo 'installing into .venv: 1.5 GB, two minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-compile -r requirements.txt -c constraints.txt
# on all cores, where pip would take one, and without what no demo imports; a file for another
# Python does not compile, and nothing needs it
	$(BIN)/python -m compileall -qq -j 0 -x '/($(NOT_IMPORTED))/' .venv/lib || true
	touch $@

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	sed -E '/^torch/s/>=([^,]+),<=.*/==\1/' requirements.txt > .venv-lock/requirements.txt
	.venv-lock/bin/python -m pip install $(PIP_FLAGS) -r .venv-lock/requirements.txt
	echo '# by `make lock`: what `make` installs; torch with or without CUDA' > constraints.txt
	.venv-lock/bin/python -m pip freeze | sed 's/+[a-z0-9.]*$$//' | grep -v '^nvidia\|^triton\|^cuda' >> constraints.txt
	rm -rf .venv-lock

# >=1.2,<=1.5 in requirements.txt becomes ==1.2 here
.venv-oldest/installed: requirements.txt
	$(PYTHON) -m venv .venv-oldest
	sed -E 's/>=([^,;]+),<=[^;]+/==\1/' requirements.txt > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install $(PIP_FLAGS) -r .venv-oldest/requirements.txt
	touch $@

# and ==1.5 here: 6 GB, where the newest torch comes with CUDA
.venv-newest/installed: requirements.txt
	$(PYTHON) -m venv .venv-newest
	sed -E 's/>=[^,;]+,<=([^;]+)/==\1/' requirements.txt > .venv-newest/requirements.txt
	.venv-newest/bin/python -m pip install $(PIP_FLAGS) -r .venv-newest/requirements.txt
	touch $@
