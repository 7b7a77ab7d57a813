#!/usr/bin/env bash
# Builds the release binaries: the host, and the runner as one static file next to it, where the host looks for it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
target=${CARGO_TARGET_DIR:-target}
triple=$(rustc -vV | sed -n 's/^host: //p')

# A panic ends the process (`panic = "abort"`), so nothing ever unwinds: a tenth of the binary would be tables for it.
export RUSTFLAGS="${RUSTFLAGS-} -C force-unwind-tables=no"
export CFLAGS="${CFLAGS-} -fno-asynchronous-unwind-tables -fno-unwind-tables"
# Nothing here searches text or space, and what is absent cannot be abused by a file that a container made.
export LIBSQLITE3_FLAGS="-USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE -USQLITE_ENABLE_DBSTAT_VTAB -DSQLITE_OMIT_SHARED_CACHE -DSQLITE_OMIT_DEPRECATED -DSQLITE_UNTESTABLE"
say "building the host"
# A position-independent program relocates itself at its start; packed, those tables take a few KiB instead of 200. The
# loader has understood them since glibc 2.36.
relocations=
if printf '2.36\n%s\n' "$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)" | sort --version-sort --check=quiet; then
    relocations="-C link-arg=-Wl,-z,pack-relative-relocs"
fi
export RUSTFLAGS="$RUSTFLAGS $relocations"
cargo build --release --locked --package nanoclaw
say "building the runner, static"
# Static, for it is mounted into any image. With an explicit --target, cargo keeps these flags off build scripts.
RUSTFLAGS="${RUSTFLAGS-} -C target-feature=+crt-static" \
    cargo build --release --locked --package nanoclaw-runner --target "$triple"
built=$target/$triple/release/nanoclaw-runner
if readelf --program-headers "$built" | grep -q INTERP; then
    die "$built is not static"
fi
if ! cmp -s "$built" "$target/release/nanoclaw-runner"; then
    # By rename: running containers keep the file they have mounted.
    cp "$built" "$target/release/nanoclaw-runner.new"
    mv "$target/release/nanoclaw-runner.new" "$target/release/nanoclaw-runner"
fi
