"""What the README and docs/reliability.md say of the service, under the systemd that it is for.

The tests stand in the order in which a host would come to it, from boot to stop, but each can run
alone: what it needs, it brings about.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from anubis.files.service import SERVICE
from tests.systemd.guest import (
    Ping,
    anubis,
    drop_in,
    in_house,
    interfaces,
    journal,
    network,
    run,
    show,
    wait_until,
)

ROOT = Path(__file__).parents[2]
KEYS = ("production", "control")
NET_ADMIN = 1 << 12  # linux/capability.h
FILTERED = 2  # the seccomp mode of proc(5) in which a filter judges system calls
OURS = {"anubis0", "wg0"}
WATCHDOG_SECONDS = 30
# The promise is that of a host with a processor to spare; this one is emulated, and slower by a
# factor that is measured: by a loop that takes such a processor so long, or less.
RESTORED_SECONDS = 0.1
LOOP_SECONDS = 0.03
ROUNDS = 3


def process() -> Path:
    """Return the directory in /proc of the daemon."""
    return Path("/proc", show("MainPID"))


def handshake(there: Callable[..., str]) -> int:
    """Return when the one production peer that `there` has shook hands."""
    (line,) = there("wg", "show", "wg0", "latest-handshakes").splitlines()
    return int(line.split()[1])


def test_it_is_installed_from_a_wheel(machine: None) -> None:
    """What runs is in /opt/anubis, as pip unpacked it, and the unit is the one of this checkout."""
    assert Path("/usr/bin/anubisd").resolve() == Path("/opt/anubis/bin/anubisd")
    (record,) = Path("/opt/anubis").glob("lib/python3*/site-packages/anubis_gatekeeper-*.dist-info")
    assert (record / "WHEEL").exists()
    assert "anubis/daemon/main.py" in (record / "RECORD").read_text()
    unit = Path(show("FragmentPath"))
    assert unit == Path("/etc/systemd/system/anubis.service")
    assert unit.read_bytes() == (ROOT / "systemd/anubis.service").read_bytes()
    assert show("UnitFileState") == "enabled"


def test_it_starts_at_boot_before_there_is_a_network(service: None) -> None:
    """Enabled, it is ready (Type=notify), and has made its interfaces and confined them."""
    if "uplink" not in interfaces():  # unless other tests came first
        assert interfaces() == {"lo", *OURS}
    assert show("Type") == "notify"
    assert show("StatusText").startswith("1 peer")
    assert 'oifname "anubis0" drop' in run("nft", "list", "table", "inet", "anubis")


def test_a_user_of_the_group_brings_a_connection_up(uplink: None) -> None:
    """When the network has come; the house is reached, and both ends have shaken hands."""
    if not run("wg", "show", "wg0", "peers"):
        assert "house is up" in anubis("up", "house", "--timeout", "2m")
    with Ping() as ping:
        pass
    sent, answered = ping.counts
    assert 0 < answered == sent
    assert handshake(run) > 0
    assert handshake(in_house) > 0


def test_the_daemon_that_did_all_this_is_confined(connection: None) -> None:
    """One capability, no way to more, a filter of system calls, and a user who owns nothing."""
    text = (process() / "status").read_text()
    rights = dict(re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.M))
    capability = f"{NET_ADMIN:016x}"
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert [rights[name] for name in sets] == [capability] * len(sets)
    assert (rights["NoNewPrivs"], rights["Seccomp"]) == ("1", str(FILTERED))
    assert rights["Uid"].split() == [run("id", "-u", SERVICE).strip()] * 4
    assert set(rights["Groups"].split()) <= {run("id", "-g", SERVICE).strip()}
    command = ("systemd-analyze", "security", "--no-pager", "--threshold=15", "anubis")
    assert "Overall exposure level" in run(*command)  # fails above 1.5


def test_the_keys_are_root_s_and_reach_it_in_memory(connection: None) -> None:
    """Files of mode 600 on the disk; its copies are in a file system that is none (ramfs)."""
    for key in KEYS:
        status = Path(f"/etc/anubis/{key}.key").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o600)
    environment = (process() / "environ").read_bytes().decode().split("\0")
    (directory,) = (
        word.partition("=")[2] for word in environment if word.startswith("CREDENTIALS_DIRECTORY=")
    )
    assert {path.name for path in Path(directory).iterdir()} == {
        f"etc-anubis-{key}.key" for key in KEYS
    }
    kind = run("findmnt", "--noheadings", "--output=FSTYPE", "--target", directory)
    assert kind.strip() in {"ramfs", "tmpfs"}


def test_the_journal_has_fields(connection: None) -> None:
    """An entry is found by its peer and its event, with what happened in fields of their own."""
    entries = journal("--unit=anubis", "ANUBIS_PEER=house", "ANUBIS_EVENT=up")
    assert entries
    assert (
        entries[-1].items()
        >= {
            "ANUBIS_ROLE": "initiator",
            "ANUBIS_LEASE": "28800",
            "MESSAGE": "up connection=house role=initiator lease=28800",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "anubisd",
            "_SYSTEMD_UNIT": "anubis.service",
            "_CAP_EFFECTIVE": "1000",
        }.items()
    )
    assert not journal("--unit=anubis", "ANUBIS_PEER=nobody")
    (ready,) = journal(f"_PID={show('MainPID')}", "ANUBIS_EVENT=ready")
    assert ready["ANUBIS_PEERS"] == "1"


def test_a_suspend_waits_for_it(service: None) -> None:
    """It has logind's lock, which polkit gives it, and may use the bus from within its sandbox."""
    place = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")

    def has_lock() -> bool:
        answer = json.loads(run("busctl", "--json=short", "call", *place, "ListInhibitors"))
        held = [(what, who, mode, pid) for what, who, _, mode, _, pid in answer["data"][0]]
        return ("sleep", "Anubis", "delay", int(show("MainPID"))) in held

    wait_until(has_lock, "logind has given the lock")


def test_a_reload_is_what_the_file_allows(connection: None) -> None:
    """`systemctl reload` succeeds; with a mistake in the file it fails, and all stays as it was."""
    file = Path("/etc/anubis/authorized_peers")
    text = file.read_text()
    run("systemctl", "reload", "anubis")
    peers = run("wg", "show", "all", "peers")
    try:
        file.write_text(f"{text}\n[Peer]\nName = nobody\n")
        with pytest.raises(AssertionError, match="Job for anubis"):
            run("systemctl", "reload", "anubis")
    finally:
        file.write_text(text)
    assert show("ActiveState") == "active"
    assert run("wg", "show", "all", "peers") == peers


def test_an_edit_is_taken_up_by_itself(service: None) -> None:
    """From within its sandbox the service hears of a file that is renamed into place."""
    file = Path("/etc/anubis/authorized_peers")
    text, status = file.read_text(), file.stat()
    key = run("sh", "-c", "wg genkey | wg pubkey").strip()
    guest = f"\n[Peer]\nName = guest\nPublicKey = {key}\nAllowedIPs = 10.66.0.77\n"

    def put(content: str) -> None:
        new = file.with_name(".new")
        new.write_text(content)
        os.chown(new, status.st_uid, status.st_gid)
        new.chmod(status.st_mode & 0o7777)
        new.rename(file)

    def reloads() -> int:
        return len(journal("--unit=anubis", "ANUBIS_EVENT=reloaded"))

    known = reloads()
    put(text + guest)
    try:
        wait_until(lambda: key in run("wg", "show", "anubis0", "peers"), "the guest may call")
        wait_until(lambda: reloads() == known + 1, "it is in the journal")
    finally:
        put(text)
    wait_until(lambda: key not in run("wg", "show", "anubis0", "peers"), "the guest is gone")


def test_hooks_run_in_the_sandbox(connection: None) -> None:
    """They may change the network and write to /run/anubis, and nowhere else."""
    file, hook = Path("/etc/anubis/authorized_peers"), Path("/etc/anubis/hook")
    text = file.read_text()
    words = ("#!/bin/sh", 'ip address "$1" 198.51.100.9/32 dev lo || exit 1',
             'touch "/run/anubis/$1" || exit 2', 'if touch "/var/$1"; then exit 3; fi',
             'kill -0 $$ && sleep 0.1 && echo "$ANUBIS_CONNECTION: $1"')  # fmt: skip

    def has_address() -> bool:
        return "198.51.100.9" in run("ip", "address", "show", "dev", "lo")

    try:
        hook.write_text("\n".join(words))
        hook.chmod(0o755)
        keys = f"PostUp = {hook} add\nPreDown = {hook} del\n"
        file.write_text(text.replace("Name = house\n", f"Name = house\n{keys}"))
        run("systemctl", "reload", "anubis")
        anubis("down", "house", "--timeout", "2m")
        anubis("up", "house", "--timeout", "2m")
        assert has_address()
        anubis("down", "house", "--timeout", "2m")
        assert not has_address()
        said = [entry["ANUBIS_SAID"] for entry in journal("ANUBIS_EVENT=hook_output")]
        assert [line.splitlines()[-1] for line in said] == ["house: add", "house: del"]
        assert all("Read-only file system" in line for line in said)
        assert Path("/run/anubis/add").owner() == SERVICE
    finally:
        file.write_text(text)
        run("systemctl", "reload", "anubis")


@contextmanager
def monitored(path: Path) -> Iterator[None]:
    """Have `ip monitor rule` write to a file, from when it listens on."""
    mark = ("priority", "1", "lookup", "1")
    with path.open("w") as file:
        listening = subprocess.Popen(["ip", "-ts", "monitor", "rule"], stdout=file)
    try:
        while "Deleted" not in path.read_text():
            run("ip", "rule", "add", *mark)
            run("ip", "rule", "del", *mark)
        yield
    finally:
        listening.terminate()
        listening.wait()


def changes(path: Path) -> list[tuple[datetime, bool, str]]:
    """Return what the monitor told of our rules: when, whether it is there now, and which."""
    lines = re.findall(r"^\[(\S+)\] (Deleted )?(.* proto 214)", path.read_text(), re.M)
    return [(datetime.fromisoformat(at), not deleted, rule) for at, deleted, rule in lines]


def away(path: Path) -> float:
    """Return how many seconds it took, once networkd had deleted the last, until all were back."""
    told = changes(path)
    gone, back = (max(at for at, there, _ in told if there is is_back) for is_back in (False, True))
    return (back - gone).total_seconds()


def all_were_told(path: Path, number: int, *, back: bool) -> bool:
    """Return whether so many of our rules were deleted, or came back."""
    return sum(there is back for _, there, _ in changes(path)) >= number


def slowness() -> float:
    """Return how much slower than a host's processor this one is just now."""
    began = time.perf_counter()
    for _ in range(1_000_000):
        pass
    return max(1.0, (time.perf_counter() - began) / LOOP_SECONDS)


def our_rules() -> list[str]:
    """Return our rules of both families."""
    lines = "".join(run("ip", family, "rule") for family in ("-4", "-6")).splitlines()
    return [line for line in lines if "proto 214" in line]


def test_rules_that_networkd_deletes_are_put_back(connection: None, tmp_path: Path) -> None:
    """A restart of systemd-networkd deletes all rules that are ours, and they are back in time.

    In time is 100 ms, times what the processor is slower than one; one round has to keep it.
    """
    rules, fair = our_rules(), []
    assert len(rules) >= 9
    for number in range(ROUNDS):
        told, factor = tmp_path / str(number), slowness()
        with monitored(told):
            run("systemctl", "restart", "systemd-networkd")
            for back in (False, True):
                what = "put back" if back else "deleted"
                wait_until(partial(all_were_told, told, len(rules), back=back), what, 60.0)
        assert our_rules() == rules
        factor = max(factor, slowness())
        fair.append(away(told) / factor)
        sys.stdout.write(
            f"{len(rules)} rules back {1000 * away(told):.0f} ms after the last was deleted,"
            f" on a processor {factor:.0f} times slower than a host's\n"
        )
        if fair[-1] < RESTORED_SECONDS:
            break
    assert min(fair) < RESTORED_SECONDS
    said = [entry["ANUBIS_WHAT"] for entry in journal("--unit=anubis", "ANUBIS_EVENT=vanished")]
    for family in ("IPv4", "IPv6"):
        assert f"{family} rule 21430" in " ".join(said)
    with Ping() as ping:
        pass
    assert ping.counts[0] == ping.counts[1]


@pytest.fixture
def encrypted(connection: None) -> Iterator[None]:
    """Hand the keys over encrypted, the files gone, and have signs of life wanted soon."""
    lines = [f"WatchdogSec={WATCHDOG_SECONDS}", "LoadCredential="]
    for key in KEYS:
        plain, name = Path(f"/etc/anubis/{key}.key"), f"etc-anubis-{key}.key"
        run("systemd-creds", "encrypt", f"--name={name}", str(plain), f"/etc/anubis/{key}.cred")
        plain.rename(f"/root/{key}.key")
        lines.append(f"LoadCredentialEncrypted={name}:/etc/anubis/{key}.cred")
    edited = drop_in("encrypted", *lines)
    yield
    edited.unlink()
    run("systemctl", "daemon-reload")
    for key in KEYS:
        Path(f"/root/{key}.key").rename(f"/etc/anubis/{key}.key")


def test_restart_and_hang_lose_no_packet(encrypted: None) -> None:
    """A ping through the tunnel is answered, packet by packet, while two daemons go and come.

    The first is restarted, to keys that are encrypted on the disk. The second hangs: what fed the
    watchdog no more is killed and started again. The connection is the same all the while.
    """
    began = handshake(in_house)
    said = len(journal("--unit=house"))
    with Ping() as ping:
        old = show("MainPID")
        run("systemctl", "restart", "anubis")
        new = show("MainPID")
        assert (show("ActiveState"), show("Result")) == ("active", "success")
        assert new not in {"0", old}
        assert show("WatchdogUSec") == f"{WATCHDOG_SECONDS}s"
        fed = show("WatchdogTimestampMonotonic")
        wait_until(lambda: show("WatchdogTimestampMonotonic") != fed, "the watchdog is fed")
        restarts = int(show("NRestarts"))
        os.kill(int(new), signal.SIGSTOP)
        wait_until(lambda: int(show("NRestarts")) > restarts, "systemd misses it")
        wait_until(lambda: show("ActiveState") == "active", "there is another")
        assert show("MainPID") not in {"0", new}
    sent, answered = ping.counts
    assert answered == sent > 10
    messages = [entry["MESSAGE"] for entry in journal("--unit=anubis", "_PID=1")]
    assert any("Watchdog timeout" in message for message in messages)
    assert began <= handshake(in_house)
    assert not any(" down " in f" {entry['MESSAGE']} " for entry in journal("--unit=house")[said:])
    assert '"up"' in anubis("status", "--json")


def test_a_stop_leaves_nothing_and_tells_the_house(connection: None) -> None:
    """No rule, route, table or interface is left; the house lets go, hours before it had to."""
    run("systemctl", "stop", "anubis")
    assert (show("ActiveState"), show("Result")) == ("inactive", "success")
    assert (
        not run("systemctl", "show", "--property=TasksCurrent", "--value", "anubis")
        .strip("\n")
        .isdecimal()
    )
    assert not interfaces() & OURS
    found = network()
    for family, rules in (("-4", ["0", "32766", "32767"]), ("-6", ["0", "32766"])):
        lines = found[f"ip {family} rule"].splitlines()
        assert [line.split(":")[0] for line in lines] == rules
    for family in ("-4", "-6"):
        assert "214" not in found[f"ip {family} route show table all"]
    assert found["nft --stateless list ruleset"] == ""
    assert found["wg show all peers"] == ""
    wait_until(lambda: in_house("wg", "show", "wg0", "peers") == "", "the house lets go", 10.0)
    assert journal("--unit=house", "ANUBIS_PEER=laptop", "ANUBIS_EVENT=down")
