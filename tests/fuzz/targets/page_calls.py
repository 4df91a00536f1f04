"""What a phone's browser or script asks for (`anubis/web/calls.py`), and what it is answered.

Any method, path, headers and body are a look, an act with a token, or a refusal with a status of a
client's mistake. Nothing acts but a POST that was sent to our own name, from our own page or by a
script; and no answer has anything in it that a browser would take for a part of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from multidict import CIMultiDict

from anubis.web.calls import Act, Form, Look, Refusal, read_call
from anubis.web.page import Answer, refused

RUNS = 30_000
MAX_LENGTH = 1500
_HOST = "[fd61::1]:4298"
_ORIGIN = f"http://{_HOST}"
_TOKEN = "abcdefghijklmnopqrstuv22"
TOKENS = (
    b"GET / ", b"POST /", b"/v1/up\n", b"/v1/down\n", b"/v1/status\n", b"/v1/approve/xena\n",
    f"Host: {_HOST}\n".encode(), f"Origin: {_ORIGIN}\n".encode(), b"Origin: null\n",
    f"Authorization: Bearer {_TOKEN}\n".encode(), _TOKEN.encode(), b"Accept: application/json\n",
    b"\ndo=up", b"\ndo=down", b"\ndo=approve&name=xena", b"%2f", b"..", b"<b>", b"&amp;", b'"',
)  # fmt: skip


class _Elements(HTMLParser):
    """Notes the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.names.add(tag)


_OURS = {"html", "meta", "link", "title", "style", "main", "h1", "p", "a", "script"}


def run(data: bytes) -> None:
    """Read a line with method and path, lines of headers, an empty one, and the body."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, path = first.partition(" ")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    try:
        call = read_call(method, path, headers, body, _ORIGIN)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
        _check(refused(refusal, "jacinth", back=f"/{_TOKEN}"), refusal.form)
        return
    assert headers["Host"] == _HOST
    if isinstance(call, Look):
        assert method in {"GET", "HEAD"}
        return
    assert isinstance(call, Act)
    assert method == "POST"
    assert headers.get("Origin") in {None, _ORIGIN}
    assert re.fullmatch("[a-z0-9]{1,64}", call.token, re.IGNORECASE)
    assert call.token in (path if call.form is Form.PAGE else headers["Authorization"])
    assert call.form is not Form.PAGE or headers["Origin"] == _ORIGIN


def _check(answer: Answer, form: Form) -> None:
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"].startswith(form.value)
    assert all("\n" not in text and "\r" not in text for text in answer.headers.values())
    text = answer.body.decode()
    match form:
        case Form.PAGE:
            assert _Elements(text).names <= _OURS
        case Form.LINE:
            assert text.count("\n") == 1
        case Form.JSON:
            assert set(json.loads(text)) == {"error"}


def seeds() -> Iterator[bytes]:
    """Give what is served, each in one form that is right and in some that are not."""
    host, origin = f"Host: {_HOST}\n", f"Origin: {_ORIGIN}\n"
    bearer = f"Authorization: Bearer {_TOKEN}\n"
    for text in (
        f"GET /\n{host}", f"HEAD /{_TOKEN}\n{host}", f"GET /v1/status\n{host}",
        f"GET /v1/status\n{host}{bearer}Accept: application/json\n", f"GET /v1/up\n{host}",
        f"POST /v1/up\n{host}{bearer}", f"POST /v1/down\n{host}{bearer}{origin}",
        f"POST /v1/up\n{host}", f"POST /v1/up\n{host}{bearer}\nbody", f"POST /v1/up\n{bearer}",
        f"POST /v1/approve/xena\n{host}{bearer}",
        f"POST /{_TOKEN}\n{host}{origin}\ndo=up", f"POST /{_TOKEN}\n{host}{origin}\ndo=down",
        f"POST /{_TOKEN}\n{host}{origin}\ndo=approve&name=xena", f"POST /{_TOKEN}\n{host}\ndo=up",
        f"POST /{_TOKEN}\n{host}Origin: null\n\ndo=up", f"POST /\n{host}{origin}\ndo=up",
        f"POST /{_TOKEN}\n{host}{origin}\ndo=up&", f"PUT /<b>\n{host}", "GET", "", "\n\n",
        f"OPTIONS * \n{host}", f"GET /../{_TOKEN}\n{host}", f"POST /v1/status\n{host}{bearer}",
    ):  # fmt: skip
        yield text.encode()
