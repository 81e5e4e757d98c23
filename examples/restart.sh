#!/bin/sh
# Restarts a supervisor, as a deploy would: stop, wait until everybody has left, start, check.
#
#   restart.sh NAME COMMAND...
#   DELAY=2 restart.sh NAME COMMAND...     not ready for new clients two seconds before it stops
#   restart.sh web supervisor http /srv/www --name web --listen 8080
#
# Exit codes: 0 the new one serves; else the old one could not be stopped, or the new one does not serve.
set -eu
name=${1:?usage: restart.sh NAME COMMAND...}
shift

# `stop` returns when the last client has left: the port and the name are free then, and no sleep is needed.
code=0
admin-cli --name "$name" stop --grace 5 --timeout 30 ${DELAY:+--delay "$DELAY"} || code=$?
case $code in
    0) ;;
    3) echo "restart: $name was not running" ;;
    5) echo "restart: some clients of $name had to be closed by force" ;;
    *) echo "restart: $name was not stopped, exit code $code" >&2; exit "$code" ;;
esac

# The command says `listening` on stderr once all is in place: that line is waited for, or its end.
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
mkfifo "$log/stderr"
"$@" < /dev/null 2> "$log/stderr" &
pid=$!
{
    while read -r line; do
        echo "$line"
        case $line in *" listening on "*) break ;; esac
    done
    # What it says from now on goes to where this script's own errors go.
    cat >&2 &
} < "$log/stderr"

admin-cli --name "$name" ping || { echo "restart: $name does not serve" >&2; wait "$pid"; exit 1; }
