#!/usr/bin/env bash
# Starts what was built. Off a terminal: the daemon, in the foreground. On one: a chat, with the daemon behind it for as
# long as the chat lasts, unless one runs already.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

nanoclaw=${CARGO_TARGET_DIR:-target}/release/nanoclaw
home=$(nanoclaw_home)

"$nanoclaw" init --yes
if ! [ -t 0 ] || ! [ -t 1 ]; then
    exec "$nanoclaw" run
fi

lock=$home/data/nanoclaw.lock
if [ -e "$lock" ] && ! flock --nonblock "$lock" true; then
    say "nanoclaw runs already; opening a chat"
    exec "$nanoclaw" chat
fi

# A session of its own: Ctrl-C in the chat is not meant for the daemon.
exec 3< <(exec setsid "$nanoclaw" run 2>&1 </dev/null)
daemon=$!
stop_daemon() {
    kill -TERM "$daemon" 2>/dev/null || return 0
    say "stopping"
    # Not `wait`, which does not know the process of a substitution for long.
    tail --pid="$daemon" --sleep-interval=0.1 -f /dev/null
}
trap stop_daemon EXIT
output=
while IFS= read -r line <&3; do
    case $line in ready*) break ;; esac
    output+=$line$'\n'
    line=
done
case ${line-} in
    ready*) ;;
    *) die "nanoclaw ended before it was ready:"$'\n'"$output" ;;
esac
# The daemon keeps a log file of its own; this only keeps the pipe from filling up.
cat <&3 >/dev/null &
say "ready; the log is $home/logs/nanoclaw.log, Ctrl-D ends the chat and the daemon"
"$nanoclaw" chat
