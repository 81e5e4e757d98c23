#!/bin/sh
# Runs the real programs in a terminal of their own and writes what they show to screens.md:
#
#   PATH=target/release:$PATH sh docs/screens.sh
#
# Needs script(1) of util-linux, curl and Python 3, for clients that stay.
set -eu
for program in supervisor admin-cli script curl python3; do
    command -v "$program" > /dev/null || { echo "$program is not in PATH" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export XDG_RUNTIME_DIR="$work" MASTERCONTROL_DIR="$work/mastercontrol"
trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$work"' EXIT
cd "$work"
mkdir www && echo hello > www/index.html

# What a terminal shows of a command, and of what is typed: each line that was written over becomes a line of its own.
screen() {
    { sleep 0.5; printf '%s' "${2-}"; } | script -qec "stty cols 120; $1" /dev/null |
        tr -d '\000' | sed -e 's/\x1b\[?7[lh]//g' -e 's/\r\x1b\[K/\n/g' -e 's/\r//g' |
        sed -e '/^$/d' -e "s|$work|/run/user/1000|g" -e 's|[^ ]*/python3 |python3 |'
}

# A heading, a command, and what is typed if it asks.
show() {
    printf '\n## %s\n\n```console\n$ %s\n' "$1" "$2"
    screen "$2 || true" "${3-}"
    printf '```\n'
}

said() {
    sed -e '/^Script/d' -e 's/\r//' -e '/^$/d' -e "s|$work|/run/user/1000|g" log
}

wait_for() {
    until grep -q "$1" log; do sleep 0.05; done
}

# So many clients that hear that the server goes away, and stay all the same.
stay() {
    python3 -c "
import socket, sys, time
clients = [socket.create_connection(('127.0.0.1', 9999)) for _ in range($1)]
for number, client in enumerate(clients):
    client.sendall(b'hello\n'); client.recv(100)
print('there', flush=True)
for client in clients[1:]:
    client.recv(100); client.close()
time.sleep($2)
" > clients &
    until grep -q there clients; do sleep 0.05; done
}

{
    echo '# Screens'
    echo
    echo 'What the programs show in a terminal, as `docs/screens.sh` has captured it. Lines that are written over in place'
    echo '(`clients still connected`) are shown one below the other.'
    touch log
    script -qefc 'supervisor echo --grace 5 --name echo' log > /dev/null < /dev/null &
    wait_for listening
    printf '\n## A start\n\n```console\n$ supervisor echo --grace 5 --name echo\n'
    said
    printf '```\n'
    stay 4 4
    show 'What it is doing' 'admin-cli status'
    show 'The same in a line' 'admin-cli status --short'
    show 'Who is connected' 'admin-cli connections'
    show 'A restart, with a client that stays' 'admin-cli restart --grace 1.5'
    show 'What has happened' 'admin-cli events'
    stay 3 2.5
    show 'A stop: all but one leave when they are told' 'admin-cli stop'
    printf '\n## What the log said meanwhile\n\n```text\n'
    said
    printf '```\n'
    python3 -m http.server 8888 > /dev/null 2>&1 &
    until curl -s http://127.0.0.1:8888/ > /dev/null; do sleep 0.05; done
    show 'Who holds a port' 'admin-cli port 8888'
    show 'A port is freed' 'admin-cli free 8888' 'y
'
} > "$here/screens.md"
