# The same verbs for people and for CI. Each builds .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup check test docs demo torture layers clean

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

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadscope

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
