#!/usr/bin/env bash
# Makes sure that what the tests call is here: ripgrep for the agents' searches, which the image has anyway, and Python
# with venv and pip for an MCP server that others wrote.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

missing=()
have rg || missing+=(ripgrep)
have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" != 0 ]; then
    have_apt || die "the tests need rg and python3 with venv; please install them"
    apt_install "${missing[@]}"
fi
