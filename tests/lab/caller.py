"""A host of the lab that speaks the protocol by itself: honestly, with a wrong clock, or badly.

The only module of the lab tests that knows the protocol's code.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address
from typing import Self

from anubis.lab.entry import host_process
from anubis.lab.lab import Lab
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import (
    MAX_DATAGRAM,
    NONCE_SIZE,
    Header,
    MessageType,
    Reply,
    Result,
    Verb,
)
from anubis.wireguard.keys import PrivateKey, PublicKey
from tests.lab.hostile import (
    control_address,
    control_interface,
    new_tunnel,
    private_key,
    public_key,
)

__all__ = ["YEAR", "Answer", "Caller", "Tap", "inside"]

SERVICE_PORT = 4298
YEAR = 365.25 * 86400  # seconds
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_ETH_P_ALL = 3  # linux/if_ether.h
_IPV6_HEADER, _UDP_HEADER = 40, 8  # bytes
_SILENCE = 1.0  # seconds in which an answer would have come
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(lab: Lab, host: str) -> Iterator[None]:
    """Be in the network of a host with this thread; a socket that is made there stays there."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{host_process(lab.state, host)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        yield
    finally:
        _enter(outside)
        os.close(there)
        os.close(outside)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True, slots=True)
class Answer:
    """How an exchange ended: the name of the result, or "" without a reply."""

    result: str
    up: bool
    requests: tuple[bytes, ...]  # every datagram that was sent, repetitions left out


class Caller:
    """Sends from the control address of `host` to the service port of `to`.

    `key_of` tells with whose production key requests are sealed. A `patient` caller leaves its
    tunnel to WireGuard.
    """

    def __init__(
        self, lab: Lab, host: str, to: str = "jacinth", key_of: str = "", *, patient: bool = False
    ) -> None:
        self.keyring = Keyring(PrivateKey.from_base64(private_key(lab, key_of or host)))
        self.peer = PublicKey.from_base64(public_key(lab, to))
        self._address = (control_address(lab, to), SERVICE_PORT)
        self._patient = patient
        self._revive = partial(new_tunnel, lab, host, to)
        with inside(lab, host):
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, f"{control_interface(host)}\0".encode()
            )
            self.socket.bind((control_address(lab, host), 0))
        self.socket.settimeout(_SILENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(
        self,
        verb: str,
        *,
        clock: float = 0.0,
        seconds: float = 5.0,
        suite: int = 1,
        lease: int | None = None,
        reason: str = "",
    ) -> Answer:
        """Do an exchange as an honest host would whose clock is wrong by `clock` seconds.

        The far end forgets a tunnel through which nothing is up, and ours does not know.
        """
        wrong = int(clock * 1e9)
        initiator = Initiator(
            keyring=self.keyring,
            peer=self.peer,
            verb=Verb[verb.upper()],
            suites=(suite,),
            deadline=time.monotonic() + seconds,
            clock=lambda: time.time_ns() + wrong,
            random=os.urandom,
            lease=lease,
            reason=reason,
        )
        datagram: bytes | None = initiator.start(time.monotonic())
        requests: dict[bytes, None] = {}
        revive_at = time.monotonic() + _SILENCE
        while initiator.outcome is None:
            if not self._patient and time.monotonic() > revive_at:
                self._revive()
                datagram = initiator.again(time.monotonic())
                revive_at = time.monotonic() + _SILENCE
            if datagram is not None:
                requests[datagram] = None
                self.send(datagram)
            left = initiator.timer - time.monotonic()
            if select.select([self.socket], [], [], max(0.0, left))[0]:
                received = self.socket.recv(MAX_DATAGRAM + 1)
                datagram = initiator.on_datagram(received, time.monotonic())
            else:
                datagram = initiator.on_timer(time.monotonic())
        outcome = initiator.outcome
        if isinstance(outcome, NoReply):
            return Answer("", up=False, requests=tuple(requests))
        name = Result(outcome.result).name.lower()
        return Answer(name, up=bool(outcome.state), requests=tuple(requests))

    def request(self, verb: str) -> bytes:
        """Return a datagram with a genuine request, not sent."""
        initiator = Initiator(
            keyring=self.keyring, peer=self.peer, verb=Verb[verb.upper()], suites=(1,),
            deadline=1.0, clock=time.time_ns, random=os.urandom,
        )  # fmt: skip
        return initiator.start(0.0)

    def send(self, datagram: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendto(datagram, self._address)

    def send_and_open(self, datagram: bytes) -> tuple[bytes, str] | None:
        """Send bytes and wait for an answer: it and the name of its result; None for silence.

        Silence is believed when it lasts in a new tunnel.
        """
        self.send(datagram)
        try:
            received = self.socket.recv(MAX_DATAGRAM + 1)
        except TimeoutError:
            self._revive()
            self.send(datagram)
            try:
                received = self.socket.recv(MAX_DATAGRAM + 1)
            except TimeoutError:
                return None
        return received, Result(self.opened(received).result).name.lower()

    def sealed(
        self,
        body: bytes,
        *,
        kind: MessageType = MessageType.REQUEST,
        sender: PublicKey | None = None,
    ) -> bytes:
        """Seal a body with any content; `sender` is who the header says it is from."""
        header = Header(kind, 1, sender or self.keyring.public_key, os.urandom(NONCE_SIZE))
        return self.keyring.channel(self.peer).seal(header, body)

    def opened(self, datagram: bytes) -> Reply:
        """Open an answer. Raises NotAuthentic or Malformed."""
        header = Header.decode(datagram)
        return Reply.decode(self.keyring.channel(self.peer).open(header, datagram))

    def told(self, datagram: bytes) -> Reply:
        """Send bytes and return the answer, which must come."""
        answer = self.send_and_open(datagram)
        assert answer is not None
        return self.opened(answer[0])

    def answers(self) -> list[bytes]:
        """Return what has arrived and was not read."""
        found = []
        while select.select([self.socket], [], [], 0)[0]:
            found.append(self.socket.recv(MAX_DATAGRAM + 1))
        return found


class Tap:
    """Hears everything that passes a host's control interface."""

    def __init__(self, lab: Lab, host: str) -> None:
        with inside(lab, host):
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)
            )
            self._socket.bind(("anubis0", _ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def datagrams(self) -> list[tuple[str, bytes]]:
        """Return source and content of the datagrams of the protocol that have passed."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            packet = self._socket.recv(65536)
            ports = struct.unpack_from(">HH", packet, _IPV6_HEADER)
            if packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP and SERVICE_PORT in ports:
                found.append((str(IPv6Address(packet[8:24])), packet[_IPV6_HEADER + _UDP_HEADER :]))
        return found
