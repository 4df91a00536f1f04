"""One request of the protocol from a host that has no daemon: one datagram, one answer.

Owns the socket and the wait. For a phone or a script whose tunnel is WireGuard's own affair: it
needs no root and no daemon, only the tunnel's configuration for its keys. Refuses to know how a
tunnel is brought up, and what is shown of the answer.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from anubis.approvals import APPROVAL_SECONDS, ASK_AGAIN_SECONDS
from anubis.errors import AnubisError, LocalFailure, NoAnswer
from anubis.files.tunnel import Gateway, Tunnel
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.suites import SUITES
from anubis.protocol.wire import MAX_DATAGRAM, Reply, Result, Verb
from anubis.refusal import refusal
from anubis.wireguard.errors import KeyFormatError

__all__ = ["request"]


def request(
    tunnel: Tunnel,
    gateway: Gateway,
    verb: Verb,
    *,
    timeout: float,
    lease: int | None = None,
    on_pending: Callable[[], None] = lambda: None,
) -> Reply:
    """Ask a gateway and return its answer, which is a yes; `timeout` and `lease` in seconds.

    A `down` of what is not up is a yes, too. What somebody has to approve is asked for again until
    that is done, or for two minutes; `on_pending` is called when that begins. Raises Refused,
    NoAnswer, and LocalFailure if the tunnel is not up.
    """
    outcome = _once(tunnel, gateway, verb, timeout, lease)
    if outcome.result == Result.PENDING:
        on_pending()
    until = time.monotonic() + APPROVAL_SECONDS
    while outcome.result == Result.PENDING and time.monotonic() + ASK_AGAIN_SECONDS < until:
        time.sleep(ASK_AGAIN_SECONDS)
        outcome = _once(tunnel, gateway, verb, timeout, lease)
    if outcome.granted or (verb is Verb.DOWN and outcome.result == Result.NO_CONNECTION):
        return outcome
    raise refusal(gateway.name, outcome)


def _once(tunnel: Tunnel, gateway: Gateway, verb: Verb, timeout: float, lease: int | None) -> Reply:
    """Ask once, and return the answer, whatever it is."""
    initiator = Initiator(
        keyring=Keyring(tunnel.private_key),
        peer=gateway.public_key,
        verb=verb,
        suites=tuple(SUITES),
        deadline=time.monotonic() + timeout,
        clock=time.time_ns,
        random=os.urandom,
        lease=lease,
    )
    try:
        with _socket(tunnel, gateway) as connection:
            outcome = _exchange(connection, initiator)
    except OSError as error:
        raise _no_way(gateway, error) from None
    except KeyFormatError as error:
        raise LocalFailure(f"the production key of {gateway.name}: {error}") from None
    if isinstance(outcome, NoReply):
        raise NoAnswer(
            f"{gateway.name} did not answer within {timeout:g} s ({outcome.sent} requests sent)",
            f"is the tunnel up, is {gateway.name} in reach, and does its authorized_peers have"
            " this tunnel's public key?",
        )
    return outcome


def _socket(tunnel: Tunnel, gateway: Gateway) -> socket.socket:
    """Return a socket that speaks from our control address to the gateway's, and to no other."""
    connection = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        connection.bind((str(tunnel.control), 0))
        connection.connect((str(gateway.control), SERVICE_PORT))
    except BaseException:
        connection.close()
        raise
    return connection


def _exchange(connection: socket.socket, initiator: Initiator) -> Reply | NoReply:
    """Drive the machine until it has an outcome. Raises OSError."""
    datagram: bytes | None = initiator.start(time.monotonic())
    while initiator.outcome is None:
        if datagram is not None:
            connection.send(datagram)
        connection.settimeout(max(0.001, initiator.timer - time.monotonic()))
        try:
            received = connection.recv(MAX_DATAGRAM + 1)
        except TimeoutError:
            datagram = initiator.on_timer(time.monotonic())
        except ConnectionRefusedError:
            datagram = None  # nobody listens there yet; the next repetition may be heard
        else:
            datagram = initiator.on_datagram(received, time.monotonic())
    return initiator.outcome


def _no_way(gateway: Gateway, error: OSError) -> AnubisError:
    if error.errno in (
        errno.EADDRNOTAVAIL,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EDESTADDRREQ,
        errno.ENOKEY,
    ):
        return LocalFailure(
            f"there is no way to the control plane of {gateway.name}: {error.strerror}",
            "bring the tunnel up first, in the WireGuard app or with wg-quick up",
        )
    return LocalFailure(f"cannot ask {gateway.name}: {error.strerror}")
