"""Add, delete and list our routes and policy rules over rtnetlink, one operation a call.

Owns the socket, the deadline and the mapping of errors. Refuses to decide anything. A route is ours
by its protocol number, a rule by its protocol number and its priority; both are part of every
deletion, so a stranger's is never hit. Links and addresses are in `links`.

pyroute2's `AsyncIPRoute` does the work; its socket is opened in the network namespace that the
process is in at `open`, and serves for the daemon's life.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_GETRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from anubis.network.errors import NetworkError, explain
from anubis.network.messages import (
    FAMILIES,
    describe_route,
    is_our_rule,
    parse_route,
    parse_rule,
    route_request,
    rule_request,
    takes_everything,
)
from anubis.network.precedence import actual, block_before
from anubis.network.state import ROUTE_PROTOCOL, Route, Rule

__all__ = ["Netlink", "link_index"]

_T = TypeVar("_T")

_DEADLINE = 5.0  # seconds; the kernel answers in well under a millisecond
_DUMP_ATTEMPTS = 5
_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})  # what deleting nothing says


def link_index(interface: str) -> int | None:
    """Return the index of a link in this network namespace; None: there is no such link.

    Raises NetworkError if nobody can tell, because no socket can be had, say.
    """
    try:
        return socket.if_nametoindex(interface)
    except OSError:  # which does not say why
        indexes = {name: index for index, name in _link_names().items()}
        return indexes.get(interface)


class Netlink:
    """One rtnetlink socket. Methods raise NetworkError, and nothing of the library's."""

    def __init__(self) -> None:
        self.socket = AsyncIPRoute(ext_ack=True, strict_check=True)
        self._blocks = dict.fromkeys(FAMILIES, 0)  # in which our rules stand, by family

    async def open(self) -> None:
        """Open the socket in the network namespace that the process is in."""
        what = "open an rtnetlink socket"
        await self.ask(what, self.socket.setup_endpoint())
        try:
            self.socket.socket.bind((0, 0))  # the library would leave it to the first request
        except OSError as error:
            raise explain(what, error.errno or errno.EIO) from error

    @property
    def port(self) -> int:
        """The number by which the kernel's notices tell what this socket asked for."""
        return int(self.socket.socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    async def ask(self, what: str, answer: Awaitable[_T]) -> _T:
        """Await one exchange with the kernel; `what` says in an error what could not be done."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return await answer
        except NetlinkError as error:
            # The second argument is the kernel's own explanation, where it gave one.
            detail = str(error.args[1]) if len(error.args) > 1 else None
            raise explain(what, error.code, detail) from error
        except TimeoutError as error:
            detail = f"the kernel did not answer within {_DEADLINE:g} s"
            raise explain(what, errno.ETIMEDOUT, detail) from error
        except OSError as error:
            raise explain(what, error.errno or errno.EIO) from error

    async def dump(
        self, what: str, kind: int, message: Callable[[], Any], header: Mapping[str, Any]
    ) -> list[Any]:
        """Return every object of a kind; a dump that a change interrupted is made again.

        With strict checking the kernel itself filters by what `header` sets in the `message`.
        """
        for _ in range(_DUMP_ATTEMPTS):
            request = _request(message, header)
            found = await self.ask(what, self._collect(kind, request, NLM_F_DUMP))
            if not any(one["header"]["flags"] & NLM_F_DUMP_INTR for one in found):
                return found
        raise explain(what, errno.EAGAIN, "it changed each time while it was read")

    async def dump_routes(self, what: str, header: Mapping[str, Any]) -> list[Any]:
        """Return the routes that match the fields of `header`, as the library's messages."""
        return await self.dump(what, RTM_GETROUTE, rtmsg, header)

    async def get(
        self, what: str, kind: int, message: Callable[[], Any], header: Mapping[str, Any]
    ) -> Any:
        """Return the one object that the `message`, with the fields of `header`, asks for.

        Not by the library's own `get`, which has it acknowledged and never reads the
        acknowledgement: its queue would grow for as long as the daemon lives.
        """
        (found,) = await self.ask(what, self._collect(kind, _request(message, header)))
        return found

    async def _collect(self, kind: int, request: Any, flags: int = 0) -> list[Any]:
        answers = await self.socket.nlm_request(request, kind, NLM_F_REQUEST | flags)
        return [answer async for answer in answers]

    async def add_route(self, route: Route) -> bool:
        """Add a route; False: exactly this one was there already. Raises when another holds it."""
        what = f"add the {route}"
        request = route_request(route, _index(what, route))
        try:
            await self.ask(what, self.socket.route("add", **request))
        except NetworkError as error:
            if error.errno != errno.EEXIST:
                raise
            if route in await self.routes():
                return False
            holder = await self._route_holder(route)
            raise explain(what, errno.EEXIST, f"the table already has {holder}") from error
        return True

    async def replace_route(self, route: Route) -> None:
        """Put a route in its place, whoever's stands there."""
        what = f"put back the {route}"
        request = route_request(route, _index(what, route))
        await self.ask(what, self.socket.route("replace", **request))

    async def delete_route(self, route: Route) -> bool:
        """Delete a route; False: it was gone already, by itself or with its interface."""
        what = f"delete the {route}"
        if route.interface is not None and link_index(route.interface) is None:
            return False
        request = route_request(route, _index(what, route))
        return await self._delete(what, self.socket.route("del", **request))

    async def add_rule(self, rule: Rule) -> bool:
        """Add a rule; False: exactly this one was there already."""
        what = f"add the {rule}"
        try:
            await self.ask(what, self.socket.rule("add", **self._request(rule)))
        except NetworkError as error:
            # The kernel counts the protocol among what makes rules differ: no stranger's is equal.
            if error.errno == errno.EEXIST and rule in await self.rules():
                return False
            raise
        return True

    async def delete_rule(self, rule: Rule) -> bool:
        """Delete a rule; False: it was gone already."""
        what = f"delete the {rule}"
        return await self._delete(what, self.socket.rule("del", **self._request(rule)))

    def standing(self, priority: int, family: int) -> int:
        """Return at which priority a rule of ours stands in truth, as far as that was settled."""
        return actual(priority, self._blocks[family])

    def _request(self, rule: Rule) -> dict[str, Any]:
        return rule_request(rule, self._blocks[rule.family])

    async def _delete(self, what: str, request: Awaitable[object]) -> bool:
        try:
            await self.ask(what, request)
        except NetworkError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    async def routes(self) -> frozenset[Route]:
        """Return the routes of our protocol in whatever table: the configured one may change."""
        messages = []
        for family in FAMILIES.values():
            header = {"family": family, "proto": ROUTE_PROTOCOL}
            messages += await self.dump_routes("list our routes", header)
        names = _link_names()
        routes = (parse_route(message, names) for message in messages)
        return frozenset(route for route in routes if route is not None)

    async def rules(self, *, settle: bool = False) -> frozenset[Rule]:
        """Return the rules of our protocol in our range of priorities.

        To `settle` is to choose anew where ours are to stand, before strangers' that take
        everything; those that do not stand there are astray from then on.
        """
        found = set()
        for family, number in FAMILIES.items():
            messages = await self.dump("list the rules", RTM_GETRULE, fibmsg, {"family": number})
            ours = [message for message in messages if is_our_rule(message)]
            if settle:
                others = (each for each in messages if not is_our_rule(each))
                self._blocks[family] = block_before(
                    each.get("priority") for each in others if takes_everything(each)
                )
            found |= {parse_rule(message, self._blocks[family]) for message in ours}
        return frozenset(rule for rule in found if rule is not None)

    async def _route_holder(self, route: Route) -> str:
        """Describe the route that stands where `route` should."""
        family = FAMILIES[route.destination.version]
        header = {"family": family, "attrs": [("RTA_TABLE", route.table)]}
        messages = await self.dump_routes("list the routes", header)
        names = _link_names()
        described = [describe_route(message, names) for message in messages]
        same = [text for text in described if text.split()[0] == str(route.destination)]
        return same[0] if same else "a route to the same destination"


def _request(message: Callable[[], Any], header: Mapping[str, Any]) -> Any:
    request = message()
    for field, value in header.items():
        request[field] = value
    return request


def _index(what: str, route: Route) -> int | None:
    """Return the index of a route's interface; a route without one needs none."""
    if route.interface is None:
        return None
    index = link_index(route.interface)
    if index is None:
        detail = f"there is no interface {route.interface}"
        raise explain(what, errno.ENODEV, detail)
    return index


def _link_names() -> dict[int, str]:
    try:
        return dict(socket.if_nameindex())
    except OSError as error:
        raise explain("list the interfaces", error.errno or errno.EIO) from error
