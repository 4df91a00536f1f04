"""Write the vectors: `python -m tests.vectors.generate`, from the top of the project.

Deterministic: a run changes a file only if the format, or the story that the file tells, changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Reply, Result, State, Verb
from tests.vectors import reference
from tests.vectors.scenarios import InitiatorStory, ResponderStory, seal
from tests.vectors.vectorfile import DIRECTORY, Block, dump
from tests.vectors.world import BROKEN, HOUR, HOUSE, LAPTOP, PHONE, STRANGER, T0, YEAR

SECOND = NANOSECONDS
LEASE = (0x01, (3600).to_bytes(4, "big"))
DONE = Reply(bytes(16), T0, Result.DONE, State.UP, 3600)

Story = ResponderStory | InitiatorStory
Teller = Callable[[], Iterator[Story]]
_TELLERS: list[Teller] = []


def tell(teller: Teller) -> Teller:
    """Register a function that yields stories."""
    _TELLERS.append(teller)
    return teller


def build() -> dict[str, list[Block]]:
    """Return all vectors by name."""
    stories = [story for teller in _TELLERS for story in teller()]
    return {story.name: story.blocks for story in stories}


def _header_byte(story: ResponderStory, index: int, value: int) -> bytes:
    """Return a request that is in order but for one byte of its header."""
    header = bytearray(story.header())
    header[index] = value
    return seal(bytes(header), story.body(), LAPTOP)


@tell
def clear_checks() -> Iterator[Story]:
    """Tell what can be judged without a key."""
    for name, size in (("empty", 0), ("short", 107), ("long", 1233)):
        story = ResponderStory(f"size-{name}", "size", f"A datagram of {size} bytes.")
        padded = story.request(Verb.UP, *[(0, bytes(255))] * 5)
        story.arrives(padded[:size])
        yield story
    for value in (0, 2):
        story = ResponderStory(f"version-{value}", "version", "Sealed under another version.")
        story.arrives(_header_byte(story, 0, value))
        yield story
    for value in (0, 3):
        story = ResponderStory(f"type-{value}", "type", "Sealed under a type that is not known.")
        story.arrives(_header_byte(story, 1, value))
        yield story
    story = ResponderStory("reserved", "reserved", "The reserved byte of the header is not zero.")
    story.arrives(_header_byte(story, 3, 1))
    yield story
    story = ResponderStory("direction", "direction", "A reply arrives where requests are served.")
    reply = reference.header("reply", 1, bytes(LAPTOP.public_key), story.write(24))
    story.arrives(seal(reply, reference.reply_body(story.write(16), T0, 0, 1, 3600), LAPTOP))
    yield story
    story = ResponderStory("source", "source", "From a control address that is in no entry.")
    story.arrives(story.request(), via=STRANGER)
    yield story
    story = ResponderStory("suite", "suite", "A suite that the responder cannot open.")
    sealed = story.request()
    story.arrives(sealed[:2] + b"\x03" + sealed[3:])
    yield story
    story = ResponderStory("sender", "sender", "A production key that is in no entry.")
    story.arrives(seal(story.header(who=STRANGER), story.body(), STRANGER))
    yield story


@tell
def sealed_checks() -> Iterator[Story]:
    """Tell what can be judged with the key alone."""
    story = ResponderStory("authentic-tag", "authentic", "The last bit of the tag is wrong.")
    sealed = story.request()
    story.arrives(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    yield story
    story = ResponderStory("authentic-nonce", "authentic", "The nonce was changed on the way.")
    sealed = story.request()
    story.arrives(sealed[:36] + bytes([sealed[36] ^ 1]) + sealed[37:])
    yield story
    story = ResponderStory("authentic-suite", "authentic", "Sealed in suite 1, labelled suite 2.")
    sealed = story.request()
    story.arrives(sealed[:2] + b"\x02" + sealed[3:])
    yield story
    story = ResponderStory("authentic-receiver", "authentic", "Sealed for another responder.")
    story.arrives(seal(story.header(), story.body(), LAPTOP, PHONE))
    yield story
    story = ResponderStory("authentic-direction", "authentic", "Sealed with the key of replies.")
    story.arrives(seal(story.header(), story.body(), LAPTOP, kind=2))
    yield story
    about = "The sender's key is of low order: the secret is all zero and authenticates nobody."
    story = ResponderStory("authentic-low-order", "authentic", about)
    header = story.header(who=BROKEN)
    zero = reference.keys(bytes(32), header, bytes(HOUSE.public_key))
    story.arrives(reference.seal(zero, header, story.body()), via=BROKEN)
    yield story
    about = "The laptop's production key through the phone's control tunnel."
    story = ResponderStory("same-peer", "same-peer", about)
    story.arrives(story.request(), via=PHONE)
    yield story
    about = "Suite 1, where policy accepts suite 2 alone."
    story = ResponderStory("suite-policy", "suite-policy", about, accepted=(2,))
    story.arrives(story.request())
    story.arrives(story.request(suite=2, at=T0 + SECOND), at=T0 + SECOND, verdict=DONE)
    story.blocks[0]["expect"] = "answered suite_refused, then accepted"
    yield story


def _malformed(name: str, about: str, tail: bytes, edit: tuple[int, int] | None = None) -> Story:
    story = ResponderStory(f"body-{name}", "body", about)
    body = bytearray(story.body() + tail)
    if edit is not None:
        body[edit[0]] = edit[1]
    story.arrives(seal(story.header(), bytes(body), LAPTOP))
    return story


@tell
def bodies() -> Iterator[Story]:
    """Tell what the body may not be, and what it may."""
    yield _malformed("reserved", "A reserved byte of the body is not zero.", b"", (31, 1))
    yield _malformed("before-1970", "A timestamp before 1970.", b"", (16, 0x3F))
    yield _malformed("nanoseconds", "A timestamp with too many nanoseconds.", b"", (24, 0xFF))
    yield _malformed("half-option", "One byte after the fixed part.", b"\x01")
    yield _malformed("cut-option", "An option that says more bytes than there are.", b"\x20\x05abc")
    yield _malformed("twice", "LEASE stands twice.", b"\x01\x04\x00\x00\x0e\x10" * 2)
    yield _malformed("lease-size", "LEASE with 3 bytes.", b"\x01\x03\x00\x0e\x10")
    yield _malformed("challenge-size", "CHALLENGE with 15 bytes.", b"\x81\x0f" + bytes(15))
    yield _malformed("empty-subject", "SUBJECT without a name.", b"\x82\x00")
    yield _malformed("long-subject", "SUBJECT with 64 bytes.", b"\x82\x40" + b"x" * 64)
    yield _malformed("long-reason", "REASON with 201 bytes.", b"\x02\xc9" + b"x" * 201)
    for name, kind in (("unknown", 0x90), ("vendor", 0xC0)):
        about = f"An option {kind:#04x}, which must be understood or refused."
        story = ResponderStory(f"critical-option-{name}", "critical-option", about)
        story.arrives(story.request(Verb.UP, LEASE, (kind, b"\x00\x00\x80\x01rest")))
        yield story
    for name, kind in (("unknown", 0x20), ("vendor", 0x40), ("padding", 0x00)):
        about = f"An option {kind:#04x}, twice, which changes nothing."
        story = ResponderStory(f"ignorable-option-{name}", "ignorable-option", about)
        story.arrives(
            story.request(Verb.UP, (kind, b"\x00\x00\x80\x01"), (kind, b"")), verdict=DONE
        )
        yield story
    for verb in (0, 7):
        story = ResponderStory(f"verb-{verb}", "verb", "A verb that is not known.")
        story.arrives(story.request(verb))
        yield story


@tell
def accepted() -> Iterator[Story]:
    """Each verb, both suites, each verdict."""
    full = Reply(
        bytes(16),
        T0,
        Result.DONE,
        State.UP,
        3600,
        "",
        up_for=0,
        endpoint=(ip_address("203.0.113.7"), 4296),
        installed=(ip_network("10.7.0.2/32"), ip_network("fd07::2/128")),
    )
    for suite in (1, 2):
        about = f"up in suite {suite}; the worked example of the document is suite 1."
        story = ResponderStory(f"fresh-suite-{suite}", "fresh", about)
        story.arrives(story.request(Verb.UP, LEASE, suite=suite), verdict=full)
        yield story
    status = Reply(
        bytes(16),
        T0,
        Result.DONE,
        State.UP,
        1800,
        "",
        up_for=1800,
        handshake_age=42,
        transfer=(123456789, 987654321),
        endpoint=(ip_address("2001:db8::7"), 4296),
    )
    down = Reply(bytes(16), T0, Result.DONE, State.DOWN)
    for verb, verdict in (
        (Verb.DOWN, down),
        (Verb.RENEW, DONE),
        (Verb.STATUS, status),
        (Verb.GONE, down),
        (Verb.APPROVE, replace(down, waiting=("ariadne", "luna"))),
    ):
        story = ResponderStory(f"fresh-{verb.name.lower()}", "fresh", f"{verb.name.lower()}.")
        tlvs = [LEASE] if verb is Verb.RENEW else []
        if verb is Verb.GONE:
            tlvs = [(0x02, b"shutting down")]
        if verb is Verb.APPROVE:
            tlvs = [(0x82, b"xena")]
        story.arrives(story.request(verb, *tlvs), verdict=verdict)
        yield story
    for result, reason in (
        (Result.UNCHANGED, ""),
        (Result.NOT_PERMITTED, "the administrator does not let you ask for UP"),
        (Result.BUSY, "another change is under way"),
        (Result.CONFLICT, "its AllowedIPs are in use"),
        (Result.FAILED, "the peer could not be installed"),
        (Result.NO_CONNECTION, "the connection is not up here"),
        (Result.PENDING, "waiting for approval"),
    ):
        name = result.name.lower()
        state = State.UP if result is Result.UNCHANGED else State.DOWN
        verdict = Reply(bytes(16), T0, result, state, 3600 * state, reason)
        story = ResponderStory(f"answer-{name}", "answer", f"The verdict is {name}.")
        verb = Verb.RENEW if result is Result.NO_CONNECTION else Verb.UP
        story.arrives(story.request(verb, LEASE), verdict=verdict)
        yield story
    about = "Forty networks do not fit four times the 108 bytes of the request."
    story = ResponderStory("reply-size", "reply-size", about)
    many = tuple(ip_network(f"fd07:{index:x}::/48") for index in range(40))
    verdict = Reply(bytes(16), T0, Result.DONE, State.UP, 3600, installed=many)
    story.arrives(story.request(), verdict=verdict)
    yield story


@tell
def repeats() -> Iterator[Story]:
    """Send the same bytes again."""
    story = ResponderStory("repeat", "repeat", "The same datagram twice: the same reply twice.")
    sealed = story.request()
    story.arrives(sealed, verdict=DONE)
    story.arrives(sealed, at=T0 + HOUR)
    yield story
    about = "The same datagram again while the first is being acted on."
    story = ResponderStory("repeat-in-progress", "repeat", about)
    sealed = story.request()
    story.arrives(sealed)
    story.arrives(sealed)
    yield story
    about = "The same datagram again through another peer's tunnel: the reply is not for it."
    story = ResponderStory("repeat-other-tunnel", "repeat", about)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE)
    story.arrives(sealed, via=PHONE)
    yield story
    about = "A datagram from before the last accepted one is no repeat: it is stale."
    story = ResponderStory("repeat-older", "repeat", about)
    older = story.request(at=T0)
    story.arrives(older, verdict=DONE)
    story.arrives(story.request(Verb.DOWN, at=T0 + 1), verdict=DONE)
    story.arrives(older)
    yield story


def _single(name: str, about: str, at: int) -> Story:
    story = ResponderStory(name, "fresh", about, floor=0)
    story.arrives(story.request(at=at), verdict=DONE)
    return story


@tell
def freshness() -> Iterator[Story]:
    """Clocks and watermarks."""
    yield _single("fresh-ahead-120s", "A clock 120 s ahead, just right.", T0 + 120 * SECOND)
    yield _single("fresh-behind-120s", "A clock 120 s behind, just right.", T0 - 120 * SECOND)
    yield _single("fresh-too-far-ahead", "1 ns more than 120 s ahead.", T0 + 120 * SECOND + 1)
    yield _single("fresh-too-far-behind", "1 ns more than 120 s behind.", T0 - 120 * SECOND - 1)
    yield _single("fresh-years-ahead", "A clock ten years ahead.", T0 + 10 * YEAR)
    yield _single("fresh-1970", "A clock that starts in 1970.", 0)
    for name, step, about in (
        ("equal", 0, "Another request with the time of the last one."),
        ("older", -1, "A request 1 ns older than the last one."),
    ):
        story = ResponderStory(f"fresh-watermark-{name}", "fresh", about)
        story.arrives(story.request(), verdict=DONE)
        story.arrives(story.request(Verb.DOWN, at=T0 + step))
        yield story
    about = "Refused because our clock was years behind; it stays refused once our clock is right."
    story = ResponderStory("judged-once", "judged-once", about, floor=0)
    sealed = story.request()
    story.arrives(sealed, at=HOUR)
    story.arrives(sealed, at=T0 + SECOND)
    yield story
    about = "Accepted, then the daemon restarts; the watermark was kept, the floor is long ago."
    story = ResponderStory("floor-watermarks-kept", "floor", about)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE)
    story.restart(0, watermarks=True)
    story.arrives(sealed, at=T0 + SECOND)
    yield story
    about = "Accepted, then the daemon restarts; watermarks are lost, the floor is the start."
    story = ResponderStory("floor-watermarks-lost", "floor", about)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE)
    story.restart(T0 + SECOND, watermarks=False)
    story.arrives(sealed, at=T0 + 2 * SECOND)
    yield story
    about = "As before, but the clock stood in 1970 at the start and was set a moment later."
    story = ResponderStory("floor-clock-set", "floor", about)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE, running=HOUR)
    story.restart(0, watermarks=False)
    story.arrives(sealed, at=T0 + 10 * SECOND, running=9 * SECOND)
    yield story
    about = "Watermarks are lost, and the clock is set back after the start: the floor stays."
    story = ResponderStory("floor-clock-set-back", "floor", about)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE, running=HOUR)
    story.restart(T0 + HOUR, watermarks=False)
    story.arrives(sealed, at=T0 + SECOND, running=10 * SECOND)
    yield story
    about = "The table has one place: the laptop is forgotten, the floor rises to its watermark."
    story = ResponderStory("bounded", "bounded", about, limit=1)
    sealed = story.request()
    story.arrives(sealed, verdict=DONE)
    story.arrives(story.request(at=T0 + 1, who=PHONE), via=PHONE, verdict=DONE)
    story.arrives(sealed)
    yield story


@tell
def challenges() -> Iterator[Story]:
    """Show the way out for a broken clock."""
    about = "A clock in 1970: stale, then accepted with the challenge."
    story = ResponderStory("challenge", "challenge", about)
    story.arrives(story.request(at=0))
    story.arrives(story.request(Verb.UP, LEASE, story.challenge(), at=SECOND), verdict=DONE)
    yield story
    about = "A wrong challenge is not mended by a right time."
    story = ResponderStory("challenge-wrong", "challenge", about)
    story.arrives(story.request(at=0))
    story.arrives(story.request(Verb.UP, (0x81, bytes(16))))
    yield story
    about = "A challenge where none is pending is not mended by a right time."
    story = ResponderStory("challenge-unasked", "challenge", about)
    story.arrives(story.request(Verb.UP, (0x81, bytes(16))))
    yield story
    about = "While a challenge is pending, another stale request is told the same one."
    story = ResponderStory("challenge-pending", "challenge-pending", about)
    story.arrives(story.request(at=0))
    first = story.challenge()
    story.arrives(story.request(at=SECOND), at=T0 + 29 * SECOND)
    if story.challenge() != first:
        raise AssertionError("the pending challenge was overwritten")
    yield story
    about = "A challenge serves once."
    story = ResponderStory("challenge-once", "challenge-once", about)
    story.arrives(story.request(at=0))
    challenge = story.challenge()
    story.arrives(story.request(Verb.UP, challenge, at=SECOND), verdict=DONE)
    story.arrives(story.request(Verb.DOWN, challenge, at=2 * SECOND))
    yield story
    about = "A challenge is void once another request was accepted."
    story = ResponderStory("challenge-overtaken", "challenge-once", about)
    story.arrives(story.request(at=0))
    delayed = story.request(Verb.UP, story.challenge(), at=SECOND)
    story.arrives(story.request(Verb.DOWN), verdict=DONE)
    story.arrives(delayed)
    yield story
    about = "A challenge is void after 30 s."
    story = ResponderStory("challenge-expired", "challenge-expires", about)
    story.arrives(story.request(at=0))
    late = story.request(Verb.UP, story.challenge(), at=SECOND)
    story.arrives(late, at=T0 + 30 * SECOND)
    yield story


@tell
def initiators() -> Iterator[Story]:
    """Tell what the initiator sends and when, and what it believes."""
    about = "No reply: the same bytes again until the deadline."
    story = InitiatorStory("retransmit", "retransmit", about, deadline=4.0)
    while story.initiator.outcome is None:
        story.timer()
    yield story
    about = "stale with a challenge: a new request that echoes it, in the same suite."
    story = InitiatorStory("echo-challenge", "echo-challenge", about)
    story.hears(story.reply(Result.STALE, (0x81, story.write(16))))
    story.hears(story.reply(Result.DONE), 0.2)
    yield story
    about = "suite_refused: the first suite of the reply that is also ours."
    story = InitiatorStory("next-suite", "next-suite", about, suites=(1, 2))
    story.hears(story.reply(Result.SUITE_REFUSED, (0x08, b"\x07\x02\x01")))
    story.hears(story.reply(Result.DONE, suite=2), 0.2)
    yield story
    about = "suite_refused with no suite of ours: that is the outcome."
    story = InitiatorStory("next-suite-none", "next-suite", about)
    story.hears(story.reply(Result.SUITE_REFUSED, (0x08, b"\x02")))
    yield story
    about = "Stale for ever: the fourth reply is the outcome."
    story = InitiatorStory("at-most-four", "at-most-four", about)
    for count in range(1, 5):
        story.hears(story.reply(Result.STALE, (0x81, story.write(16))), count / 10)
    yield story
    for name, result in (("granted", 9), ("refused", 99)):
        about = f"Result {result} is not known: {name} by its range."
        story = InitiatorStory(f"result-range-{name}", "result-range", about)
        story.hears(story.reply(result))
        yield story
    yield from _ignored()


def _ignored() -> Iterator[Story]:
    about = "A granted reply to the request before the newest."
    story = InitiatorStory("reply-newest", "reply-newest", about)
    first = story.request().request_id
    story.hears(story.reply(Result.STALE, (0x81, story.write(16))))
    story.hears(story.reply(Result.DONE, request_id=first), 0.2)
    yield story
    story = InitiatorStory("reply-request-id", "reply-newest", "A reply to somebody's request.")
    story.hears(story.reply(Result.DONE, request_id=story.write(16)))
    yield story
    story = InitiatorStory("reply-suite", "reply-suite", "A reply in another suite.", (1, 2))
    story.hears(story.reply(Result.DONE, suite=2))
    yield story
    about = "A reply of the phone, sealed for the laptop."
    story = InitiatorStory("reply-sender", "reply-sender", about)
    body = reference.reply_body(story.request().request_id, T0, 0, 1, 3600)
    header = reference.header("reply", 1, bytes(PHONE.public_key), story.write(24))
    story.hears(seal(header, body, PHONE, LAPTOP))
    yield story
    about = "Our own request comes back."
    story = InitiatorStory("reply-reflected", "reply-type", about)
    story.hears(bytes.fromhex(story.blocks[-1]["sends"]))
    yield story
    story = InitiatorStory("reply-tag", "reply-authentic", "The last bit of the tag is wrong.")
    reply = story.reply(Result.DONE)
    story.hears(reply[:-1] + bytes([reply[-1] ^ 1]))
    yield story
    about = "An option 0x90, which must be understood or refused."
    story = InitiatorStory("reply-critical-option", "reply-critical-option", about)
    story.hears(story.reply(Result.DONE, (0x90, b"")))
    yield story
    about = "A state that is neither down nor up."
    story = InitiatorStory("reply-body-state", "reply-body", about)
    body = reference.reply_body(story.request().request_id, T0, 0, 2, 3600)
    story.hears(seal(story.header(), body, HOUSE, LAPTOP))
    yield story
    about = "An installed network with host bits."
    story = InitiatorStory("reply-body-network", "reply-body", about)
    story.hears(story.reply(Result.DONE, (0x06, bytes([8, 10, 0, 0, 1]))))
    yield story


def main() -> None:
    """Write the files, and remove those that no story tells any more."""
    vectors = build()
    for path in DIRECTORY.glob("*.txt"):
        if path.stem not in vectors:
            path.unlink()
    for name, blocks in vectors.items():
        (DIRECTORY / f"{name}.txt").write_text(dump(blocks))


if __name__ == "__main__":
    main()
