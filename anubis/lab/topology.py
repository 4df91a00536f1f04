"""What a lab consists of, as a value: hosts, their interfaces, addresses, routes and files.

A test takes the scene of `anubis.lab.scene`, edits it, and brings that up. Owns the vocabulary;
refuses to know namespaces and processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["File", "Host", "Interface", "Topology"]


@dataclass(frozen=True, slots=True)
class Interface:
    """A host's place on a network; the interface has the network's name (up to 15 bytes)."""

    network: str
    addresses: tuple[str, ...]  # with prefix length: "192.168.7.1/24"


@dataclass(frozen=True, slots=True)
class File:
    """A file of one host, under /etc, /var/lib or /run."""

    path: str
    content: str = field(repr=False)  # it may be a key
    mode: int = 0o644
    append: bool = False  # to what the machine's file says


@dataclass(frozen=True, slots=True)
class Host:
    """One host: a network, mount and UTS namespace."""

    name: str
    interfaces: tuple[Interface, ...]
    routes: tuple[str, ...] = ()  # what follows `ip route add`
    forwarding: bool = False
    firewall: str = ""  # for `nft -f`
    files: tuple[File, ...] = ()
    tunnel: Interface | None = None  # WireGuard by hand, from /etc/wireguard/NAME.conf
    page: str | None = None  # what its web server on port 80 says
    daemon: bool = False  # whether `anubis daemon` runs there

    def networks(self) -> Iterator[str]:
        """Yield the names of the networks that the host is on."""
        return (interface.network for interface in self.interfaces)


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts of a lab, and the router in their midst.

    The networks are Ethernets in the router's namespace, where every packet of every network can
    be watched. The router is the only host without a mount namespace of its own.
    """

    router: Host
    hosts: tuple[Host, ...]

    def host(self, name: str) -> Host:
        """Return the host of this name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def networks(self) -> tuple[str, ...]:
        """Return the names of all networks, each once."""
        return tuple(dict.fromkeys(name for host in self.hosts for name in host.networks()))

    def change(self, name: str, **changes: Any) -> Topology:
        """Return this topology with some fields of one host changed. Raises KeyError, TypeError."""
        changed = dataclasses.replace(self.host(name), **changes)
        hosts = tuple(changed if host.name == name else host for host in self.hosts)
        return dataclasses.replace(self, hosts=hosts)

    def without_daemons(self) -> Topology:
        """Return this topology with no daemon anywhere."""
        hosts = tuple(dataclasses.replace(host, daemon=False) for host in self.hosts)
        return dataclasses.replace(self, hosts=hosts)

    def with_file(self, name: str, file: File) -> Topology:
        """Return this topology with a file of one host added or replaced. Raises KeyError."""
        others = tuple(old for old in self.host(name).files if old.path != file.path)
        return self.change(name, files=(*others, file))

    def edit(self, name: str, path: str, old: str, new: str) -> Topology:
        """Return this topology with `old` replaced by `new` in one file of one host.

        Raises KeyError if there is no such file, ValueError if `old` does not stand in it.
        """
        file = next((file for file in self.host(name).files if file.path == path), None)
        if file is None:
            raise KeyError(path)
        if old not in file.content:
            raise ValueError(f"{old!r} does not stand in {path} of {name}")
        content = file.content.replace(old, new)
        return self.with_file(name, dataclasses.replace(file, content=content))
