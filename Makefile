# What people type. `make help` lists it.

SHELL := bash
export SIZE ROUNDS ROWS DELAY LOSS RATE
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: help check test sim matrix demo fuzz setup bench-transfer bench-turn bench-gateway

help: ## Say what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 14

setup: ## Install what is missing (apt, with sudo when not root)
	@scripts/setup

check: ## Format, layers, lints and docs, warnings denied
	cargo fmt --all --check
	scripts/layers
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test: setup ## All tests, in real network namespaces too
	cargo test --workspace --locked

SEEDS ?= 100000
sim: ## Let two peers meet in 100,000 random simulated networks, and behind each pair of NATs (SEEDS=100000)
	cargo run --release -p postern-cli --locked -- lab random --seeds $(SEEDS)
	cargo run --release -p postern-cli --locked -- lab matrix --seeds 200

matrix: setup ## Draw docs/matrix.svg from 1,000 meetings of each pair, and docs/matrix-netns.svg behind real NATs
	cargo run --release -p postern-cli --locked -- lab matrix --seeds 1000 --svg docs/matrix.svg
	cargo run --release -p postern-cli --locked -- lab matrix --netns --svg docs/matrix-netns.svg

demo: setup ## Send a file from one home to another, on this machine (ARGS="--size 1GB")
	cargo run --release -p postern-cli --locked -- demo $(ARGS)

bench-transfer: setup ## How fast a file crosses, beside a bare TCP copy (SIZE=1000000000 ROUNDS=5 DELAY=ms LOSS=0.01 RATE=Mbit/s)
	cargo bench -p postern-cli --bench transfer --locked

bench-turn: ## What relaying costs the server, beside coturn and bare loops (ROUNDS=5 ROWS="binding,trains of")
	@scripts/setup || echo "measuring without what is missing"
	cargo bench -p postern-cli --bench turn --locked

bench-gateway: ## What a gateway's work takes, beside miniupnpd if it is installed (ROUNDS=5)
	@scripts/setup || echo "measuring without what is missing"
	cargo build --release -p postern-cli --no-default-features --locked
	mkdir -p target/bench && cp target/release/postern target/bench/postern
	POSTERN=$(CURDIR)/target/bench/postern cargo bench -p postern-cli --bench gateway --locked

TARGET ?= stun
SECONDS ?= 60
fuzz: ## Look for bytes that break a parser (TARGET=stun SECONDS=60; needs cargo-fuzz and nightly)
	cd fuzz && cargo +nightly fuzz run $(TARGET) -- -max_total_time=$(SECONDS)
