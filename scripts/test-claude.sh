#!/usr/bin/env bash
# Runs the tests of the `claude` provider with the real Claude Code CLI, of the version the image has, against a fake API.
#
#   scripts/test-claude.sh [TEST]...      skipped, with success, only where the npm registry cannot be reached at all
#
# From the environment: NPM_CONFIG_REGISTRY; CARGO_TARGET_DIR, in which the CLI is kept (about 360 MB).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

version=$(sed -n 's/^ARG CLAUDE_VERSION=//p' container/Dockerfile)
case $(uname -m) in
    x86_64) package=claude-code-linux-x64 ;;
    aarch64) package=claude-code-linux-arm64 ;;
    *) die "there is no Claude Code CLI for $(uname -m)" ;;
esac
registry=${NPM_CONFIG_REGISTRY:-https://registry.npmjs.org}
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/claude-cli/$version
cli=$folder/claude

fetch() { curl -fsSL --connect-timeout 20 --retry 2 "$@"; }

get_cli() {
    local meta work
    work=$(mktemp -d "$folder.XXXXXX")
    # shellcheck disable=SC2064 # $work is wanted as it is now
    trap "rm -rf '$work'" EXIT
    meta=$(fetch "${registry%/}/@anthropic-ai/$package/$version")
    say "downloading $package $version"
    fetch "$(grep -o '"tarball": *"[^"]*"' <<<"$meta" | cut -d'"' -f4)" -o "$work/package.tgz"
    [ "sha512-$(sha512sum "$work/package.tgz" | cut -c1-128 | tr a-f A-F | basenc -d --base16 | base64 -w0)" = \
        "$(grep -o '"integrity": *"[^"]*"' <<<"$meta" | cut -d'"' -f4)" ] || die "$package $version does not match its checksum"
    tar -xzf "$work/package.tgz" -C "$work" package/claude
    mkdir -p "$folder"
    mv "$work/package/claude" "$cli"
}

if ! [ -x "$cli" ]; then
    mkdir -p "$(dirname "$folder")"
    status=0
    # Any answer of the registry will do to show that it is there; a proxy's refusal is none.
    fetch "${registry%/}/-/ping" >/dev/null || fetch "${registry%/}/npm/latest" >/dev/null || status=$?
    if [ "$status" != 0 ]; then
        say "test-claude SKIPPED: $registry cannot be reached (curl: $status), and there is no Claude Code CLI here"
        exit 0
    fi
    get_cli
fi
skip=()
docker=$(setting DOCKER docker)
if ! "$docker" image inspect nanoclaw-agent:latest >/dev/null 2>&1; then
    say "no image nanoclaw-agent:latest ('make image' builds it): without the test in a container"
    skip=(--skip in_a_container)
fi
say "testing with Claude Code $("$cli" --version)"
# Each test runs a CLI of some 200 MB.
NANOCLAW_CLAUDE_CLI=$cli cargo test --locked -p nanoclaw-runner --test claude -- --test-threads=2 "${skip[@]}" "$@"
