# The verbs of the house. Each is documented in README.md; a test keeps the two in step.
SHELL := /bin/bash
PY := .venv/bin/python
SEED ?= 1

.PHONY: setup demo test check bench sim clean

setup:            ## install what is missing: Debian packages, .venv, the kernel of the test guest
	@tools/setup.sh

demo: setup       ## the main job on real input, about two minutes, ends with a report
	@$(PY) -m demo.run

test: setup       ## the whole suite
	@$(PY) -m pytest $(ARGS)

check: setup      ## ruff, mypy --strict and the quick tests, for every commit
	@$(PY) -m ruff check .
	@$(PY) -m mypy --strict sds backends fuse bench tools demo tests
	@$(PY) -m pytest -q -m "not guest and not real" $(ARGS)

bench: setup      ## six fio jobs against qemu-nbd and nbdkit, a table of ratios and build/bench-nbd.json
	@mkdir -p build
	@$(PY) -m bench nbd --json build/bench-nbd.json $(ARGS)

sim: setup        ## the seeded random simulation: make sim SEED=42 replays exactly
	@$(PY) -m tests.sim --seed $(SEED) $(ARGS)

clean:            ## remove what the verbs above made, .venv included
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
