#!/usr/bin/env bash
# Makes sure there is a C compiler with its headers: SQLite and the TLS library are compiled from C.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

can_compile() {
    # libc.a as well: the runner is linked statically.
    have cc && echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 && [ -f "$(cc -print-file-name=libc.a)" ]
}

if can_compile; then
    exit 0
fi
have_apt || die "a C compiler with its headers and a static libc (cc, stdio.h, libc.a) is needed; please install them"
say "no complete C compiler here"
apt_install gcc libc6-dev
can_compile || die "gcc and libc6-dev are installed, but 'cc' still cannot compile"
