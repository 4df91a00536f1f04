"""Load and delete whole nftables tables through the `nft` program, each change one transaction.

Owns the program's syntax and its deadline. Refuses to know what a table is for. `nft` is used
rather than its library or raw netlink because it is on every host that has nftables, and because
its text is what an administrator reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
from collections.abc import Collection, Iterable
from typing import Any

from anubis.network.errors import NetworkError, explain
from anubis.network.state import NftTable

__all__ = ["Nft", "NftName"]

NftName = tuple[str, str]  # family, name

_MAX_PRINTED = 16  # there are two tables; one of them has a body for each mark
_DEADLINE = 10.0  # seconds; a change takes about ten milliseconds


class Nft:
    """The nftables of the network namespace that the process is in."""

    def __init__(self) -> None:
        self._printed: dict[NftTable, str] = {}  # what `nft` prints for what was loaded

    async def change(self, remove: Collection[NftName], add: Collection[NftTable]) -> None:
        """Remove and add tables in one transaction: all of it or, with NetworkError, nothing.

        A table that is named in both is replaced without a gap; removing a missing one is fine.
        """
        # "add" before "delete" makes the deletion succeed whether or not the table is there.
        lines = [f"add table {f} {n}\ndelete table {f} {n}\n" for f, n in sorted(remove)]
        lines += [f"table {table.family} {table.name} {{{table.body}}}\n" for table in add]
        names = {f"{family} {name}" for family, name in remove}
        names |= {f"{table.family} {table.name}" for table in add}
        what = f"change the nftables table {', '.join(sorted(names))}"
        await _nft(what, ["-f", "-"], "".join(lines))
        for table in add:
            if table not in self._printed:
                with contextlib.suppress(NetworkError):  # `intact` can do without
                    await self._learn(table)

    async def intact(self, wanted: Collection[NftTable]) -> frozenset[NftTable]:
        """Return the wanted tables that exist, a changed one as it is now.

        Changed is what `nft` prints otherwise than just after it was loaded: what the kernel has
        cannot be compared with what was asked for.
        """
        found = await asyncio.gather(*(self._intact(table) for table in wanted))
        return frozenset(table for table in found if table is not None)

    async def _intact(self, wanted: NftTable) -> NftTable | None:
        try:
            seen = await self._table(wanted.family, wanted.name)
        except NetworkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return wanted if self._printed.get(wanted, seen.body) == seen.body else seen

    async def _learn(self, table: NftTable) -> None:
        if len(self._printed) >= _MAX_PRINTED:
            self._printed.clear()
        self._printed[table] = (await self._table(table.family, table.name)).body

    async def tables(self, names: Iterable[NftName]) -> frozenset[NftTable]:
        """Return those of the named tables that exist, with their bodies as `nft` prints them."""
        answer = json.loads(await _nft("list the nftables tables", ["-j", "list", "tables"]))
        entries = [entry["table"] for entry in answer["nftables"] if "table" in entry]
        existing = {(str(entry["family"]), str(entry["name"])) for entry in entries}
        return frozenset([await self._table(*name) for name in sorted(existing & set(names))])

    async def ruleset(self) -> list[dict[str, Any]]:
        """Return all tables, chains and rules, as nft's JSON has them, with handles."""
        answer = json.loads(await _nft("read the nftables rules", ["-a", "-j", "list", "ruleset"]))
        found: list[dict[str, Any]] = answer["nftables"]
        return found

    async def _table(self, family: str, name: str) -> NftTable:
        what = f"read the nftables table {family} {name}"
        text = await _nft(what, ["--stateless", "list", "table", family, name])
        return NftTable(family, name, text[text.index("{") + 1 : text.rindex("}")])


async def _nft(what: str, arguments: list[str], script: str = "") -> str:
    """Run `nft` with `script` on its standard input; return what it prints."""
    program = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise NetworkError(
            f"cannot {what}: the program nft is not installed", "apt install nftables"
        )
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"LC_ALL": "C"},
        )
    except OSError as error:
        raise explain(what, error.errno or errno.EIO) from error
    try:
        async with asyncio.timeout(_DEADLINE):
            output, complaint = await process.communicate(script.encode())
    except TimeoutError:
        raise explain(what, errno.ETIMEDOUT, f"nft did not end within {_DEADLINE:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _refusal(what, complaint.decode(errors="replace"))
    return output.decode()


def _refusal(what: str, complaint: str) -> NetworkError:
    """Turn what `nft` wrote on its standard error into an error; the first line says it all."""
    first = complaint.strip().partition("\n")[0] or "nft failed without a word"
    if "Operation not permitted" in complaint:
        return explain(what, errno.EPERM, first)
    if "No such file or directory" in first:
        return explain(what, errno.ENOENT, first)
    return NetworkError(f"cannot {what}: {first}")
