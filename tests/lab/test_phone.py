"""A phone with WireGuard's own app and a browser: one tap, and nothing without its token.

selen has one tunnel with two peers, as its app would have it, up all the while; its page is on the
control plane of jacinth. What the page does is seen with `wg`, ping and curl.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.browser import HEIGHT, WIDTH, Browser, browser
from tests.lab.caller import SERVICE_PORT, inside
from tests.lab.hostile import control_address, private_key
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    client,
    edited,
    end_all,
    page,
    page_token,
    stanza_key,
    transaction,
)

MAX_PAGE = 20_000  # bytes
FINGER = 48  # CSS pixels, what a thumb hits


@dataclass(frozen=True)
class Web:
    """Asks jacinth from a host by HTTP."""

    lab: Lab
    host: str
    origin: str
    token: str

    def curl(self, *words: str, path: str = "/v1/status") -> tuple[int, str]:
        """Return the status and the body of an answer; status 0 if there was none."""
        form = ("--max-time", "10", "--write-out", "\n%{http_code}")
        done = self.lab.run(self.host, "curl", "-sg", *form, *words, f"{self.origin}{path}")
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def post(self, verb: str, *words: str, token: str | None = None) -> tuple[int, str]:
        """Call the API with a token, its own if none is given."""
        bearer = f"Authorization: Bearer {self.token if token is None else token}"
        return self.curl("-X", "POST", "-H", bearer, *words, path=f"/v1/{verb}")


@pytest.fixture(scope="module")
def selen(lab: Lab) -> Iterator[Web]:
    """Have the phone's tunnel up, as its app would."""
    origin = f"http://[{control_address(lab, 'jacinth')}]:{SERVICE_PORT}"
    with transaction(lab, "selen", "wg-quick up anubis", "wg-quick down anubis"):
        yield Web(lab, "selen", origin, page_token(lab, "selen"))
    end_all(lab)


@pytest.fixture(autouse=True)
def _is_down(selen: Web) -> Iterator[None]:
    """Have the connection down before and after each test."""
    assert not is_up(selen.lab)
    yield
    selen.post("down")
    assert not is_up(selen.lab)


@pytest.fixture(scope="module")
def chromium(lab: Lab, selen: Web) -> Iterator[Browser]:
    """Have a phone-sized browser in the phone's network."""
    with browser(lab, "selen") as found:
        yield found


def is_up(lab: Lab) -> bool:
    """Tell whether jacinth's WireGuard has the phone as a production peer."""
    key = stanza_key(lab, "jacinth", "selen")
    return key in lab.run("jacinth", "wg", "show", "wg0", "peers").stdout


def reaches_the_house(lab: Lab) -> bool:
    """Tell whether the phone reaches a host in the house."""
    return page(lab, "selen", LEAF[4]).startswith("leaf, in the house")


def test_a_script_brings_it_up_and_down(lab: Lab, selen: Web) -> None:
    """One call each, and what it answers is a line that can be shown, or JSON."""
    assert selen.curl() == (200, "jacinth is down\n")
    status, told = selen.post("up")
    assert status == 200
    assert told.startswith("jacinth is up (up for 0s, lease left ")
    assert is_up(lab)
    assert reaches_the_house(lab)
    status, told = selen.curl("-H", "Accept: application/json")
    seen = json.loads(told)
    assert (status, seen["gateway"], seen["state"]) == (200, "jacinth", "up")
    assert seen["rx_bytes"] > 0
    assert seen["lease_seconds_left"] > 3600
    assert selen.post("up")[0] == 200
    assert selen.post("down") == (200, "jacinth is down\n")
    assert not reaches_the_house(lab)
    assert selen.post("down") == (200, "jacinth is down\n")


def test_the_gateway_shows_it_like_any_other(lab: Lab, selen: Web) -> None:
    """In `anubis status`; and who ends it there cuts the phone off, which can ask again at once."""
    selen.post("up")
    assert client(lab, "jacinth").status("selen")[0].role == "responder"
    anubis(lab, "jacinth", "down", "selen")
    assert not is_up(lab)
    assert selen.post("up")[0] == 200
    assert is_up(lab)


@pytest.mark.parametrize("whose", ["its own", "the gateway's"])
def test_the_house_is_back_at_once(lab: Lab, selen: Web, whose: str) -> None:
    """Though the phone's WireGuard goes by its old session, whoever ended the connection."""
    selen.post("up")
    assert reaches_the_house(lab)
    if whose == "its own":
        selen.post("down")
    else:
        anubis(lab, "jacinth", "down", "selen")
    assert not reaches_the_house(lab)
    selen.post("up")
    assert reaches_the_house(lab)


def test_the_page_in_a_browser(lab: Lab, selen: Web, chromium: Browser, artefacts: Path) -> None:
    """One tap brings the house, another takes it away; the page fits, and so does the thumb."""
    chromium.open(f"{selen.origin}/{selen.token}")
    chromium.await_text("Connect")
    for scheme in ("light", "dark"):
        chromium.set_scheme(scheme)
        chromium.screenshot(artefacts / f"phone-down-{scheme}.png")
    assert chromium.size() == (WIDTH, HEIGHT)
    left, top, right, bottom = chromium.box("button")
    assert right - left >= WIDTH / 2
    assert bottom - top >= FINGER
    assert bottom <= HEIGHT
    chromium.tap("button")
    chromium.await_text("Disconnect")
    assert reaches_the_house(lab)
    for scheme in ("light", "dark"):
        chromium.set_scheme(scheme)
        chromium.screenshot(artefacts / f"phone-up-{scheme}.png")
    assert chromium.size() == (WIDTH, HEIGHT)
    chromium.ask("Page.reload")
    chromium.await_text("lease left")
    assert is_up(lab)
    chromium.tap("button")
    chromium.await_text(">Connect<")
    assert not is_up(lab)


def test_a_shortcut_on_the_home_screen(lab: Lab, selen: Web, chromium: Browser) -> None:
    """`#up` acts when it is opened, and stays in the address, where it can be made a shortcut of.

    Loaded again, or after its own button, the page does not act again.
    """
    address = f"{selen.origin}/{selen.token}#up"
    for _ in range(2):
        chromium.open("about:blank")
        chromium.open(address)
        chromium.await_text("Disconnect")
        assert is_up(lab)
        assert chromium.address() == address
        selen.post("down")
        chromium.ask("Page.reload")
        chromium.await_text(">Connect<")
        assert not is_up(lab)
    chromium.tap("button")
    chromium.await_text("Disconnect")
    chromium.tap("button")
    chromium.await_text(">Connect<")
    chromium.open(f"{selen.origin}/{selen.token}")
    chromium.await_text(">Connect<")
    assert not is_up(lab)


def test_the_page_without_javascript(lab: Lab, selen: Web, chromium: Browser) -> None:
    """The button is a form."""
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(f"{selen.origin}/{selen.token}")
        chromium.await_text("Connect")
        chromium.tap("button")
        chromium.await_text("Disconnect")
        assert is_up(lab)
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_a_page_from_elsewhere_in_the_phones_browser(
    lab: Lab, selen: Web, chromium: Browser
) -> None:
    """It may send the form that ours would, token and all: the browser says whose it is."""
    form = f'<form method=post action="{selen.origin}/{selen.token}"><input name=do value=up>'
    chromium.open(f"data:text/html,{form}<button>free sweets</button></form>")
    chromium.await_text("sweets")
    chromium.tap("button")
    chromium.await_text("a page from elsewhere may change nothing here")
    assert not is_up(lab)


def test_it_is_small(selen: Web) -> None:
    """In one answer, without anything that is fetched after it."""
    status, body = selen.curl("-i", path=f"/{selen.token}")
    assert status == 200
    assert len(body.encode()) < MAX_PAGE
    assert "Content-Security-Policy: default-src 'none'" in body
    assert "\nServer: anubis\n" in body


@pytest.mark.parametrize(
    ("status", "words", "path"),
    [
        (405, (), "/v1/up"),
        (405, ("-X", "PUT"), "/v1/up"),
        (401, ("-X", "POST"), "/v1/up"),
        (403, ("-X", "POST", "-H", f"Authorization: Bearer {'a' * 24}"), "/v1/up"),
        (403, ("-X", "POST", "-H", "Authorization: Bearer xena"), "/v1/up"),
        (403, ("-d", "do=up"), "/TOKEN"),
        (403, ("-d", "do=up", "-H", "Origin: http://evil.example"), "/TOKEN"),
        (403, ("-d", "do=up", "-H", "Origin: null"), "/TOKEN"),
        (403, ("-d", "do=up", "-H", "Origin: ORIGIN"), f"/{'a' * 24}"),
        (403, ("-d", "do=up", "-H", "Origin: ORIGIN"), "/"),
        (400, ("-d", "do=up&x", "-H", "Origin: ORIGIN"), "/TOKEN"),
        (421, ("-d", "do=up", "-H", "Host: evil.example", "-H", "Origin: ORIGIN"), "/TOKEN"),
        (404, (), "/../v1/up"),
        (400, ("-X", "G\x01T"), "/"),
        (400, ("-H", f"X: {'x' * 9000}"), "/"),
        (400, ("-d", "do=up" * 1000, "-H", "Origin: ORIGIN"), "/TOKEN"),
    ],
)
def test_what_is_refused(
    lab: Lab, selen: Web, status: int, words: tuple[str, ...], path: str
) -> None:
    """A GET, another origin, no token or a wrong one, and garbage: nothing changes."""
    filled = [
        word.replace("ORIGIN", selen.origin).replace(
            "Bearer xena", f"Bearer {page_token(lab, 'xena')}"
        )
        for word in words
    ]
    told, _ = selen.curl("--path-as-is", *filled, path=path.replace("TOKEN", selen.token))
    assert told == status
    assert not is_up(lab)


def test_who_may_not_ask_by_web(lab: Lab, selen: Web) -> None:
    """Xena has no `OneShot`: its own token is worth nothing, nor is the phone's."""
    anubis(lab, "xena", "up", "jacinth")  # its tunnel
    for words in (page_token(lab, "xena"), selen.token):
        told = Web(lab, "xena", selen.origin, words).post("up")
        assert told == (403, "the administrator does not let this host ask by web\n")
    assert not is_up(lab)
    anubis(lab, "xena", "down", "jacinth")


def test_nobody_speaks_from_the_address_of_another(lab: Lab, selen: Web) -> None:
    """Xena takes the phone's control address: WireGuard drops what does not come from its own."""
    anubis(lab, "xena", "up", "jacinth")
    stolen = control_address(lab, "selen")
    words = f"{stolen}/128 dev anubis0"
    with transaction(lab, "xena", f"ip addr add {words}", f"ip addr del {words}"):
        xena = Web(lab, "xena", selen.origin, selen.token)
        assert xena.post("up", "--interface", stolen, "--max-time", "2") == (0, "")
    assert not is_up(lab)
    anubis(lab, "xena", "down", "jacinth")


def test_policy_holds_by_web_too(lab: Lab, selen: Web) -> None:
    """`May = status` shows the state, without a button."""
    edit = Edit("jacinth", AUTHORIZED_PEERS, "OneShot = yes\n", "OneShot = yes\nMay = status\n")
    with edited(lab, edit):
        client(lab, "jacinth").reload()
        assert selen.post("up")[0] == 403
        status, body = selen.curl(path=f"/{selen.token}")
        assert status == 200
        assert "<button" not in body
    assert selen.post("up")[0] == 200


def test_it_is_served_again_after_whatever(lab: Lab, selen: Web) -> None:
    """A restart, a kill, and a stranger who deletes the interface."""
    daemon = lab.daemon("jacinth")
    daemon.let_go()
    daemon.start()
    wait_until(lambda: selen.post("up")[0] == 200, 10, "it serves after a restart")
    daemon.kill()
    daemon.start()
    wait_until(lambda: selen.curl()[1].startswith("jacinth is up"), 10, "it serves after a kill")
    lab.run("jacinth", "ip", "link", "del", "anubis0", check=True)
    wait_until(lambda: selen.post("down")[0] == 200, 30, "it serves on another interface")


def test_a_peer_cannot_fill_the_house(lab: Lab, selen: Web) -> None:
    """Connections that say nothing: of one peer few are kept, and it is served all the same."""
    there = (selen.origin.partition("[")[2].partition("]")[0], SERVICE_PORT)
    with ExitStack() as stack, inside(lab, "selen"):
        held = [stack.enter_context(socket.create_connection(there, 5)) for _ in range(40)]
        cut = 0
        for each in held:
            each.settimeout(0.5)
            try:
                cut += each.recv(1) == b""
            except ConnectionResetError:
                cut += 1
            except TimeoutError:
                pass
        assert cut >= len(held) - 8
        for each in held:
            each.close()
    wait_until(lambda: selen.curl()[0] == 200, 5, "it is served again")


def test_secrets_are_not_logged(lab: Lab, selen: Web) -> None:
    """Neither the token nor what was refused has it in the log."""
    selen.post("up")
    selen.curl("-d", "do=up", path=f"/{selen.token}")
    assert selen.token not in lab.daemon("jacinth").log
    assert private_key(lab, "jacinth") not in lab.daemon("jacinth").log
