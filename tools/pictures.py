"""`make pictures`: the pictures in docs/, taken of the real thing in a lab of its own.

A phone's page is what Chromium shows of it; a terminal is what the commands write to one, drawn by
Chromium as well. Owns which pictures there are. Refuses to know how a browser is driven, which is
`tests.lab.browser`.
"""

from __future__ import annotations

import base64
import contextlib
import html
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from anubis.lab.entry import environment
from anubis.lab.lab import Lab
from anubis.lab.scene import scene
from tests.lab.browser import Browser, browser
from tests.lab.steps import LEAF, page_address, transaction

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS = 112
_LINE_HEIGHT, _PADDING = 20, 18  # CSS pixels
_SGR = re.compile("\x1b\\[([0-9;]*)m")
_CLEARED = "\x1b[2K"
_COLOURS = {1: "font-weight:bold", 2: "opacity:.6", 31: "color:#f48771", 32: "color:#89d185",
            33: "color:#e5c07b", 36: "color:#6fc3df"}  # fmt: skip
_STYLE = f"""
body {{ margin: 0; overflow: hidden; padding: {_PADDING}px; background: #1e1e1e; color: #d4d4d4;
  font: 14px/{_LINE_HEIGHT}px "DejaVu Sans Mono", monospace; white-space: pre }}
b {{ color: #6fc3df; font-weight: normal }}
"""


def main() -> int:
    """Take all pictures; return the exit status."""
    PICTURES.mkdir(exist_ok=True)
    lab = Lab(Path(f"/run/anubis-lab-pictures-{os.getpid()}"))
    lab.up(scene(), tethered=True)
    try:
        with browser(lab, "selen") as chromium:
            _take_terminals(lab, chromium)
            _take_phone(lab, chromium)
    finally:
        lab.down()
    return 0


def _take_phone(lab: Lab, chromium: Browser) -> None:
    """Take the page, by day and by night, before and after the tap."""
    with transaction(lab, "selen", "wg-quick up anubis", "wg-quick down anubis"):
        chromium.be_a_phone()
        chromium.open(page_address(lab, "selen"))
        chromium.await_text(">Connect<")
        chromium.set_scheme("light")
        _save(chromium, "phone-down")
        chromium.tap("button")
        chromium.await_text("Disconnect")
        lab.run("selen", "ping", "-c2", "-i0.2", LEAF[4], check=True)
        chromium.ask("Page.reload")
        chromium.await_text("Disconnect")
        chromium.set_scheme("dark")
        _save(chromium, "phone-up")
        chromium.tap("button")
        chromium.await_text(">Connect<")


def _take_terminals(lab: Lab, chromium: Browser) -> None:
    """Take what a person at the laptop sees, and the administrator of the house."""
    chromium.set_scheme("dark")
    laptop = (
        "anubis up jacinth",
        f"curl -s http://{LEAF[4]}/",
        "anubis status",
        "anubis switch surya",
        "anubis down surya",
    )
    _take_terminal(chromium, "laptop", _session(lab, "xena", laptop))
    gateway = ("anubis check", "anubis peer list", "anubis log xena")
    _take_terminal(chromium, "gateway", _session(lab, "jacinth", gateway))


def _session(lab: Lab, host: str, commands: Sequence[str]) -> str:
    """Run commands on a terminal; return the HTML of what it shows."""
    shown = []
    for command in commands:
        shown.append(f"<b>{host}$</b> {html.escape(command)}")
        lines = _on_terminal(lab.command(host, "sh", "-c", command)).replace("\r\n", "\n")
        shown += [_as_html(line.rpartition(_CLEARED)[2]) for line in lines.rstrip("\n").split("\n")]
        shown.append("")
    return "\n".join(shown[:-1])


def _on_terminal(command: Sequence[str]) -> str:
    master, slave = pty.openpty()
    variables = {**environment(), "TERM": "xterm", "COLUMNS": str(COLUMNS)}
    with os.fdopen(master, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, stdout=slave, stderr=slave, env=variables)
        os.close(slave)
        written = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other end of the terminal is closed
            while received := screen.read(4096):
                written += received
        if process.wait(30) != 0:
            raise subprocess.CalledProcessError(process.returncode, command, bytes(written))
    return written.decode()


def _as_html(line: str) -> str:
    """Return a line with its colours."""
    parts = _SGR.split(line)
    text = html.escape(parts[0])
    for codes, part in zip(parts[1::2], parts[2::2], strict=True):
        styles = [_COLOURS[int(code)] for code in codes.split(";") if code and int(code)]
        text += f'<span style="{";".join(styles)}">{html.escape(part)}</span>'
    return text


def _take_terminal(chromium: Browser, name: str, shown: str) -> None:
    document = f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><body>{shown}"
    height = (shown.count("\n") + 1) * _LINE_HEIGHT + 2 * _PADDING
    chromium.be_a_window(COLUMNS * 17 // 2 + 2 * _PADDING, height)
    encoded = base64.b64encode(document.encode()).decode()
    chromium.open(f"data:text/html;base64,{encoded}")
    chromium.await_text("$</b>")
    _save(chromium, name)


def _save(chromium: Browser, name: str) -> None:
    path = PICTURES / f"{name}.png"
    chromium.screenshot(path)
    sys.stdout.write(f"{path.relative_to(PICTURES.parents[1])}\n")


if __name__ == "__main__":
    sys.exit(main())
