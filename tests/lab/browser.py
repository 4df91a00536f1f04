"""A real Chromium without a screen, in the network of a lab host, by its DevTools Protocol.

Owns the browser's process and the pipes to it: no port is opened. Every wait has a deadline.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until

__all__ = ["HEIGHT", "WIDTH", "Browser", "browser"]

WIDTH, HEIGHT = 390, 844  # CSS pixels of a common phone
_SECONDS = 30.0  # for any answer; Chromium's start is the longest
# As root Chromium has no sandbox; here it sees nothing but our own page.
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-sync",
            "--remote-debugging-pipe")  # fmt: skip


class NotDone(AssertionError):
    """Chromium could not do what it was asked."""


class Browser:
    """One tab. What the protocol answers is JSON; an error of it raises NotDone."""

    def __init__(self, asking: int, answers: int) -> None:
        self._asking = asking
        self._answers = answers
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")
        self.be_a_phone()

    def be_a_phone(self) -> None:
        """Have the window of a common phone."""
        self._measure(WIDTH, HEIGHT, mobile=True)

    def be_a_window(self, width: int, height: int) -> None:
        """Have a window of this size, in CSS pixels."""
        self._measure(width, height, mobile=False)

    def _measure(self, width: int, height: int, *, mobile: bool) -> None:
        size = {"width": width, "height": height, "mobile": mobile, "deviceScaleFactor": 2}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol, and return what it answers."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._asking, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while True:
            heard = self._hear(deadline)
            if heard.get("id") == number:
                if "error" in heard:
                    raise NotDone(heard["error"])
                result: dict[str, Any] = heard["result"]
                return result

    def _hear(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, "Chromium does not answer"
            if select.select([self._answers], [], [], left)[0]:
                got = os.read(self._answers, 1 << 16)
                assert got, "Chromium has ended"
                self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def open(self, url: str) -> None:
        """Go to a page. Raises AssertionError if it cannot be reached."""
        went = self.ask("Page.navigate", url=url)
        assert "errorText" not in went, went

    def html(self) -> str:
        """Return the page's body, whether scripts may run or not; empty between two pages."""
        with suppress(NotDone):
            root = self.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
            body = self.ask("DOM.querySelector", nodeId=root, selector="body")["nodeId"]
            if body:
                html: str = self.ask("DOM.getOuterHTML", nodeId=body)["outerHTML"]
                return html
        return ""

    def await_text(self, wanted: str) -> None:
        """Wait until the page has this in it."""
        wait_until(lambda: wanted in self.html(), 15, f"the page has {wanted!r}")

    def tap(self, selector: str) -> None:
        """Touch the middle of an element, as a finger does."""
        left, top, right, bottom = self.box(selector)
        point = {"x": (left + right) / 2, "y": (top + bottom) / 2}
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return the left, top, right and bottom of an element, in CSS pixels."""
        root = self.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"the page has no {selector}"
        border = self.ask("DOM.getBoxModel", nodeId=node)["model"]["border"]
        return min(border[::2]), min(border[1::2]), max(border[::2]), max(border[1::2])

    def size(self) -> tuple[float, float]:
        """Return the width and height of the content, in CSS pixels."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return size["width"], size["height"]

    def address(self) -> str:
        """Return the address of the page, as the bar shows it."""
        history = self.ask("Page.getNavigationHistory")
        address: str = history["entries"][history["currentIndex"]]["url"]
        return address

    def set_scheme(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=wanted)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextmanager
def browser(lab: Lab, host: str) -> Iterator[Browser]:
    """Run a browser in a host of the lab."""
    asked, asking = os.pipe()
    answers, answered = os.pipe()
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as errors:
        chromium = f'exec chromium "$@" 3<&{asked} 4>&{answered}'
        words = (*_OPTIONS, f"--user-data-dir={home}", "about:blank")
        process = subprocess.Popen(
            lab.command(host, "env", f"HOME={home}", "bash", "-c", chromium, "-", *words),
            pass_fds=(asked, answered),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
        os.close(asked)
        os.close(answered)
        try:
            yield Browser(asking, answers)
        finally:
            os.close(asking)  # which it takes as the order to leave
            os.close(answers)
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
