"""The bytes: what is encoded decodes to the same, and what is malformed is refused by name."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.protocol import options, tai64n
from anubis.protocol.options import MAX_REASON
from anubis.protocol.wire import (
    HEADER_SIZE,
    MAX_DATAGRAM,
    MIN_DATAGRAM,
    TAG_SIZE,
    Header,
    Malformed,
    MessageType,
    Option,
    Reply,
    Request,
    Result,
    State,
    Verb,
)
from anubis.wireguard.keys import PublicKey

U8, U32, U64 = st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIMES = st.integers(0, tai64n.MAX_UNIX_NS)
IDS = st.binary(min_size=16, max_size=16)
PRINTABLE = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60).filter(
    lambda text: text.isprintable() and len(text.encode()) <= MAX_REASON
)
IPS = st.ip_addresses()
PEER_NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
NETWORKS = st.tuples(IPS, U8).map(
    lambda pair: ip_network((pair[0].packed, pair[1] % (pair[0].max_prefixlen + 1)), strict=False)
)

HEADERS = st.builds(
    Header,
    type=st.sampled_from(MessageType),
    suite=U8,
    sender=st.binary(min_size=32, max_size=32).map(PublicKey),
    nonce=st.binary(min_size=24, max_size=24),
)
REQUESTS = st.builds(
    Request,
    request_id=IDS,
    unix_ns=TIMES,
    verb=U8,
    lease=st.none() | U32,
    challenge=st.none() | IDS,
    reason=PRINTABLE,
    subject=st.none() | PEER_NAMES,
)
REPLIES = st.builds(
    Reply,
    request_id=IDS,
    unix_ns=TIMES,
    result=U8,
    state=st.sampled_from(State),
    lease=U32,
    reason=PRINTABLE,
    up_for=st.none() | U32,
    handshake_age=st.none() | U32,
    transfer=st.none() | st.tuples(U64, U64),
    endpoint=st.none() | st.tuples(IPS, st.integers(0, 65535)),
    suites=st.lists(U8, max_size=8).map(tuple),
    challenge=st.none() | IDS,
    installed=st.lists(NETWORKS, max_size=20).map(tuple),
    waiting=st.lists(PEER_NAMES, max_size=4).map(tuple),
)

REQUEST = Request(bytes(16), 0, 1).encode()
REPLY = Reply(bytes(16), 0, Result.DONE).encode()


@given(HEADERS)
def test_headers_round_trip(header: Header) -> None:
    """A header is 60 bytes and comes back."""
    clear = header.encode()
    assert len(clear) == HEADER_SIZE
    assert Header.decode(clear + bytes(MIN_DATAGRAM - HEADER_SIZE)) == header


@given(REQUESTS)
def test_requests_round_trip(request: Request) -> None:
    """Every request comes back whole and fits a datagram."""
    body = request.encode()
    assert HEADER_SIZE + len(body) + TAG_SIZE <= MAX_DATAGRAM
    assert Request.decode(body) == request


@given(REPLIES)
def test_replies_round_trip(reply: Reply) -> None:
    """Every reply comes back whole, as long as it fits."""
    assert Reply.decode(reply.encode()) == reply


@given(REPLIES, st.integers(36, 1156))
def test_a_reply_never_exceeds_its_limit(reply: Reply, limit: int) -> None:
    """Whole options are left out; what remains is readable and says the same."""
    body = reply.encode(limit)
    assert len(body) <= limit
    short = Reply.decode(body)
    assert (short.request_id, short.result, short.state, short.lease) == (
        reply.request_id,
        reply.result,
        reply.state,
        reply.lease,
    )
    for name in ("up_for", "handshake_age", "transfer", "endpoint", "challenge"):
        assert getattr(short, name) in (None, getattr(reply, name))
    assert set(short.installed) <= set(reply.installed)


def test_networks_are_what_goes_first_when_space_is_short() -> None:
    """The networks, which can be many, do not crowd out the reason."""
    networks = tuple(ip_network(f"10.{index}.0.0/16") for index in range(200))
    reply = Reply(bytes(16), 0, Result.FAILED, reason="x" * MAX_REASON, installed=networks)
    short = Reply.decode(reply.encode(356))
    assert short.reason == reply.reason
    assert short.installed == networks[: len(short.installed)]
    assert short.installed


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ((0, 0), "unknown_version"),
        ((0, 2), "unknown_version"),
        ((1, 0), "unknown_type"),
        ((1, 3), "unknown_type"),
        ((3, 1), "reserved_bits"),
        ((3, 128), "reserved_bits"),
    ],
)
def test_headers_that_are_refused(edit: tuple[int, int], reason: str) -> None:
    """Each wrong byte has its own reason."""
    clear = bytearray(Header(MessageType.REQUEST, 1, PublicKey(bytes(32)), bytes(24)).encode())
    clear[edit[0]] = edit[1]
    with pytest.raises(Malformed) as caught:
        Header.decode(bytes(clear) + bytes(48))
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [0, 1, 59, 60, 107, 1233, 65507])
def test_sizes_that_are_refused(size: int) -> None:
    """Fewer than 108 bytes or more than 1232, whatever they are."""
    with pytest.raises(Malformed) as caught:
        Header.decode(b"\x01\x01\x01\x00" * (size // 4) + bytes(size % 4))
    assert caught.value.reason == "bad_size"


def test_sizes_that_are_accepted() -> None:
    """The ends of the range."""
    clear = Header(MessageType.REQUEST, 1, PublicKey(bytes(32)), bytes(24)).encode()
    for size in (108, 1232):
        assert Header.decode(clear + bytes(size - 60)).suite == 1


@pytest.mark.parametrize("size", range(36))
def test_short_bodies(size: int) -> None:
    """A body shorter than its fixed part is malformed."""
    with pytest.raises(Malformed):
        Reply.decode(REPLY[:size])
    if size < 32:
        with pytest.raises(Malformed):
            Request.decode(REQUEST[:size])


@pytest.mark.parametrize("index", [29, 30, 31])
def test_reserved_bytes_of_a_request(index: int) -> None:
    """They are zero or the body is refused."""
    body = REQUEST[:index] + b"\x01" + REQUEST[index + 1 :]
    with pytest.raises(Malformed) as caught:
        Request.decode(body)
    assert caught.value.reason == "reserved_bits"


@pytest.mark.parametrize("index", [30, 31])
def test_reserved_bytes_of_a_reply(index: int) -> None:
    """They are zero or the body is refused."""
    with pytest.raises(Malformed) as caught:
        Reply.decode(REPLY[:index] + b"\x01" + REPLY[index + 1 :])
    assert caught.value.reason == "reserved_bits"


@pytest.mark.parametrize("kind", range(256))
def test_unknown_options(kind: int) -> None:
    """Below 0x80 they are ignored, from there on they are reported; twice is no error."""
    if kind in frozenset(Option):
        return
    option = bytes([kind, 3]) + b"abc"
    request, reply = Request.decode(REQUEST + option * 2), Reply.decode(REPLY + option * 2)
    expected = (kind, kind) if kind >= 0x80 else ()
    assert request.unknown_critical == reply.unknown_critical == expected


@pytest.mark.parametrize("kind", Option)
def test_options_that_stand_twice(kind: Option) -> None:
    """Only padding, networks and names that wait may."""
    sizes = {0x02: 3, 0x05: 16, 0x06: 5, 0x07: 6, 0x81: 16}
    size = sizes.get(kind, 4)
    option = bytes([kind, size]) + bytes(size)
    if kind in (Option.PADDING, Option.INSTALLED, Option.WAITING):
        Request.decode(REQUEST + option * 2)
        Reply.decode(REPLY + option * 2)
        return
    with pytest.raises(Malformed, match="stands twice"):
        Request.decode(REQUEST + option * 2)
    with pytest.raises(Malformed, match="stands twice"):
        Reply.decode(REPLY + option * 2)


@given(st.binary(max_size=300))
def test_options_are_read_to_the_end(tail: bytes) -> None:
    """Any bytes after the fixed part are options without a gap, or the body is malformed."""
    for decode, body in ((Request.decode, REQUEST), (Reply.decode, REPLY)):
        try:
            decode(body + tail)
        except Malformed:
            continue
        rest = tail
        while rest:
            assert len(rest) >= 2 + rest[1]
            rest = rest[2 + rest[1] :]


@pytest.mark.parametrize(
    "network",
    ["", "00", "200a0000", "210a000000", "080a000001", "8100" + "00" * 15, "00" * 16, "00" * 18],
)
def test_networks_that_are_refused(network: str) -> None:
    """A wrong size, a prefix longer than the address, host bits."""
    value = bytes.fromhex(network)
    with pytest.raises(Malformed):
        Reply.decode(REPLY + bytes([Option.INSTALLED, len(value)]) + value)


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\u202eevil", "\x00", "\x7f", "\u2028"])
def test_texts_cannot_upset_a_terminal(hostile: str) -> None:
    """What cannot be printed is replaced on reading, in requests and replies."""
    option = bytes([Option.REASON, len(hostile.encode())]) + hostile.encode()
    for text in (Request.decode(REQUEST + option).reason, Reply.decode(REPLY + option).reason):
        assert text.isprintable()
        assert "\ufffd" in text


def test_texts_that_are_no_utf_8_are_read_all_the_same() -> None:
    """Bad bytes are replaced."""
    option = bytes([Option.REASON, 3]) + b"a\xffb"
    assert Reply.decode(REPLY + option).reason == "a\ufffdb"


@pytest.mark.parametrize("text", ["x" * 500, "é" * 101, "€" * 67, "\U0001f512" * 51])
def test_long_texts_are_cut_at_a_character(text: str) -> None:
    """At most 200 bytes, and no half character."""
    read = Reply.decode(Reply(bytes(16), 0, 0, reason=text).encode()).reason
    assert text.startswith(read)
    assert MAX_REASON - 4 < len(read.encode()) <= MAX_REASON


def test_a_text_with_a_lone_surrogate_is_sent_all_the_same() -> None:
    """Names of files that are no UTF-8 come into messages as surrogates (PEP 383)."""
    assert Reply.decode(Reply(bytes(16), 0, 0, reason="a\udcffb").encode()).reason == "a?b"


@pytest.mark.parametrize(("seconds", "sent"), [(-1, 0), (2**32, 2**32 - 1), (2**70, 2**32 - 1)])
def test_durations_that_do_not_fit_are_clamped(seconds: int, sent: int) -> None:
    """A clock that was set back makes a negative age; it is sent as zero."""
    reply = Reply(bytes(16), 0, 0, State.UP, seconds, up_for=seconds, handshake_age=seconds)
    read = Reply.decode(reply.encode())
    assert (read.lease, read.up_for, read.handshake_age) == (sent, sent, sent)
    assert Request.decode(Request(bytes(16), 0, 1, lease=seconds).encode()).lease == sent


def test_granted_is_below_16() -> None:
    """Also for results that are not known."""
    for result in range(256):
        assert Reply(bytes(16), 0, result).granted == (result < 16)


def test_sizes_are_those_of_the_layouts() -> None:
    """60 + 32 + 16 is the least; 1280 less 40 and 8 is the most."""
    assert struct.calcsize(">BBBB32s24s") == HEADER_SIZE == 60
    assert HEADER_SIZE + len(REQUEST) + TAG_SIZE == MIN_DATAGRAM == 108
    assert MAX_DATAGRAM == 1280 - 40 - 8
    assert len(REPLY) == 36


def test_an_endpoint_is_port_then_address() -> None:
    """The layout of the document, in both families."""
    for text, packed in (
        ("203.0.113.7", "10c8cb007107"),
        ("2001:db8::7", "10c8" + "20010db8" + "00" * 11 + "07"),
    ):
        body = Reply(bytes(16), 0, 0, endpoint=(ip_address(text), 4296)).encode()
        assert body[38:].hex() == packed


def test_the_registries_have_room_for_vendors() -> None:
    """No option of ours stands in a vendor range."""
    assert not [kind for kind in Option if kind & 0x7F >= 0x40]
    assert options._CRITICAL == 0x80


@pytest.mark.parametrize("name", ["xena", "a" * 63, "x.y-z_0"])
def test_names_are_read_as_they_are_written(name: str) -> None:
    """Of whom is approved, and of those who wait, in their order."""
    request = Request(bytes(16), 0, Verb.APPROVE, subject=name)
    assert Request.decode(request.encode()) == request
    reply = Reply(bytes(16), 0, Result.DONE, waiting=(name, "luna", name))
    assert Reply.decode(reply.encode()) == reply


def test_what_is_no_name_is_shown_as_none() -> None:
    """Bytes of a stranger upset no terminal, and find nobody."""
    body = REQUEST + bytes([Option.SUBJECT, 6]) + b"a\x1b[\xe9\x00 "
    assert Request.decode(body).subject == "a?[???"


def test_those_who_wait_come_before_networks() -> None:
    """A reply to a short request has room for few options; what was asked for is not left out."""
    networks = tuple(ip_network(f"10.0.{number}.0/24") for number in range(60))
    reply = Reply(bytes(16), 0, Result.DONE, waiting=("xena", "luna"), installed=networks)
    read = Reply.decode(reply.encode(limit=100))
    assert read.waiting == ("xena", "luna")
    assert 0 < len(read.installed) < len(networks)
