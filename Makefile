# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-slow lint clean

demo: $(STAMP)
	$(BIN)/shardscope demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not cuda" $(PYTEST)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not cuda" $(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch first and by itself: where a wheel without CUDA is on offer locally, this range takes it
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
