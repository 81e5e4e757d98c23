#!/usr/bin/env python3
"""Records a deploy under load as docs/src/deploy.svg, by the real programs.

    cargo build --release -p mastercontrol -p mastercontrol-cli
    docs/recording/record.py target/release docs/src/deploy.svg

The load is 16 clients, each with a connection for every request; a request that gets no whole answer counts as lost.
Needs Node for examples/server.js.
"""

import html
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

PORT = 8080
CLIENTS = 16
PACE = 0.04
BODY = b"hello\n"
COLUMNS, ROWS = 88, 17
LINE, CHARACTER, MARGIN = 18, 7.8, 14
REST = 4  # How long the last picture stays.

binaries, target = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
server = pathlib.Path(__file__).resolve().parents[2] / "examples/server.js"
directory = pathlib.Path(tempfile.mkdtemp())
environment = os.environ | {
    "PATH": f"{binaries}:{os.environ['PATH']}",
    "MASTERCONTROL_DIR": str(directory / "run"),
    "NO_COLOR": "1",
}
for release in "1", "2", "3":
    (directory / "releases" / release).mkdir(parents=True)
    text = server.read_text() if release != "3" else "console.error('no database'); process.exit(1)\n"
    (directory / "releases" / release / "server.js").write_text(text)
(directory / "current").symlink_to("releases/1")

answered, lost, done = 0, 0, False
counts = threading.Lock()


def client():
    global answered, lost
    while not done:
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", PORT), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := connection.recv(4096):
                    answer += part
            is_whole = answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n" + BODY)
        except OSError:
            is_whole = False
        with counts:
            answered += is_whole
            lost += not is_whole
        time.sleep(max(0, PACE - (time.monotonic() - began)))


screen, frames = [], []  # Lines, each with its class; and what was to be seen when.
began = 0


def show(text, kind="output"):
    screen.append((text, kind))
    frame()


def frame():
    frames.append((time.monotonic() - began, list(screen[-ROWS:]), answered, lost))


def watch(seconds):
    """The load continues, and its counts are shown."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.25)
        frame()


def type_line(text):
    screen.append(("", "input"))
    for end in range(4, len(text) + 4, 4):
        screen[-1] = ("$ " + text[:end], "input")
        frame()
        time.sleep(0.05)
    watch(0.3)


def tidy(line):
    """A line that fits the picture, without its time."""
    line = re.sub(r"^\S+Z ", "", line).replace(str(directory), "~")
    return textwrap.wrap(line, COLUMNS, drop_whitespace=False)


def run(command):
    type_line(command)
    process = subprocess.Popen(command, shell=True, cwd=directory, env=environment, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None:
        time.sleep(0.1)
        frame()
    for line in process.stdout.read().splitlines():
        for part in tidy(line):
            show(part)
    watch(1.2)


began = time.monotonic()
options = ["--listen", str(PORT), "--relay", "http", "--dir", "current"]
type_line(" ".join(["supervisor exec", *options, "node server.js &"]))
with open(directory / "log", "w") as log:
    supervisor = subprocess.Popen(["supervisor", "exec", *options, "node", "server.js"],
                                  cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
try:
    subprocess.run(["admin-cli", "wait", "--ready"], env=environment, check=True, stdout=subprocess.DEVNULL)
    while "listening on" not in (written := (directory / "log").read_text()):
        time.sleep(0.01)
    listening = next(line for line in written.splitlines() if "listening on" in line)
    show(tidy(listening.split(", ")[0])[0])
    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    watch(1)
    run("ln -sfn releases/2 current && admin-cli restart    # the next version")
    run("ln -sfn releases/3 current && admin-cli restart    # a broken version")
    run("curl -s http://127.0.0.1:8080/")
    done = True
    for each in clients:
        each.join()
    run("admin-cli stop")
finally:
    supervisor.terminate()
    supervisor.wait()

length = frames[-1][0] + REST
width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), (ROWS + 3) * LINE + 2 * MARGIN


def shown(spans):
    """Steps of opacity for what is to be seen in these spans of time."""
    keys, values = [0], [0]
    for start, end in spans:
        for moment, value in (start, 1), (end, 0):
            moment = min(moment / length, 1)
            if moment == keys[-1]:
                values[-1] = value
            else:
                keys.append(moment)
                values.append(value)
    if len(values) == 1:
        return ""
    times = ";".join(f"{key:.4f}".rstrip("0").rstrip(".") or "0" for key in keys)
    states = ";".join(map(str, values))
    return (f'<animate attributeName="opacity" calcMode="discrete" dur="{length:.1f}s" repeatCount="indefinite" '
            f'keyTimes="{times}" values="{states}"/>')


# What is on the screen from when to when: each text at its place is one element.
places = {}
for index, (moment, lines, good, bad) in enumerate(frames):
    end = frames[index + 1][0] if index + 1 < len(frames) else length
    texts = [(row, text, kind) for row, (text, kind) in enumerate(lines)]
    texts.append((ROWS + 1, f"load from {CLIENTS} clients   answered {good:6,}   lost {bad}", "load" if bad == 0 else "loss"))
    for place in texts:
        spans = places.setdefault(place, [])
        if spans and abs(spans[-1][1] - moment) < 1e-9:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((moment, end))

last = frames[-1]
parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
    f"<title>A deploy under load: {last[2]:,} requests answered, {last[3]} lost</title>",
    "<style>text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#c9d1d9;white-space:pre}"
    ".input{fill:#fff;font-weight:600}.load{fill:#3fb950}.loss{fill:#f85149}</style>",
    f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
    f'<path d="M0 {MARGIN + (ROWS + 0.6) * LINE}H{width}" stroke="#30363d"/>',
]
for (row, text, kind), spans in places.items():
    if text:
        is_last = abs(spans[-1][1] - length) < 1e-9
        opacity = "" if is_last else ' opacity="0"'
        parts.append(f'<text class="{kind}" x="{MARGIN}" y="{MARGIN + (row + 1) * LINE - 4}" xml:space="preserve"{opacity}>'
                     f"{html.escape(text)}{shown(spans)}</text>")
parts.append("</svg>")
target.write_text("\n".join(parts) + "\n")
print(f"{target}: {target.stat().st_size} bytes, {length:.0f} s, {last[2]} answered, {last[3]} lost")
