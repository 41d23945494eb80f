# A thin list of the commands the README shows. `make demo` from a fresh clone needs Python 3.11+, git and make, nothing else.
PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON) 2>/dev/null))
PYTHON := python3
endif
TRAIN_FLAGS ?=
EVAL_FLAGS ?=
BIN := .venv/bin

.PHONY: demo demo-vqa demo-audio test clean-demo

demo: .venv/installed
	$(BIN)/python prepare.py demo
	$(BIN)/python train.py config/demo.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_blind.py $(TRAIN_FLAGS)
	$(BIN)/python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind $(EVAL_FLAGS)

demo-vqa: .venv/installed
	$(BIN)/python prepare.py demo-vqa
	$(BIN)/python train.py config/demo_vqa.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_vqa_blind.py $(TRAIN_FLAGS)
	$(BIN)/python eval_vqa.py --out_dir=out/demo_vqa --blind_dir=out/demo_vqa_blind --num_beams=1 --max_new_tokens=4 --max_rows=3000 $(EVAL_FLAGS)

demo-audio: .venv/installed
	$(BIN)/python prepare.py demo-audio
	$(BIN)/python train.py config/demo_audio.py $(TRAIN_FLAGS)
	$(BIN)/python train.py config/demo_audio_blind.py $(TRAIN_FLAGS)
	$(BIN)/python eval_caption.py --out_dir=out/demo_audio --blind_dir=out/demo_audio_blind $(EVAL_FLAGS)

test: .venv/installed
	$(BIN)/python -m pytest -q

clean-demo:  ## forget the trained demos, keep what was fetched
	rm -rf out/demo out/demo_blind out/demo_vqa out/demo_vqa_blind out/demo_audio out/demo_audio_blind

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@
