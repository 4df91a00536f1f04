"""`PostUp` and `PreDown`: the administrator's own commands when a connection comes and goes.

Owns what they are told, in what order and how many at once they run, for how long a connection
waits for one, and which are still to be run, also by the next daemon. Refuses to know why
connections come and go (`parts`), and how a command is run (`command`).

PostUp is begun at most once for each time that a connection comes; PreDown at least once for each
time that PostUp did well, again if the daemon was killed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from anubis.daemon.command import Ended, run_command
from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.errors import ConfigError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.keyfile import check_program
from anubis.gatekeeper import Role
from anubis.wireguard.types import Endpoint

__all__ = ["HOOK_SECONDS", "Hooks", "Occasion", "Owed", "known_reason", "patience"]

HOOK_SECONDS = 10.0  # from the beginning of a hook until it is killed
TURN_SECONDS = 10.0  # for which a hook waits until others have ended
AT_ONCE = 16  # hooks that run at one time
WAITED_SECONDS = 0.5  # for which a connection that ends waits for its PreDown
STOP_SECONDS = 2.0  # for which the daemon's end waits for hooks
_SHOWN = 200  # characters of a hook's last line in an error
_SURROUNDINGS = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
UNKNOWN = "unknown"  # a reason that is none of our words
# Who is cut off is cut off at once.
_CUT_OFF = frozenset({Reason.REVOKED, Reason.NOT_PERMITTED, Reason.CHANGED})


@dataclass(frozen=True, slots=True)
class Owed:
    """What is remembered of a connection whose PreDown is to be run when it ends."""

    role: Role
    lease: int  # seconds, as it was granted


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a hook is told; the names in its environment are in docs/configuration.md."""

    peer: AuthorizedPeer
    owed: Owed
    interface: str
    endpoint: Endpoint | None
    reason: str | None = None  # of an end

    def environment(self) -> dict[str, str]:
        """Return all that is in a hook's environment.

        Nothing of it is text from the far end: its reason is one of our own words.
        """
        networks = sorted(self.peer.allowed_ips, key=lambda each: (each.version, each))
        told = {
            "ANUBIS_CONNECTION": self.peer.name,
            "ANUBIS_ROLE": self.owed.role.value,
            "ANUBIS_INTERFACE": self.interface,
            "ANUBIS_ENDPOINT": str(self.endpoint or ""),
            "ANUBIS_ALLOWED_IPS": ",".join(map(str, networks)),
            "ANUBIS_LEASE": str(self.owed.lease),
        }
        if self.reason is not None:
            told["ANUBIS_REASON"] = self.reason
        return _SURROUNDINGS | told


def known_reason(text: str) -> str:
    """Return why a connection ends as one of our own words; what a far end says may be any text."""
    return text if text in set(Reason) else UNKNOWN


def patience(reason: str) -> float:
    """Return for how many seconds a connection that ends waits for its PreDown."""
    return 0.0 if reason in _CUT_OFF else WAITED_SECONDS


class Hooks:
    """Runs hooks. `save` has written down what is owed; it does not fail."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.coming: set[str] = set()  # connections whose PostUp is due or runs
        self.owed: dict[str, Owed] = {}  # PreDowns, by connection, until they have ended
        self._save = save
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._leaving: set[str] = set()  # those of `owed` that are under way
        self._tasks: set[asyncio.Task[str | None]] = set()

    async def post_up(self, occasion: Occasion) -> None:
        """Run PostUp, if the entry has one. Raises LocalFailure if it fails."""
        peer = occasion.peer
        if peer.post_up and (why := await self._run("PostUp", peer.post_up, occasion)):
            raise LocalFailure(
                f"PostUp of {peer.name}: {why}",
                "mend it, or take the line out of the entry, then try again",
            )
        self.coming.discard(peer.name)
        if peer.post_up or peer.pre_down:
            self.owed[peer.name] = occasion.owed
            self._save()

    async def pre_down(self, occasion: Occasion, seconds: float) -> str | None:
        """Run PreDown, and wait for it for so long; it goes on beside after that.

        It is run once, whoever asks. Return why it failed, in words, if that is known by then.
        """
        name = occasion.peer.name
        if name not in self.owed or name in self._leaving:
            return None
        self._leaving.add(name)
        task = asyncio.create_task(self._pre_down(occasion))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        return task.result() if done and not task.cancelled() else None

    async def _pre_down(self, occasion: Occasion) -> str | None:
        peer, why = occasion.peer, None
        try:
            if peer.pre_down:
                why = await self._run("PreDown", peer.pre_down, occasion)
            self.owed.pop(peer.name, None)  # not if it was killed: the next daemon runs it again
        finally:
            self._leaving.discard(peer.name)
        self._save()
        return why

    async def stop(self) -> None:
        """Wait for the hooks that run beside, but not for long, and then kill them."""
        if self._tasks:
            tasks = set(self._tasks)
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: str, words: Sequence[str], occasion: Occasion) -> str | None:
        """Run a hook in the turn of its connection; return why it failed, in words."""
        name = occasion.peer.name
        why: str | None
        said = ""
        try:
            async with asyncio.timeout(TURN_SECONDS) as waiting:
                turn = self._turns.setdefault(name, asyncio.Lock())
                async with turn, self._slots:
                    waiting.reschedule(None)  # from here on the command has a time of its own
                    check_program(Path(words[0]))  # it may have changed since the file was read
                    ended = await run_command(words, occasion.environment(), HOOK_SECONDS)
                    said, why = ended.said, _failure(words[0], ended)
        except TimeoutError:
            why = f"other hooks took longer than {TURN_SECONDS:g} s, so that it was not run"
        except OSError as error:
            why = f"{words[0]} cannot be run: {error.strerror}"
        except ConfigError as error:
            why = f"not run: {error.problems[0]}"
        level = logging.INFO if why is None else logging.WARNING
        outcome = "hook" if why is None else "hook_failed"
        event(level, outcome, connection=name, hook=key, reason=why)
        if said:
            # Apart, because it is for the log alone: what a hook says may be for nobody else.
            event(logging.INFO, "hook_output", connection=name, hook=key, said=said)
        return why


def _failure(program: str, ended: Ended) -> str | None:
    """Return in words how a command failed, with its last line; None if it did not."""
    if ended.status == 0:
        return None
    if ended.status is None:
        why = f"{program} had not ended after {HOOK_SECONDS:g} s, and was killed"
    elif ended.status < 0:
        why = f"{program} was ended by signal {-ended.status}"
    else:
        why = f"{program} ended with status {ended.status}"
    last = ended.said.rpartition("\n")[2][:_SHOWN]
    shown = "".join(c if c.isprintable() else "?" for c in last)
    return f"{why}: {shown}" if shown else why
