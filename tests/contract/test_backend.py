"""What every backend guarantees, and the fake with them.

`Subject.observe` compares what a real backend reads with what wg(8) reads.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from anubis.wireguard.errors import (
    BackendError,
    BackendUnavailable,
    DeviceExists,
    DeviceNotFound,
)
from anubis.wireguard.fake import FakeBackend
from anubis.wireguard.kernel import KernelBackend
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, IPNetwork, Peer, PeerChange
from tests.contract.conftest import BACKENDS, NO_KERNEL_WIREGUARD, Subject, by_key
from tests.namespaces import Namespace
from tests.wgdump import wg_show_dump

_random = random.Random(2)
OURS = PrivateKey.generate(_random.randbytes)
SECRET = PresharedKey(_random.randbytes(32))
NO_SECRET = PresharedKey(bytes(32))
JACINTH, SURYA, XENA = (PrivateKey.generate(_random.randbytes).public_key() for _ in range(3))
V4_ENDPOINT = Endpoint(ip_address("192.0.2.1"), 4296)
V6_ENDPOINT = Endpoint(ip_address("2001:db8::1"), 4296)
FULL = PeerChange(
    JACINTH,
    preshared_key=SECRET,
    endpoint=V4_ENDPOINT,
    persistent_keepalive=25,
    allowed_ips=frozenset({ip_network("10.0.0.0/24"), ip_network("fd00::/64")}),
)


def networks(*texts: str) -> frozenset[IPNetwork]:
    """Write AllowedIPs down shortly."""
    return frozenset(ip_network(text) for text in texts)


def run(*command: str, stdin: str = "") -> str:
    """Run a command where this thread is."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


async def configured(subject: Subject, *peers: PeerChange, **device: object) -> Device:
    """Apply a change to wg0, which is made if need be, and observe."""
    try:
        await subject.backend.device("wg0")
    except DeviceNotFound:
        await subject.backend.create("wg0")
        # Until it has a port, wireguard-go chooses one at a moment of its own.
        await subject.backend.configure("wg0", DeviceChange(listen_port=4296))
    await subject.backend.configure("wg0", DeviceChange(peers=peers, **device))  # type: ignore[arg-type]
    return await subject.observe()


async def test_a_new_interface_is_down_and_empty(subject: Subject) -> None:
    """`create` makes an interface without a key, mark or peers, that is not up."""
    await subject.backend.create("wg0")
    device = await subject.backend.device("wg0")
    assert (device.name, device.public_key, device.fwmark, device.peers) == ("wg0", None, 0, ())
    if subject.is_real:
        (link,) = json.loads(run("ip", "-json", "link", "show", "wg0"))
        assert "UP" not in link["flags"]


async def test_a_taken_name_is_refused(subject: Subject) -> None:
    """`create` of a name that exists raises DeviceExists and leaves what is there alone."""
    before = await configured(subject, FULL, listen_port=4296)
    with pytest.raises(DeviceExists, match="wg0"):
        await subject.backend.create("wg0")
    assert await subject.observe() == before


async def test_what_is_not_there_is_not_found(subject: Subject) -> None:
    """Every operation but `create` raises DeviceNotFound for a missing interface, and names it."""
    with pytest.raises(DeviceNotFound, match="wg7"):
        await subject.backend.device("wg7")
    with pytest.raises(DeviceNotFound, match="wg7"):
        await subject.backend.configure("wg7", DeviceChange(listen_port=4296))
    with pytest.raises(DeviceNotFound, match="wg7"):
        await subject.backend.configure("wg7", DeviceChange(peers=(FULL,)))
    with pytest.raises(DeviceNotFound, match="wg7"):
        await subject.backend.delete("wg7")


@pytest.mark.parametrize("name", ["", "..", "a/b", "sixteen-letters!", "wg 0", "wg%d", "wg\0"])
async def test_a_name_that_is_none_is_refused(subject: Subject, name: str) -> None:
    """No operation lets a text through that cannot name an interface."""
    for operation in (subject.backend.create, subject.backend.device, subject.backend.delete):
        with pytest.raises(BackendError) as caught:
            await operation(name)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(BackendError) as caught:
        await subject.backend.configure(name, DeviceChange())
    assert caught.value.errno == errno.EINVAL


async def test_key_port_and_mark_are_set(subject: Subject) -> None:
    """The interface's own settings are taken over, and read back without the private key."""
    device = await configured(subject, private_key=OURS, listen_port=4296, fwmark=0xCAFE)
    assert device == Device("wg0", OURS.public_key(), 4296, 0xCAFE, ())
    if subject.is_real:
        assert wg_show_dump("wg0").private_key == OURS.base64()


async def test_what_a_change_does_not_name_stays(subject: Subject) -> None:
    """None means "as it is", for the interface and for a peer."""
    before = await configured(subject, FULL, private_key=OURS, listen_port=4296, fwmark=7)
    assert await configured(subject) == before
    assert await configured(subject, PeerChange(JACINTH)) == before
    marked = await configured(subject, fwmark=8)
    assert marked == replace(before, fwmark=8)
    moved = await configured(subject, PeerChange(JACINTH, endpoint=V6_ENDPOINT))
    assert moved.peer(JACINTH) == Peer(JACINTH, V6_ENDPOINT, FULL.allowed_ips or frozenset(), 25)
    if subject.is_real:
        assert wg_show_dump("wg0").preshared_keys == {JACINTH: SECRET.base64()}


async def test_key_and_mark_are_taken_away(subject: Subject) -> None:
    """Zero is "none" for the mark, and 32 zero bytes are for the private key."""
    await configured(subject, private_key=OURS, listen_port=4296, fwmark=7)
    device = await configured(subject, private_key=PrivateKey(bytes(32)), fwmark=0)
    assert device == Device("wg0", None, 4296, 0, ())


async def test_a_peer_is_added_whole(subject: Subject) -> None:
    """All settings of a peer are taken over, and it has had no handshake."""
    device = await configured(subject, FULL)
    assert device.peers == (Peer(JACINTH, V4_ENDPOINT, FULL.allowed_ips or frozenset(), 25),)


async def test_an_endpoint_may_be_ipv6(subject: Subject) -> None:
    """An IPv6 endpoint is taken over as it is."""
    device = await configured(subject, replace(FULL, endpoint=V6_ENDPOINT))
    assert [peer.endpoint for peer in device.peers] == [V6_ENDPOINT]


async def test_applying_twice_is_applying_once(subject: Subject) -> None:
    """A change is declarative."""
    once = await configured(subject, FULL, private_key=OURS, listen_port=4296)
    assert await configured(subject, FULL, private_key=OURS, listen_port=4296) == once


async def test_allowed_ips_are_replaced(subject: Subject) -> None:
    """A set replaces the AllowedIPs, the empty one takes all away; the rest of the peer stays."""
    await configured(subject, FULL)
    other = networks("0.0.0.0/0", "::/0", "192.0.2.7/32")
    device = await configured(subject, PeerChange(JACINTH, allowed_ips=other))
    assert device.peers == (Peer(JACINTH, V4_ENDPOINT, other, 25),)
    device = await configured(subject, PeerChange(JACINTH, allowed_ips=frozenset()))
    assert device.peers == (Peer(JACINTH, V4_ENDPOINT, frozenset(), 25),)


async def test_allowed_ips_are_exclusive(subject: Subject) -> None:
    """Giving an AllowedIP to one peer silently takes it from another of the interface."""
    device = await configured(
        subject,
        PeerChange(JACINTH, allowed_ips=networks("10.0.0.0/24", "fd00::/64")),
        PeerChange(SURYA, allowed_ips=networks("10.0.0.0/24", "10.0.0.0/25")),
    )
    assert {key: peer.allowed_ips for key, peer in by_key(device).items()} == {
        JACINTH: networks("fd00::/64"),
        SURYA: networks("10.0.0.0/24", "10.0.0.0/25"),
    }


async def test_a_peer_is_removed(subject: Subject) -> None:
    """`remove` takes one peer away, the others stay; for a missing peer it does nothing."""
    before = await configured(subject, FULL)
    after = await configured(
        subject, PeerChange(SURYA, allowed_ips=networks("10.1.0.0/16")), PeerChange(XENA)
    )
    assert set(by_key(after)) == {JACINTH, SURYA, XENA}
    assert await configured(
        subject, PeerChange(SURYA, remove=True), PeerChange(XENA, remove=True)
    ) == before  # fmt: skip
    assert await configured(subject, PeerChange(SURYA, remove=True)) == before


async def test_replacing_begins_anew(subject: Subject) -> None:
    """`replace` forgets all that the peer had, the preshared key too, in the same change."""
    await configured(subject, FULL)
    device = await configured(
        subject, PeerChange(JACINTH, replace=True, allowed_ips=networks("10.9.0.0/16"))
    )
    assert device.peers == (Peer(JACINTH, allowed_ips=networks("10.9.0.0/16")),)
    if subject.is_real:
        assert wg_show_dump("wg0").preshared_keys == {}


async def test_replacing_a_missing_peer_adds_it(subject: Subject) -> None:
    """`replace` does not ask for the peer to be there."""
    device = await configured(subject, replace(FULL, replace=True))
    assert set(by_key(device)) == {JACINTH}


async def test_update_only_makes_no_peer(subject: Subject) -> None:
    """`update_only` changes a peer that is there and does nothing for one that is not."""
    before = await configured(subject, FULL)
    assert await configured(subject, replace(FULL, public_key=SURYA, update_only=True)) == before
    device = await configured(
        subject, PeerChange(JACINTH, update_only=True, persistent_keepalive=0)
    )
    assert device.peers == (replace(before.peers[0], persistent_keepalive=0),)


async def test_a_preshared_key_is_set_and_taken_away(subject: Subject) -> None:
    """32 zero bytes are "no preshared key"."""
    await configured(subject, FULL, PeerChange(SURYA))
    assert preshared_keys(subject) == {JACINTH: SECRET.base64()}
    await configured(subject, PeerChange(JACINTH, preshared_key=NO_SECRET))
    assert preshared_keys(subject) == {}


def preshared_keys(subject: Subject) -> dict[PublicKey, str]:
    """Ask wg(8), or the fake itself, for what no backend tells."""
    if isinstance(subject.backend, FakeBackend):
        found = {key: subject.backend.preshared_key("wg0", key) for key in (JACINTH, SURYA)}
        return {key: secret.base64() for key, secret in found.items() if secret is not None}
    return wg_show_dump("wg0").preshared_keys


async def test_the_own_key_is_no_peer(subject: Subject) -> None:
    """A peer with the interface's own key is ignored, and goes when the interface gets its key."""
    device = await configured(subject, PeerChange(OURS.public_key()), FULL)
    assert set(by_key(device)) == {OURS.public_key(), JACINTH}
    device = await configured(subject, private_key=OURS)
    assert set(by_key(device)) == {JACINTH}
    device = await configured(subject, PeerChange(OURS.public_key(), endpoint=V4_ENDPOINT))
    assert set(by_key(device)) == {JACINTH}


async def test_all_peers_are_replaced(subject: Subject) -> None:
    """`replace_peers` leaves only the peers that are named."""
    await configured(subject, FULL, PeerChange(SURYA), private_key=OURS)
    device = await configured(subject, PeerChange(XENA), replace_peers=True)
    assert set(by_key(device)) == {XENA}
    assert device.public_key == OURS.public_key()


async def test_foreign_peers_stay(subject: Subject) -> None:
    """Peers that somebody else configured are the same after any number of changes."""
    foreign = replace(FULL, public_key=XENA, allowed_ips=networks("172.16.0.0/12"))
    await configured(subject)
    if subject.is_real:
        command = f"wg set wg0 peer {XENA} endpoint {V4_ENDPOINT} persistent-keepalive 25"
        command += " allowed-ips 172.16.0.0/12 preshared-key /dev/stdin"
        run(*command.split(), stdin=SECRET.base64())
    else:
        await subject.backend.configure("wg0", DeviceChange(peers=(foreign,)))
    theirs = (await subject.observe()).peer(XENA)
    assert theirs == Peer(XENA, V4_ENDPOINT, networks("172.16.0.0/12"), 25)
    for _round in range(3):
        await configured(subject, FULL, PeerChange(SURYA))
        await configured(subject, replace(FULL, replace=True))
        await configured(subject, PeerChange(JACINTH, remove=True), PeerChange(SURYA, remove=True))
    assert (await subject.observe()).peers == (theirs,)


async def test_a_deleted_interface_is_gone(subject: Subject) -> None:
    """`delete` removes it with all it had; the name is free again."""
    await configured(subject, FULL, private_key=OURS)
    await subject.backend.delete("wg0")
    with pytest.raises(DeviceNotFound):
        await subject.backend.device("wg0")
    if subject.is_real:
        assert "wg0" not in {name for _index, name in socket.if_nameindex()}
    device = await configured(subject)
    assert (device.public_key, device.peers) == (None, ())


async def test_interfaces_are_apart(subject: Subject) -> None:
    """A change or removal of one interface does not reach another."""
    before = await configured(subject, FULL)
    await subject.backend.create("wg1")
    await subject.backend.configure("wg1", DeviceChange(fwmark=9, peers=(FULL,)))
    assert await subject.observe() == before
    await subject.backend.delete("wg1")
    assert await subject.observe() == before


async def test_500_peers_are_read_whole(subject: Subject) -> None:
    """Interfaces beyond the size of one message are loaded, read and emptied completely."""
    many = {
        PublicKey(_random.randbytes(32)): frozenset(
            network
            for host in range(20)
            for network in (
                IPv4Network((0x0A000000 + 32 * number + host, 32)),
                IPv6Network(((0xFD << 120) + 32 * number + host, 128)),
            )
        )
        for number in range(500)
    }
    greedy = PublicKey(_random.randbytes(32))
    many[greedy] = frozenset(IPv4Network((0xC0000000 + 4 * number, 30)) for number in range(5000))
    changes = [PeerChange(key, allowed_ips=allowed) for key, allowed in many.items()]
    device = await configured(subject, *changes, private_key=OURS)
    assert {peer.public_key: peer.allowed_ips for peer in device.peers} == many
    kept = replace(changes[-1], allowed_ips=networks("198.51.100.0/24"))
    removals = [PeerChange(change.public_key, remove=True) for change in changes[:-1]]
    device = await configured(subject, *removals, kept)
    assert device.peers == (Peer(greedy, allowed_ips=networks("198.51.100.0/24")),)


async def test_peers_set_one_by_one_are_read_together(subject: Subject) -> None:
    """What many everyday changes have made is read whole, to the last AllowedIP.

    In the kernel wgnlpy makes them. What it reads is the same, until the kernel tells of one peer
    in two messages; that it cannot read, which is why we have a codec of our own.
    """
    await configured(subject, private_key=OURS)
    for number in range(200):
        allowed = networks(f"10.0.{number}.0/24", f"fd00:{number:x}::/64")
        endpoint = (V4_ENDPOINT, V6_ENDPOINT)[number % 2]
        key = PublicKey(_random.randbytes(32))
        change = replace(FULL, public_key=key, endpoint=endpoint, allowed_ips=allowed)
        await subject.backend.configure("wg0", DeviceChange(peers=(change,)))
    device = await subject.observe()
    assert [len(peer.allowed_ips) for peer in device.peers] == [2] * 200
    if isinstance(subject.backend, KernelBackend):
        assert await asyncio.to_thread(as_wgnlpy_reads) == by_key_and_network(device)
    many = frozenset(IPv4Network((0xC0000000 + 4 * number, 30)) for number in range(1000))
    device = await configured(subject, PeerChange(JACINTH, allowed_ips=many))
    assert by_key_and_network(device)[JACINTH] == many
    if isinstance(subject.backend, KernelBackend):
        with pytest.raises(TypeError):
            await asyncio.to_thread(as_wgnlpy_reads)


def by_key_and_network(device: Device) -> dict[PublicKey, frozenset[IPNetwork]]:
    """Return the AllowedIPs of each peer."""
    return {peer.public_key: peer.allowed_ips for peer in device.peers}


def as_wgnlpy_reads() -> dict[PublicKey, frozenset[IPNetwork]]:
    """Return the same of wg0, as wgnlpy has it."""
    from wgnlpy import WireGuard  # noqa: PLC0415  slow to load

    control = WireGuard()
    try:
        peers = control.get_interface("wg0").peers
        return {PublicKey(bytes(key)): frozenset(peers[key].allowedips) for key in peers}
    finally:
        control.__del__()  # closes its socket, which nothing else does in time


async def test_closing_leaves_interfaces(kind: str) -> None:
    """After `close` interfaces are as they were, and another backend object finds them."""
    backend = BACKENDS[kind]()
    subject = Subject(backend, is_real=kind != "fake")
    before = await configured(subject, FULL, private_key=OURS, listen_port=4296)
    await backend.close()
    again = subject if kind == "fake" else Subject(BACKENDS[kind](), is_real=True)
    assert await again.observe() == before
    await again.backend.delete("wg0")
    await again.backend.close()


async def test_the_kernel_backend_agrees_with_iproute2(
    host: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where `ip link add type wireguard` fails, KernelBackend says plainly that it cannot either.

    Where it works, the contract above runs on the kernel as well.
    """
    backend = KernelBackend()
    try:
        if NO_KERNEL_WIREGUARD is None:
            assert "kernel" in BACKENDS
            await backend.create("wg0")
            await backend.delete("wg0")
            return
        assert "kernel" not in BACKENDS
        with pytest.raises(BackendUnavailable, match="wg0: this kernel has no WireGuard") as create:
            await backend.create("wg0")
        with pytest.raises(BackendUnavailable, match="wg0: this kernel has no WireGuard"):
            await backend.device("wg0")
        with pytest.raises(BackendUnavailable, match="wg0: this kernel has no WireGuard"):
            await backend.configure("wg0", DeviceChange(fwmark=1))
    finally:
        await backend.close()
    with capsys.disabled():
        print(f"\nthe contract was not run on the kernel: ip: {NO_KERNEL_WIREGUARD}")  # noqa: T201
        print(f"KernelBackend: {create.value}")  # noqa: T201
