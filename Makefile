# kobune: two commands do everything. `make run` runs it, `make test` proves it.
SHELL := /bin/bash
# A build folder outside the checkout is used when one is there.
ifneq ($(wildcard $(HOME)/.cache/kobune-target),)
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kobune-target
endif
# Where Debian keeps libseccomp.a differs by architecture.
export LIBSECCOMP_LIB_PATH ?= /usr/lib/$(shell uname -m)-linux-gnu

.PHONY: help run test lint unit simulations fuzz fuzz-seeds e2e conformance bench build deps test-tools clean

help: ## Lists the targets.
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

deps: ## Installs the Debian packages that building and running need.
	@scripts/install-deps.sh

build: deps ## Builds the release executable.
	cargo build --release --locked -p kobune

run: deps ## Builds, starts a one-node cluster, deploys examples/hello and shows its answers. Ctrl-C stops it.
	@scripts/run.sh

test: lint unit fuzz-seeds e2e ## Formatting, clippy, unit, property and doc tests, fuzz inputs, then end-to-end tests.

lint: deps
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

unit: deps test-tools
	cargo test --locked --workspace --exclude kobune
	cargo test --locked -p kobune --bins

e2e: deps test-tools ## Real containers, kubectl, helm, kube-rs and the Python client, each cluster in a network namespace of its own.
	cargo test --locked -p kobune --tests

simulations: deps ## Tries the controllers with a thousand seeds each: slow and lost answers, broken watches, deaths at every step.
	KOBUNE_SIMULATION_SEEDS=1000 cargo test --release --locked -p kobune-controllers simulation::

fuzz: deps ## Feeds every decoder for a minute each what libFuzzer makes up.
	@scripts/fuzz.sh 60

fuzz-seeds: deps ## Replays the inputs that are kept in crates/fuzz/seeds.
	@scripts/fuzz.sh 0

test-tools:
	@scripts/install-test-tools.sh

conformance: build test-tools ## Kubernetes' own end-to-end tests, as far as Debian packages them, against two nodes. Takes an hour.
	@scripts/conformance/build.sh
	@scripts/conformance/run.sh --parallel 4 --skip '\[Serial\]|\[Disruptive\]' --keep
	@KOBUNE_CONFORMANCE_RESULTS=$(HOME)/.cache/kobune-conformance/results-serial scripts/conformance/run.sh --focus '(\[Serial\]|\[Disruptive\]).*\[Conformance\]'

bench: build test-tools ## Measures what docs/promises.md promises and prints a line a figure.
	cargo build --release --locked -p kobune-bench
	@scripts/bench.sh

clean:
	cargo clean
