# shellcheck shell=bash
# Shared by the scripts here, by `. scripts/lib.sh`: messages, settings, root, apt. Defines things, does nothing.

# `set -e` holds in $(...) too, so that a failed step there is not followed by the next.
shopt -s inherit_errexit

say() { printf '==> %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null; }

nanoclaw_home() { printf '%s\n' "${NANOCLAW_HOME:-$HOME/.nanoclaw}"; }

# setting NAME DEFAULT: the environment, then <home>/.env, then DEFAULT, by the rules of the host (src/config.rs): a variable
# that is set but empty hides the file; `export`, one pair of quotes and ` # comments` are understood; the last line wins.
# The file is never executed.
setting() {
    local name=$1 value=${!1-} file line
    file=$(nanoclaw_home)/.env
    if [ -z "${!1+set}" ] && [ -r "$file" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?"$name"[[:space:]]*=[[:space:]]*(.*)$ ]] || continue
            value=${BASH_REMATCH[2]}
            value=${value%"${value##*[![:space:]]}"}
            case $value in
                \"*\" | \'*\') value=${value:1:${#value}-2} ;;
                *) value=${value%%[[:space:]]#*} ;;
            esac
        done <"$file"
    fi
    printf '%s\n' "${value:-$2}"
}

# switch NAME: a setting that is true or false; false when unset.
switch() {
    local value
    value=$(setting "$1" false)
    case $value in
        true | false) printf '%s\n' "$value" ;;
        *) die "$1 is '$value'; allowed are: true, false" ;;
    esac
}

# as_root COMMAND...: as it is when root, else by sudo, which asks for a password only where somebody can answer.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! have sudo; then
        die "this needs root, and there is no sudo here; as root, run: $*"
    elif [ -t 2 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

have_apt() { have apt-get && have apt-cache; }

# The lists are fetched once for all the scripts of a run, and only when something is to be installed.
apt_update() {
    [ -z "${NANOCLAW_APT_UPDATED-}" ] || return 0
    say "apt-get update"
    as_root apt-get update -qq >&2
    NANOCLAW_APT_UPDATED=1
}

# apt_install PACKAGE...: never at the price of removing something the machine's owner installed.
apt_install() {
    apt_update
    say "apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove "$@" </dev/null >&2
}
