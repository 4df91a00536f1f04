"""`make demo`: a laptop in a hotel reaches its house, changes the gateway, and leaves no trace.

Every sentence of the story is checked; the first that is not true ends it with an exit status
other than 0. Owns the story; refuses to know how the lab works.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import ndiff
from itertools import groupby
from pathlib import Path

from anubis.cli.output import GREEN, explain, paint, prepare, say
from anubis.errors import AnubisError
from anubis.lab.capture import Capture, capture
from anubis.lab.daemon import DaemonFailed
from anubis.lab.entry import ROUTER, environment
from anubis.lab.lab import Lab
from anubis.lab.observe import sections, snapshot
from anubis.lab.scene import scene

__all__ = ["main"]

_BOLD, _DIM, _RED, _YELLOW = 1, 2, 31, 33  # of ECMA-48, select graphic rendition
_LEAF = {4: "192.168.7.2", 6: "[2001:db8:7::2]"}
_XENA = {4: "10.66.0.10", 6: "fd66::10"}
_PAGE = "leaf, in the house"
_CURL_SECONDS = 3
_BEARER = re.compile(
    r"IP (10\.9\.8\.10|203\.0\.113\.1)\.(4296|4297) > (10\.9\.8\.10|203\.0\.113\.1)\.(4296|4297): "
    r"UDP, length (\d+)"
)
_MESSAGES = {148: "handshake initiation", 92: "handshake response", 32: "keepalive"}
_SHOWN_PACKETS = 8
_THINGS = {"rules": "rule show", "routes": "route show", "peer": "allowed-ips"}
_DRAWING = """\
                      internet
       .1 |             .2 |              .9 |
       jacinth ═══════ surya                hotel   NAT, firewall
          | house                            |
        leaf   web server                  xena     laptop, runs Anubis
"""


class NotAsTold(AnubisError):
    """The story says one thing and the network another."""

    exit_status = 1


def main() -> int:
    """Tell the story in a lab of its own; return the exit status."""
    prepare()
    started = time.monotonic()
    try:
        with _lab() as lab:
            _tell(lab)
    except DaemonFailed as failure:
        sys.stderr.write("".join(f"  {line}\n" for line in failure.log))
        explain(failure)
        return failure.exit_status
    except AnubisError as error:
        explain(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    say(f"\nAll as told, in {time.monotonic() - started:.1f} s. The lab is gone.")
    return 0


@contextmanager
def _lab() -> Iterator[Lab]:
    lab = Lab(Path(f"/run/anubis-lab-demo-{os.getpid()}"))
    lab.up(scene(), tethered=True)
    try:
        yield lab
    finally:
        lab.down()


def _tell(lab: Lab) -> None:
    say(_DRAWING)
    hosts = [host.name for host in lab.status().hosts]
    before = {host: snapshot(lab, host) for host in hosts}
    _chapter("1  From the hotel, the house is out of reach")
    _demand_unreachable(lab)

    _chapter("2  xena asks jacinth for a tunnel")
    with capture(lab, "hotel") as hotel, capture(lab, "house") as house:
        _run_anubis(lab, "up", "jacinth")
        _demand_page(lab)
    _demand_ttl(lab, 63, "one router on the way back: jacinth")

    _chapter("3  What changed at both ends")
    names = _names_of_keys(lab)
    for host in ("xena", "jacinth"):
        _show_difference(host, before[host], snapshot(lab, host), names)
    _true(snapshot(lab, "surya") == before["surya"], "surya is as before")

    _chapter("4  What the hotel saw")
    _demand_sealed(hotel, house)

    _chapter("5  xena moves over to surya, and nothing stops")
    _run_anubis(lab, "switch", "surya")
    _demand_page(lab)
    _demand_ttl(lab, 62, "two routers on the way back: jacinth, surya")

    _chapter("6  xena leaves")
    _run_anubis(lab, "down", "surya")
    _demand_unreachable(lab)
    for host, text in before.items():
        _demand_equal(host, text, snapshot(lab, host))
    _told(f"{', '.join(hosts)}: rules, routes, nftables, WireGuard as before, byte for byte")


def _chapter(title: str) -> None:
    say("\n" + paint(title, _BOLD))


def _true(fact: bool, sentence: str) -> None:
    if not fact:
        raise NotAsTold(f"not as told: {sentence}")
    _told(sentence)


def _told(sentence: str) -> None:
    say(f"  {paint('✓', GREEN)} {sentence}")


def _command(host: str, line: str) -> None:
    say(f"  {paint(host + '$', _YELLOW)} {line}")


def _run_anubis(lab: Lab, *arguments: str) -> None:
    """Run `anubis` on xena, with this terminal as its own."""
    line = " ".join(("anubis", *arguments))
    _command("xena", line)
    status = subprocess.run(
        lab.command("xena", "anubis", *arguments), env=environment(), check=False
    ).returncode
    _true(status == 0, f"{line}: exit status {status}")


def _demand_page(lab: Lab) -> None:
    for family, address in _LEAF.items():
        answer = _curl(lab, address)
        _true(
            answer.stdout == f"{_PAGE}\nyou are {_XENA[family]}\n",
            f"IPv{family}: the web server in the house answers, and sees {_XENA[family]}",
        )


def _demand_unreachable(lab: Lab) -> None:
    for family, address in _LEAF.items():
        answer = _curl(lab, address)
        _true(answer.returncode in (7, 28), f"IPv{family}: no way there")


def _curl(lab: Lab, address: str) -> subprocess.CompletedProcess[str]:
    url = f"http://{address}/"
    _command("xena", f"curl {url}")
    answer = lab.run("xena", "curl", "-sS", "--max-time", str(_CURL_SECONDS), url)
    for line in (answer.stdout + answer.stderr).splitlines():
        say("    " + paint(line, _DIM))
    return answer


def _demand_ttl(lab: Lab, expected: int, sentence: str) -> None:
    line = ("ping", "-n", "-c1", "-W2", _LEAF[4])
    _command("xena", " ".join(line))
    answer = lab.run("xena", *line).stdout
    found = re.search(r"ttl=(\d+)", answer)
    ttl = int(found.group(1)) if found else 0
    _true(ttl == expected, f"ttl {ttl}: {sentence}")


def _names_of_keys(lab: Lab) -> dict[str, str]:
    names = {}
    for host in ("jacinth", "surya", "xena"):
        for line in lab.run(host, "wg", "show", "all", "public-key").stdout.splitlines():
            interface, key = line.split()
            names[key] = f"<{host} {interface}>"
    return names


def _show_difference(host: str, before: str, after: str, names: dict[str, str]) -> None:
    """Show what was added to the host's rules, routes and peers, first in numbers."""
    old, new = sections(before), sections(after)
    counts = []
    shown = []
    for thing, pattern in _THINGS.items():
        commands = [command for command in new if re.search(pattern, command)]
        changes = {command: _changes(old[command], new[command]) for command in commands}
        counts.append(f"{sum(map(len, changes.values()))} {thing}")
        shown += [(command, line) for command, lines in changes.items() for line in lines]
    _true(
        all(line.startswith("+") for _, line in shown) and not any(n[0] == "0" for n in counts),
        f"{host} has {', '.join(counts)} more",
    )
    for command, lines in groupby(shown, lambda each: each[0]):
        _command(host, command)
        for _, line in lines:
            say("    " + paint(_with_names(line, names), GREEN))


def _with_names(line: str, names: dict[str, str]) -> str:
    return " ".join(names.get(word, word) for word in line.split(" "))


def _changes(old: list[str], new: list[str]) -> list[str]:
    return [line for line in ndiff(old, new) if line.startswith(("+", "-"))]


def _demand_equal(host: str, before: str, after: str) -> None:
    if before != after:
        for line in _changes(before.splitlines(), after.splitlines()):
            say("    " + paint(line, _RED))
        raise NotAsTold(f"not as told: {host} is not as before")


def _demand_sealed(hotel: Capture, house: Capture) -> None:
    _command(ROUTER, "tcpdump -nqt -i hotel")
    matches = [_BEARER.fullmatch(line) for line in hotel.lines]
    for line, match in list(zip(hotel.lines, matches, strict=True))[:_SHOWN_PACKETS]:
        kind = _MESSAGES.get(int(match.group(5)), "sealed") if match else "?"
        say("    " + paint(f"{line:<62} {kind}", _DIM))
    if len(matches) > _SHOWN_PACKETS:
        say("    " + paint(f"and {len(matches) - _SHOWN_PACKETS} more", _DIM))
    ports = {port for match in matches if match for port in match.group(2, 4)}
    _true(
        bool(matches) and all(matches) and ports == {"4296", "4297"},
        f"{len(matches)} packets, all of them UDP with 203.0.113.1, ports 4296 and 4297",
    )
    secret = _PAGE.encode()
    _true(
        secret in house.content and secret not in hotel.content,
        "the page passed in clear in the house, and never in the hotel",
    )


if __name__ == "__main__":
    sys.exit(main())
