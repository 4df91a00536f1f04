"""The web one-shot: a phone's page and calls on the control address, while some entry allows it.

Owns who may ask by web, and what becomes of a call. Its server is there only while an entry says
`OneShot = yes`. Refuses to know how a call is written (`web.calls`) and an answer looks
(`web.page`), and how a request is carried out (`serving`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from ipaddress import IPv6Address

from anubis.daemon.log import event
from anubis.daemon.one_shot_server import OneShotServer, Request
from anubis.daemon.parts import Parts
from anubis.daemon.serving import Serving
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.wire import Result, Verb
from anubis.web.calls import Act, Form, Look, Refusal, read_call
from anubis.web.page import MAX_WAITING, Answer, View, moved, refused, shown
from anubis.web.tokens import is_token
from anubis.wireguard.keys import PrivateKey

__all__ = ["OneShot"]

_TRY_AGAIN_SECONDS = 5.0
_VERBS = {"up": Verb.UP, "down": Verb.DOWN, "approve": Verb.APPROVE}
_STATUS = {Result.CONFLICT: 409, Result.NOT_PERMITTED: 403}
_FAILED = "it failed at the gateway and was rolled back; the gateway's log says why"


class OneShot:
    """Serves the page. `name` is what this host is called there; `own` is its control key."""

    def __init__(
        self, parts: Parts, serving: Serving, address: IPv6Address, name: str, own: PrivateKey
    ) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._serving = serving
        self._address = address
        self._name = name
        self._own = own
        self._origin = f"http://[{address}]:{SERVICE_PORT}"
        self._changed = asyncio.Event()
        self._server: OneShotServer | None = None

    def wake(self, *, anew: bool = False) -> None:
        """Look again whether it is wanted; `anew`: the interface it listened on is another one."""
        if anew:
            self._close()
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._changed.set()
        pause: float | None = None
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                self._changed.clear()
                pause = self._adjust()
        finally:
            if self._server is not None:
                await self._server.shutdown()

    def _adjust(self) -> float | None:
        """Listen, or do not; return after how many seconds to try again if that failed."""
        is_wanted = any(peer.one_shot for peer in self._gatekeeper.peers)
        if not is_wanted:
            self._close()
        elif self._server is None:
            try:
                self._server = OneShotServer(
                    self._parts.control.name,
                    self._address,
                    self._answer,
                    lambda status, reason: refused(Refusal(status, reason), self._name),
                )
            except LocalFailure as error:
                event(logging.ERROR, "one_shot_failed", reason=error.message)
                return _TRY_AGAIN_SECONDS
            event(logging.INFO, "one_shot", at=self._origin)
        return None

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _answer(self, request: Request) -> Answer:
        """Answer a request, whatever it is."""
        peer = self._gatekeeper.peers.by_control_address(request.source)
        back = None
        try:
            if peer is None or not peer.one_shot:
                raise _stranger()
            call = self._read(request)
            if isinstance(call, Act) and call.form is Form.PAGE:
                back = f"/{call.token}"
            return await self._within_budget(peer, call)
        except Refusal as refusal:
            self._serving.log(
                logging.WARNING,
                "refused",
                peer.name if peer else None,
                reason=refusal.reason,
                source=request.source,
            )
            return refused(refusal, self._name, back=back)

    def _read(self, request: Request) -> Look | Act:
        return read_call(request.method, request.path, request.headers, request.body, self._origin)

    async def _within_budget(self, peer: AuthorizedPeer, call: Look | Act) -> Answer:
        if not self._serving.take(peer.name):
            raise Refusal(429, "too many requests; try again in a moment", call.form)
        try:
            if isinstance(call, Act):
                result = await self._act(peer, call)
                if call.form is Form.PAGE:
                    return moved(f"/{call.token}")
                if result is Result.PENDING:
                    return shown(await self._view(peer, call), call.form, 202)
            return shown(await self._view(peer, call), call.form)
        except AnubisError as error:
            self._serving.log(logging.ERROR, "failed", peer.name, reason=error.message)
            raise Refusal(500, _FAILED, call.form) from error
        finally:
            self._serving.release(peer.name)

    async def _act(self, peer: AuthorizedPeer, call: Act) -> Result:
        """Do what a call asks for. Raises Refusal and AnubisError."""
        if not self._is_right(peer, call.token):
            raise Refusal(403, "this is not your token", call.form)
        verb = _VERBS[call.verb]
        if self._serving.is_stopping and verb is Verb.UP:
            raise Refusal(503, "the gateway is stopping", call.form)
        async with self._serving.turn(peer.name, verb):
            self._check_current(peer, call.form)
            if verb is not Verb.APPROVE:  # that tells nothing of who is to be told of its own
                self._parts.note_bare(peer)
            return await self._carry_out(peer, verb, call.form, call.name or None)

    def _check_current(self, peer: AuthorizedPeer, form: Form) -> None:
        """Raise Refusal if the entry was removed while its turn came."""
        if self._gatekeeper.peers.by_name(peer.name) != peer:
            raise Refusal(403, "the administrator has changed this entry meanwhile", form)

    async def _carry_out(
        self, peer: AuthorizedPeer, verb: Verb, form: Form, subject: str | None = None
    ) -> Result:
        word = verb.name.lower()
        try:
            outcome = await self._serving.carry_out(peer.name, verb, subject=subject)
        except AnubisError:
            self._serving.count(word, Result.FAILED.name.lower())
            raise
        self._serving.count(word, outcome.result.name.lower())
        if outcome.result not in (Result.DONE, Result.UNCHANGED, Result.PENDING):
            raise Refusal(_STATUS.get(outcome.result, 500), outcome.reason, form)
        return outcome.result

    async def _view(self, peer: AuthorizedPeer, call: Look | Act) -> View:
        """Return what is to be seen, from the phone's side."""
        self._check_current(peer, call.form)
        await self._carry_out(peer, Verb.STATUS, call.form)
        seen = await self._serving.look(peer.name)
        now = self._parts.clock.boot()
        is_right = self._is_right(peer, call.token or "")
        waiting = self._gatekeeper.waiting(now, peer.name)[:MAX_WAITING] if is_right else ()
        if seen is None:
            pending = self._gatekeeper.approvals.is_pending(peer.name, now)
            return View(
                gateway=self._name,
                is_up=False,
                may_act=self._may(peer, call, "down" if pending else "up"),
                pending=pending,
                path=f"/{call.token}" if is_right else "/",
                waiting=waiting,
            )
        return View(
            gateway=self._name,
            is_up=True,
            waiting=waiting,
            up_for=seen.up_for,
            lease=seen.lease,
            received=seen.peer.tx_bytes if seen.peer else 0,
            sent=seen.peer.rx_bytes if seen.peer else 0,
            may_act=self._may(peer, call, "down"),
        )

    def _may(self, peer: AuthorizedPeer, call: Look | Act, verb: str) -> bool:
        return verb in peer.may and self._is_right(peer, call.token or "")

    def _is_right(self, peer: AuthorizedPeer, token: str) -> bool:
        return is_token(token, self._own, peer.control_public_key)


def _stranger() -> Refusal:
    return Refusal(403, "the administrator does not let this host ask by web")
