"""Secrets stay where the administrator put them: a whole run is searched for them.

With debug logging, everything that the daemons do is done: up, switch, down, refusals, a failed
handshake, a crash, a stop. Then logs, files, command lines, environments, what commands printed and
the text of every object in the daemons' memory are searched for every private key, preshared key
and derived secret, in every form.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from anubis.lab.daemon import end_process
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.protocol.channel import Keyring
from anubis.protocol.wire import Header, MessageType
from anubis.wireguard.keys import PresharedKey, PrivateKey
from tests.lab.caller import Caller
from tests.lab.driven import start_driven
from tests.lab.hostile import private_key
from tests.lab.secrets import evidence, forms, search
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    DAEMONS,
    client,
    stanza_key,
)

# On SIGUSR1 the daemon writes the repr and str of every object of Anubis that is in its memory.
TELLING = """
import gc, os, signal, sys
def tell(*_):
    with open("/run/anubis/texts.new", "w") as file:
        for thing in gc.get_objects():
            if str(type(thing).__module__).partition(".")[0] == "anubis":
                try:
                    print(type(thing).__name__, repr(thing), str(thing), file=file)
                except AttributeError:  # its __init__ has not come so far yet
                    continue
    os.replace("/run/anubis/texts.new", "/run/anubis/texts")
signal.signal(signal.SIGUSR1, tell)
"""
TEXTS = "/run/anubis/texts"
# Of each, at least one must have been seen, or the search has proved nothing.
HOLDERS = {"AuthorizedPeer", "Channel", "HostFiles", "Keyring", "PresharedKey", "PrivateKey"}
PROGRAMS = {"anubis", "nft", "wireguard-go"}


@dataclass
class Processes:
    """Command line and environment of every process of a lab that lives while this looks."""

    lab: Lab
    seen: dict[tuple[str, bytes], None] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Processes:
        self._proc = self.lab.path("xena", "/proc")  # one PID namespace for all hosts
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            for process in self._proc.iterdir():
                if process.name.isdigit():
                    with suppress(OSError):
                        for name in ("cmdline", "environ"):
                            self.seen[name, (process / name).read_bytes()] = None

    def programs(self) -> set[str]:
        """Return the names of the programs that were seen."""
        words = [w for name, text in self.seen if name == "cmdline" for w in text.split(b"\0")]
        return {Path(word.decode(errors="replace")).name for word in words}


@dataclass
class Run:
    """What a whole run has left to be searched."""

    lab: Lab
    secrets: dict[str, bytes]
    processes: Processes
    printed: list[tuple[str, bytes]] = field(default_factory=list)
    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def anubis(self, host: str, *words: str) -> None:
        """Run `anubis` and keep what it printed, on whatever exit status."""
        done = self.lab.run(host, "anubis", *words)
        name = f"{host}: anubis {' '.join(words)}"
        self.printed.append((name, f"{done.stdout}{done.stderr}".encode()))

    def tell(self, host: str) -> None:
        """Have a daemon write the texts of its objects, and keep them."""
        path, process = self.lab.path(host, TEXTS), self.lab.daemon(host).process
        assert process is not None
        assert end_process(process, signal.SIGUSR1, 0.0) is False
        wait_until(path.exists, 10, "the daemon has written the texts of its objects")
        self.texts.append((f"{host} objects", path.read_bytes()))
        path.unlink()

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Yield everything that is to be searched, with its name."""
        yield from evidence(self.lab.state.path)
        for host in DAEMONS:
            for directory in ("/run", "/var/lib", "/etc/anubis"):
                for path, content in evidence_of_host(self.lab, host, directory):
                    if not path.endswith((".key", "/authorized_peers")):
                        yield f"{host} {path}", content
        yield from self.processes.seen
        yield from self.printed
        yield from self.texts


def evidence_of_host(lab: Lab, host: str, directory: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a host's own, and not the machine's, which it shows below /run/machine."""
    for path in lab.path(host, directory).iterdir():
        if path.name != "machine" and path.is_dir() and not path.is_symlink():
            yield from evidence(path)
        elif path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def secrets_of(lab: Lab, preshared: dict[str, PresharedKey]) -> dict[str, bytes]:
    """Return every secret of the daemons: their keys, and what is derived of them."""
    secrets = {name: bytes(key) for name, key in preshared.items()}
    for host in DAEMONS:
        for kind in ("production", "control"):
            key = PrivateKey.from_base64(private_key(lab, host, kind))
            secrets[f"{kind} key of {host}"] = bytes(key)
    for host, peer in (("xena", "jacinth"), ("xena", "surya")):
        keyring = Keyring(PrivateKey.from_base64(private_key(lab, host)))
        there = PrivateKey.from_base64(private_key(lab, peer)).public_key()
        channel = keyring.channel(there)
        secrets[f"static secret of {host} and {peer}"] = channel._secret
        for message in MessageType:
            header = Header(message, 1, keyring.public_key, bytes(24))
            for outgoing in (True, False):
                channel._key(header, outgoing=outgoing)
        for index, derived in channel._keys.items():
            secrets[f"key {index} of {host} and {peer}"] = derived
    return secrets


def preshare(lab: Lab) -> dict[str, PresharedKey]:
    """Give xena the same preshared key as jacinth, and another one than surya; return all."""
    words = [lab.run("xena", "wg", "genpsk").stdout.strip() for _ in range(3)]
    for host, peer, word in (
        ("xena", "jacinth", words[0]),
        ("jacinth", "xena", words[0]),
        ("xena", "surya", words[1]),
        ("surya", "xena", words[2]),
    ):
        path, name = lab.path(host, AUTHORIZED_PEERS), f"Name = {peer}\n"
        lab.run(host, "chgrp", "anubisd", AUTHORIZED_PEERS, check=True)
        path.chmod(0o640)
        text = path.read_text()
        assert name in text
        path.write_text(text.replace(name, f"{name}PresharedKey = {word}\n"))
    return {f"preshared key {n}": PresharedKey.from_base64(w) for n, w in enumerate(words)}


@pytest.fixture(scope="module")
def run(quiet_lab: Lab) -> Iterator[Run]:
    """Do everything that the daemons do, with debug logging, and keep all that it shows."""
    lab, preshared = quiet_lab, preshare(quiet_lab)
    with Processes(lab) as processes:
        for host in DAEMONS:
            start_driven(lab, host, TELLING)
        found = Run(lab, secrets_of(lab, preshared), processes)
        act(found)
        yield found


def act(run: Run) -> None:
    """Do everything."""
    lab = run.lab
    run.anubis("xena", "up", "jacinth")
    run.anubis("xena", "--json", "status")
    assert [c.state for c in client(lab, "xena").status() if c.name == "jacinth"] == ["up"]
    run.anubis("xena", "switch", "surya", "--timeout", "1s")  # its preshared key is another one
    for host in DAEMONS:
        run.tell(host)
    with Caller(lab, "xena", key_of="selen") as thief:
        assert thief.ask("up").result == "key_mismatch"
        thief.send(thief.request("up")[:-1])  # not authentic
    run.anubis("xena", "down", "jacinth")
    # Refused, with a message about the very line that holds a key.
    wrong = stanza_key(lab, "xena", "jacinth", "PresharedKey")
    lab.path("xena", "/run/wrong").write_text(f"[Peer]\nPresharedKey = {wrong[:-2]}==\n")
    lab.path("xena", "/run/wrong").chmod(0o600)
    run.anubis("xena", "check", "/run/wrong")
    lab.path("xena", "/run/wrong").unlink()
    run.anubis("xena", "up", "jacinth")
    crash(lab, "jacinth")
    start_driven(lab, "jacinth", TELLING)
    run.anubis("xena", "down", "jacinth")
    lab.daemon("surya").stop()


def crash(lab: Lab, host: str) -> None:
    """Have a daemon die of what leaves a core file, where one is left."""
    process = lab.daemon(host).process
    assert process is not None
    where = Path(f"/proc/{process}/cwd").resolve()
    before = set(where.glob("core*"))
    assert end_process(process, signal.SIGSEGV, 5.0)
    assert set(where.glob("core*")) == before


def test_no_secret_shows_itself_anywhere(run: Run) -> None:
    """Not in logs, files, command lines, environments, output, nor the text of any object."""
    places = list(run.places())
    assert search(run.secrets, places) == set()
    # What was searched is what there is to search.
    names = " ".join(name for name, _ in places)
    for place in ("xena.log", "xena /", "state.json", "cmdline", "environ", "objects"):
        assert place in names, place
    assert run.processes.programs() >= PROGRAMS
    for _, text in run.texts:
        assert {line.split(b" ", 1)[0].decode() for line in text.splitlines()} >= HOLDERS
    logs = [run.lab.daemon(host).log for host in DAEMONS]
    for word in ("DEBUG", "refused", "dropped", "up_failed"):
        assert any(f" {word} " in log for log in logs), word


def test_no_program_of_the_daemon_leaves_a_core(run: Run) -> None:
    """The daemon and the wireguard-go that it started may write none, not even into a pipe."""
    seen = set()
    for process in run.lab.path("xena", "/proc").glob("[0-9]*"):
        words = (process / "cmdline").read_bytes().split(b"\0")
        # The administrator's own tunnels are no business of ours.
        for ours in {b"wg0", b"anubis0", b"daemon"}.intersection(words):
            limits = (process / "limits").read_text().splitlines()
            (line,) = [line for line in limits if line.startswith("Max core")]
            assert line.split()[4:6] == ["1", "1"], words
            seen.add(ours)
    assert seen == {b"wg0", b"anubis0", b"daemon"}


def test_the_search_finds_what_was_planted(run: Run) -> None:
    """In a file, a log, an environment and a command line, in every form."""
    lab, name = run.lab, "production key of xena"
    planted = lab.path("xena", "/run/anubis/planted")
    log = lab.state.log("xena")
    for form, needle in forms(run.secrets[name]).items():
        for path in (planted, log):
            kept = path.read_bytes() if path.exists() else None
            path.write_bytes((kept or b"") + b"x" + needle + b"y")
            finds = {find for find in search(run.secrets, run.places()) if find.form == form}
            path.unlink() if kept is None else path.write_bytes(kept)
            assert {find.secret for find in finds} == {name}, form
    key = private_key(lab, "xena")
    before = len(run.processes.seen)
    with lab.popen("xena", "sleep", "60", env={"KEY": key}) as sleeper:
        wait_until(lambda: len(run.processes.seen) > before, 10, "it was seen")
        sleeper.kill()
    with lab.popen("xena", "sh", "-c", "sleep 60", key) as sleeper:
        wait_until(
            lambda: {"environ", "cmdline"} <= {f.place for f in search(run.secrets, run.places())},
            10,
            "both were found",
        )
        sleeper.kill()
