# Every target prepares what it needs (Rust, a C compiler, Docker, the image); what is there already costs nothing.
PREFIX ?= /usr/local
# Where rustup puts cargo, for a shell that was opened before it was installed.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
SHARE = $(DESTDIR)$(PREFIX)/share/nanoclaw
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
# Runs a command that talks to Docker, when Docker is known to answer; see the script.
WITH_DOCKER := scripts/ensure-docker.sh

.DEFAULT_GOAL := help
.PHONY: help run test test-claude soak build image install bench lint clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

run: build image ## Set everything up and start; on a terminal, open a chat
	@$(WITH_DOCKER) scripts/run.sh

test: build image ## Run all tests, those against real containers included
	@scripts/ensure-test-deps.sh
	$(WITH_DOCKER) cargo test --workspace --locked

test-claude: ## Run the claude provider's tests with the real Claude Code CLI
	@scripts/ensure-build-deps.sh
	@scripts/ensure-rust.sh
	@scripts/test-claude.sh

soak: build image ## Kill hosts and containers for minutes and count every message
	NANOCLAW_SOAK=1 $(WITH_DOCKER) cargo test --locked --test it -- --nocapture --test-threads=1 soak::

build: ## Build the release binaries into target/release
	@scripts/ensure-build-deps.sh
	@scripts/ensure-rust.sh
	@scripts/build.sh

image: ## Build the agents' container image
	@$(WITH_DOCKER) scripts/image.sh

bench: build image ## Measure latency, memory and sizes against the targets
	# In a folder of its own: what it measures must be what `make build` made, flags and all.
	$(WITH_DOCKER) env NANOCLAW_BIN_DIR=$(abspath $(RELEASE)) cargo bench --locked --bench bench --target-dir $(RELEASE)/../bench

lint: ## Check format, clippy and the shell scripts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	shellcheck --external-sources scripts/*.sh .ci/run

install: ## Install what `make build` built to PREFIX (/usr/local)
	@test -x $(RELEASE)/nanoclaw-runner || { echo "error: nothing is built yet; run 'make build' first" >&2; exit 1; }
	install -D -m 0755 $(RELEASE)/nanoclaw $(DESTDIR)$(PREFIX)/bin/nanoclaw
	install -D -m 0755 $(RELEASE)/nanoclaw-runner $(DESTDIR)$(PREFIX)/libexec/nanoclaw/nanoclaw-runner
	rm -rf $(SHARE)
	install -D -m 0644 -t $(SHARE) container/CLAUDE.md .env.example
	cp -R container/skills $(SHARE)/skills
	install -D -m 0644 -t $(SHARE)/container container/Dockerfile
	install -D -m 0755 -t $(SHARE)/scripts scripts/ensure-docker.sh scripts/image.sh
	install -m 0644 -t $(SHARE)/scripts scripts/lib.sh
	@echo "To keep it running: $(PREFIX)/bin/nanoclaw service install"

clean: ## Remove what was built here; the home, the image and Docker stay
	cargo clean
