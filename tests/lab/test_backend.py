"""The daemons' tunnels are the kernel's where it has WireGuard, and wireguard-go's elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from anubis.lab.lab import Lab
from tests.lab.conftest import userspace_programs
from tests.lab.steps import DAEMONS, LEAF, anubis, end_all, page


def served_by(lab: Lab, host: str, interface: str) -> str:
    """Return the kind of an interface, as iproute2 calls it."""
    shown = lab.run(host, "ip", "-json", "-details", "link", "show", interface, check=True).stdout
    (link,) = json.loads(shown)
    return str(link["linkinfo"]["info_kind"])


def of_the_lab(lab: Lab, process: int) -> bool:
    """Whether a process runs in the lab."""
    try:
        there = Path(f"/proc/{process}/ns/pid").readlink()
    except OSError:  # it has just ended
        return False
    return there == lab.path("leaf", "/").parent.joinpath("ns/pid").readlink()


def test_the_kernel_serves_all_tunnels_where_it_can(lab: Lab) -> None:
    """Control plane and production of every daemon, which nobody told which backend to take.

    Then no wireguard-go runs in the whole lab. Where the kernel cannot, each has one of its own.
    """
    anubis(lab, "xena", "up", "jacinth")
    trial = lab.run("leaf", "ip", "link", "add", "probe", "type", "wireguard")
    can = trial.returncode == 0
    if can:
        lab.run("leaf", "ip", "link", "delete", "probe", check=True)
    kinds = {(host, interface): served_by(lab, host, interface)
             for host in DAEMONS for interface in ("anubis0", "wg0")}  # fmt: skip
    programs = [process for process in userspace_programs() if of_the_lab(lab, process)]
    assert kinds == dict.fromkeys(kinds, "wireguard" if can else "tun")
    # The ordinary tunnel between the gateways has one at either end, too.
    assert len(programs) == (0 if can else len(kinds) + 2)
    assert page(lab, "xena", LEAF[4]).startswith("leaf, in the house")
    end_all(lab)
