"""How a vector is made: drive one machine through a story and write down every value."""

from __future__ import annotations

from dataclasses import dataclass, field

from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.wire import Reply, Request, Result, Verb
from tests.vectors import reference
from tests.vectors.vectorfile import Block
from tests.vectors.world import AUTHORIZED, HOUR, HOUSE, LAPTOP, T0, Host, People, Stream

_HOSTS = {bytes(host.public_key): host for host in [HOUSE, *AUTHORIZED]}


def seal(
    header: bytes, body: bytes, sender: Host, receiver: Host = HOUSE, kind: int | None = None
) -> bytes:
    """Seal any body under any header, also wrong ones; `kind` seals for another type's key."""
    secret = reference.shared_secret(bytes(sender.private), bytes(receiver.public_key))
    keyed = header if kind is None else header[:1] + bytes([kind]) + header[2:]
    keys = reference.keys(secret, keyed, bytes(receiver.public_key))
    return reference.seal(keys, header, body)


def explain(datagram: bytes, prefix: str = "") -> Block:
    """Return the intermediate values of an authentic datagram; nothing for any other."""
    sender = _HOSTS.get(datagram[4:36])
    if (
        len(datagram) < 76
        or sender is None
        or datagram[1] not in (1, 2)
        or datagram[2] not in (1, 2)
    ):
        return {}
    receiver = LAPTOP if sender is HOUSE else HOUSE
    for other in AUTHORIZED if sender is HOUSE else [HOUSE]:
        receiver = other
        secret = reference.shared_secret(bytes(sender.private), bytes(receiver.public_key))
        keys = reference.keys(secret, datagram[:60], bytes(receiver.public_key))
        body = reference.unseal(keys, datagram)
        if body is not None:
            break
    else:
        return {}
    values = {
        "receiver": bytes(receiver.public_key),
        "shared-secret": keys.shared_secret,
        "extracted-key": keys.extracted_key,
        "direction-key": keys.direction_key,
        "message-key": keys.message_key,
        "header": datagram[:60],
        "body": body,
    }
    return {prefix + name: value.hex() for name, value in values.items() if value is not None}


def result_name(result: int) -> str:
    """Return the name of a result code; its number if it has none."""
    return Result(result).name.lower() if result in frozenset(Result) else str(result)


def host_block(role: str, host: Host) -> Block:
    """Return what there is to know of a host."""
    return {
        role: host.name,
        "private-key": bytes(host.private).hex(),
        "public-key": bytes(host.public_key).hex(),
        "control-public-key": bytes(host.control_public).hex(),
        "control-address": str(host.address),
    }


@dataclass
class ResponderStory:
    """Datagrams arrive at the house."""

    name: str
    duty: str
    about: str
    accepted: tuple[int, ...] = (1, 2)
    floor: int = T0 - HOUR
    limit: int = 65_536
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = Stream(f"responder {self.name}")
        self.write = Stream(f"initiator {self.name}")
        self.responder = self._responder(self.floor)
        head = {
            "vector": self.name,
            "machine": "responder",
            "duty": self.duty,
            "expect": "",
            "about": self.about,
            "accepted-suites": " ".join(map(str, self.accepted)),
            "floor": str(self.floor),
            "session-limit": str(self.limit),
        }
        self.blocks += [head, host_block("responder", HOUSE)]
        self.blocks += [host_block("authorized", host) for host in AUTHORIZED]

    def _responder(self, floor: int) -> Responder:
        people = People(AUTHORIZED)
        return Responder(
            HOUSE.keyring(), people, self.draw, self.accepted, floor, max_sessions=self.limit
        )

    def header(self, suite: int = 1, who: Host = LAPTOP) -> bytes:
        """Return the header of a request."""
        return reference.header("request", suite, bytes(who.public_key), self.write(24))

    def body(self, verb: int = Verb.UP, at: int = T0, *tlvs: tuple[int, bytes]) -> bytes:
        """Return the body of a request."""
        return reference.request_body(self.write(16), at, verb, *tlvs)

    def request(
        self,
        verb: int = Verb.UP,
        *tlvs: tuple[int, bytes],
        at: int = T0,
        suite: int = 1,
        who: Host = LAPTOP,
    ) -> bytes:
        """Return a well-formed request datagram."""
        return seal(self.header(suite, who), self.body(verb, at, *tlvs), who)

    def arrives(
        self,
        datagram: bytes,
        *,
        at: int = T0,
        via: Host = LAPTOP,
        running: int | None = None,
        verdict: Reply | None = None,
    ) -> Accepted | Answered | Dropped:
        """Give a datagram to the responder, answer with `verdict` if there is one; write down."""
        outcome = self.responder.receive(datagram, via.address, at, running)
        block: Block = {"step": "datagram", "source": str(via.address), "now": str(at)}
        if running is not None:
            block["running"] = str(running)
        block |= explain(datagram) | {"datagram": datagram.hex()}
        reply = b""
        match outcome:
            case Dropped(reason):
                block["outcome"] = f"dropped {reason}"
            case Answered(reply, repeat=True):
                block["outcome"] = "repeated"
            case Answered(reply, result=result):
                block["outcome"] = f"answered {result_name(result)}"
            case Accepted():
                block["outcome"] = "accepted"
                if verdict is not None:
                    reply = self._answer(outcome, verdict, at)
        drawn = self.draw.take_drawn()
        if drawn:
            block["drawn"] = drawn.hex()
        if reply:
            block |= explain(reply, "reply-") | {"reply": reply.hex()}
        self.blocks.append(block)
        self.blocks[0]["expect"] = block["outcome"]
        return outcome

    def _answer(self, accepted: Accepted, verdict: Reply, at: int) -> bytes:
        addressed = Reply(
            accepted.request.request_id,
            at,
            verdict.result,
            verdict.state,
            verdict.lease,
            verdict.reason,
            verdict.up_for,
            verdict.handshake_age,
            verdict.transfer,
            verdict.endpoint,
            installed=verdict.installed,
            waiting=verdict.waiting,
        )
        return self.responder.answer(accepted, addressed)

    def challenge(self) -> tuple[int, bytes]:
        """Return the option with the challenge of the last reply."""
        body = bytes.fromhex(self.blocks[-1]["reply-body"])
        return next(option for option in reference.options(body, "reply") if option[0] == 0x81)

    def restart(self, floor: int, *, watermarks: bool) -> None:
        """Start a new responder, with or without the watermarks of the old one."""
        kept = self.responder.watermarks()
        self.responder = self._responder(floor)
        if watermarks:
            self.responder.restore(kept)
        self.blocks.append(
            {
                "step": "restart",
                "floor": str(floor),
                "watermarks": "kept" if watermarks else "lost",
            }
        )


@dataclass
class InitiatorStory:
    """The laptop asks the house."""

    name: str
    duty: str
    about: str
    suites: tuple[int, ...] = (1,)
    deadline: float = 10.0
    verb: Verb = Verb.UP
    lease: int | None = 3600
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = Stream(f"initiator {self.name}")
        self.write = Stream(f"responder {self.name}")
        self.time = T0
        self.initiator = Initiator(
            LAPTOP.keyring(),
            HOUSE.public_key,
            self.verb,
            self.suites,
            self.deadline,
            lambda: self.time,
            self.draw,
            self.lease,
        )
        head = {
            "vector": self.name,
            "machine": "initiator",
            "duty": self.duty,
            "expect": "",
            "about": self.about,
            "suites": " ".join(map(str, self.suites)),
            "deadline": repr(self.deadline),
            "verb": str(int(self.verb)),
            "lease": "" if self.lease is None else str(self.lease),
        }
        self.blocks += [head, host_block("initiator", LAPTOP), host_block("responder", HOUSE)]
        self._note("start", 0.0, b"", self.initiator.start(0.0))

    def timer(self) -> bytes | None:
        """Let the timer come."""
        now = self.initiator.timer
        sent = self.initiator.on_timer(now)
        self._note("timer", now, b"", sent)
        return sent

    def hears(self, datagram: bytes, now: float = 0.1) -> bytes | None:
        """Give a datagram to the initiator."""
        self.time = T0 + int(now * 10**9)
        sent = self.initiator.on_datagram(datagram, now)
        self._note("datagram", now, datagram, sent)
        return sent

    def request(self) -> Request:
        """Return the newest request."""
        sends = next(block["sends"] for block in reversed(self.blocks) if "sends" in block)
        return Request.decode(bytes.fromhex(explain(bytes.fromhex(sends))["body"]))

    def reply(
        self,
        result: int,
        *tlvs: tuple[int, bytes],
        request_id: bytes | None = None,
        suite: int | None = None,
    ) -> bytes:
        """Return a reply of the house, to the newest request unless told otherwise."""
        body = reference.reply_body(
            request_id or self.request().request_id, T0, result, 1, 3600, *tlvs
        )
        return seal(self.header(suite), body, HOUSE, LAPTOP)

    def header(self, suite: int | None = None) -> bytes:
        """Return the header of a reply."""
        return reference.header(
            "reply", suite or self.suites[0], bytes(HOUSE.public_key), self.write(24)
        )

    def _note(self, step: str, now: float, heard: bytes, sent: bytes | None) -> None:
        block: Block = {"step": step, "now": repr(now)}
        if step == "datagram":
            block |= explain(heard) | {"datagram": heard.hex()}
        match self.initiator.outcome:
            case NoReply(sent=count):
                block["outcome"] = f"no_reply after {count} datagrams"
            case Reply(result=result):
                verdict = "granted" if self.initiator.outcome.granted else "refused"
                block["outcome"] = f"{verdict} {result_name(result)}"
            case None:
                block["outcome"] = "ignored" if sent is None else "sends"
        if sent is not None:
            drawn = self.draw.take_drawn()
            block["clock"] = str(self.time)
            block["drawn"] = drawn.hex()
            block |= explain(sent, "sends-") | {"sends": sent.hex()}
            block["timer"] = repr(self.initiator.timer)
        self.blocks.append(block)
        self.blocks[0]["expect"] = block["outcome"]
