# Everything that a person or CI starts. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# What is fetched and built lies outside the checkout and outlives it: a cold build of DataFusion takes long.
CACHE := $(or $(TENURE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tenure)
export TENURE_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export TENURE_VENV := $(CACHE)/venv
ENCODER := models/all-MiniLM-L6-v2
TENURE := $(CARGO_TARGET_DIR)/release/tenure
# One profile for the binary, the tests and the lints: a second one would build every dependency again.
CARGO = LIBTORCH="$$(scripts/libtorch.sh)" cargo

JOB ?= jobs/ltv.yaml
CUSTOMERS ?= 20000
DAYS ?= 400
# The night that the demo lake ends with.
AS_OF = $$(python3 -c 'import json; print(json.load(open("lake/lake.json"))["summary"]["as_of"])')
# For the benches, for example BENCH_OPTIONS='--tasks cdnow_90d --seeds 0'.
BENCH_OPTIONS ?=
STEP = @echo "==> $(1)" >&2

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

.PHONY: run
run: build encoder lake ## Set everything up, train on a demo shop, publish a night and show it
	$(call STEP,check)
	$(TENURE) check $(JOB)
	as_of="$(AS_OF)"
	if [ ! -f models/ltv/manifest.json ]; then
	    echo "==> train (\`make train\` does it again)" >&2
	    $(TENURE) train $(JOB) --as-of "$$as_of"
	else
	    # What training showed, on the newest day whose 90 days to come are known.
	    echo "==> evaluate" >&2
	    $(TENURE) evaluate $(JOB) --as-of "$$(date -ud "$$as_of -90 days" +%F)"
	fi
	echo "==> run" >&2
	$(TENURE) run $(JOB) --as-of "$$as_of"
	$(TENURE) runs --job $(JOB) --limit 3

.PHONY: train
train: build encoder lake ## Train the demo's model again
	$(call STEP,train)
	$(TENURE) train $(JOB) --as-of "$(AS_OF)"

.PHONY: build
build: tools ## Build the program
	$(call STEP,build)
	if [ ! -x "$(TENURE)" ]; then
	    echo "    the first build takes about half an hour on two cores" >&2
	fi
	# libtorch takes a quarter of a second to load: `tenure` comes without, and hands over to `tenure-torch` beside it.
	$(CARGO) build --release --locked --bin tenure-torch
	$(CARGO) build --release --locked --bin tenure --no-default-features

.PHONY: test
test: tools encoder ## Run every test, set-up included
	$(call STEP,test)
	scripts/python.sh >/dev/null
	scripts/python.sh corpus >/dev/null
	# Several trainings run at once, each with all cores: threads that spin while they wait would starve the others.
	OMP_WAIT_POLICY=passive $(CARGO) test --release --locked

.PHONY: bench-quality
bench-quality: build ## Judge the predictions beside other tools' on public data (ends non-zero when a goal is missed)
	$(call STEP,bench-quality)
	"$$(scripts/python.sh bench)/bin/python" benches/quality.py --tenure "$(TENURE)" $(BENCH_OPTIONS)

.PHONY: bench-text
bench-text: build encoder ## Judge the fine-tuning of texts beside transformers' (ends non-zero when a goal is missed)
	$(call STEP,bench-text)
	"$$(scripts/python.sh text)/bin/python" benches/banking77.py --tenure "$(TENURE)" $(BENCH_OPTIONS)

.PHONY: bench-features
bench-features: build ## Judge the feature stage beside DuckDB and Polars (ends non-zero when a goal is missed)
	$(call STEP,bench-features)
	"$$(scripts/python.sh features)/bin/python" benches/features.py --tenure "$(TENURE)" $(BENCH_OPTIONS)

.PHONY: lint
lint: tools ## Check formatting, clippy, documentation, licences
	$(call STEP,fmt)
	cargo fmt --check
	echo "==> clippy" >&2
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --no-default-features -- -D warnings
	echo "==> doc" >&2
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --no-deps
	if cargo deny --version >/dev/null 2>&1; then
	    echo "==> deny" >&2
	    cargo deny check
	fi

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt

.PHONY: env
env: ## Print what to set for calling cargo by hand: eval "$(make -s env)"
	@echo "export LIBTORCH='$$(scripts/libtorch.sh)'"
	echo "export CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)'"
	echo "export TENURE_VENV='$$(scripts/python.sh)'"
	echo "export PATH='$(CARGO_TARGET_DIR)/release':\"\$$PATH\""

.PHONY: clean
clean: ## Remove the demo's lake, models and tables (not what was fetched and built)
	rm -rf lake out models target

.PHONY: encoder
encoder:
	@folder="$$(scripts/encoder.sh)"
	if [ ! -e "$(ENCODER)" ]; then
	    mkdir -p "$(dir $(ENCODER))"
	    ln -sfn "$$folder" "$(ENCODER)"
	fi

.PHONY: lake
lake: build
	$(call STEP,demo lake)
	$(TENURE) demo generate lake --customers $(CUSTOMERS) --days $(DAYS)

.PHONY: tools
tools:
	@if ! command -v cargo >/dev/null; then
	    echo "error: \`cargo\` is not there" >&2
	    echo "hint: install Rust 1.95 or newer from https://rustup.rs, then open a new shell" >&2
	    exit 1
	fi
	for tool in c++ python3; do
	    if ! command -v "$$tool" >/dev/null; then
	        echo "error: \`$$tool\` is not there" >&2
	        echo "hint: on Debian and Ubuntu: apt-get install build-essential python3 python3-venv" >&2
	        exit 1
	    fi
	done
	scripts/libtorch.sh >/dev/null
