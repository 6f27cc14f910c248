# One verb a line; each wraps cargo. `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo

PREFIX ?= /usr/local

.PHONY: help build install uninstall demo deps test soak loom fuzz lint bench instructions fmt ci clean

help: ## List the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 20

build: ## Build `weft` and `weft-cni`, optimised
	$(CARGO) build --release

install: build ## Programs, systemd units, man pages, completions below PREFIX (/usr/local), which DESTDIR may precede
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) bash scripts/install.sh install $${CARGO_TARGET_DIR:-target}/release

uninstall: ## Take exactly these away again
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) bash scripts/install.sh uninstall

demo: ## Two nodes, four pods, both encapsulations: ping, bulk TCP, what a node knows and counted (root)
	@test "$$(id -u)" = 0 || { echo "make demo makes network namespaces: it needs root"; exit 1; }
	$(CARGO) build --release
	$(CARGO) run --release -q -p weft -- demo

deps: ## Install the test peers that are missing (root; DEPS=no installs nothing)
	@bash scripts/deps.sh

test: deps ## Everything: unit, property, model and namespace tests; says what it skipped
	@bash scripts/test.sh

soak: ## 100,000 schedules of the control plane's simulation (WEFT_SCHEDULES); as root, 50 agents killed for 10 minutes, 50 takeovers in a row
	WEFT_SCHEDULES=$${WEFT_SCHEDULES:-100000} $(CARGO) test --release -p weft-control --test simulation -- schedule
	@if [ "$$(id -u)" = 0 ]; then $(CARGO) build -p weft && \
	WEFT_CHURN_AGENTS=$${WEFT_CHURN_AGENTS:-50} WEFT_CHURN_SECONDS=$${WEFT_CHURN_SECONDS:-300} \
	$(CARGO) test -p weft-integration --test lab_churn && \
	WEFT_TAKEOVERS=$${WEFT_TAKEOVERS:-50} $(CARGO) test -p weft-integration --test takeovers nothing_is_lost -- --test-threads 1; \
	else echo "agents that are killed make network namespaces: run make soak as root"; fi

loom: ## Model-check the shared table
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --target-dir target/loom -p weft-bridge --lib fdb

fuzz: ## Fuzz every wire format for FUZZ_SECONDS (60) each
	@bash scripts/fuzz.sh

lint: ## Format and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: ## Benchmarks of the hot functions; as root, overlays side by side too (three minutes)
	$(CARGO) bench -p weft-benches --bench encap --bench growth
	$(CARGO) bench -p weft-switch
	@if [ "$$(id -u)" = 0 ]; then $(CARGO) run --release -q -p weft -- bench compare --quick --out target/comparison; \
	else echo "the comparison with the kernel and Open vSwitch makes network namespaces: run make bench as root"; fi

instructions: ## Instructions of the hot functions, by valgrind; fails where one takes a tenth more than it did
	@command -v gungraun-runner >/dev/null || { echo "needs valgrind, and: cargo install --locked gungraun-runner@0.20.0"; exit 1; }
	$(CARGO) bench -p weft-benches --bench instructions

fmt: ## Format
	$(CARGO) fmt --all

ci: ## What continuous integration runs
	.ci/run

clean: ## Remove what was built
	$(CARGO) clean
