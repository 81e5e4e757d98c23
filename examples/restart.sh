#!/bin/sh
# Restarts a supervisor, as a deploy of the supervisor itself would: stop, wait until all clients have disconnected,
# start, wait until it serves.
#
#   restart.sh NAME COMMAND...
#   DELAY=2 restart.sh NAME COMMAND...     not ready for new clients two seconds before it stops
#   LIMIT=300 restart.sh NAME COMMAND...   the new one may take five minutes to become ready, and not one
#   restart.sh web supervisor http /srv/www --name web --listen 8080
#
# Exit codes: 0 the new one serves; otherwise the old one could not be stopped, or the new one does not serve.
set -eu
name=${1:?usage: restart.sh NAME COMMAND...}
shift

# `stop` returns when the last client has disconnected: the port and the name are free then, and no sleep is needed.
code=0
admin-cli --name "$name" stop --grace 5 ${DELAY:+--delay "$DELAY"} || code=$?
case $code in
    0) ;;
    3) echo "restart: $name was not running" ;;
    # It has no thread left to say when it has stopped.
    7) admin-cli --name "$name" wait --gone ;;
    5 | 8) echo "restart: some clients of $name had to be closed by force" ;;
    *) echo "restart: $name was not stopped, exit code $code" >&2; exit "$code" ;;
esac

# `wait` returns as soon as it serves. Once a second this looks whether the command has ended instead.
"$@" < /dev/null &
pid=$!
left=${LIMIT:-60}
until admin-cli --name "$name" wait --ready --timeout 1 > /dev/null 2>&1; do
    left=$((left - 1))
    if [ "$left" -le 0 ]; then
        echo "restart: $name is not ready after ${LIMIT:-60} seconds; is that the name in the command (--name $name)?" >&2
        exit 1
    fi
    if ! kill -0 "$pid" 2> /dev/null; then
        echo "restart: $name does not serve" >&2
        exit 1
    fi
done
