# Everything a person types. Each target is a script under scripts/, so that it can be read and run alone.
# ARGS passes through: make up ARGS="--containers 8 --once"
# FEATURES builds for cards that models run on: make build FEATURES=vulkan (`muster doctor` says which)
export FEATURES
SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help
.PHONY: help up build contracts test bench lint clean-data

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

up: ## install what is missing, build, start the whole network, do the first rental
	@exec scripts/up.sh $(ARGS)

build: ## the release build only
	@scripts/build.sh

contracts: ## compile the contracts (into contracts/out, never committed)
	@contracts/build.sh

test: ## everything, from contracts to end-to-end
	@scripts/test.sh $(ARGS)

bench: ## every measurement (ARGS=--json: one JSON object each)
	@scripts/bench.sh $(ARGS)

lint: ## format, clippy with warnings denied, cargo-deny, tidy
	@scripts/lint.sh

clean-data: ## throw away the data of `make up` (asks first; YES=1 does not)
	@YES="$(YES)" scripts/clean-data.sh $(ARGS)
