#!/bin/sh
# Restarts a supervisor, as a deploy of the supervisor itself would: stop, wait until all clients have disconnected,
# start, wait until it serves.
#
#   restart.sh NAME COMMAND...
#   DELAY=2 restart.sh NAME COMMAND...     not ready for new clients two seconds before it stops
#   restart.sh web supervisor http /srv/www --name web --listen 8080
#
# Exit codes: 0 the new one serves; otherwise the old one could not be stopped, or the new one does not serve.
set -eu
name=${1:?usage: restart.sh NAME COMMAND...}
shift

# `stop` returns when the last client has disconnected: the port and the name are free then, and no sleep is needed.
code=0
admin-cli --name "$name" stop --grace 5 --timeout 30 ${DELAY:+--delay "$DELAY"} || code=$?
case $code in
    0) ;;
    3) echo "restart: $name was not running" ;;
    5 | 8) echo "restart: some clients of $name had to be closed by force" ;;
    *) echo "restart: $name was not stopped, exit code $code" >&2; exit "$code" ;;
esac

# `wait` returns as soon as it serves. Once a second this looks whether the command has ended instead.
"$@" < /dev/null &
pid=$!
until admin-cli --name "$name" wait --ready --timeout 1 > /dev/null 2>&1; do
    if ! kill -0 "$pid" 2> /dev/null; then
        echo "restart: $name does not serve" >&2
        exit 1
    fi
done
