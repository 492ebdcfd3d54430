# The same verbs for people and for CI. Each builds .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup check test test-slow test-all test-extra test-interop docs demo torture bench clean

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not interop and not slow"

# What starts many processes: ranks, kills at random instants, resumes in new processes.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not interop"

# The same and the quick ones, with the counted claims whole: every step of every configuration, every number of
# ranks. Those of tests/torture are make torture's.
test-all: test
	OMP_NUM_THREADS=1 HOLDFAST_TORTURE=whole $(BIN)/python -m pytest -m "(slow or torture) and not interop" \
		--timeout 1800 --ignore tests/torture

# Under a Slurm of its own, which it starts: a job that is requeued and goes on. Needs slurmd, slurmctld and munge.
test-extra: setup
	HOLDFAST_EXTRA=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm --timeout 600

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

# Everything beside everything, interleaved: an hour. benchmarks/all.py --short is the part that the goals are about.
bench: setup .venv-lightning/.bench
	$(BIN)/python benchmarks/all.py

.venv-lightning/.bench: .venv-lightning/.ready requirements-bench.txt
	.venv-lightning/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
