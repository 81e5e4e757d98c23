#!/usr/bin/env python3
"""Makes the pictures of the book from the real programs: python3 docs/pictures.py

It needs tmux, and `supervisor` and `admin-cli` in PATH or in target/debug. It writes docs/src/top.svg."""

import html
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

WIDTH, HEIGHT = 100, 28
FONT = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14"'
CELL, LINE = 8.43, 18
COLOURS = {31: "#e06c75", 32: "#98c379", 33: "#e5c07b", 36: "#56b6c2"}
BACK, TEXT = "#1e2127", "#dcdfe4"

here = os.path.dirname(os.path.abspath(__file__))
debug = os.path.join(here, "..", "target", "debug")
os.environ["PATH"] = debug + os.pathsep + os.environ["PATH"]


def spans(line):
    """A line as tmux prints it: each text with its column and its attributes."""
    column, style = 0, set()
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b["):
            for code in (int(code or 0) for code in part[2:-1].split(";")):
                if code == 0:
                    style = set()
                elif code == 39:
                    style = {other for other in style if other not in COLOURS}
                elif code in COLOURS:
                    style = {other for other in style if other not in COLOURS} | {code}
                else:
                    style = style | {code}
        elif part:
            yield column, part, style
            column += len(part)


def svg(screen):
    width, height = WIDTH * CELL + 20, HEIGHT * LINE + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" {FONT}>',
           f'<rect width="100%" height="100%" rx="6" fill="{BACK}"/>']
    for number, line in enumerate(screen.split("\n")[:HEIGHT]):
        y = 10 + number * LINE
        for column, text, style in spans(line):
            colour = next((COLOURS[code] for code in style if code in COLOURS), TEXT)
            x, length = 10 + column * CELL, len(text) * CELL
            if 7 in style:
                out.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{LINE}" fill="{colour}"/>')
                colour = BACK
            if text.strip():
                bold = ' font-weight="bold"' if 1 in style else ""
                dim = ' opacity="0.7"' if 2 in style else ""
                out.append(f'<text x="{x:.1f}" y="{y + 14}" fill="{colour}"{bold}{dim} textLength="{length:.1f}" '
                           f'xml:space="preserve">{html.escape(text)}</text>')
    return "\n".join(out + ["</svg>", ""])


with tempfile.TemporaryDirectory() as directory:
    os.environ.update(XDG_RUNTIME_DIR=directory, LC_ALL="C.UTF-8", TERM="xterm-256color")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["supervisor", "echo", "--name", "lobby", "--listen", str(port), "--grace", "60"]
    supervisor = subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tmux = ["tmux", "-S", os.path.join(directory, "tmux")]
    try:
        subprocess.run(["admin-cli", "--name", "lobby", "wait", "--ready", "--timeout", "10"], check=True,
                       stdout=subprocess.DEVNULL)
        start = [*tmux, "-f", "/dev/null", "new-session", "-d", "-x", str(WIDTH), "-y", str(HEIGHT)]
        subprocess.run([*start, shutil.which("admin-cli"), "--name", "lobby", "top"], check=True)
        clients = []
        for second in range(12):
            for _ in range(second % 4):
                client = socket.create_connection(("127.0.0.1", port))
                client.sendall(b"hello\n" * (1 + len(clients)))
                clients.append(client)
            if second % 5 == 4:
                clients.pop(0).close()
            time.sleep(1)
        subprocess.run([*tmux, "send-keys", "r"], check=True)
        time.sleep(0.5)
        subprocess.run([*tmux, "send-keys", "y"], check=True)
        time.sleep(8)
        shown = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
        with open(os.path.join(here, "src", "top.svg"), "w", encoding="utf-8") as file:
            file.write(svg(shown))
    finally:
        subprocess.run([*tmux, "kill-server"], stderr=subprocess.DEVNULL)
        subprocess.run(["admin-cli", "--name", "lobby", "stop", "--now"], stdout=subprocess.DEVNULL)
        supervisor.wait()
