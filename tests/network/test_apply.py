"""Changes of the host's network are all or nothing, and touch only what is Anubis's."""

from __future__ import annotations

import asyncio
import errno
import functools
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_network
from typing import Any

import pytest

from anubis.network import apply as apply_module
from anubis.network.apply import Network
from anubis.network.errors import NetworkError
from anubis.network.plan import control_plane_state, production_state
from anubis.network.state import NetworkState, Route, Sysctl
from anubis.network.sysctl import write_sysctl
from tests.network.conftest import Namespace

MARK = 0xA4B1
TABLE = 214
SRC_VALID_MARK = "net.ipv4.conf.all.src_valid_mark"

EMPTY = NetworkState()
CONTROL = control_plane_state("lan0", IPv6Address("fd61:6e75:6269:7300::a"), TABLE)
SPLIT = CONTROL | production_state(
    "wg0", TABLE, MARK, [ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")]
)
DEFAULT = CONTROL | production_state(
    "wg0",
    TABLE,
    MARK,
    [ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.1.5.0/24")],
    [ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")],
)
OTHER_MARK = control_plane_state(
    "lan0", IPv6Address("fd61:6e75:6269:7300::b"), TABLE
) | production_state("wg0", TABLE, MARK + 1, [ip_network("0.0.0.0/0"), ip_network("fd00::/16")])

WAYS = {
    "up": (EMPTY, DEFAULT),
    "down": (DEFAULT, EMPTY),
    "more": (SPLIT, DEFAULT),  # 10.1.0.0/16 turns from unicast to throw
    "less": (DEFAULT, SPLIT),
    "changed": (DEFAULT, OTHER_MARK),
}


@dataclass
class Door:
    """Every operation of a change passes here; the n-th can be made to go wrong."""

    passed: int = 0
    wrong_at: int | None = None
    before: Callable[[], None] = field(default=lambda: None)
    after: Callable[[], None] = field(default=lambda: None)

    def arm(self, number: int) -> None:
        """Let the operation with this number, from 0, go wrong, and no other."""
        self.passed, self.wrong_at = 0, number

    def _is_wrong(self) -> bool:
        self.passed += 1
        return self.passed - 1 == self.wrong_at

    def asynchronous(self, operation: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def passing(*arguments: object) -> object:
            wrong = self._is_wrong()
            if wrong:
                self.before()
            result = await operation(*arguments)
            if wrong:
                self.after()
            return result

        return passing

    def synchronous(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def passing(*arguments: object) -> object:
            # A file is written or it is not; only answers of others can get lost after the effect.
            if self._is_wrong():
                self.before()
                self.after()
            return operation(*arguments)

        return passing


@pytest.fixture
def door(network: Network, monkeypatch: pytest.MonkeyPatch) -> Door:
    """Put the door before the kernel."""
    door = Door()
    for name in ("add_route", "delete_route", "add_rule", "delete_rule"):
        operation = door.asynchronous(getattr(network.netlink, name))
        monkeypatch.setattr(network.netlink, name, operation)
    monkeypatch.setattr(network.nft, "change", door.asynchronous(network.nft.change))
    monkeypatch.setattr(apply_module, "write_sysctl", door.synchronous(write_sysctl))
    return door


def fail(number: int = errno.ENOBUFS) -> None:
    """Go wrong."""
    raise NetworkError("injected", errno=number)


def cancel_twice(task: asyncio.Task[None]) -> None:
    """Cancel now, and again while the change is being undone."""
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)


@pytest.mark.parametrize("state", [CONTROL, SPLIT, DEFAULT], ids=["control", "split", "default"])
async def test_what_was_applied_is_taken_back_without_a_trace(
    host: Namespace, network: Network, state: NetworkState
) -> None:
    """After up and down, twice, all is byte for byte as it was, in both families."""
    before = host.everything()
    for _ in range(2):
        await network.apply(state)
        assert host.everything() != before
        found = await network.adopt(state)
        assert (found.routes, found.rules) == (state.routes, state.rules)
        await network.apply(EMPTY)
        assert host.everything() == before
    assert network.saved_sysctls == {}


async def test_the_kernel_has_exactly_what_was_wanted(host: Namespace, network: Network) -> None:
    """`ip` and `nft` show each wanted route, rule and table with Anubis's marks, and no others."""
    await network.apply(DEFAULT)
    for family in (4, 6):
        rules = [r for r in host.json(f"ip -json -{family} rule") if r.get("protocol") == "214"]
        assert {r["priority"] for r in rules} == {
            r.priority for r in DEFAULT.rules if r.family == family
        }
        routes = host.json(f"ip -json -{family} route show table {TABLE}")
        assert {r["protocol"] for r in routes} == {"214"}
        wanted = [r for r in DEFAULT.routes if r.destination.version == family]
        zero = "0.0.0.0/0" if family == 4 else "::/0"
        assert {r["dst"].replace("default", zero) for r in routes} == {
            str(r.destination) for r in wanted
        }
    entries = host.json("nft -j list tables")["nftables"]
    names = {(e["table"]["family"], e["table"]["name"]) for e in entries if "table" in e}
    assert names == {("inet", "anubis"), ("inet", "anubis_bearer")}


async def test_applying_the_same_again_does_nothing(
    host: Namespace, network: Network, door: Door
) -> None:
    """The second time no operation reaches the kernel."""
    await network.apply(DEFAULT)
    before = host.everything()
    door.passed = 0
    await network.apply(DEFAULT)
    assert door.passed == 0
    assert host.everything() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failure_at_any_step_leaves_the_previous_state(
    host: Namespace, network: Network, door: Door, way: str, when: str
) -> None:
    """Whichever operation fails, before or after its effect, the call has had no effect."""
    start, end = WAYS[way]
    await network.apply(start)
    door.passed = 0
    await network.apply(end)
    operations = door.passed
    await network.apply(start)
    before = host.content()
    saved = network.saved_sysctls
    assert operations > 5
    if when == "before":
        door.before = fail
    else:
        door.after = lambda: fail(errno.ETIMEDOUT)  # nobody knows whether it took effect
    for number in range(operations):
        door.arm(number)
        with pytest.raises(NetworkError, match="injected") as caught:
            await network.apply(end)
        assert caught.value.hint is None
        assert host.content() == before, f"operation {number}"
        assert network.applied == start
        assert network.saved_sysctls == saved
    door.wrong_at = None
    await network.apply(end)
    assert network.applied == end


@pytest.mark.parametrize("way", WAYS)
async def test_cancelling_at_any_step_leaves_the_previous_state(
    host: Namespace, network: Network, door: Door, way: str
) -> None:
    """A cancelled change is a change that did not take place, even if cancelled twice."""
    start, end = WAYS[way]
    await network.apply(start)
    door.passed = 0
    await network.apply(end)
    operations = door.passed
    await network.apply(start)
    before = host.content()
    for number in range(operations):
        task = asyncio.create_task(network.apply(end))
        door.before = functools.partial(cancel_twice, task)
        door.arm(number)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert host.content() == before, f"operation {number}"
        assert network.applied == start


async def test_an_undoing_that_fails_is_said_and_not_believed(
    host: Namespace, network: Network, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's hint names what is left, and `applied` still has it, so that it can go later."""

    async def stuck(_route: Route) -> bool:
        raise NetworkError("this route is stuck")

    before = host.everything()
    door.before = fail
    door.arm(3)
    with monkeypatch.context() as patch:
        patch.setattr(network.netlink, "delete_route", stuck)
        with pytest.raises(NetworkError, match="injected") as caught:
            await network.apply(SPLIT)
    assert "this route is stuck" in (caught.value.hint or "")
    assert len(network.applied.routes) == 2
    assert network.applied == NetworkState(routes=network.applied.routes)
    await network.apply(EMPTY)
    assert host.everything() == before


async def test_strangers_things_are_never_touched(host: Namespace, network: Network) -> None:
    """Routes in our table, rules in our range and tables of others outlive every change."""
    for command in (
        "ip route add 10.77.0.0/16 dev lan0 table 214",
        "ip -6 route add fd00:77::/48 dev lan0 table 214 proto static",
        "ip rule add fwmark 0xa4b1 lookup main priority 21420 protocol static",
        "ip -6 rule add not fwmark 0xa4b1 lookup 214 suppress_prefixlength 0 priority 21430",
        "ip rule add lookup 214 priority 21450 protocol 4",
        "ip rule add lookup 214 priority 20050 protocol 214",
        "ip -6 rule add lookup main suppress_prefixlength 0 priority 21440",
        "nft add table inet administrator",
        "nft add table ip anubis",
    ):
        host.run(command)
    before = host.everything()
    await network.adopt(DEFAULT)
    assert network.applied == EMPTY
    for state in (DEFAULT, SPLIT, OTHER_MARK, EMPTY):
        await network.apply(state)
    assert host.everything() == before


@pytest.mark.parametrize("route", ["10.1.0.0/16", "fd00:1::/48"])
async def test_a_route_that_somebody_else_holds_is_an_error_that_names_it(
    host: Namespace, network: Network, route: str
) -> None:
    """The message says whose route stands in the way; it stays, and nothing else is left."""
    family = "-6" if ":" in route else "-4"
    host.run(f"ip {family} route add {route} dev lan0 table 214 proto static")
    before = host.everything()
    with pytest.raises(NetworkError, match=f"{route} dev lan0 proto static"):
        await network.apply(SPLIT)
    assert host.everything() == before


async def test_what_is_ours_and_there_already_is_taken_as_done_and_survives_a_failure(
    host: Namespace, network: Network, door: Door
) -> None:
    """Things that a run left which nobody adopted are no conflict; undoing leaves them as well."""
    host.run("ip route add 10.1.0.0/16 dev wg0 table 214 proto 214")
    host.run("ip rule add fwmark 0xa4b1/0xffffffff lookup main priority 21420 protocol 214")
    before = host.everything()
    door.before = fail
    door.arm(len(SPLIT.routes | SPLIT.rules))  # the last, after one for the tables
    with pytest.raises(NetworkError, match="injected"):
        await network.apply(SPLIT)
    assert host.everything() == before
    assert network.applied == EMPTY
    door.wrong_at = None
    await network.apply(SPLIT)
    await network.apply(EMPTY)
    assert "214" not in host.run("ip rule") + host.run("ip route show table all")


async def test_what_a_stranger_deleted_is_no_error_and_comes_back_after_adopt(
    host: Namespace, network: Network
) -> None:
    """As systemd-networkd does: our rules and routes vanish; `adopt` notices, `down` is calm."""
    before = host.everything()
    await network.apply(DEFAULT)
    applied = host.content()
    for command in (
        "ip rule del priority 21450",
        "ip -6 rule del priority 21440",
        "ip route flush table 214",
    ):
        host.run(command)
    await network.adopt(DEFAULT)
    await network.apply(DEFAULT)
    assert host.content() == applied
    host.run("ip -6 rule del priority 21430")
    host.run("ip -6 route flush table 214")
    host.run("nft delete table inet anubis_bearer")
    await network.apply(EMPTY)
    assert host.everything() == before


async def test_a_killed_run_is_taken_over(host: Namespace, network: Network) -> None:
    """A new process reads what the old one left, changes only the difference, and can undo it."""
    saved: dict[str, str] = {}
    before = host.everything()
    async with Network(remember=saved.update) as killed:
        await killed.apply(DEFAULT)
    applied = host.content()
    assert saved == {SRC_VALID_MARK: "0"}
    async with Network(saved) as successor:
        found = await successor.adopt(DEFAULT)
        assert (found.routes, found.rules) == (DEFAULT.routes, DEFAULT.rules)
        assert found.sysctls == {Sysctl(SRC_VALID_MARK, "1")}
        await successor.apply(DEFAULT)
        assert host.content() == applied
        await successor.apply(EMPTY)
    assert host.everything() == before


async def test_a_killed_run_with_another_table_number_is_taken_over(
    host: Namespace, network: Network
) -> None:
    """Ownership is the protocol number: the administrator may have changed the table meanwhile."""
    before = host.everything()
    await network.apply(production_state("wg0", 4711, MARK, [ip_network("10.1.0.0/16")]))
    async with Network() as successor:
        await successor.adopt(SPLIT)
        await successor.apply(SPLIT)
        await successor.apply(EMPTY)
    assert host.everything() == before


async def test_a_replaced_table_is_never_away(host: Namespace, network: Network) -> None:
    """A table that an earlier version wrote differently is exchanged in one transaction."""
    host.run("nft add table inet anubis")
    host.run("nft add chain inet anubis old")
    await network.adopt(CONTROL)
    await network.apply(CONTROL)
    assert "old" not in host.run("nft list table inet anubis")


async def test_a_kernel_parameter_that_somebody_changed_meanwhile_stays(
    host: Namespace, network: Network
) -> None:
    """Only a value that is still ours is put back."""
    host.sysctl(SRC_VALID_MARK, "1")
    await network.apply(DEFAULT)
    assert network.saved_sysctls == {SRC_VALID_MARK: "1"}
    host.sysctl(SRC_VALID_MARK, "0")
    await network.apply(EMPTY)
    assert host.run("cat /proc/sys/net/ipv4/conf/all/src_valid_mark") == "0\n"


async def test_a_missing_interface_is_named_and_nothing_is_left(
    host: Namespace, network: Network
) -> None:
    """Without `wg9` there is no route into it, and nothing else either."""
    before = host.everything()
    state = CONTROL | production_state("wg9", TABLE, MARK, [ip_network("10.1.0.0/16")])
    with pytest.raises(NetworkError, match="there is no interface wg9"):
        await network.apply(state)
    assert host.everything() == before


async def test_routes_that_went_with_their_interface_are_no_error(
    host: Namespace, network: Network
) -> None:
    """Somebody deletes `wg0` while it is in use; down still ends clean."""
    await network.apply(SPLIT)
    host.run("ip link del wg0")
    await network.apply(EMPTY)
    assert "214" not in host.run("ip rule")
    assert await network.adopt(EMPTY) == EMPTY


async def test_without_nft_the_message_says_what_to_install(
    host: Namespace, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No confinement, no control plane: and nothing half done."""
    before = host.everything()
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    with pytest.raises(NetworkError, match="nft is not installed") as caught:
        await network.apply(SPLIT)
    assert caught.value.hint == "apt install nftables"
    monkeypatch.undo()
    assert host.everything() == before


async def test_nft_says_why_it_refuses(host: Namespace, network: Network) -> None:
    """The first line of nft's complaint is the reason that is shown."""
    bad = control_plane_state('wg"0', IPv6Address("fd61:6e75:6269:7300::a"), TABLE)
    with pytest.raises(NetworkError, match="syntax error"):
        await network.apply(NetworkState(tables=bad.tables))
    assert host.run("nft list ruleset") == ""
