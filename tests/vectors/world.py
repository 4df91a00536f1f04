"""The hosts, the directory and the randomness of the vectors and of the protocol's unit tests.

Everything is derived from names, so that a run repeats itself bit by bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from anubis.addresses import control_addresses
from anubis.protocol.channel import Keyring
from anubis.protocol.tai64n import NANOSECONDS
from anubis.wireguard.keys import PrivateKey, PublicKey

T0 = 1_800_000_000 * NANOSECONDS  # 2027-01-15T08:00:00Z
HOUR = 3600 * NANOSECONDS
YEAR = 365 * 24 * HOUR


class Stream:
    """Bytes that look random: SHA-256 of the name and a counter, block after block."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._counter = 0
        self._rest = b""
        self.drawn = b""

    def __call__(self, size: int) -> bytes:
        while len(self._rest) < size:
            block = self._name + self._counter.to_bytes(8, "big")
            self._rest += hashlib.sha256(block).digest()
            self._counter += 1
        taken, self._rest = self._rest[:size], self._rest[size:]
        self.drawn += taken
        return taken

    def take_drawn(self) -> bytes:
        """Return what was drawn since the last call."""
        drawn, self.drawn = self.drawn, b""
        return drawn


class Recorded:
    """Randomness that was written down: gives these bytes and no others."""

    def __init__(self, recorded: bytes = b"") -> None:
        self.rest = recorded

    def __call__(self, size: int) -> bytes:
        if len(self.rest) < size:
            raise AssertionError(f"{size} bytes drawn where {len(self.rest)} were recorded")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


@dataclass(frozen=True)
class Host:
    """One host: its production key pair, its control public key and its control address."""

    name: str
    private: PrivateKey
    public_key: PublicKey
    control_public: PublicKey
    address: IPv6Address

    @classmethod
    def make(cls, name: str) -> Host:
        """Derive the keys of a host from its name."""
        private = PrivateKey.generate(Stream(f"{name} production"))
        control = PrivateKey.generate(Stream(f"{name} control")).public_key()
        address = control_addresses(control).routable
        return cls(name, private, private.public_key(), control, address)

    def keyring(self) -> Keyring:
        """Return a fresh keyring of this host."""
        return Keyring(self.private)


@dataclass
class People:
    """The authorized-peers file, as far as the responder looks at it."""

    hosts: list[Host] = field(default_factory=list)

    def by_control_address(self, address: IPv6Address) -> Host | None:
        """Return the host with this control address."""
        return next((host for host in self.hosts if host.address == address), None)

    def by_public_key(self, public_key: PublicKey) -> Host | None:
        """Return the host with this production key."""
        return next((host for host in self.hosts if host.public_key == public_key), None)


HOUSE = Host.make("house")  # the responder
LAPTOP = Host.make("laptop")
PHONE = Host.make("phone")
STRANGER = Host.make("stranger")  # in no file

# A point of order 8: with it every private key shares the secret of all zeros.
_LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
_BROKEN = Host.make("broken")
BROKEN = Host(
    "broken",
    _BROKEN.private,
    PublicKey(_LOW_ORDER),
    _BROKEN.control_public,
    _BROKEN.address,
)

AUTHORIZED = [LAPTOP, PHONE, BROKEN]
