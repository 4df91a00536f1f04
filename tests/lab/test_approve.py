"""A connection that somebody else has to approve: at the gateway, from a laptop, with a phone.

At jacinth the laptop xena has to be approved by the phone selen, and selen by xena. What is up is
seen with `wg` and curl.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.lab.slowness import stretched
from tests.lab.browser import HEIGHT, WIDTH, browser
from tests.lab.caller import SERVICE_PORT
from tests.lab.driven import start_driven
from tests.lab.hostile import control_address
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    client,
    edited,
    end_all,
    left_over,
    page,
    page_token,
    stanza_key,
    states,
    transaction,
)
from tests.lab.test_phone import FINGER, Web

IN_THE_HOUSE = "leaf, in the house"
APPROVED_SECONDS = 10.0  # two between askings, and an `up`
WORDS = ("--config", "/etc/wireguard/anubis.conf")
LUNA = f"""
[Peer]
Name = luna
PublicKey = {"A" * 42}Y=
AllowedIPs = 10.66.0.99/32
Enabled = no
"""
IMPATIENT = "import anubis.approvals; anubis.approvals.APPROVAL_SECONDS = 3.0\n"


def approver(peer: str, name: str) -> Edit:
    """Return the edit by which somebody has to approve a peer at jacinth."""
    line = f"Name = {peer}\n"
    return Edit("jacinth", AUTHORIZED_PEERS, line, f"{line}Approve = {name}\n")


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, str]:
    """Return the state of the laptop and the other gateway, while nothing is up."""
    return states(lab, "xena", "surya")


@pytest.fixture(scope="module")
def selen(lab: Lab, before: dict[str, str]) -> Iterator[Web]:
    """Have the phone's tunnel up, and each of the two in need of the other's approval."""
    origin = f"http://[{control_address(lab, 'jacinth')}]:{SERVICE_PORT}"
    tunnel = transaction(lab, "selen", "wg-quick up anubis", "wg-quick down anubis")
    with edited(lab, approver("xena", "selen"), approver("selen", "xena")), tunnel:
        client(lab, "jacinth").reload()
        yield Web(lab, "selen", origin, page_token(lab, "selen"))
    end_all(lab)


@pytest.fixture(autouse=True)
def _all_is_down(lab: Lab, selen: Web, before: dict[str, str]) -> Iterator[None]:
    """Have nothing up and nobody waiting, before and after each test."""
    yield
    selen.post("down")
    end_all(lab)
    assert waiting(lab) == []
    assert not is_up(lab, "xena")
    assert not is_up(lab, "selen")
    assert left_over(lab, before) == []


def is_up(lab: Lab, peer: str) -> bool:
    """Tell whether jacinth's WireGuard has the peer on its production interface."""
    key = stanza_key(lab, "jacinth", peer)
    return key in lab.run("jacinth", "wg", "show", "wg0", "peers").stdout


def waiting(lab: Lab) -> list[str]:
    """Return who waits at jacinth."""
    return list(client(lab, "jacinth").approve().waiting)


@contextmanager
def asking(lab: Lab, *words: str, host: str = "xena") -> Iterator[subprocess.Popen[str]]:
    """Run a command that has to wait, as soon as jacinth knows of it; interrupt it in the end."""
    process = lab.popen(host, "anubis", *words)
    try:
        name = "xena" if host == "xena" else "selen"
        wait_until(lambda: waiting(lab) == [name], 5, f"{name} waits")
        assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=stretched(10))


def await_up(process: subprocess.Popen[str]) -> None:
    """See that the laptop is told that it is up."""
    output, errors = process.communicate(timeout=stretched(APPROVED_SECONDS))
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("jacinth is up (")


def test_at_the_gateway(lab: Lab) -> None:
    """Who waits is told there, and is up two seconds after the word; nothing is up before it."""
    anubis(lab, "jacinth", "approve", stdout="nobody waits for approval\n")
    with asking(lab, "up", "jacinth") as process:
        assert not is_up(lab, "xena")
        assert page(lab, "xena", LEAF[4]) == ""
        anubis(lab, "jacinth", "approve", stdout="xena\n")
        anubis(lab, "jacinth", "approve", "xena", stdout="xena is approved\n")
        await_up(process)
    assert page(lab, "xena", LEAF[4]).startswith(IN_THE_HOUSE)
    assert waiting(lab) == []


def test_an_approval_is_for_once(lab: Lab) -> None:
    """What is up is renewed without another; after a `down` it takes one again."""
    with asking(lab, "up", "jacinth") as process:
        anubis(lab, "jacinth", "approve", "xena")
        await_up(process)
    assert anubis(lab, "xena", "up", "jacinth").stdout.startswith("jacinth was up already")
    anubis(lab, "xena", "down", "jacinth")
    with asking(lab, "up", "jacinth"):
        assert not is_up(lab, "xena")


def test_by_the_approvers_page(lab: Lab, selen: Web) -> None:
    """It has a button for each who waits, which is a form that nobody else can send."""
    with asking(lab, "up", "jacinth") as process:
        status, shown = selen.curl(path=f"/{selen.token}")
        assert (status, "xena wants to connect" in shown) == (200, True)
        assert "xena" not in selen.curl(path="/")[1]
        form = ("-d", "do=approve&name=xena")
        assert selen.curl(*form, path=f"/{selen.token}")[0] == 403
        ours = ("-H", f"Origin: {selen.origin}")
        assert selen.curl(*form, *ours, path=f"/{'a' * 24}")[0] == 403
        assert selen.curl(path="/v1/approve/xena")[0] == 405
        assert waiting(lab) == ["xena"]
        assert selen.curl(*form, *ours, path=f"/{selen.token}")[0] == 303
        await_up(process)
    assert "xena" not in selen.curl(path=f"/{selen.token}")[1]


def test_by_the_approvers_script(lab: Lab, selen: Web) -> None:
    """One call tells who waits, another approves; without the token neither does."""
    bearer = ("-H", f"Authorization: Bearer {selen.token}")
    with asking(lab, "up", "jacinth") as process:
        assert selen.curl()[1] == "jacinth is down\n"
        assert selen.curl(*bearer)[1] == "jacinth is down; xena wants to connect\n"
        assert selen.post("approve/xena", token="a" * 24)[0] == 403
        assert selen.post("approve/xena") == (200, "jacinth is down\n")
        await_up(process)
    assert selen.post("approve/xena")[0] == 200  # it is as was asked for
    assert selen.post("approve/selen")[0] == 403


def test_a_phone_that_waits_for_a_laptop(lab: Lab, selen: Web) -> None:
    """Its page says so and looks again by itself; the gateway brings it up with the approval."""
    ours = ("-H", f"Origin: {selen.origin}")
    assert selen.curl("-d", "do=up", *ours, path=f"/{selen.token}")[0] == 303
    shown = selen.curl(path=f"/{selen.token}")[1]
    assert re.search(r'<p class="state pending">waiting for approval</p>', shown)
    assert '<meta http-equiv="refresh"' in shown
    assert selen.post("up") == (202, "jacinth waits for approval\n")
    assert not is_up(lab, "selen")
    anubis(lab, "xena", "approve", "--at", "jacinth", stdout="selen\n")
    done = lab.run("xena", "anubis", "approve", "--at", "jacinth", "surya")
    assert done.returncode == 1
    assert "nobody of that name waits for your approval" in done.stderr
    anubis(lab, "xena", "approve", "--at", "jacinth", "selen", stdout="selen is approved\n")
    wait_until(lambda: is_up(lab, "selen"), 5, "the phone is up")
    assert page(lab, "selen", LEAF[4]).startswith(IN_THE_HOUSE)
    assert '<meta http-equiv="refresh"' not in selen.curl(path=f"/{selen.token}")[1]


def test_the_pages_in_a_browser(lab: Lab, selen: Web, artefacts: Path) -> None:
    """Without JavaScript: a tap asks, and the page itself shows when it is up; a tap approves."""
    with browser(lab, "selen") as chromium:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
        chromium.open(f"{selen.origin}/{selen.token}")
        chromium.await_text(">Connect<")
        chromium.tap("form.up button")
        chromium.await_text("waiting for approval")
        chromium.screenshot(artefacts / "phone-waiting-light.png")
        assert chromium.size() == (WIDTH, HEIGHT)
        client(lab, "jacinth").approve("selen")
        chromium.await_text("Disconnect")
        assert is_up(lab, "selen")
        with asking(lab, "up", "jacinth") as process:
            chromium.open(f"{selen.origin}/{selen.token}")
            chromium.await_text("xena wants to connect")
            for scheme in ("light", "dark"):
                chromium.set_scheme(scheme)
                chromium.screenshot(artefacts / f"phone-asked-{scheme}.png")
            assert chromium.size() == (WIDTH, HEIGHT)
            left, top, right, bottom = chromium.box("form.approve button")
            assert min(right - left, bottom - top) >= FINGER
            chromium.tap("form.approve button")
            await_up(process)


def test_a_phone_may_change_its_mind(lab: Lab, selen: Web) -> None:
    """What it asked for is taken back, and nobody can approve it any more."""
    assert selen.post("up")[0] == 202
    assert selen.post("down")[0] == 200
    done = lab.run("jacinth", "anubis", "approve", "selen")
    assert (done.returncode, is_up(lab, "selen")) == (4, False)
    assert "selen does not wait for an approval" in done.stderr


def test_a_host_without_a_daemon(lab: Lab) -> None:
    """`anubis request up` waits as `anubis up` does."""
    with asking(lab, "request", "up", "jacinth", *WORDS, host="selen") as process:
        told = json.loads(
            anubis(lab, "xena", "approve", "--at", "jacinth", "selen", "--json").stdout
        )
        assert told == {"approved": "selen", "waiting": []}
        output, errors = process.communicate(timeout=stretched(APPROVED_SECONDS))
    assert (process.returncode, errors) == (0, "jacinth: waiting for approval\n")
    assert output.startswith("jacinth ")
    assert is_up(lab, "selen")


def test_who_is_not_the_approver(lab: Lab, selen: Web) -> None:
    """Sees nobody, and approves nobody, with a token of its own and all."""
    luna = Edit("jacinth", AUTHORIZED_PEERS, "Approve = selen\n", "Approve = luna\n")
    more = Edit(
        "jacinth", AUTHORIZED_PEERS, "[Peer]\nName = selen", f"{LUNA}\n[Peer]\nName = selen"
    )
    with edited(lab, luna, more):
        client(lab, "jacinth").reload()
        with asking(lab, "up", "jacinth") as process:
            assert "xena" not in selen.curl(path=f"/{selen.token}")[1]
            bearer = ("-H", f"Authorization: Bearer {selen.token}")
            assert selen.curl(*bearer)[1] == "jacinth is down\n"
            told = selen.post("approve/xena")
            assert told == (403, "nobody of that name waits for your approval\n")
            assert told == selen.post("approve/nobody")
            assert waiting(lab) == ["xena"]
            assert process.poll() is None


def test_whoever_leaves_waits_no_more(lab: Lab) -> None:
    """Ctrl-C undoes all: the gateway is told."""
    with asking(lab, "up", "jacinth"):
        pass
    wait_until(lambda: waiting(lab) == [], 3, "nobody waits")
    done = lab.run("jacinth", "anubis", "approve", "xena")
    assert done.returncode == 4


def test_nobody_approves_in_time(lab: Lab, selen: Web) -> None:
    """The laptop is told so when its patience is at its end, here shorter than two minutes."""
    start_driven(lab, "xena", IMPATIENT, debug=False)
    try:
        done = lab.run("xena", "anubis", "up", "jacinth")
        assert done.returncode == 1
        assert "jacinth refused (pending): waiting for approval" in done.stderr
        assert waiting(lab) == []
    finally:
        lab.daemon("xena").stop()
        lab.daemon("xena").start()
