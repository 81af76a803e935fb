# Everything a developer types. `make` alone sets up .venv; nothing here needs more than Python 3.11
# or newer, a C and a C++ compiler, and make.
# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	"$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo "$$candidate" && break; done)
BIN := .venv/bin
# One process more than processors. The tests of a file stay together: they share what they start.
JOBS ?= $(shell "$(PYTHON)" -c 'import os; print((os.cpu_count() or 1) + 1)')
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := install
.PHONY: install demo up test check format bench bench-engine soak clean

install: ## set up .venv (the second time: instant)
	@test -n "$(PYTHON)" || { echo "Resultity needs Python 3.11, 3.12 or 3.13: none was found" >&2; exit 1; }
	@"$(PYTHON)" tools/install.py

demo: install ## a whole network on this machine, two questions, receipts verified, all stopped again
	@$(BIN)/python -m resultity demo

up: install ## a network of your own on this machine, until Ctrl-C
	@$(BIN)/resultity up

test: install ## every test, several at once (much of their time is waiting); JOBS=0: one by one
	$(BIN)/pytest tests $(PARALLEL)

check: install ## format, lint, types, import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## speed of the gateway's path, beside a baseline
	$(BIN)/python tests/bench/run.py

bench-engine: install ## speed of the runtime, beside llama.cpp's servers (builds one the first time)
	$(BIN)/python tests/bench/engine.py

soak: install ## the tests with long runs switched on
	RESULTITY_SOAK=1 $(BIN)/pytest tests $(PARALLEL)

clean: ## remove what the other targets made (the cached llama.cpp wheel stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
