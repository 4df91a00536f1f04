"""What the tests of real tunnels do with a lab's hosts, and how they look at what came of it.

Owns the words that several of these modules share. What it sees it has from ping, curl, `ip`, `wg`
and `nft`; what Anubis says of itself is only ever compared with that.
"""

from __future__ import annotations

import difflib
import itertools
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from anubis.addresses import control_addresses
from anubis.client import Client
from anubis.errors import LocalFailure
from anubis.events import ConnectionStatus, Step
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from anubis.lab.topology import Topology
from anubis.network.plan import SERVICE_PORT
from anubis.web.tokens import token
from anubis.wireguard.keys import PrivateKey, PublicKey

__all__ = [
    "ANUBIS_CONF",
    "AUTHORIZED_PEERS",
    "DAEMONS",
    "LEAF",
    "MAKE",
    "XENA",
    "Edit",
    "Outage",
    "Ping",
    "anubis",
    "blocked",
    "changes",
    "client",
    "configured",
    "edited",
    "end_all",
    "hang_up",
    "left_over",
    "page",
    "page_address",
    "page_token",
    "seen",
    "stanza_key",
    "states",
    "transaction",
    "unwatched",
]

DAEMONS = ("jacinth", "surya", "xena")
LEAF = {4: "192.168.7.2", 6: "2001:db8:7::2"}
XENA = {4: "10.66.0.10", 6: "fd66::10"}  # in the tunnel
ANUBIS_CONF = "/etc/anubis/anubis.conf"
AUTHORIZED_PEERS = "/etc/anubis/authorized_peers"

# The daemon is not root: it can use a wireguard-go of its own user only.
MAKE = (
    "ip link add {0} type wireguard 2>/dev/null ||"
    " setpriv --reuid=anubisd --regid=anubisd --clear-groups --inh-caps=+net_admin"
    " --ambient-caps=+net_admin wireguard-go {0} 2>/dev/null"
)

_REPLY = re.compile(rb"^\[(\d+\.\d+)\] \d+ bytes from .* icmp_seq=(\d+) .* time=([\d.]+) ms$", re.M)
_REPLY_SECONDS = 10
_SETTLED_SECONDS = 2.0
_UNDONE_SECONDS = 3.0
_AFTERWARDS = 10  # replies that show that a way still serves


def anubis(
    lab: Lab, host: str, *words: str, status: int = 0, stdout: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `anubis …` on a host; its exit status, and its output if given, must be these."""
    done = lab.run(host, "anubis", *words)
    assert (done.returncode, done.stderr if status == 0 else "") == (status, ""), done
    if stdout is not None:
        assert done.stdout == stdout
    return done


def client(lab: Lab, host: str) -> Client:
    """Talk to a host's daemon as its root would, without a process for each word."""
    return Client(lab.path(host, "/run/anubis/anubis.sock"))


def seen(lab: Lab, host: str = "xena", peer: str = "jacinth") -> ConnectionStatus:
    """Return what a host's daemon says of a connection."""
    (found,) = client(lab, host).status(peer)
    return found


def page(lab: Lab, host: str, address: str) -> str:
    """Fetch a web page; empty if there is no way to it."""
    where = f"[{address}]" if ":" in address else address
    return lab.run(host, "curl", "-sS", "--max-time", "3", f"http://{where}/").stdout


def page_token(lab: Lab, host: str, gateway: str = "jacinth") -> str:
    """Return the token of a host's page, computed from the gateway's private control key."""
    text = lab.path(gateway, "/etc/anubis/control.key").read_text().strip()
    key = stanza_key(lab, gateway, host, "ControlPublicKey")
    return token(PrivateKey.from_base64(text), PublicKey.from_base64(key))


def page_address(lab: Lab, host: str, gateway: str = "jacinth") -> str:
    """Return the address of a host's page on the control plane."""
    text = lab.path(gateway, "/etc/anubis/control.key").read_text().strip()
    there = control_addresses(PrivateKey.from_base64(text).public_key()).routable
    return f"http://[{there}]:{SERVICE_PORT}/{page_token(lab, host, gateway)}"


def states(lab: Lab, *hosts: str) -> dict[str, str]:
    """Return the state of the network of these hosts, or of all that run Anubis."""
    return {host: snapshot(lab, host) for host in hosts or DAEMONS}


def changes(lab: Lab, before: dict[str, str], *hosts: str) -> list[str]:
    """Return what is different now, line by line, at these hosts or at all that are in `before`."""
    return [
        f"{host} {line}"
        for host in hosts or before
        for line in difflib.ndiff(before[host].splitlines(), snapshot(lab, host).splitlines())
        if line[0] in "+-"
    ]


def left_over(
    lab: Lab, before: dict[str, str], *hosts: str, seconds: float = _SETTLED_SECONDS
) -> list[str]:
    """Return what is different at these hosts after so long, or nothing as soon as that is so.

    A responder lets go of the control plane only when its last reply is on the way.
    """
    with suppress(LocalFailure):
        wait_until(lambda: not changes(lab, before, *hosts), seconds, "all is as before")
        return []
    return changes(lab, before, *hosts)


def end_all(lab: Lab) -> None:
    """Have every daemon running, and every connection down."""
    for host in DAEMONS:
        if lab.daemon(host).process is None:
            lab.daemon(host).start()
    for host in DAEMONS:
        for connection in client(lab, host).status():
            if connection.state == "up":
                client(lab, host).down(connection.name, 2.0)


def stanza_key(lab: Lab, host: str, peer: str, key: str = "PublicKey") -> str:
    """Return the value that a host's authorized_peers has for a key of a peer."""
    text = lab.path(host, AUTHORIZED_PEERS).read_text()
    stanza = next(part for part in text.split("[Peer]") if f"Name = {peer}\n" in part)
    found = re.search(rf"^{key} = (.*)$", stanza, re.M)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Edit:
    """In one file of a host, every `old` becomes `new`; an empty `old` stands for the end."""

    host: str
    path: str
    old: str
    new: str


def unwatched(topology: Topology) -> Topology:
    """Return a topology whose daemons leave edits alone until they are told to reload."""
    for host in topology.hosts:
        if host.daemon:
            words = ("[Production]\n", "[Authorization]\nWatch = no\n\n[Production]\n")
            topology = topology.edit(host.name, ANUBIS_CONF, *words)
    return topology


@contextmanager
def configured(lab: Lab, *edits: Edit) -> Iterator[None]:
    """Run the daemons of these hosts with edited files, and afterwards as they were."""
    files = {(edit.host, edit.path): lab.path(edit.host, edit.path) for edit in edits}
    before = {place: path.read_text() for place, path in files.items()}
    for edit in edits:
        path = files[edit.host, edit.path]
        text = path.read_text()
        assert edit.old in text, edit
        path.write_text(text.replace(edit.old, edit.new) if edit.old else text + edit.new)
    _restart(lab, files)
    try:
        yield
    finally:
        for place, text in before.items():
            files[place].write_text(text)
        _restart(lab, files)


@contextmanager
def edited(lab: Lab, *edits: Edit) -> Iterator[None]:
    """Have files of a host edited, without a word to its daemon; afterwards, reload as before."""
    paths = {(edit.host, edit.path): lab.path(edit.host, edit.path) for edit in edits}
    texts = {place: path.read_text() for place, path in paths.items()}
    for edit in edits:
        path = paths[edit.host, edit.path]
        text = path.read_text()
        assert edit.old in text, edit
        path.write_text(text.replace(edit.old, edit.new))
    try:
        yield
    finally:
        for place, text in texts.items():
            paths[place].write_text(text)
        for host in dict.fromkeys(edit.host for edit in edits):
            if lab.daemon(host).process is not None:
                client(lab, host).reload()


def _restart(lab: Lab, places: dict[tuple[str, str], Path]) -> None:
    daemons = [lab.daemon(host) for host in dict.fromkeys(host for host, _path in places)]
    for daemon in daemons:
        daemon.stop()
    for daemon in daemons:
        daemon.launch()
    for daemon in daemons:
        daemon.await_ready()


@contextmanager
def transaction(lab: Lab, host: str, do: str, undo: str) -> Iterator[None]:
    """Run shell lines on a host, and others afterwards."""
    lab.run(host, "sh", "-ec", do, check=True)
    try:
        yield
    finally:
        lab.run(host, "sh", "-ec", undo, check=True)


def blocked(lab: Lab, match: str) -> AbstractContextManager[None]:
    """Let the hotel forward no packet that matches, an nftables expression."""
    table = (
        f"table inet block {{ chain f {{ type filter hook forward priority -1; {match} drop; }}; }}"
    )
    return transaction(
        lab,
        "hotel",
        f"nft '{table}'",
        "nft delete table inet block",
    )


class _LeaveError(BaseException):
    """The caller leaves, as by Ctrl-C."""


def hang_up(lab: Lab, host: str, call: str, at: float | str) -> None:
    """Make a change, such as "jacinth/up", and leave after some seconds, or at a step.

    Returns when the daemon has done with it; a call that it never read leaves no trace to wait for.
    """
    name, verb = call.split("/")
    daemon, words = lab.daemon(host), f" call={verb} connection={name} "
    known = daemon.log.count(words)
    if isinstance(at, str):
        _leave_at_step(client(lab, host), name, verb, at)
    else:
        _leave_after(client(lab, host).path, call, at)
    with suppress(LocalFailure):
        wait_until(lambda: daemon.log.count(words) > known, _UNDONE_SECONDS, f"{call} has ended")


def _leave_at_step(there: Client, name: str, verb: str, at: str) -> None:
    def listen(heard: Step) -> None:
        if heard.step == at:
            raise _LeaveError

    with suppress(_LeaveError):
        {"up": there.up, "switch": there.switch}[verb](name, None, 10.0, listen)


def _leave_after(path: str, call: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    request = f"POST /v1/connections/{call} HTTP/1.1\r\nHost: anubis\r\nContent-Length: 0\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as caller, suppress(TimeoutError):
        caller.connect(path)
        caller.sendall(request.encode())
        while (left := deadline - time.monotonic()) > 0:
            caller.settimeout(left)
            if not caller.recv(65536):
                return


@dataclass(frozen=True)
class Outage:
    """A run of pings that nobody answered, and how long nothing passed."""

    lost: int
    seconds: float  # between the sending of the answered ones around it


class Ping:
    """A ping every few milliseconds for as long as the context is open."""

    def __init__(self, lab: Lab, host: str, address: str, interval: float = 0.01) -> None:
        self.address = address
        self._command = (lab, host, "ping", "-n", "-D", "-i", str(interval), address)

    def __enter__(self) -> Self:
        lab, host, *command = self._command
        self._output = tempfile.TemporaryFile()
        self._process = lab.popen(host, *command, stdout=self._output)  # type: ignore[arg-type]
        try:
            wait_until(lambda: bool(self.replies()), _REPLY_SECONDS, f"{self.address} answers")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        self._output.close()

    def replies(self) -> dict[int, float]:
        """Return when each answered ping was sent, in seconds, by its number."""
        text = Path(f"/proc/self/fd/{self._output.fileno()}").read_bytes()
        found = _REPLY.findall(text)
        return {int(number): float(at) - float(took) / 1000 for at, number, took in found}

    def outages(self) -> list[Outage]:
        """See that pings are answered now; return what was lost until then."""
        enough = len(self.replies()) + _AFTERWARDS
        wait_until(lambda: len(self.replies()) >= enough, _REPLY_SECONDS, f"{self.address} answers")
        sent = sorted(self.replies().items())
        return [
            Outage(after - before - 1, round(after_at - before_at, 3))
            for (before, before_at), (after, after_at) in itertools.pairwise(sent)
            if after > before + 1
        ]
