# Everything runs in .venv, which any target creates on a bare clone: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
# Flower keeps its folder and its local SuperLink here, so that nothing in your home is touched.
DEMO := PATH="$(BIN):$$PATH" FLWR_HOME="$(CURDIR)/$(VENV)/flwr"

.PHONY: setup demo test lint docs format clean

setup: $(READY)

# Compiled at once: the tests and Flower start many processes. uv, not pip: pip may take torch's CPU-only build, with which torchvision does not import.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --compile-bytecode --group dev --editable ".[onnx,privacy]"
	touch $(READY)

demo: $(READY)
	$(DEMO) sh sim/demo.sh

# Files of tests are distributed in their order, so that those of Flower's engines, which mostly wait, do not come last.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY)
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --group docs
	$(BIN)/mkdocs build --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.fab
