"""Hosts of the lab that get another address, and names that follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anubis.lab.lab import Lab

__all__ = ["MOVED", "move", "named"]

MOVED = "203.0.113.77"  # jacinth's other address


def move(device: str, old: str, new: str, gateway: str) -> str:
    """Return the commands by which a host gets another address."""
    return (
        f"ip address del {old}/24 dev {device}; ip address add {new}/24 dev {device};"
        f" ip route replace default via {gateway}"
    )


@contextmanager
def named(lab: Lab, address: str) -> Iterator[Callable[[str], None]]:
    """Let xena know an address by the name house; yield what gives the name another one."""
    hosts = lab.path("xena", "/etc/hosts")
    others = hosts.read_text()

    def rename(address: str) -> None:
        hosts.write_text(f"{others}{address} house\n")

    rename(address)
    try:
        yield rename
    finally:
        hosts.write_text(others)
