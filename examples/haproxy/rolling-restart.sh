#!/bin/sh
# Restarts supervisors behind a load balancer one after the other, as a deploy to all of them would: each reports that
# it is not ready, stops when the load balancer sends no more new clients, and is started again.
#
#   rolling-restart.sh START NAME...
#   rolling-restart.sh ./start-web web1 web2 web3
#
# START NAME runs the supervisor of that name in the foreground. DELAY is how many seconds the load balancer may take to
# see that one is ready or is not: 2, unless the environment says otherwise.
#
# Exit codes: 0 all have been restarted; otherwise one failed and is left as it is, and those after it were not touched.
set -eu
start=${1:?usage: rolling-restart.sh START NAME...}
shift
DELAY=${DELAY:-2}
export DELAY

for name; do
    "$(dirname "$0")/../restart.sh" "$name" "$start" "$name"
    # The load balancer has to see that this one is back before the next one stops.
    sleep "$DELAY"
done
