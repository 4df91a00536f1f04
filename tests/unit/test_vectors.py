"""The vectors: made by the generator, done by the machines, and computed by other code."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv6Address

import pytest

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.wire import Header, MessageType, Reply, Request, Result, Verb
from anubis.wireguard.keys import PrivateKey, PublicKey
from tests.vectors import generate, reference
from tests.vectors.scenarios import result_name
from tests.vectors.vectorfile import DIRECTORY, Block, dump, load_all
from tests.vectors.world import AUTHORIZED, HOUSE, LAPTOP, People, Recorded

VECTORS = load_all()
RESPONDER = [name for name, blocks in VECTORS.items() if blocks[0]["machine"] == "responder"]
INITIATOR = [name for name, blocks in VECTORS.items() if blocks[0]["machine"] == "initiator"]

# SHA-256 over the datagrams of `exchanges()`. A change of it is a change of the protocol.
ACCUMULATED = "ca8c40f0197260880e94cf2390a9dfbe48c90a7c84de8f573eccd451c1ab0140"

VALUES = (
    "receiver",
    "shared-secret",
    "extracted-key",
    "direction-key",
    "message-key",
    "header",
    "body",
)


def test_the_files_are_what_the_generator_writes() -> None:
    """No vector was edited by hand, forgotten or left behind."""
    built = {name: dump(blocks) for name, blocks in generate.build().items()}
    stored = {path.stem: path.read_text() for path in DIRECTORY.glob("*.txt")}
    assert stored == built


@pytest.mark.parametrize("name", RESPONDER)
def test_the_responder_does_what_the_vector_says(name: str) -> None:
    """Every outcome and every byte of every reply, with the recorded randomness."""
    head = VECTORS[name][0]
    random = Recorded()
    suites = tuple(int(number) for number in head["accepted-suites"].split())
    limit = int(head["session-limit"])

    def responder_from(floor: str) -> Responder:
        people = People(AUTHORIZED)
        return Responder(HOUSE.keyring(), people, random, suites, int(floor), max_sessions=limit)

    responder = responder_from(head["floor"])
    outcome = ""
    for block in VECTORS[name]:
        if block.get("step") == "restart":
            kept = responder.watermarks()
            responder = responder_from(block["floor"])
            if block["watermarks"] == "kept":
                responder.restore(kept)
        elif block.get("step") == "datagram":
            random.rest = bytes.fromhex(block.get("drawn", ""))
            outcome = _serve(responder, block)
            assert outcome == block["outcome"]
            assert random.rest == b""
    assert outcome == head["expect"].split(", then ")[-1]


def _serve(responder: Responder, block: Block) -> str:
    running = int(block["running"]) if "running" in block else None
    judged = responder.receive(
        bytes.fromhex(block["datagram"]), IPv6Address(block["source"]), int(block["now"]), running
    )
    match judged:
        case Dropped(reason):
            return f"dropped {reason}"
        case Answered(reply, result=result, repeat=repeat):
            assert reply.hex() == block["reply"]
            return "repeated" if repeat else f"answered {result_name(result)}"
        case Accepted():
            assert judged.request == Request.decode(bytes.fromhex(block["body"]))
            if "reply" in block:
                verdict = Reply.decode(bytes.fromhex(block["reply-body"]))
                assert responder.answer(judged, verdict).hex() == block["reply"]
            return "accepted"


@pytest.mark.parametrize("name", INITIATOR)
def test_the_initiator_does_what_the_vector_says(name: str) -> None:
    """Every datagram, every time of sending and every outcome, with the recorded randomness."""
    head = VECTORS[name][0]
    steps = [block for block in VECTORS[name] if "step" in block]
    random = Recorded()
    clock = {"time": 0}
    initiator = Initiator(
        LAPTOP.keyring(),
        HOUSE.public_key,
        Verb(int(head["verb"])),
        tuple(int(number) for number in head["suites"].split()),
        float(head["deadline"]),
        lambda: clock["time"],
        random,
        int(head["lease"]) if head["lease"] else None,
    )
    for block in steps:
        random.rest = bytes.fromhex(block.get("drawn", ""))
        clock["time"] = int(block.get("clock", "0"))
        now = float(block["now"])
        match block["step"]:
            case "start":
                sent: bytes | None = initiator.start(now)
            case "timer":
                sent = initiator.on_timer(now)
            case _:
                sent = initiator.on_datagram(bytes.fromhex(block["datagram"]), now)
        assert (sent or b"").hex() == block.get("sends", "")
        assert _initiator_outcome(initiator, sent) == block["outcome"]
        if sent:
            assert initiator.timer == float(block["timer"])
        assert random.rest == b""
    assert steps[-1]["outcome"] == head["expect"]


def _initiator_outcome(initiator: Initiator, sent: bytes | None) -> str:
    match initiator.outcome:
        case NoReply(sent=count):
            return f"no_reply after {count} datagrams"
        case Reply(result=result):
            verdict = "granted" if initiator.outcome.granted else "refused"
            return f"{verdict} {result_name(result)}"
        case None:
            return "ignored" if sent is None else "sends"


@pytest.mark.parametrize("name", VECTORS)
def test_other_code_computes_the_same_values(name: str) -> None:
    """Every intermediate value follows from the keys and the header, by other libraries."""
    private = {
        block["public-key"]: bytes.fromhex(block["private-key"])
        for block in VECTORS[name]
        if "private-key" in block and block.get("authorized") != "broken"
    }
    for public, own in private.items():
        assert reference.public_key(own).hex() == public
    for block in VECTORS[name]:
        if "control-address" in block:
            identifier = reference.control_identifier(bytes.fromhex(block["control-public-key"]))
            assert IPv6Address(block["control-address"]).packed[8:] == identifier
        for prefix, sealed in (("", "datagram"), ("reply-", "reply"), ("sends-", "sends")):
            if prefix + "body" in block:
                _recompute(block, prefix, bytes.fromhex(block[sealed]), private)


def _recompute(block: Block, prefix: str, datagram: bytes, private: dict[str, bytes]) -> None:
    stated = {
        name: bytes.fromhex(block[prefix + name]) for name in VALUES if prefix + name in block
    }
    header, body, receiver = stated["header"], stated["body"], stated["receiver"]
    sender = header[4:36].hex()
    # The secret from both ends.
    secret = reference.shared_secret(private[sender], receiver)
    assert secret == reference.shared_secret(private[receiver.hex()], header[4:36])
    keys = reference.keys(secret, header, receiver)
    assert keys.shared_secret == stated["shared-secret"]
    assert keys.extracted_key == stated["extracted-key"]
    assert keys.direction_key == stated["direction-key"]
    assert keys.message_key == stated.get("message-key")
    assert reference.seal(keys, header, body) == datagram
    assert reference.unseal(keys, datagram) == body


def test_every_result_and_verb_has_a_vector() -> None:
    """No code of the registries is without an example on the wire."""
    bodies = [
        bytes.fromhex(block[key])
        for blocks in VECTORS.values()
        for block in blocks
        for key in ("reply-body",)
        if key in block
    ]
    assert {body[28] for body in bodies} == set(Result)
    verbs = {
        bytes.fromhex(block["body"])[28]
        for name in RESPONDER
        for block in VECTORS[name]
        if block.get("outcome") == "accepted"
    }
    assert verbs == set(Verb)


def test_hchacha20_of_the_reference_is_the_published_one() -> None:
    """The example of draft-irtf-cfrg-xchacha-03, section 2.2.1."""
    subkey = reference.hchacha20(
        bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927")
    )
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def _draw(index: int) -> Recorded:
    """Return the bytes of exchange number `index` (`tests/vectors/README.md`)."""
    return Recorded(hashlib.shake_256(b"anubis exchange" + index.to_bytes(4)).digest(512))


def _exchange(
    index: int, channels: tuple[Channel, Channel], publics: tuple[PublicKey, PublicKey]
) -> tuple[bytes, bytes]:
    """Return the request and the reply of one exchange, opened at the far end."""
    draw = _draw(index)
    suite = 1 + draw(1)[0] % 2
    request = Request(
        request_id=draw(16),
        unix_ns=int.from_bytes(draw(8)) % 2**62,
        verb=1 + draw(1)[0] % 5,
        lease=int.from_bytes(draw(4)),
        challenge=draw(16) if draw(1)[0] % 2 else None,
        reason=draw(draw(1)[0] % 100).hex(),
    )
    asked = Header(MessageType.REQUEST, suite, publics[0], draw(24))
    sealed = channels[0].seal(asked, request.encode())
    assert Request.decode(channels[1].open(Header.decode(sealed), sealed)) == request
    reply = Reply(
        request_id=request.request_id,
        unix_ns=int.from_bytes(draw(8)) % 2**62,
        result=draw(1)[0],
        lease=int.from_bytes(draw(4)),
        reason=draw(draw(1)[0] % 100).hex(),
        up_for=int.from_bytes(draw(4)),
        transfer=(int.from_bytes(draw(8)), int.from_bytes(draw(8))),
    )
    answered = Header(MessageType.REPLY, suite, publics[1], draw(24))
    sealed_reply = channels[1].seal(answered, reply.encode())
    assert Reply.decode(channels[0].open(Header.decode(sealed_reply), sealed_reply)) == reply
    return sealed, sealed_reply


def test_ten_thousand_exchanges_have_the_pinned_hash() -> None:
    """The format did not change, in any way that 10,000 seeded exchanges can show.

    Other code computes the same bytes for every hundredth of them.
    """
    total = hashlib.sha256()
    for pair in range(100):
        draw = Recorded(hashlib.shake_256(b"anubis pair" + pair.to_bytes(4)).digest(64))
        privates = PrivateKey.generate(draw), PrivateKey.generate(draw)
        publics = privates[0].public_key(), privates[1].public_key()
        channels = (
            Channel(privates[0], publics[0], publics[1]),
            Channel(privates[1], publics[1], publics[0]),
        )
        for index in range(100 * pair, 100 * pair + 100):
            datagrams = _exchange(index, channels, publics)
            total.update(datagrams[0] + datagrams[1])
        secret = reference.shared_secret(bytes(privates[0]), bytes(publics[1]))
        for datagram, receiver in zip(datagrams, reversed(publics), strict=True):
            keys = reference.keys(secret, datagram[:60], bytes(receiver))
            body = reference.unseal(keys, datagram)
            assert body is not None
            assert hmac.compare_digest(reference.seal(keys, datagram[:60], body), datagram)
    assert total.hexdigest() == ACCUMULATED
