#!/usr/bin/env bash
# Builds the agents' image from container/Dockerfile, unless it was built from the same inputs already.
#
#   scripts/image.sh [--rebuild]      --rebuild: from a fresh base and without the cache, to take in security updates
#
# Settings, from the environment or <home>/.env: DOCKER, CONTAINER_IMAGE, INSTALL_CLAUDE, CLAUDE_VERSION,
# INSTALL_CHROMIUM, INSTALL_CJK_FONTS. From the environment only: BASE_IMAGE, DEBIAN_MIRROR, NPM_CONFIG_REGISTRY, *_PROXY.
# Without BASE_IMAGE the base is Debian trixie: pulled, or made here by debootstrap where no registry answers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

PULLED_BASE=debian:trixie-slim
MADE_BASE=nanoclaw-base:trixie
PULL_TIMEOUT_S=180
# Where Debian keeps certificates that the machine's administrator trusts beyond the public ones.
EXTRA_CA_DIR=/usr/local/share/ca-certificates
STAMP=nanoclaw.build

docker=$(setting DOCKER docker)
image=$(setting CONTAINER_IMAGE nanoclaw-agent:latest)

has_image() { "$docker" image inspect "$1" >/dev/null 2>&1; }

pull_base() {
    say "pulling $1"
    # A registry that does not answer must not hold up the fallback for minutes.
    timeout "$PULL_TIMEOUT_S" "$docker" pull "$1" >&2
}

make_base() {
    have_apt ||
        die "$PULLED_BASE cannot be pulled, and only a Debian-family machine can make it; set BASE_IMAGE to a Debian image you have"
    if ! command -v debootstrap >/dev/null && ! [ -x /usr/sbin/debootstrap ]; then
        apt_install debootstrap debian-archive-keyring
    fi
    local mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian} work
    # Not /tmp, which is often in memory, or mounted nodev.
    work=$(mktemp -d /var/tmp/nanoclaw-base.XXXXXX)
    # shellcheck disable=SC2064 # $work is wanted as it is now
    trap "as_root rm -rf --one-file-system '$work'" EXIT
    say "making $MADE_BASE with debootstrap from $mirror (about a minute; more on a small board)"
    as_root env PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase --arch="$(dpkg --print-architecture)" \
        trixie "$work/root" "$mirror" >&2
    as_root tee "$work/root/etc/apt/sources.list" >/dev/null <<LIST
deb $mirror trixie main
deb $mirror trixie-updates main
deb ${mirror%/}-security trixie-security main
LIST
    # What an image has no reader for is left out, now and at every later install, as in Debian's own slim images.
    as_root tee "$work/root/etc/dpkg/dpkg.cfg.d/nanoclaw-slim" >/dev/null <<'LIST'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
LIST
    say "importing it"
    as_root tar -C "$work/root" -c --numeric-owner \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' --exclude='./dev/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' --exclude='./usr/share/locale/*' . |
        "$docker" import - "$MADE_BASE" >&2
}

base() {
    if [ -n "${BASE_IMAGE-}" ]; then
        has_image "$BASE_IMAGE" || pull_base "$BASE_IMAGE" || die "BASE_IMAGE=$BASE_IMAGE is neither here nor can it be pulled"
        printf '%s\n' "$BASE_IMAGE"
        return
    fi
    local candidate
    if [ "$rebuild" = no ]; then
        for candidate in "$PULLED_BASE" "$MADE_BASE"; do
            if has_image "$candidate"; then
                printf '%s\n' "$candidate"
                return
            fi
        done
    fi
    if pull_base "$PULLED_BASE"; then
        printf '%s\n' "$PULLED_BASE"
    else
        say "no registry answered"
        make_base
        printf '%s\n' "$MADE_BASE"
    fi
}

rebuild=no
case ${1-} in
    '') ;;
    --rebuild) rebuild=yes ;;
    *) die "unknown argument '$1'; usage: scripts/image.sh [--rebuild]" ;;
esac

args=()
for name in INSTALL_CLAUDE INSTALL_CHROMIUM INSTALL_CJK_FONTS; do
    args+=(--build-arg "$name=$(switch "$name")")
done
version=$(setting CLAUDE_VERSION '')
[ -z "$version" ] || args+=(--build-arg "CLAUDE_VERSION=$version")
certificates=
if [ -d "$EXTRA_CA_DIR" ]; then
    certificates=$(find -L "$EXTRA_CA_DIR" -name '*.crt' -type f -print0 | sort --zero-terminated | xargs --null --no-run-if-empty awk 1)
fi
[ -z "$certificates" ] || args+=(--build-arg "EXTRA_CA_CERTS=$certificates")

# What decides the image's content; where it is fetched from does not.
stamp=$(printf '%s\n' "${BASE_IMAGE-}" "${args[@]}" | cat - container/Dockerfile | sha256sum | cut -c1-32)
if [ "$rebuild" = no ] &&
    [ "$("$docker" image inspect --format "{{index .Config.Labels \"$STAMP\"}}" "$image" 2>/dev/null)" = "$stamp" ]; then
    say "image $image is up to date"
    exit 0
fi
"$docker" info >/dev/null 2>&1 || die "'$docker info' fails; scripts/ensure-docker.sh finds out why and mends it"

base=$(base)
if [ -n "${NPM_CONFIG_REGISTRY-}" ]; then
    args+=(--build-arg "NPM_REGISTRY=$NPM_CONFIG_REGISTRY")
fi
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name-}" ] || args+=(--build-arg "$name")
done
[ "$rebuild" = no ] || args+=(--no-cache)
say "building $image on $base"
previous=$("$docker" image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
"$docker" build "${args[@]}" --build-arg "BASE_IMAGE=$base" --label "$STAMP=$stamp" --tag "$image" container >&2
if [ -n "$previous" ] && [ "$("$docker" image inspect --format '{{.Id}}' "$image")" != "$previous" ]; then
    # Refused while a container or another tag uses it, and then it has to stay.
    "$docker" image rm "$previous" >/dev/null 2>&1 || true
fi
say "image $image is ready"
