"""The answers: the page with its button, one plain line, one JSON object. Pure.

Owns how the state looks, on a small screen, light and dark, with and without JavaScript, and the
headers that keep a browser from doing anything else with it. Refuses to know who asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from anubis.durations import format_duration
from anubis.web.calls import ALLOWED, Form, Refusal

__all__ = ["Answer", "View", "moved", "refused", "shown"]

_HERE = files(__package__)
_STYLE = (_HERE / "page.css").read_text()
_SCRIPT = (_HERE / "page.js").read_text()


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


_HEADERS = {
    "Server": "anubis",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)};"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Our own form has to say that it is ours; the token in the address goes nowhere else.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is to be seen of the connection, from the phone's side. Times are in seconds.

    `may_act` is false where the address lacks the token, or the entry lets it change nothing.
    """

    gateway: str
    is_up: bool
    up_for: int | None = None
    lease: int | None = None
    received: int = 0  # bytes
    sent: int = 0  # bytes
    may_act: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def shown(view: View, form: Form) -> Answer:
    """Return the state as it was asked for."""
    match form:
        case Form.PAGE:
            return _answer(200, form, _page(view))
        case Form.LINE:
            return _answer(200, form, f"{_line(view)}\n")
        case Form.JSON:
            return _answer(200, form, json.dumps(_object(view)) + "\n")


def moved(path: str) -> Answer:
    """Have the browser fetch the page: to load it again must not act again."""
    headers = {**_HEADERS, "Location": path}
    return Answer(303, headers, b"")


def refused(refusal: Refusal, gateway: str, *, back: str | None = None) -> Answer:
    """Return why not; `back` is where the page is."""
    more = {"Allow": ALLOWED} if refusal.status == 405 else {}
    if refusal.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    match refusal.form:
        case Form.PAGE:
            link = f'<p><a href="{escape(back)}">Back</a>' if back else ""
            reason = f'<p class="reason" role="alert">{escape(refusal.reason)}{link}'
            text = _document(gateway, f"<h1>{escape(gateway)}</h1>{reason}")
        case Form.LINE:
            text = f"{refusal.reason}\n"
        case Form.JSON:
            text = json.dumps({"error": refusal.reason}) + "\n"
    return _answer(refusal.status, refusal.form, text, more)


def _answer(status: int, form: Form, text: str, more: Mapping[str, str] | None = None) -> Answer:
    headers = {**_HEADERS, "Content-Type": f"{form.value}; charset=utf-8", **(more or {})}
    return Answer(status, headers, text.encode())


def _document(title: str, main: str, foot: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1,viewport-fit=cover">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<main>{main}</main>{foot}<script>{_SCRIPT}</script></html>\n"
    )


def _page(view: View) -> str:
    state = "up" if view.is_up else "down"
    main = f'<h1>{escape(view.gateway)}</h1><p class="state {state}">{state}</p>'
    if view.is_up:
        rows = "".join(f"<dt>{name}<dd>{escape(value)}" for name, value in _facts(view).items())
        main += f"<dl>{rows}</dl>"
    if not view.may_act:
        return _document(
            f"{view.gateway}: {state}",
            main + '<p class="hint">To change this, open the link that the administrator gave you.',
        )
    verb, text = ("down", "Disconnect") if view.is_up else ("up", "Connect")
    form = (
        f'<form method="post" class="{verb}"><input type="hidden" name="do" value="{verb}">'
        f'<button class="{verb}">{text}</button></form>'
    )
    return _document(f"{view.gateway}: {state}", main, form)


def _facts(view: View) -> dict[str, str]:
    facts = {}
    if view.up_for is not None:
        facts["up for"] = _rough(view.up_for)
    if view.lease is not None:
        facts["lease left"] = _rough(view.lease)
    facts["received"] = _size(view.received)
    facts["sent"] = _size(view.sent)
    return facts


def _line(view: View) -> str:
    if not view.is_up:
        return f"{view.gateway} is down"
    return f"{view.gateway} is up ({', '.join(f'{k} {v}' for k, v in _facts(view).items())})"


def _object(view: View) -> dict[str, object]:
    return {
        "gateway": view.gateway,
        "state": "up" if view.is_up else "down",
        "up_seconds": view.up_for,
        "lease_seconds_left": view.lease,
        "rx_bytes": view.received,
        "tx_bytes": view.sent,
    }


def _rough(seconds: int) -> str:
    """Return a duration with two units at most: nobody counts the seconds of a day."""
    unit = 60 if seconds >= 3600 else 1
    if seconds >= 86400:
        unit = 3600
    return format_duration(max(0, seconds) // unit * unit)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
