# The same verbs for people and for CI. Each builds .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup check test test-interop docs demo torture bench clean

setup: .venv/.ready

# torch first and alone: any other order lets a dependency pull a different build of it.
.venv/.ready: pyproject.toml requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r requirements-dev.txt
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread of torch a process: two test processes with more of them get in each other's way.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not interop"

# Real Lightning, in an environment of its own, opens our files.
test-interop: setup .venv-lightning/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m interop

.venv-lightning/.ready: requirements-lightning.txt
	$(PYTHON) -m venv .venv-lightning
	.venv-lightning/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	.venv-lightning/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lightning.txt
	@touch $@

# Every example in README and docs, run; every link and test that they name, looked up.
docs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/docs

demo: setup
	OMP_NUM_THREADS=1 $(BIN)/python examples/kill_and_resume.py examples/digits_trainer.py
	OMP_NUM_THREADS=1 $(BIN)/python examples/kill_and_resume.py examples/digits_loop.py

# The counted claims, whole: thousands of damaged files, dozens of kills. Needs strace for the kills at system calls.
torture: setup
	@command -v strace >/dev/null || { echo "make torture needs strace, for the kills at system calls."; exit 1; }
	OMP_NUM_THREADS=1 HOLDFAST_TORTURE=whole $(BIN)/python -m pytest tests/torture --timeout 1800
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutations.py

bench: setup .venv-lightning/.ready
	$(BIN)/python benchmarks/listing.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/step_cost.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
