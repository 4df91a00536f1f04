"""Control addresses."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from anubis.addresses import CONTROL_PREFIX, LINK_LOCAL_PREFIX, control_addresses
from anubis.wireguard.keys import PublicKey
from tests.vectors import reference
from tests.vectors.world import HOUSE, LAPTOP

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS)
def test_both_addresses_have_the_identifier_of_the_document(raw: bytes) -> None:
    """The last 8 bytes are the keyed hash of section 12, the first 8 the two prefixes."""
    derived = control_addresses(PublicKey(raw))
    identifier = reference.control_identifier(raw)
    assert derived.routable.packed == bytes.fromhex("fd616e7562697300") + identifier
    assert derived.link_local.packed == bytes.fromhex("fe80000000000000") + identifier


def test_a_known_address() -> None:
    """The derivation never changes: this key has this address."""
    derived = control_addresses(LAPTOP.control_public)
    assert derived.routable == IPv6Address("fd61:6e75:6269:7300:6d48:7749:5ff4:261d")


def test_the_prefixes() -> None:
    """The routable prefix spells the name in a unique local prefix, the other is link-local."""
    assert CONTROL_PREFIX.network_address.packed[1:8] == b"anubis\0"
    assert CONTROL_PREFIX.is_private
    assert LINK_LOCAL_PREFIX.is_link_local


def test_allowed_ips_are_the_two_addresses_and_nothing_else() -> None:
    """A control peer may use its two /128."""
    derived = control_addresses(HOUSE.control_public)
    assert derived.networks() == {
        IPv6Network(f"{derived.routable}/128"),
        IPv6Network(f"{derived.link_local}/128"),
    }


def test_every_bit_of_the_key_counts() -> None:
    """Keys that differ in one bit have different addresses, also in the bit X25519 ignores."""
    raw = bytes(HOUSE.control_public)
    seen = {control_addresses(PublicKey(raw))}
    for bit in range(256):
        other = bytearray(raw)
        other[bit // 8] ^= 1 << bit % 8
        seen.add(control_addresses(PublicKey(bytes(other))))
    assert len(seen) == 257
