"""The daemon is not root: it has one capability, and what it needs is handed to it.

All daemons of the lab run so (`anubis.lab.service`), and with them every test in this directory.
Here is shown that it is true, and where the borders are.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import ANUBIS_CONF, AUTHORIZED_PEERS, Edit, anubis, configured, end_all

NET_ADMIN = 1 << 12  # linux/capability.h
AS_SERVICE = ("setpriv", "--reuid=anubisd", "--regid=anubisd", "--clear-groups",
              "--bounding-set=-all", "--inh-caps=-all")  # fmt: skip


def rights(process: Path) -> dict[str, str]:
    """Return what the kernel says of the privileges of a process."""
    text = (process / "status").read_text()
    return dict(re.findall(r"^(Uid|Gid|Groups|Cap\w+|NoNewPrivs):[ \t]*(.*?)[ \t]*$", text, re.M))


def of_service(lab: Lab, host: str) -> dict[str, Path]:
    """Return the daemon of a host and what it started, by command line."""
    daemon = lab.daemon(host).process
    assert daemon is not None
    network = Path(f"/proc/{daemon}/ns/net").readlink()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ").strip()
            if (process / "ns/net").readlink() == network and "wg-house" not in command:
                found[command] = process
        except OSError:  # it has just ended
            continue
    return {
        command: process
        for command, process in found.items()
        if process.name == str(daemon) or "wireguard-go" in command
    }


def test_the_daemon_has_one_capability(lab: Lab) -> None:
    """It and its wireguard-go: user anubisd, CAP_NET_ADMIN and nothing else, now or later."""
    caps = f"{NET_ADMIN:016x}"
    user = "\t".join(["4298"] * 4)
    processes = of_service(lab, "xena")
    assert len(processes) == (1 if "wireguard-go" not in str(processes) else 3)
    for command, process in processes.items():
        assert rights(process) == {
            "Uid": user,
            "Gid": user,
            "Groups": "",
            "NoNewPrivs": "1",
            **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), caps),
        }, command


def test_its_memory_never_reaches_a_disk(lab: Lab) -> None:
    """No core dump of the daemon, and none of what it starts."""
    for process in of_service(lab, "xena").values():
        limits = (process / "limits").read_text()
        assert re.search(r"^Max core file size +1 +1 ", limits, re.M)
    # What cannot be dumped belongs to root under /proc (proc(5)).
    assert Path(f"/proc/{lab.daemon('xena').process}/mem").stat().st_uid == 0


@pytest.mark.parametrize("key", ["production", "control"])
def test_the_keys_stay_with_root(lab: Lab, key: str) -> None:
    """The daemon's user can read no key file; the daemon has a copy that systemd hands over."""
    done = lab.run("xena", *AS_SERVICE, "cat", f"/etc/anubis/{key}.key")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Permission denied" in done.stderr


def test_it_sets_the_kernel_parameter_that_a_default_route_wants(lab: Lab) -> None:
    """/proc/sys is the one place outside of its directories where it writes."""
    path = "net.ipv4.conf.all.src_valid_mark"
    values = [lab.run("xena", "sysctl", "-n", path).stdout]
    allowed = re.compile(r"^AllowedIPs = .*192\.168\.7\.0.*$", re.M)
    text = allowed.search(lab.path("xena", AUTHORIZED_PEERS).read_text())
    assert text is not None
    with configured(lab, Edit("xena", AUTHORIZED_PEERS, text[0], "AllowedIPs = 0.0.0.0/0, ::/0")):
        anubis(lab, "xena", "up", "jacinth")
        values.append(lab.run("xena", "sysctl", "-n", path).stdout)
        end_all(lab)
        values.append(lab.run("xena", "sysctl", "-n", path).stdout)
    assert values == ["0\n", "1\n", "0\n"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (AUTHORIZED_PEERS, f"chgrp anubisd {AUTHORIZED_PEERS} && chmod 640 {AUTHORIZED_PEERS}"),
        (ANUBIS_CONF, f"chgrp anubisd {ANUBIS_CONF} && chmod 640 {ANUBIS_CONF}"),
    ],
)
def test_a_file_that_it_may_not_read(lab: Lab, path: str, hint: str) -> None:
    """It says which, and the command that it prints mends it."""
    daemon = lab.daemon("xena")
    daemon.stop()
    file = lab.path("xena", path)
    try:
        file.chmod(0o600)
        said = len(daemon.log)
        daemon.launch()
        wait_until(lambda: hint in daemon.log[said:], 10, "the daemon says why it does not start")
        assert f"{path}: you may not read this file" in daemon.log[said:]
        wait_until(lambda: daemon.process is None, 10, "it ends")
        lab.run("xena", "sh", "-ec", hint, check=True)
        daemon.start()
    finally:
        lab.run("xena", "chgrp", "root", path, check=True)
        file.chmod(0o644)
        if daemon.process is None:
            daemon.start()


def test_a_key_elsewhere_is_handed_over_by_name(lab: Lab) -> None:
    """Another PrivateKeyFile needs a line in the unit, and the daemon says which."""
    daemon, text = lab.daemon("xena"), lab.path("xena", ANUBIS_CONF).read_text()
    daemon.stop()
    lab.run("xena", "cp", "-p", "/etc/anubis/control.key", "/etc/anubis/other", check=True)
    lab.path("xena", ANUBIS_CONF).write_text(text.replace("/control.key", "/other"))
    try:
        said = len(daemon.log)
        daemon.launch()
        line = "LoadCredential=etc-anubis-other:/etc/anubis/other"
        wait_until(lambda: line in daemon.log[said:], 10, "the daemon says why it does not start")
        wait_until(lambda: daemon.process is None, 10, "it ends")
    finally:
        lab.path("xena", ANUBIS_CONF).write_text(text)
        lab.path("xena", "/etc/anubis/other").unlink()
        daemon.start()


def test_root_by_hand_and_the_service_take_turns(lab: Lab) -> None:
    """What one has left in /run/anubis does not hinder the other."""
    daemon = lab.daemon("xena")
    for _ in range(2):
        daemon.stop()
        with lab.state.log("xena").open("a") as log:
            by_hand = lab.popen(
                "xena", "setsid", "--fork", "anubis", "daemon", stdout=log, stderr=log
            )
            assert by_hand.wait() == 0
        daemon.await_ready()
        assert lab.path("xena", "/run/anubis").stat().st_uid == 0
        anubis(lab, "xena", "up", "jacinth")
        daemon.stop()
        daemon.start()
        assert lab.path("xena", "/run/anubis").stat().st_uid == 4298
        anubis(lab, "xena", "up", "jacinth")
        anubis(lab, "xena", "down", "jacinth")
