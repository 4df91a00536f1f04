"""`docs/protocol.md` cannot rot: its example, constants, registries and duties are recomputed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from enum import IntEnum
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from anubis import addresses
from anubis.addresses import control_addresses
from anubis.approvals import APPROVAL_SECONDS
from anubis.daemon.goodbye import Reason
from anubis.network.plan import SERVICE_PORT
from anubis.protocol import channel, freshness, initiator, options, suites, wire
from anubis.protocol.channel import Channel
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Header, MessageType, Option, Reply, Request, Result, State, Verb
from anubis.wireguard.keys import PrivateKey, PublicKey
from tests.vectors import reference
from tests.vectors.vectorfile import load_all

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
VECTORS = load_all()
SUITE = suites.XCHACHA20_POLY1305


def _example() -> dict[str, bytes]:
    """Return the hex blocks: a name at the margin, its bytes indented below, `#` comments."""
    values: dict[str, bytes] = {}
    name = ""
    for block in re.findall(r"^```hex\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith(" "):
                values[name] += bytes.fromhex(line.partition("#")[0])
            else:
                name = line
                assert name not in values
                values[name] = b""
    return values


def _section(title: str) -> str:
    """Return the text below a heading, up to the next heading of its level or a higher one."""
    found = re.search(rf"^(#+) (?:[\d.]+ )?{re.escape(title)}$", TEXT, re.MULTILINE)
    assert found is not None, title
    rest = TEXT[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def _table(title: str, header: str) -> list[list[str]]:
    """Return the rows of the table below a heading whose first column has this name."""
    lines = iter(_section(title).splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            break
    else:
        raise AssertionError(f"no table | {header} | below {title}")
    next(lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in _rows(lines)]


def _rows(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


EXAMPLE = _example()


class TestExample:
    """Section 1, from the two private keys on."""

    laptop = PrivateKey(EXAMPLE["laptop production private key"])
    house = PrivateKey(EXAMPLE["house production private key"])

    def test_every_block_is_recomputed(self) -> None:
        """The code makes each value of the example from the keys and the drawn bytes in it."""
        header = Header.decode(EXAMPLE["request datagram"])
        reply_header = Header.decode(EXAMPLE["reply datagram"])
        laptop = Channel(self.laptop, self.laptop.public_key(), self.house.public_key())
        house = Channel(self.house, self.house.public_key(), self.laptop.public_key())
        secret = self.laptop.exchange(self.house.public_key())
        control = PublicKey(EXAMPLE["laptop control public key"])
        request = Request.decode(house.open(header, EXAMPLE["request datagram"]))
        reply = Reply.decode(laptop.open(reply_header, EXAMPLE["reply datagram"]))
        publics = bytes(self.laptop.public_key()), bytes(self.house.public_key())
        keys = reference.keys(secret, EXAMPLE["request header"], publics[1])
        info = channel._LABEL + bytes([wire.VERSION])
        reply_info = info + b"\x02\x01" + publics[1] + publics[0]
        computed = {
            "laptop production private key": bytes(self.laptop),
            "laptop production public key": publics[0],
            "laptop control public key": bytes(control),
            "laptop control address": control_addresses(control).routable.packed,
            "house production private key": bytes(self.house),
            "house production public key": publics[1],
            "shared secret": secret,
            "extracted key": keys.extracted_key,
            "request direction key": SUITE.derive(secret, info + b"\x01\x01" + b"".join(publics)),
            "request header": header.encode(),
            "request body": request.encode(),
            "request datagram": laptop.seal(header, request.encode()),
            "reply direction key": SUITE.derive(secret, reply_info),
            "reply header": reply_header.encode(),
            "reply body": reply.encode(),
            "reply datagram": house.seal(reply_header, reply.encode()),
        }
        assert computed == EXAMPLE

    def test_the_comments_are_true(self) -> None:
        """What the example says in words is what the code reads."""
        datagram = EXAMPLE["request datagram"]
        request = Request.decode(EXAMPLE["request body"])
        assert (request.verb, request.lease) == (Verb.UP, 3600)
        assert request.unix_ns == 1_800_000_000 * NANOSECONDS
        assert f"here {len(datagram)} bytes" in TEXT
        reply = Reply.decode(EXAMPLE["reply body"])
        assert (reply.result, reply.state, reply.lease) == (Result.DONE, State.UP, 3600)
        assert reply.endpoint is not None
        assert f"# ENDPOINT: {reply.endpoint[0]}, port {reply.endpoint[1]}" in TEXT
        for network in reply.installed:
            assert f"# INSTALLED: {network}" in TEXT

    def test_it_is_the_vector_that_the_document_means(self) -> None:
        """The example and the vector `fresh-suite-1` are one exchange."""
        step = next(block for block in VECTORS["fresh-suite-1"] if "step" in block)
        assert EXAMPLE["request datagram"].hex() == step["datagram"]
        assert EXAMPLE["reply datagram"].hex() == step["reply"]


def test_constants() -> None:
    """The table of section 2 has the constants of the code."""
    stated = {row[0]: row[1] for row in _table("Conventions", "constant")}
    computed = {
        name: str(getattr(options if hasattr(options, name) else wire, name))
        for name in (
            "VERSION",
            "HEADER_SIZE",
            "NONCE_SIZE",
            "REQUEST_ID_SIZE",
            "CHALLENGE_SIZE",
            "TAG_SIZE",
            "MIN_DATAGRAM",
            "MAX_DATAGRAM",
            "MAX_REASON",
            "MAX_NAME",
            "MAX_REPLY_FACTOR",
        )
    }
    computed |= {
        "SERVICE_PORT": str(SERVICE_PORT),
        "CLOCK_WINDOW": f"{freshness.CLOCK_WINDOW_NS // NANOSECONDS} s",
        "CHALLENGE_LIFETIME": f"{freshness.CHALLENGE_LIFETIME_NS // NANOSECONDS} s",
        "APPROVAL_TIME": f"{APPROVAL_SECONDS:g} s",
        "FIRST_INTERVAL": f"{initiator.FIRST_INTERVAL:g} s",
        "MAX_INTERVAL": f"{initiator.MAX_INTERVAL:g} s",
        "MAX_ATTEMPTS": str(initiator.MAX_ATTEMPTS),
    }
    assert stated == computed


@pytest.mark.parametrize(
    ("title", "header", "registry"),
    [
        ("Message types", "type", MessageType),
        ("Verbs", "code", Verb),
        ("States", "code", State),
        ("Result codes", "code", Result),
        ("Option types", "type", Option),
    ],
)
def test_registries(title: str, header: str, registry: type[IntEnum]) -> None:
    """Each registry is its enumeration: the same numbers, the same names, in the same order."""
    stated = [(int(row[0], 0), row[1]) for row in _table(title, header)]
    assert stated == [(member.value, member.name) for member in registry]


def test_repeatable_options() -> None:
    """The column `repeatable` is what the decoder allows."""
    stated = {row[1] for row in _table("Option types", "type") if row[4] == "yes"}
    assert stated == {option.name for option in options._REPEATABLE}


@pytest.mark.parametrize("row", _table("Option types", "type"), ids=lambda row: row[1])
def test_option_lengths(row: list[str]) -> None:
    """Each option decodes with the lengths of its row and with no other, in the bodies named."""
    kind, places, lengths = int(row[0], 0), row[2], row[3]
    allowed = set(range(256))
    if lengths != "any":
        first, _, last = lengths.replace(" or ", " to ").partition(" to ")
        ends = [int(first), int(last or first)]
        allowed = set(ends) if " or " in lengths else set(range(ends[0], ends[1] + 1))
    decoders: dict[str, tuple[Callable[[bytes], object], bytes]] = {
        "request": (Request.decode, reference.request_body(bytes(16), 0, 1)),
        "reply": (Reply.decode, reference.reply_body(bytes(16), 0, 0, 0, 0)),
    }
    for place, (decode, body) in decoders.items():
        elsewhere = set(range(256))
        expected = allowed if places in (place, "both") else elsewhere
        assert _accepted_lengths(decode, body, kind) == expected


def _accepted_lengths(decode: Callable[[bytes], object], body: bytes, kind: int) -> set[int]:
    accepted = set()
    for length in range(256):
        with contextlib.suppress(wire.Malformed):
            decode(body + bytes([kind, length]) + bytes(length))
            accepted.add(length)
    return accepted


@pytest.mark.parametrize(
    ("title", "body", "names"),
    [
        ("Datagram and header", "request header", "version type suite reserved sender nonce"),
        ("Request body", "request body", "request-id timestamp verb reserved options"),
        ("Reply body", "reply body", "request-id timestamp result state reserved lease options"),
    ],
)
def test_layouts(title: str, body: str, names: str) -> None:
    """Offsets and sizes are gapless and cut the example at the fields that the code reads."""
    rows = _table(title, "offset")
    assert [row[2].replace(" ", "-") for row in rows] == names.split()
    end = 0
    fields: dict[str, bytes] = {}
    for offset, size, name, *_ in rows:
        assert int(offset) == end
        end = end + int(size) if size else len(EXAMPLE[body])
        fields[name] = EXAMPLE[body][int(offset) : end]
    assert end == len(EXAMPLE[body])
    assert not any(fields["reserved"])
    if body == "request header":
        header = Header.decode(EXAMPLE["request datagram"])
        assert fields["sender"] == bytes(header.sender)
        assert fields["nonce"] == header.nonce
        assert (fields["type"][0], fields["suite"][0]) == (header.type, header.suite)
    elif body == "request body":
        request = Request.decode(EXAMPLE[body])
        assert (fields["request id"], fields["verb"][0]) == (request.request_id, request.verb)
        assert fields["timestamp"] == reference.tai64n(request.unix_ns)
    else:
        reply = Reply.decode(EXAMPLE[body])
        assert (fields["request id"], fields["result"][0]) == (reply.request_id, reply.result)
        assert (fields["state"][0], int.from_bytes(fields["lease"])) == (reply.state, reply.lease)


def test_suites() -> None:
    """The table of section 7 is the table of the code."""
    stated = [(int(row[0]), row[1], row[2]) for row in _table("Suites", "suite")]
    assert stated == [(s.number, s.name, s.hash_name) for s in suites.SUITES.values()]


def test_labels() -> None:
    """The labels of section 8 are those of the code, and none of them is WireGuard's."""
    stated = [row[0].strip("`").encode() for row in _table("Key schedule", "label")]
    assert stated == [
        suites._EXTRACT_SALT,
        channel._LABEL,
        suites._MESSAGE_KEY_LABEL,
        addresses._LABEL,
    ]
    assert all(label.startswith(b"anubis ") for label in stated)


def test_control_addresses() -> None:
    """The prefixes of section 12 are those of the code."""
    text = _section("Control addresses")
    for prefix in (addresses.CONTROL_PREFIX, addresses.LINK_LOCAL_PREFIX):
        assert f"`{prefix}`" in text
        assert f"{prefix.network_address.exploded[:19]} || IDENTIFIER" in text
    address = IPv6Address(EXAMPLE["laptop control address"])
    assert address in addresses.CONTROL_PREFIX


def _duties(title: str) -> list[str]:
    return re.findall(r"^(?:\d+\.|-) \*\*([a-z-]+)\*\*: ", _section(title), re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "machine"),
    [("Duties of the responder", "responder"), ("Duties of the initiator", "initiator")],
)
def test_every_duty_has_a_vector(title: str, machine: str) -> None:
    """The duties are the duties of the vectors, each of which begins with the name of one."""
    duties = _duties(title)
    assert len(duties) == len(set(duties))
    heads = [blocks[0] for blocks in VECTORS.values() if blocks[0]["machine"] == machine]
    assert {head["duty"] for head in heads} == set(duties)


def test_numbers_of_the_duties() -> None:
    """The checks are numbered in the order in which they stand."""
    numbers = re.findall(r"^(\d+)\. \*\*", _section("Duties of the responder"), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def test_drop_reasons() -> None:
    """Each drop reason has a vector, and no vector drops for another reason."""
    stated = {row[0].strip("`") for row in _table("Drop reasons", "name")}
    seen = {
        block["outcome"].removeprefix("dropped ")
        for blocks in VECTORS.values()
        for block in blocks
        if block.get("outcome", "").startswith("dropped ")
    }
    assert stated == seen


def test_sections_are_numbered() -> None:
    """Section numbers, to which the code refers, are gapless."""
    numbers = re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, 15))


def test_the_words_of_goodbyes_are_those_of_the_code() -> None:
    """Whoever understands a REASON of `gone` finds every word that is said."""
    rows = _table("Leases and `gone`", "word")
    assert {row[0].strip("`") for row in rows} == set(Reason)
