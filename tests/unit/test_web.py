"""What a phone's page answers, and everything that it refuses to do for a browser led astray."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from anubis.web.calls import Act, Form, Look, Refusal, read_call
from anubis.web.page import MAX_WAITING, Answer, View, moved, refused, shown
from anubis.web.tokens import TOKEN_LENGTH, is_token, token
from anubis.wireguard.keys import PrivateKey

ORIGIN = "http://[fd61:6e75:6269:7300::1]:4298"
HOST = ORIGIN.removeprefix("http://")
GATEWAY, SELEN, XENA = (PrivateKey(bytes([number] * 32)) for number in (1, 2, 3))
TOKEN = token(GATEWAY, SELEN.public_key())
UP = View(
    gateway="jacinth",
    is_up=True,
    up_for=724,
    lease=28_000,
    received=1_234_567,
    sent=890,
    may_act=True,
)
DOWN = View(gateway="jacinth", is_up=False, may_act=True)
PENDING = View(gateway="jacinth", is_up=False, may_act=True, pending=True, path=f"/{TOKEN}")
ASKED = View(gateway="jacinth", is_up=False, may_act=True, waiting=("xena", "x.y-z_0"))
MANY = View(
    gateway="j" * 63,
    is_up=True,
    may_act=True,
    waiting=tuple(f"{n:063}" for n in range(MAX_WAITING)),
)
MAX_PAGE = 20_000  # bytes


def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Look | Act:
    """Read a request; underscores in the names of headers stand for dashes."""
    given = {"Host": HOST, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return read_call(method, path, CIMultiDict(given), body, ORIGIN)


class TestToken:
    def test_it_is_one_of_two_keys(self) -> None:
        """The same for ever, another for every other peer and every other gateway."""
        assert token(GATEWAY, SELEN.public_key()) == TOKEN
        assert re.fullmatch(r"[a-z2-7]{24}", TOKEN)
        assert len(TOKEN) == TOKEN_LENGTH
        others = {token(GATEWAY, XENA.public_key()), token(XENA, SELEN.public_key())}
        assert TOKEN not in others
        assert len(others) == 2

    def test_it_is_recomputed_as_documented(self) -> None:
        """By hand, from the formula in its docstring."""
        label = b"anubis web token"
        digest = hashlib.blake2s(
            bytes(SELEN.public_key()),
            digest_size=15,
            key=bytes([1] * 32),
            salt=label[:8],
            person=label[8:],
        ).digest()
        assert base64.b32encode(digest).decode().lower() == TOKEN

    @pytest.mark.parametrize("text", ["", "x", TOKEN[:-1], TOKEN + "a", TOKEN.upper(), "é" * 24])
    def test_nothing_else_is_one(self, text: str) -> None:
        """Not a part of it, and not what is no ASCII."""
        assert is_token(TOKEN, GATEWAY, SELEN.public_key())
        assert not is_token(text, GATEWAY, SELEN.public_key())


class TestCalls:
    @pytest.mark.parametrize(
        ("method", "path", "headers", "call"),
        [
            ("GET", "/", {}, Look(Form.PAGE)),
            ("HEAD", "/", {}, Look(Form.PAGE)),
            ("GET", f"/{TOKEN}", {}, Look(Form.PAGE, TOKEN)),
            ("GET", "/v1/status", {}, Look(Form.LINE)),
            ("GET", "/v1/status", {"Accept": "application/json"}, Look(Form.JSON)),
            (
                "GET",
                "/v1/status",
                {"Authorization": f"Bearer {TOKEN}"},
                Look(Form.LINE, TOKEN),
            ),
            (
                "POST",
                "/v1/approve/xena",
                {"Authorization": f"Bearer {TOKEN}"},
                Act("approve", Form.LINE, TOKEN, "xena"),
            ),
            ("POST", "/v1/up", {"Authorization": f"Bearer {TOKEN}"}, Act("up", Form.LINE, TOKEN)),
            (
                "POST",
                "/v1/down",
                {
                    "Authorization": f"bearer {TOKEN}",
                    "Accept": "Application/JSON",
                    "Origin": ORIGIN,
                },
                Act("down", Form.JSON, TOKEN),
            ),
        ],
    )
    def test_what_is_served(
        self, method: str, path: str, headers: dict[str, str], call: Look | Act
    ) -> None:
        """Each path does what docs/phone.md says."""
        assert ask(method, path, b"", **headers) == call

    @pytest.mark.parametrize("verb", ["up", "down"])
    def test_the_button(self, verb: str) -> None:
        """A form of our own page, with the token in its address."""
        call = ask("POST", f"/{TOKEN}", f"do={verb}".encode(), Origin=ORIGIN)
        assert (call.form, call.token) == (Form.PAGE, TOKEN)
        assert isinstance(call, Act)
        assert call.verb == verb

    @pytest.mark.parametrize("name", ["xena", "x.y-z_0", "0" * 63])
    def test_the_button_for_another(self, name: str) -> None:
        """The name is in the form; it needs no escape in it."""
        call = ask("POST", f"/{TOKEN}", f"do=approve&name={name}".encode(), Origin=ORIGIN)
        assert call == Act("approve", Form.PAGE, TOKEN, name)

    @pytest.mark.parametrize(
        ("status", "method", "path", "body", "headers"),
        [
            (405, "GET", "/v1/up", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (405, "HEAD", "/v1/down", b"", {}),
            (405, "PUT", "/v1/up", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (405, "OPTIONS", "/v1/up", b"", {"Origin": "http://evil.example"}),
            (404, "GET", "/favicon.ico", b"", {}),
            (404, "GET", f"/{TOKEN}/", b"", {}),
            (404, "GET", "//evil.example", b"", {}),
            (404, "POST", "/v1/status", b"", {}),
            # A page from elsewhere, with the token even.
            (403, "POST", f"/{TOKEN}", b"do=up", {"Origin": "http://evil.example"}),
            (403, "POST", f"/{TOKEN}", b"do=up", {"Origin": "null"}),
            (403, "POST", f"/{TOKEN}", b"do=up", {"Origin": f"{ORIGIN}.evil.example"}),
            (403, "POST", f"/{TOKEN}", b"do=up", {}),
            (403, "POST", "/v1/up", b"", {"Authorization": f"Bearer {TOKEN}", "Origin": "null"}),
            (403, "POST", f"/{TOKEN}", b"do=approve&name=xena", {"Origin": "http://evil.example"}),
            (403, "POST", f"/{TOKEN}", b"do=approve&name=xena", {}),
            (403, "POST", "/", b"do=approve&name=xena", {"Origin": ORIGIN}),
            (401, "POST", "/v1/approve/xena", b"", {}),
            (405, "GET", "/v1/approve/xena", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (404, "POST", "/v1/approve/", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (404, "POST", "/v1/approve/a%20b", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (404, "POST", "/v1/up/xena", b"", {"Authorization": f"Bearer {TOKEN}"}),
            (400, "POST", f"/{TOKEN}", b"do=approve", {"Origin": ORIGIN}),
            (400, "POST", f"/{TOKEN}", b"do=approve&name=", {"Origin": ORIGIN}),
            (400, "POST", f"/{TOKEN}", b"do=up&name=xena", {"Origin": ORIGIN}),
            # A page that has no token.
            (403, "POST", "/", b"do=up", {"Origin": ORIGIN}),
            (401, "POST", "/v1/up", b"", {}),
            (401, "POST", "/v1/up", b"", {"Authorization": f"Basic {TOKEN}"}),
            # A name of somebody else that leads here.
            (421, "GET", f"/{TOKEN}", b"", {"Host": "evil.example:4298"}),
            (421, "POST", f"/{TOKEN}", b"do=up", {"Origin": ORIGIN, "Host": "evil.example"}),
            (400, "POST", f"/{TOKEN}", b"", {"Origin": ORIGIN}),
            (400, "POST", f"/{TOKEN}", b"do=up&do=down", {"Origin": ORIGIN}),
            (400, "POST", "/v1/up", b"{}", {"Authorization": f"Bearer {TOKEN}"}),
        ],
    )
    def test_what_is_refused(
        self, status: int, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> None:
        """With the status that says why."""
        with pytest.raises(Refusal) as caught:
            ask(method, path, body, **headers)
        assert caught.value.status == status

    @given(
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "BREW"]),
        st.one_of(
            st.text(max_size=40),
            st.sampled_from(["/", f"/{TOKEN}", "/v1/up", "/v1/down", "/v1/approve/xena"]),
        ),
        st.one_of(
            st.binary(max_size=20), st.sampled_from([b"do=up", b"do=down", b"do=approve&name=xena"])
        ),
        st.dictionaries(
            st.sampled_from(["Host", "Origin", "Authorization", "Accept"]),
            st.one_of(st.text(max_size=40), st.sampled_from([HOST, ORIGIN, f"Bearer {TOKEN}"])),
        ),
    )
    def test_whatever_comes(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> None:
        """A call or a refusal; only a POST with a token, and from no page of others, acts."""
        try:
            call = read_call(method, path, CIMultiDict(headers), body, ORIGIN)
        except Refusal as refusal:
            assert refused(refusal, "jacinth").status == refusal.status  # noqa: PT017
            return
        assert headers["Host"] == HOST
        if isinstance(call, Act):
            assert method == "POST"
            assert call.token
            assert headers.get("Origin", ORIGIN) == ORIGIN


class _Reader(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(view: View) -> _Reader:
    """Return the page of a view."""
    return _Reader(shown(view, Form.PAGE).body.decode())


class TestPage:
    def test_it_is_small(self) -> None:
        """Under 20 kB, whatever it says."""
        assert all(
            len(shown(view, Form.PAGE).body) < MAX_PAGE for view in (UP, DOWN, PENDING, MANY)
        )

    def test_it_loads_nothing_from_anywhere(self) -> None:
        """Style and script stand in it, and no other element could fetch anything."""
        for view in (UP, DOWN, PENDING, ASKED):
            names = {name for name, _ in page(view).found}
            assert not names & {"img", "iframe", "object", "embed", "video", "audio", "base"}
            assert page(view).all("link") == [{"rel": "icon", "href": "data:,"}]
            assert page(view).all("script") == [{}]

    def test_its_policy_lets_in_its_own_style_and_script_alone(self) -> None:
        """The hashes of the policy are those of what stands in the page."""
        answer = shown(UP, Form.PAGE)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for tag in ("style", "script"):
            text = answer.body.decode().split(f"<{tag}>")[1].split(f"</{tag}>")[0]
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy

    @pytest.mark.parametrize(("view", "verb"), [(UP, "down"), (DOWN, "up")])
    def test_it_has_one_button(self, view: View, verb: str) -> None:
        """Which posts a form to the page's own address, also without JavaScript."""
        found = page(view)
        assert found.all("form") == [{"method": "post", "class": verb}]
        assert found.all("input") == [{"type": "hidden", "name": "do", "value": verb}]
        assert len(found.all("button")) == 1

    def test_while_it_waits_it_looks_again_by_itself(self) -> None:
        """Without JavaScript, at its own address, by a GET; the button takes the wish back."""
        found = page(PENDING)
        (refresh,) = [each for each in found.all("meta") if "http-equiv" in each]
        assert refresh == {"http-equiv": "refresh", "content": f"3;url=/{TOKEN}"}
        assert "waiting for approval" in found.texts
        assert found.all("form") == [{"method": "post", "class": "down"}]
        for view in (UP, DOWN, ASKED):
            assert not any("http-equiv" in each for each in page(view).all("meta"))

    def test_it_has_a_button_for_each_who_waits(self) -> None:
        """Beside its own, each with the name in words and in its form."""
        found = page(ASKED)
        forms = [each["class"] for each in found.all("form")]
        assert forms == ["approve", "approve", "up"]
        names = [each["value"] for each in found.all("input") if each["name"] == "name"]
        assert names == ["xena", "x.y-z_0"]
        assert "xena wants to connect" in found.texts
        assert found.texts.count("Approve") == 2

    def test_without_the_token_it_has_none(self) -> None:
        """And says what to do."""
        found = page(View(gateway="jacinth", is_up=False))
        assert not found.all("form")
        assert "open the link" in "".join(found.texts)

    def test_names_cannot_bring_markup(self) -> None:
        """Whatever a gateway is called."""
        name = '<script>alert("x")</script>'
        assert page(View(gateway=name, is_up=True)).all("script") == [{}]
        wrong = refused(Refusal(409, name, Form.PAGE), name, back='"><script>')
        assert _Reader(wrong.body.decode()).all("script") == [{}]

    def test_what_it_says(self) -> None:
        """Durations without seconds that nobody counts, and bytes in the units of a phone."""
        text = " ".join(page(UP).texts)
        for word in ("jacinth", "up", "up for", "12m4s", "7h46m", "1.2 MB", "890 B", "Disconnect"):
            assert word in text


class TestAnswers:
    def test_one_plain_line(self) -> None:
        """For a shell, or a notification of the phone."""
        line = shown(UP, Form.LINE).body.decode()
        assert line == (
            "jacinth is up (up for 12m4s, lease left 7h46m, received 1.2 MB, sent 890 B)\n"
        )
        assert shown(DOWN, Form.LINE).body == b"jacinth is down\n"
        pending = shown(PENDING, Form.LINE, 202)
        assert (pending.status, pending.body) == (202, b"jacinth waits for approval\n")
        asked = "jacinth is down; xena wants to connect; x.y-z_0 wants to connect\n"
        assert shown(ASKED, Form.LINE).body.decode() == asked

    def test_one_object(self) -> None:
        """For a program."""
        assert json.loads(shown(UP, Form.JSON).body) == {
            "gateway": "jacinth",
            "state": "up",
            "up_seconds": 724,
            "lease_seconds_left": 28_000,
            "rx_bytes": 1_234_567,
            "tx_bytes": 890,
            "waiting": [],
        }

    def test_an_object_of_who_waits(self) -> None:
        """And for whom."""
        assert json.loads(shown(PENDING, Form.JSON).body)["state"] == "pending"
        asked = json.loads(shown(ASKED, Form.JSON).body)
        assert (asked["state"], asked["waiting"]) == ("down", ["xena", "x.y-z_0"])

    def test_a_refusal_in_each_form(self) -> None:
        """The reason is there for a person and for a program."""
        assert refused(Refusal(403, "no"), "jacinth").body == b"no\n"
        assert json.loads(refused(Refusal(403, "no", Form.JSON), "j").body) == {"error": "no"}
        assert refused(Refusal(405, "no"), "j").headers["Allow"] == "GET, HEAD, POST"
        assert refused(Refusal(401, "no"), "j").headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "answer",
        [shown(UP, form) for form in Form]
        + [moved("/x"), *(refused(Refusal(404, "no", form), "j") for form in Form)],
    )
    def test_every_answer_is_guarded(self, answer: Answer) -> None:
        """No copy is kept, no frame shows it, nothing is guessed, nobody is told where one was."""
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] == "anubis"
