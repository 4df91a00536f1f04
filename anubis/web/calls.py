"""What a request to the gateway's page asks for, read strictly; who asks is known already.

Owns which paths there are, and every check that stands between a browser that was led astray and a
change: only POST changes something, only with the token, only from a page of our own. Refuses to
know what is answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["ALLOWED", "MAX_BODY", "Act", "Form", "Look", "Refusal", "read_call"]

Verb = Literal["up", "down", "approve"]
_BEARER = re.compile(r"Bearer ([a-z0-9]{1,64})", re.IGNORECASE)
_NAME = "[a-z0-9][a-z0-9._-]{0,62}"  # of a connection; no letter of it is encoded in a form
_API = re.compile(rf"/v1/(?:(?P<verb>up|down)|approve/(?P<name>{_NAME}))")
_STATUS = "/v1/status"
_PAGE = re.compile(r"/(?P<token>[a-z2-7]{24})?")
_FORM = re.compile(rf"do=(?:(?P<verb>up|down)|approve&name=(?P<name>{_NAME}))")
MAX_BODY = 1024  # bytes


class Form(Enum):
    """How the answer is wanted."""

    PAGE = "text/html"
    LINE = "text/plain"
    JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Look:
    """Show the state. `token` is what the address held; it is nobody's until it is checked."""

    form: Form
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Bring the connection up or down, or approve another's, if the token is right."""

    verb: Verb
    form: Form
    token: str
    name: str = ""  # whom to approve


class Refusal(Exception):
    """The request is not one that is served: an HTTP status and the reason, for a person."""

    def __init__(self, status: int, reason: str, form: Form = Form.LINE) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.form = form


ALLOWED = "GET, HEAD, POST"


def read_call(
    method: str, path: str, headers: Mapping[str, str], body: bytes, origin: str
) -> Look | Act:
    """Return what a request asks for. Raises Refusal.

    `headers` are looked up whatever their case; `origin` is ours, such as "http://[fd61::1]:4298".
    """
    form = _form(path, headers)
    # A name that leads here by its owner's will is none of ours (DNS rebinding).
    if headers.get("Host", "") != origin.removeprefix("http://"):
        raise Refusal(421, "this is not served under that name", form)
    if method in ("GET", "HEAD"):
        return _look(path, headers, form)
    if method != "POST":
        raise Refusal(405, f"only {ALLOWED} are served", form)
    return _act(path, headers, body, origin, form)


def _form(path: str, headers: Mapping[str, str]) -> Form:
    if not path.startswith("/v1/"):
        return Form.PAGE
    wants_json = "application/json" in headers.get("Accept", "").lower()
    return Form.JSON if wants_json else Form.LINE


def _look(path: str, headers: Mapping[str, str], form: Form) -> Look:
    if _API.fullmatch(path):
        raise Refusal(405, "a GET changes nothing: use POST", form)
    if path == _STATUS:
        return Look(form, _bearer(headers))
    match = _PAGE.fullmatch(path)
    if match is None:
        raise Refusal(404, "there is nothing here", form)
    return Look(form, match["token"])


def _act(path: str, headers: Mapping[str, str], body: bytes, origin: str, form: Form) -> Act:
    from_page = headers.get("Origin")
    if from_page not in (None, origin):
        raise Refusal(403, "a page from elsewhere may change nothing here", form)
    if call := _API.fullmatch(path):
        bearer = _bearer(headers)
        if bearer is None:
            raise Refusal(401, "send your token: Authorization: Bearer TOKEN", form)
        if body:
            raise Refusal(400, "this call has no body", form)
        return Act(_verb(call), form, bearer, call["name"] or "")
    match = _PAGE.fullmatch(path)
    if match is None or path == _STATUS:
        raise Refusal(404, "there is nothing here to change", form)
    if match["token"] is None:
        raise Refusal(403, "this address lacks your token", form)
    if from_page is None:
        raise Refusal(403, "a browser says where its form comes from", form)
    wanted = _FORM.fullmatch(body.decode("ascii", errors="replace"))
    if wanted is None:
        raise Refusal(400, "this is not our form", form)
    return Act(_verb(wanted), form, match["token"], wanted["name"] or "")


def _verb(found: re.Match[str]) -> Verb:
    """Return what is wanted; whoever is named is to be approved."""
    if found["name"]:
        return "approve"
    return "up" if found["verb"] == "up" else "down"


def _bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of a script, if it sends one."""
    found = _BEARER.fullmatch(headers.get("Authorization", ""))
    return found and found[1]
