# Everything one does here. `make` alone prints this list.
# Needs: a Rust toolchain, Python >= 3.11, and nothing else; Python tools go into .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint fmt dev wheel bench fuzz generate clean sim bugs crash

# What the wheel is built from, so that `make demo` builds it once.
SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md LICENSE \
	$(shell find crates python/checkrein -type f \
		-not -name '*.so' -not -name '*.pyc' -not -path '*/target/*' 2>/dev/null)
# Inside .venv, so that a new environment gets the wheel again.
DEMO_WHEEL := .venv/.wheel-installed

help: ## print this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(DEMO_WHEEL) ## watch a misbehaving agent being controlled (no key, no network; DEMO="--fast" for no pauses)
	@.venv/bin/checkrein demo $(DEMO)

$(DEMO_WHEEL): $(SOURCES) | .venv/.installed
	@echo "building the wheel (the first time takes some minutes)"
	@scripts/wheel.sh dev build/demo >build/demo.log 2>&1 || { cat build/demo.log; exit 1; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps build/demo/*.whl
	@touch $@

.venv/.installed: pyproject.toml
	@mkdir -p build
	@scripts/venv.sh

test: ## every check: format, lints, types, Rust tests, wheel, Python tests
	@scripts/test.sh all

lint: ## the checks that only read the sources
	@scripts/test.sh lint

fmt: .venv/.installed ## format Rust and Python sources
	@cargo fmt --all
	@.venv/bin/ruff check --fix --quiet .
	@.venv/bin/ruff format --quiet .

generate: ## write the parts of the documents that come from the code
	@UPDATE_DOCUMENTS=1 cargo test --locked --quiet -p checkrein-cli --test documents

dev: .venv/.installed ## build the extension into python/checkrein, importable in .venv, for development
	@PATH="$$PWD/.venv/bin:$$PATH" CHECKREIN_PROFILE=dev .venv/bin/python -m pip install --quiet \
		--disable-pip-version-check --no-build-isolation --no-deps --no-index --editable .

wheel: .venv/.installed ## build the release wheel into dist/
	@scripts/wheel.sh release dist

bench: .venv/.installed ## measure against governor and the published Python packages; table and JSON
	@benches/run.sh

fuzz: ## run every fuzz target near its corpus for longer than the tests do (FUZZ_RUNS=n mutations each)
	@FUZZ_RUNS=$(or $(FUZZ_RUNS),1000000) FUZZ_SEED=$$RANDOM cargo test --release --locked -p checkrein-core --test fuzz

SEEDS ?= 1000
FROM ?= 1
sim: ## the simulator: SEEDS=n runs from FROM=1 on, or SEED=x plays one again and prints it
	@cargo run --locked --quiet -p checkrein-sim -- $(if $(SEED),replay $(SEED),sim $(SEEDS) $(FROM))

N ?= 1000
crash: ## kill -9 N=n real processes at random and chosen points, and judge what they left
	@directory=$$(mktemp -d) && trap 'rm -rf "$$directory"' EXIT && \
		cargo run --locked --quiet -p checkrein-sim --features planted-bugs -- crash $(N) "$$directory"

bugs: ## every planted bug, and what the simulator says of it
	@cargo test --locked --quiet -p checkrein-sim --features planted-bugs --test planted -- --nocapture

clean: ## remove what was built (not cargo's target directory)
	@rm -rf build dist .venv python/checkrein.data python/checkrein/*.so
