#!/usr/bin/env bash
# Makes sure a container engine answers: installs and starts Docker where it is missing (Debian family), and says so.
#
#   scripts/ensure-docker.sh [COMMAND [ARGUMENT...]]
#
# With COMMAND, runs it afterwards as a process that may use the engine: a user who was added to the group `docker`
# only now gets it through `sg`, without logging in again.
# DOCKER=podman (any docker-compatible CLI) is checked, and for podman installed, but has no daemon to start.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

START_TIMEOUT_S=90
# How long a daemon may take to write its pid file.
GRACE_S=10
SOCKET=/var/run/docker.sock
PID_FILE=/var/run/docker.pid
DAEMON_LOG=/var/log/nanoclaw-dockerd.log

docker=$(setting DOCKER docker)
PATH="$PATH:/usr/sbin:/sbin"

answers() { "$docker" info >/dev/null 2>&1; }

# Runs what was asked for, if anything. Does not return.
finish() {
    [ $# -gt 0 ] || exit 0
    exec "$@"
}

# The engine's own words; `version` says them in one line.
engine_error() { { "$docker" version 2>&1 >/dev/null || true; } | tail -n 1; }

# The daemon runs, but this process may not talk to it: become a member of its group. Does not return.
join_group() {
    local user
    user=$(id -un)
    if ! id -nG "$user" | tr ' ' '\n' | grep -qx docker; then
        say "adding $user to the group 'docker', whose members may use Docker (and can thereby become root on this machine)"
        as_root usermod -aG docker "$user" || die "$user may not use Docker; as root, run: usermod -aG docker $user"
    fi
    local error
    # The daemon may still be starting: the socket takes the call and answers when it can.
    error=$(sg docker -c "${docker@Q} version 2>&1 >/dev/null") || daemon_failed "no answer in the group 'docker': $error"
    say "this login is not in the group 'docker' yet (the next one will be); going on through 'sg docker'"
    [ $# -gt 0 ] || exit 0
    # The inner one brings back the user's own group for the files that get made; `docker` stays as a further one.
    local command=${*@Q}
    exec sg docker -c "exec sg $(id -gn) -c ${command@Q}"
}

install_docker() {
    have_apt || die "'$docker' is not here, and only Debian-family systems are set up by this script; please install Docker"
    say "Docker is missing: installing it"
    # Later releases split the client off into docker-cli, which docker.io only recommends.
    apt_update
    local packages=(docker.io iptables)
    if [ -n "$(apt-cache policy docker-cli | sed -n '/Candidate: [0-9]/p')" ] && ! have docker; then
        packages+=(docker-cli)
    fi
    apt_install "${packages[@]}"
    hash -r
}

daemon_running() {
    local pid
    pid=$(cat "$PID_FILE" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

start_daemon() {
    if daemon_running; then
        say "dockerd is starting already"
    elif [ -d /run/systemd/system ]; then
        say "starting Docker (systemctl enable --now docker)"
        as_root systemctl enable --now docker >&2 || die "systemd could not start Docker; see: journalctl -u docker"
    elif [ -x /etc/init.d/docker ] && as_root service docker start >/dev/null 2>&1; then
        say "starting Docker (service docker start)"
    else
        say "starting Docker (dockerd, log in $DAEMON_LOG)"
        # A session and files of its own: it must outlive this script, and hold open neither terminal nor CI's pipes.
        as_root setsid --fork sh -c "exec dockerd >>$DAEMON_LOG 2>&1 </dev/null"
    fi
}

# Until the daemon accepts connections, which it may do for others than us.
wait_for_daemon() {
    local waited=0
    until answers || docker_refuses_us; do
        [ "$waited" -lt "$((START_TIMEOUT_S * 5))" ] || daemon_failed "Docker did not answer within $START_TIMEOUT_S s: $(engine_error)"
        if [ "$waited" -ge "$((GRACE_S * 5))" ] && ! daemon_running; then
            daemon_failed "Docker stopped right after its start: $(engine_error)"
        fi
        if [ "$((waited % 25))" = 24 ]; then
            say "waiting for Docker: $(((waited + 1) / 5)) of at most $START_TIMEOUT_S s"
        fi
        sleep 0.2
        waited=$((waited + 1))
    done
}

docker_refuses_us() { [ -S "$SOCKET" ] && ! [ -w "$SOCKET" ]; }

daemon_failed() {
    local log
    for log in "$DAEMON_LOG" /var/log/docker.log; do
        if as_root test -s "$log"; then
            say "the end of $log:"
            as_root tail -n 15 "$log" >&2
            break
        fi
    done
    die "$1"
}

if answers; then
    finish "$@"
fi
case $(basename "$docker") in
    docker) ;;
    podman)
        if ! have "$docker"; then
            have_apt || die "'$docker' is not here; please install it"
            apt_install podman
        fi
        answers || die "'$docker info' fails: $(engine_error)"
        finish "$@"
        ;;
    *) die "'$docker info' fails (DOCKER=$docker): $(engine_error)" ;;
esac
if [ -n "${DOCKER_HOST-}" ]; then
    die "nothing answers at DOCKER_HOST=$DOCKER_HOST: $(engine_error)"
fi
if ! have docker || ! { have dockerd || [ -S "$SOCKET" ]; }; then
    install_docker
fi
if ! docker_refuses_us; then
    start_daemon
    wait_for_daemon
fi
if docker_refuses_us && ! answers; then
    join_group "$@"
fi
say "Docker is ready"
finish "$@"
