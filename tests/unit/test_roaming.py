"""A far end is suspected only where it should have said something."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anubis.daemon.roaming import is_deaf
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Peer

BEFORE = Peer(PublicKey(bytes([7] * 32)), rx_bytes=1000, tx_bytes=1000)


@pytest.mark.parametrize(
    ("keepalive", "sent", "received", "deaf"),
    [
        (0, 0, 0, False),  # silence
        (0, 128, 0, True),  # a ping without an answer
        (0, 128, 32, False),  # only a keepalive came back: it lives
        (0, 0, 500, False),
        (25, 32, 0, False),  # keepalives are not answered
        (5, 5 * 32, 0, False),
        (25, 148, 0, True),  # nor is this handshake
        (5, 4 * 32 + 148, 0, True),
    ],
)
def test_suspicion(keepalive: int, sent: int, received: int, *, deaf: bool) -> None:
    """In 20 s, whatever is more than keepalives is answered by a WireGuard that receives it."""
    now = replace(
        BEFORE,
        tx_bytes=BEFORE.tx_bytes + sent,
        rx_bytes=BEFORE.rx_bytes + received,
        persistent_keepalive=keepalive,
    )
    assert is_deaf(BEFORE, now, 20.0) is deaf
