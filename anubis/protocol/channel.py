"""Keys between two hosts: one static secret a pair, one key for each direction, type and suite.

Owns the key schedule of `docs/protocol.md`, section 8, and keeps what is constant. Refuses to know
what is being sealed.
"""

from __future__ import annotations

from collections import OrderedDict

from anubis.protocol.suites import SUITES
from anubis.protocol.wire import VERSION, Header
from anubis.wireguard.keys import PrivateKey, PublicKey

__all__ = ["Channel", "Keyring"]

_LABEL = b"anubis v1 direction key"


class Channel:
    """Seals to, and opens from, one other host. Costs one X25519 when made, none afterwards."""

    def __init__(self, own: PrivateKey, own_public: PublicKey, peer: PublicKey) -> None:
        """Compute the static secret. Raises KeyFormatError if the peer's key shares none."""
        self._own = own_public
        self._peer = peer
        self._secret = own.exchange(peer)
        self._keys: dict[tuple[int, int, bool], bytes] = {}

    def seal(self, header: Header, body: bytes) -> bytes:
        """Return the whole datagram: header, then the sealed body."""
        key = self._key(header, outgoing=True)
        clear = header.encode()
        return clear + SUITES[header.suite].seal(key, header.nonce, body, clear)

    def open(self, header: Header, datagram: bytes) -> bytes:
        """Return the body of a datagram from the peer. Raises NotAuthentic."""
        key = self._key(header, outgoing=False)
        clear = header.encode()
        return SUITES[header.suite].open(key, header.nonce, datagram[len(clear) :], clear)

    def _key(self, header: Header, *, outgoing: bool) -> bytes:
        index = (header.type, header.suite, outgoing)
        key = self._keys.get(index)
        if key is None:
            sender, receiver = (self._own, self._peer) if outgoing else (self._peer, self._own)
            info = _LABEL + bytes([VERSION, header.type, header.suite])
            info += bytes(sender) + bytes(receiver)
            key = self._keys[index] = SUITES[header.suite].derive(self._secret, info)
        return key

    def __repr__(self) -> str:
        return f"Channel({self._own} - {self._peer})"


class Keyring:
    """The channels of this host, made when first needed; the least recently used one goes first."""

    def __init__(self, own: PrivateKey, limit: int = 65_536) -> None:
        self.public_key = own.public_key()
        self._own = own
        self._limit = limit
        self._channels: OrderedDict[PublicKey, Channel] = OrderedDict()

    def channel(self, peer: PublicKey) -> Channel:
        """Return the channel to a peer. Raises KeyFormatError if its key shares no secret."""
        channel = self._channels.get(peer)
        if channel is None:
            channel = self._channels[peer] = Channel(self._own, self.public_key, peer)
            if len(self._channels) > self._limit:
                self._channels.popitem(last=False)
        else:
            self._channels.move_to_end(peer)
        return channel

    def forget(self, peer: PublicKey) -> None:
        """Drop the secret of a peer that is no longer authorized."""
        self._channels.pop(peer, None)
