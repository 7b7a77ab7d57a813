#!/usr/bin/env bash
# Makes sure there is a cargo that can build this: the one in PATH or of rustup, else Debian's where it is new enough.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

# new_enough VERSION
new_enough() { printf '%s\n%s\n' "$needed" "$1" | sort --version-sort --check=quiet; }

# Empty where there is no cargo, or a rustup without a toolchain.
cargo_version() { { cargo --version 2>/dev/null || true; } | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }

# The first of Debian's packages that is new enough; cargo-web is the newer one that older releases carry for browsers.
apt_package() {
    local package candidate
    for package in cargo cargo-web; do
        candidate=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: \([0-9][0-9.]*\).*/\1/p')
        # Debian counted cargo apart from Rust until 0.66 (Rust 1.65), which is too old in either count.
        if [ -n "$candidate" ] && new_enough "$candidate"; then
            printf '%s\n' "$package"
            return
        fi
    done
}

found=$(cargo_version)
if [ -n "$found" ] && new_enough "$found"; then
    exit 0
fi
say "Rust $needed or newer is needed; found: ${found:-none}"
package=
if have_apt; then
    apt_update
    package=$(apt_package)
fi
if [ -z "$package" ]; then
    die "this system has no package of Rust $needed or newer.
  Install it with rustup, see https://rustup.rs (with rustup here already: 'rustup update stable'), and run this again."
fi
apt_install "$package" || die "the package $package cannot be installed without removing another version of Rust.
  Replace that one yourself (apt-get install $package), or use rustup, see https://rustup.rs, and run this again."
hash -r
found=$(cargo_version)
if [ -z "$found" ] || ! new_enough "$found"; then
    die "$package is installed, but 'cargo' is still ${found:-not to be found}: $(command -v cargo || echo not in PATH)"
fi
say "Rust $found is ready"
