# EdgeTAM-PL. `make` alone prints this help; every target makes .venv first if it is missing.
# Words for a command go in ARGS: make train-stage2 ARGS="model=edgetam trainer=gpu8 data=sav"

.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
WORKERS ?= 2
SWEEP ?= latents
KILLS ?= 50
KILL_SEED ?= 1
ORT_WEB := 1.30.0
CHROMIUM_NPM := 153.0.0
CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
QUIET := logger=none trainer.enable_progress_bar=false

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with versions that are known to work together (constraints.txt)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed; this is %d.%d. Set PYTHON=..." % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch torchvision numpy
	$(BIN)/pip install --quiet -c constraints.txt -e '.[export,dev,real]'
	@touch $(READY)

demo: $(READY)  ## the whole job on a CPU, taught by the shipped tracker on real pictures (ARGS=data=toy: generated ones)
	$(BIN)/edgetam demo $(ARGS)

test: $(READY)  ## every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q $(ARGS)

test-parity: $(READY)  ## only the comparisons with the reference models
	$(BIN)/python -m pytest -n $(WORKERS) -q tests/parity $(ARGS)

test-kills: $(READY)  ## a training that is killed 50 times at random moments: make test-kills KILL_SEED=7 (an hour or more)
	KILLS=$(KILLS) KILL_SEED=$(KILL_SEED) $(BIN)/python -m pytest -q -s tests/training/test_kills.py $(ARGS)

test-slurm: $(READY)  ## trainings, shards and sweeps under a SLURM that is started here (root; apt-get install slurm-wlm munge)
	EDGETAM_TEST_SLURM=1 $(BIN)/python -m pytest -q tests/cluster $(ARGS)

test-gpu: $(READY)  ## only the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu $(ARGS)

test-web: $(READY)  ## the page of target=web in a browser (brings playwright, onnxruntime-web, and Chromium where none is installed)
	@command -v npm >/dev/null || { echo "npm brings onnxruntime-web, and is not here: apt-get install npm"; exit 1; }
	@test -n "$(CHROMIUM)" || test "$$(uname -sm)" = "Linux x86_64" || { echo "No Chromium, and npm brings one to Linux on x86-64 alone: install it"; exit 1; }
	$(BIN)/pip install --quiet -c constraints.txt -e '.[web]'
	npm install --silent --no-save --prefix $(VENV) onnxruntime-web@$(ORT_WEB) $(if $(CHROMIUM),,@sparticuz/chromium@$(CHROMIUM_NPM))
	$(if $(CHROMIUM),,node tests/support/chromium.mjs $(VENV))
	NODE_PATH=$(abspath $(VENV))/node_modules EDGETAM_CHROMIUM=$(or $(CHROMIUM),$(abspath $(VENV))/chromium/run) \
		$(BIN)/python -m pytest -q tests/exporting/test_web.py $(ARGS)

check: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

shards: $(READY)  ## folders to shards: make shards ARGS="source=davis root=... out=..."
	$(BIN)/edgetam shards $(ARGS)

train-stage1: $(READY)  ## image pre-training with feature distillation (Eq. 7)
	$(BIN)/edgetam train stage=image out=runs/stage1 $(ARGS)

train-stage2: $(READY)  ## video training with distillation through the memory (Eq. 8)
	$(BIN)/edgetam train stage=video out=runs/stage2 $(ARGS)

finetune: $(READY)  ## longer clips: 16, then 32 frames, frozen encoder, no teacher
	$(BIN)/edgetam train stage=finetune out=runs/finetune $(ARGS)

toy-data: $(READY)  ## what sweeps of toys need: shards, a teacher, stage 1 with and without it (10 minutes on one core)
	$(BIN)/edgetam shards source=toy out=runs/toy/video clips=400 frames=32 objects=4
	$(BIN)/edgetam shards source=toy out=runs/toy/image clips=800 frames=1 objects=4
	test -f runs/toy/teacher/weights.pt || $(BIN)/edgetam train model=toy_teacher stage=toy_long_teacher out=runs/toy/teacher $(QUIET)
	test -f runs/toy/stage1/weights.pt || $(BIN)/edgetam train model=toy stage=toy_image data=toy_images out=runs/toy/stage1 $(QUIET)
	test -f runs/toy/stage1_taught/weights.pt || $(BIN)/edgetam train model=toy stage=toy_image data=toy_images out=runs/toy/stage1_taught \
		model@teacher=toy_teacher teacher_weights=runs/toy/teacher/weights.pt $(QUIET)

sweep-local: toy-data  ## a sweep here, without a server; started again it continues: make sweep-local SWEEP=distillation
	$(BIN)/edgetam sweep experiments/sweeps/$(SWEEP).yaml $(ARGS)

sweep: $(READY)  ## a sweep on W&B's server, with agents here: make sweep SWEEP=latents_bayes ARGS="scale=full --jobs 2 ..."
	$(BIN)/edgetam sweep experiments/sweeps/$(SWEEP).yaml --server $(ARGS)

evaluate: $(READY)  ## J&F: make evaluate ARGS="weights=... dataset=... root=..."
	$(BIN)/edgetam evaluate $(ARGS)

bench: $(READY)  ## latency by verb
	$(BIN)/edgetam bench $(ARGS)

bench-packages: $(READY)  ## the table of docs/export.md: every format converted and judged, row by row (hours; ARGS=full-onnx-fp32)
	$(BIN)/python benchmarks/packages.py $(ARGS)

bench-all: $(READY)  ## every benchmark that needs no data set, in short, and one table: make bench-all ARGS="--device cuda"
	$(BIN)/python benchmarks/all.py $(ARGS)

export: $(READY)  ## packages for the phone, checked against the checkpoint
	$(BIN)/edgetam export $(ARGS)

plan: $(READY)  ## memory, step time and wall-clock of a configuration, before anything is allocated
	$(BIN)/edgetam plan $(ARGS)

doctor: $(READY)  ## can this environment train and export?
	$(BIN)/edgetam doctor $(ARGS)

tables: $(READY)  ## rebuild the tables of experiments/README.md from results, the paper's numbers beside ours
	$(BIN)/python -m edgetam_pl.commands.tables $(ARGS)

clean:  ## remove caches and build leftovers; runs/ and .venv stay
	rm -rf build dist *.egg-info src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: help setup demo test test-parity test-kills test-slurm test-gpu test-web check shards train-stage1 train-stage2 finetune toy-data sweep-local sweep evaluate bench bench-packages export plan doctor tables clean bench-all
