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

__all__ = ["MAX_WAITING", "Answer", "View", "moved", "refused", "shown"]

MAX_WAITING = 20  # names on a page, which stays small; the others come when these are approved

_HERE = files(__package__)
_STYLE = (_HERE / "page.css").read_text()
_SCRIPT = (_HERE / "page.js").read_text()


_AGAIN_SECONDS = 3


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

    `may_act` is false where the address lacks the token, or the entry lets it change nothing. It is
    `pending` while somebody else has to approve; for whom this peer has to do that is `waiting`.
    """

    gateway: str
    is_up: bool
    up_for: int | None = None
    lease: int | None = None
    received: int = 0  # bytes
    sent: int = 0  # bytes
    may_act: bool = False
    pending: bool = False
    path: str = "/"  # of the page
    waiting: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """In a word, as programs are told."""
        if self.pending:
            return "pending"
        return "up" if self.is_up else "down"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def shown(view: View, form: Form, status: int = 200) -> Answer:
    """Return the state as it was asked for; of a change that is yet to come, with status 202."""
    match form:
        case Form.PAGE:
            return _answer(status, form, _page(view))
        case Form.LINE:
            return _answer(status, form, f"{_line(view)}\n")
        case Form.JSON:
            return _answer(status, form, json.dumps(_object(view)) + "\n")


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


def _document(title: str, main: str, foot: str = "", *, again: str | None = None) -> str:
    """Return a whole page; `again` is where it is loaded from in a while, to show what is new."""
    refresh = ""
    if again is not None:
        # Not where it is: with #up behind the address, the script would ask once more one day.
        refresh = f'<meta http-equiv="refresh" content="{_AGAIN_SECONDS};url={escape(again)}">'
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1,viewport-fit=cover">'
        '<link rel="icon" href="data:,">'
        f"{refresh}"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<main>{main}</main>{foot}<script>{_SCRIPT}</script></html>\n"
    )


def _page(view: View) -> str:
    text = "waiting for approval" if view.pending else view.state
    main = f'<h1>{escape(view.gateway)}</h1><p class="state {view.state}">{text}</p>'
    if view.is_up:
        rows = "".join(f"<dt>{name}<dd>{escape(value)}" for name, value in _facts(view).items())
        main += f"<dl>{rows}</dl>"
    if not view.may_act:
        main += '<p class="hint">To change this, open the link that the administrator gave you.'
    foot = "".join(map(_plea, view.waiting))
    if view.may_act:
        verb, word = {"up": ("down", "Disconnect"), "pending": ("down", "Cancel")}.get(
            view.state, ("up", "Connect")
        )
        foot += _form(verb, word, {"do": verb})
    return _document(
        f"{view.gateway}: {text}", main, foot, again=view.path if view.pending else None
    )


def _plea(name: str) -> str:
    words = f"<p>{escape(name)} wants to connect</p>"
    return words + _form("approve", "Approve", {"do": "approve", "name": name})


def _form(kind: str, word: str, fields: Mapping[str, str]) -> str:
    inputs = "".join(
        f'<input type="hidden" name="{key}" value="{escape(value)}">'
        for key, value in fields.items()
    )
    button = f'<button class="{kind}">{word}</button>'
    return f'<form method="post" class="{kind}">{inputs}{button}</form>'


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
    if view.pending:
        line = f"{view.gateway} waits for approval"
    elif view.is_up:
        facts = ", ".join(f"{key} {value}" for key, value in _facts(view).items())
        line = f"{view.gateway} is up ({facts})"
    else:
        line = f"{view.gateway} is down"
    return "; ".join([line, *(f"{name} wants to connect" for name in view.waiting)])


def _object(view: View) -> dict[str, object]:
    return {
        "gateway": view.gateway,
        "state": view.state,
        "up_seconds": view.up_for,
        "lease_seconds_left": view.lease,
        "rx_bytes": view.received,
        "tx_bytes": view.sent,
        "waiting": list(view.waiting),
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
