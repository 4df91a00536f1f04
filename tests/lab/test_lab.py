"""The lab keeps its promises: hosts as drawn, isolation, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anubis.errors import LocalFailure
from anubis.lab.daemon import DaemonFailed
from anubis.lab.entry import ROUTER, LabDown, UnknownHost, environment
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from anubis.lab.scene import scene
from anubis.lab.topology import File, Topology

HOSTS = ("jacinth", "leaf", "surya", "hotel", "xena", "selen")
ANUBIS = str(Path(sys.executable).parent / "anubis")
QUIET = scene().without_daemons()


def anubis(directory: Path, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `anubis lab …` on the machine, as an administrator would."""
    return subprocess.run(
        [ANUBIS, "lab", *argv],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ANUBIS_LAB": str(directory)},
    )


def answers(lab: Lab, host: str, address: str) -> bool:
    """Ping once and wait up to a second."""
    return lab.run(host, "ping", "-n", "-c1", "-W1", address).returncode == 0


def page(lab: Lab, host: str, address: str) -> str:
    """Fetch the page of a web server; empty if there is no way to it."""
    return lab.run(host, "curl", "-sS", "--max-time", "3", f"http://{address}/").stdout


def namespaces(lab: Lab) -> set[str]:
    """Return every namespace that the lab's processes are in and this process is not."""
    kinds = ("pid", "net", "mnt", "uts")
    seen = set()
    for host in (*HOSTS, ROUTER):
        for kind in kinds:
            seen.add(str(lab.path(host, "/").parent.joinpath("ns", kind).readlink()))
    return seen - {str(Path("/proc/self/ns", kind).readlink()) for kind in kinds}


def remains(directory: Path, of: set[str]) -> list[str]:
    """Return what is left of a lab: its directory, processes in its namespaces or of its name."""
    left = [str(directory)] if directory.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {str(link.readlink()) for link in (process / "ns").iterdir()}
            command = (process / "cmdline").read_text()
        except OSError:  # it ended while we looked
            continue
        if links & of or str(directory) in command:
            left.append(f"{process.name} {command!r}")
    return left + [line for line in Path("/proc/mounts").read_text().splitlines()
                   if str(directory) in line]  # fmt: skip


def machine() -> str:
    """Return the state of the machine's own network, mounts and files."""
    commands = ("ip -d link", "ip address", "ip rule", "ip -6 rule", "ip route show table all",
                "ip -6 route show table all", "nft --stateless list ruleset", "cat /proc/mounts",
                "hostname", "ls -lAR --time-style=full-iso /etc", "ls -lA /var/lib")  # fmt: skip
    result = subprocess.run(
        ["sh", "-c", "; ".join(commands)], capture_output=True, text=True, check=True
    )
    # Lifetimes of addresses and routes run by themselves.
    return re.sub(r"(valid_lft|preferred_lft|expires) \S+", r"\1", result.stdout)


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("xena", "10.9.8.1", True),
        ("xena", "10.9.8.11", True),
        ("xena", "203.0.113.1", True),
        ("xena", "203.0.113.2", True),
        ("xena", "2001:db8:0:1::1", True),
        ("selen", "2001:db8:0:1::2", True),
        ("jacinth", "192.168.7.2", True),
        ("jacinth", "2001:db8:7::2", True),
        ("jacinth", "10.77.0.2", True),
        ("surya", "10.77.0.1", True),
        ("surya", "192.168.7.2", True),
        ("surya", "2001:db8:7::2", True),
        ("xena", "192.168.7.2", False),
        ("xena", "2001:db8:7::2", False),
        ("selen", "192.168.7.2", False),
        ("surya", "10.9.8.10", False),
        ("surya", "2001:db8:9::10", False),
        ("jacinth", "2001:db8:9::11", False),
    ],
)
def test_who_reaches_whom(quiet_lab: Lab, host: str, address: str, expected: bool) -> None:
    """Every way that the drawing shows exists, and no other: the house and the hotel are closed."""
    assert answers(quiet_lab, host, address) is expected


def test_the_hotel_translates_ipv4_and_routes_ipv6(make_lab: Callable[[Topology], Lab]) -> None:
    """On the internet a guest has the hotel's IPv4 address and an IPv6 address of its own."""
    lab = make_lab(QUIET.change("jacinth", page="jacinth"))
    assert page(lab, "xena", "203.0.113.1") == "jacinth\nyou are 203.0.113.9\n"
    assert page(lab, "xena", "[2001:db8:0:1::1]") == "jacinth\nyou are 2001:db8:9::10\n"


def test_names_of_hosts_resolve(quiet_lab: Lab) -> None:
    """Each host knows the others by name, and no name is asked for outside the lab."""
    assert page(quiet_lab, "surya", "leaf") == "leaf, in the house\nyou are 10.77.0.2\n"
    assert quiet_lab.run("xena", "getent", "hosts", "example.org").returncode != 0


def test_production_addresses_lead_to_the_house_by_the_ordinary_tunnel(quiet_lab: Lab) -> None:
    """Without Anubis, the house sends the roaming range to surya."""
    route = quiet_lab.run("jacinth", "ip", "route", "get", "10.66.0.10").stdout
    assert "dev wg-house" in route
    route = quiet_lab.run("jacinth", "ip", "route", "get", "fd66::10").stdout
    assert "dev wg-house" in route


def test_every_network_can_be_watched_from_the_middle(quiet_lab: Lab) -> None:
    """`internet` is a place to capture what passes on any of the networks."""
    command = ("tcpdump", "-nlc1", "-i", "hotel", "icmp")
    with quiet_lab.popen(ROUTER, *command) as capture:
        assert capture.stderr is not None
        assert any("listening" in line for line in iter(capture.stderr.readline, ""))
        assert answers(quiet_lab, "xena", "10.9.8.11")
        seen, _ = capture.communicate(timeout=10)
    assert "10.9.8.10 > 10.9.8.11: ICMP echo request" in seen


def test_a_snapshot_is_stable_and_sees_changes(quiet_lab: Lab) -> None:
    """Traffic does not change a snapshot; a route, a rule, an nft table and a peer do."""
    before = snapshot(quiet_lab, "surya")
    assert answers(quiet_lab, "surya", "192.168.7.2")
    assert snapshot(quiet_lab, "surya") == before
    for do, undo in (
        ("ip route add 198.51.100.0/24 dev internet table 7", "ip route flush table 7"),
        ("ip -6 rule add priority 77 table 7", "ip -6 rule del priority 77"),
        ("nft add table inet new", "nft delete table inet new"),
        ("wg set wg-house fwmark 7", "wg set wg-house fwmark 0"),
        ("sysctl -qw net.ipv4.conf.all.src_valid_mark=1",
         "sysctl -qw net.ipv4.conf.all.src_valid_mark=0"),
    ):  # fmt: skip
        quiet_lab.run("surya", *do.split(), check=True)
        assert snapshot(quiet_lab, "surya") != before, do
        quiet_lab.run("surya", *undo.split(), check=True)
        assert snapshot(quiet_lab, "surya") == before, undo


def test_a_snapshot_has_no_order_of_its_own(quiet_lab: Lab) -> None:
    """However WireGuard orders peers, and with none at all, equal states give equal texts."""
    keys = [f"{'A' * 42}{letter}=" for letter in "EIMQUY"]

    def add(order: list[str]) -> str:
        for key in order:
            number = 1 + keys.index(key)
            quiet_lab.run("hotel", "wg", "set", "wg-new", "peer", key, "endpoint",
                          f"192.0.2.{number}:1000", "allowed-ips", f"192.0.2.{number}/32,"
                          f"198.51.100.{number}/32", check=True)  # fmt: skip
        text = snapshot(quiet_lab, "hotel")
        for key in order:
            quiet_lab.run("hotel", "wg", "set", "wg-new", "peer", key, "remove", check=True)
        return text

    quiet_lab.run("hotel", "sh", "-ec", "ip link add dev wg-new type wireguard 2>/dev/null "
                  "|| wireguard-go wg-new", check=True)  # fmt: skip
    empty = snapshot(quiet_lab, "hotel")
    forth = add(keys)
    for number, key in enumerate(keys, 1):
        assert f"wg-new {key} 192.0.2.{number}:1000\n" in forth
        assert f"wg-new {key} 192.0.2.{number}/32 198.51.100.{number}/32\n" in forth
    assert add(keys[::-1]) == forth
    assert snapshot(quiet_lab, "hotel") == empty
    quiet_lab.run("hotel", "ip", "link", "del", "dev", "wg-new", check=True)


def test_hosts_are_isolated_from_each_other_and_the_machine(quiet_lab: Lab) -> None:
    """What a host writes under /etc, /run and /var/lib is seen by nobody else."""
    for host in ("xena", "selen"):
        assert quiet_lab.run(host, "hostname").stdout == f"{host}\n"
    for path in ("/etc/lab-probe", "/run/lab-probe", "/var/lib/anubis/lab-probe"):
        quiet_lab.run("xena", "sh", "-c", f"mkdir -p {Path(path).parent} && echo here > {path}",
                      check=True)  # fmt: skip
        assert quiet_lab.path("xena", path).read_text() == "here\n"
        assert quiet_lab.run("selen", "test", "-e", path).returncode == 1
        assert not Path(path).exists()
    refused = quiet_lab.run("xena", "touch", "/etc/ssl/lab-probe")
    assert "Read-only file system" in refused.stderr


def test_a_host_sees_only_the_lab_s_processes(quiet_lab: Lab) -> None:
    """/proc and /sys in a host are those of its namespaces."""
    seen = quiet_lab.run("xena", "ps", "-e", "-o", "pid=,args=").stdout
    assert re.search(r"^ *1 .*anubis\.lab\.supervisor", seen, re.MULTILINE)
    links = quiet_lab.run("xena", "ls", "/sys/class/net").stdout.split()
    assert links == ["hotel", "lo"]


def test_secrets_are_in_their_files_only(quiet_lab: Lab) -> None:
    """Private keys are readable by root alone and stand in no command line of the lab."""
    key = quiet_lab.path("xena", "/etc/anubis/production.key")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text().strip()
    assert secret not in quiet_lab.run("xena", "ps", "-e", "-o", "args=", "-ww").stdout
    assert secret not in repr(scene())


def test_exec_passes_input_output_and_exit_status(quiet_lab: Lab) -> None:
    """`lab exec` behaves as the command itself would."""
    directory = quiet_lab.state.path
    result = anubis(directory, "exec", "xena", "--", "sh", "-c", "cat; echo oops >&2; exit 7",
                    text="some\ninput\n")  # fmt: skip
    assert (result.stdout, result.stderr, result.returncode) == ("some\ninput\n", "oops\n", 7)
    assert anubis(directory, "exec", "xena", "--", "no-such-program").returncode == 127
    found = anubis(directory, "exec", "xena", "--", "sh", "-c", "command -v anubis; pwd")
    assert found.stdout.splitlines() == [ANUBIS, str(Path.cwd())]
    options = anubis(directory, "exec", "leaf", "echo", "-n", "--json")
    assert options.stdout == "--json"


def test_exec_leaves_an_interrupt_to_the_command(quiet_lab: Lab) -> None:
    """Ctrl-C reaches the command, which may finish in its own way; we wait for it."""
    script = 'trap "echo bye; exit 5" INT; echo ready; while :; do read line || :; done'
    process = subprocess.Popen(
        [ANUBIS, "lab", "exec", "xena", "--", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "ANUBIS_LAB": str(quiet_lab.state.path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "bye\n"
    assert process.returncode == 5


@pytest.mark.parametrize(
    "command",
    ["sleep 4297", "tcpdump -ni hotel port 9999", "setpriv --reuid=4297 --clear-groups sleep 4297"],
    ids=["ordinary", "gives up root itself", "was never root"],
)
def test_ending_popen_ends_the_command_in_the_host(quiet_lab: Lab, command: str) -> None:
    """No process stays behind in a host because only its waiter was ended."""

    def running() -> bool:
        # A command that only waits for its end: setpriv gives way to sleep.
        words = command.rpartition("groups ")[2]
        return words in quiet_lab.run("xena", "ps", "-e", "-o", "args=").stdout

    with quiet_lab.popen("xena", *command.split()) as process:
        wait_until(running, 5, f"{command} runs")
        process.terminate()
        process.communicate(timeout=5)
    assert not running()


def test_a_command_that_takes_too_long_is_ended(quiet_lab: Lab) -> None:
    """A timeout of `run` ends the command itself, even one that ignores all but SIGKILL."""
    script = "trap '' TERM; while :; do sleep 0.01; done"
    with pytest.raises(subprocess.TimeoutExpired):
        quiet_lab.run("xena", "sh", "-c", script, timeout=0.3)
    assert script not in quiet_lab.run("xena", "ps", "-e", "-o", "args=").stdout


def test_a_failed_command_is_an_error_if_asked(quiet_lab: Lab) -> None:
    """`check=True` raises with what the command wrote."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        quiet_lab.run("xena", "sh", "-c", "echo why >&2; exit 3", check=True)
    assert (caught.value.returncode, caught.value.stderr) == (3, "why\n")


def test_the_machine_is_left_as_it_was(directory: Path) -> None:
    """Up and down change no interface, route, rule, table, mount or file of the machine's own."""
    before = machine()
    lab = Lab(directory)
    lab.up(QUIET)
    assert machine() == before
    seen = namespaces(lab)
    assert len(seen) == 1 + 3 * (len(HOSTS) + 1)
    lab.down()
    assert machine() == before
    assert remains(directory, seen) == []


def test_up_twice_and_down_twice_are_as_good_as_once(directory: Path) -> None:
    """The second `up` and the second `down` say that it is so already, and succeed."""
    Lab(directory).up(QUIET)
    again = anubis(directory, "up")
    assert (again.stdout, again.returncode) == ("the lab is up already\n", 0)
    assert json.loads(anubis(directory, "status", "--json").stdout)["state"] == "up"
    assert anubis(directory, "down").stdout == "the lab is down\n"
    again = anubis(directory, "down")
    assert (again.stdout, again.returncode) == ("there was no lab\n", 0)
    assert json.loads(anubis(directory, "status", "--json").stdout)["state"] == "down"


def test_without_a_lab_exec_says_how_to_start_one(directory: Path) -> None:
    """`exec` without a lab fails in one clear line and a hint."""
    result = anubis(directory, "exec", "xena", "--", "true")
    assert result.stderr.splitlines() == [
        f"anubis: error: the lab is not up ({directory})",
        "anubis: hint: start it with: anubis lab up",
    ]
    with pytest.raises(LabDown):
        Lab(directory).run("xena", "true")


def test_an_unknown_host_is_named_with_those_that_exist(quiet_lab: Lab) -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(UnknownHost) as caught:
        quiet_lab.run("zena", "true")
    assert caught.value.hint == "its hosts are jacinth, leaf, surya, hotel, xena, selen, internet"


def test_two_labs_side_by_side(quiet_lab: Lab, directory: Path) -> None:
    """Another state directory is another lab; taking one down leaves the other whole."""
    other = Lab(directory)
    other.up(QUIET)
    assert not namespaces(other) & namespaces(quiet_lab)
    other.down()
    assert answers(quiet_lab, "xena", "203.0.113.1")


def test_a_killed_supervisor_takes_everything_with_it(directory: Path) -> None:
    """Kill -9 of the one process ends the lab; `down` removes the rest, and `up` works again."""
    lab = Lab(directory)
    lab.up(QUIET)
    seen = namespaces(lab)
    supervisor = lab.state.supervisor()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: remains(directory, seen) == [str(directory)], 5, "its processes are gone")
    assert lab.status().state == "down"
    assert lab.up(QUIET) is True
    os.kill(lab.state.supervisor() or 0, signal.SIGKILL)
    assert anubis(directory, "down").stdout == "the lab is down\n"
    wait_until(lambda: remains(directory, seen) == [], 5, "nothing is left")


def _host_exists(lab: Lab, host: str) -> bool:
    try:
        return lab.run(host, "true").returncode == 0
    except (LabDown, UnknownHost):
        return False


MOMENTS: dict[str, Callable[[Lab], bool]] = {
    "the directory exists": lambda lab: lab.state.path.exists(),
    "the supervisor exists": lambda lab: lab.state.supervisor() is not None,
    "the first host exists": lambda lab: _host_exists(lab, "jacinth"),
    "the last host exists": lambda lab: _host_exists(lab, "selen"),
    "a daemon was started": lambda lab: lab.state.log("jacinth").exists(),
    "all daemons were started": lambda lab: lab.state.log("xena").exists(),
}


@pytest.fixture
def rising(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start `anubis lab up`."""
    process = subprocess.Popen(
        [ANUBIS, "lab", "up"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "ANUBIS_LAB": str(directory)},
    )
    with process:
        yield process


@pytest.mark.parametrize("moment", MOMENTS)
def test_killing_lab_up_at_any_moment(
    directory: Path, rising: subprocess.Popen[bytes], moment: str
) -> None:
    """After kill -9 of `lab up`, the lab goes by itself or by `lab down`, and all of it."""
    lab = Lab(directory)
    wait_until(lambda: MOMENTS[moment](lab), 20, moment)
    rising.kill()
    rising.wait()
    assert anubis(directory, "down").returncode == 0
    wait_until(lambda: remains(directory, set()) == [], 10, "nothing is left")


@pytest.mark.parametrize("moment", list(MOMENTS)[1:])
def test_killing_the_supervisor_while_the_lab_rises(
    directory: Path, rising: subprocess.Popen[bytes], moment: str
) -> None:
    """`lab up` reports that it failed and leaves nothing, not even its directory."""
    lab = Lab(directory)
    wait_until(lambda: MOMENTS[moment](lab), 20, moment)
    os.kill(lab.state.supervisor() or 0, signal.SIGKILL)
    assert rising.wait(timeout=20) != 0
    wait_until(lambda: remains(directory, set()) == [], 10, "nothing is left")


def test_a_tethered_lab_dies_with_its_creator(directory: Path) -> None:
    """Not even kill -9 of a test run or of the demo leaves a lab behind."""
    program = (
        "import sys; from pathlib import Path\n"
        "from anubis.lab.lab import Lab; from anubis.lab.scene import scene\n"
        "lab = Lab(Path(sys.argv[1])); lab.up(scene().without_daemons(), tethered=True)\n"
        "print('up', flush=True); sys.stdin.read()\n"
    )
    creator = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with creator:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "up\n"
        seen = namespaces(Lab(directory))
        creator.kill()
    wait_until(lambda: remains(directory, seen) == [], 10, "nothing is left")


def test_a_lab_that_cannot_be_built_says_why_and_is_gone(directory: Path) -> None:
    """The tool's own words reach the person, with the host's name."""
    with pytest.raises(LocalFailure, match=r"host leaf: ip -batch -: .*Nexthop.*invalid gateway"):
        Lab(directory).up(QUIET.change("leaf", routes=("default via 192.0.2.1",)))
    wait_until(lambda: remains(directory, set()) == [], 10, "nothing is left")


def test_a_daemon_that_does_not_start_is_quoted_and_the_lab_is_gone(directory: Path) -> None:
    """`up` gives the last words of a daemon that died, and rolls everything back."""
    broken = scene().with_file("xena", File("/etc/anubis/anubis.conf", "[Control]\nPort = 1\n"))
    with pytest.raises(DaemonFailed, match="the daemon of xena has died") as caught:
        Lab(directory).up(broken)
    assert any("/etc/anubis/anubis.conf:2" in line for line in caught.value.log)
    wait_until(lambda: remains(directory, set()) == [], 10, "nothing is left")


def test_every_host_s_files_are_right(lab: Lab) -> None:
    """`anubis check` accepts the configuration of every host that runs Anubis."""
    for host in ("jacinth", "surya", "xena"):
        result = lab.run(host, "anubis", "check")
        assert result.returncode == 0, result.stderr


def test_daemons_are_ready_and_can_be_stopped_killed_and_started(lab: Lab) -> None:
    """After `up` every daemon answers; each can be ended in either way and started again."""
    states = {host.name: host.daemon for host in lab.status().hosts}
    assert states == {"jacinth": "ready", "leaf": None, "surya": "ready", "hotel": None,
                      "xena": "ready", "selen": None}  # fmt: skip
    daemon = lab.daemon("xena")
    with pytest.raises(LocalFailure, match="runs already"):
        daemon.launch()
    for end in (daemon.stop, daemon.kill):
        end()
        assert daemon.process is None
        assert not daemon.ready
        daemon.start()
        assert daemon.ready


def test_the_way_in_is_light() -> None:
    """`anubis lab exec` loads neither keys nor the rest of the lab."""
    program = "import sys, anubis.cli.lab; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env=environment(),
    ).stdout.split()  # fmt: skip
    heavy = {"nacl", "pyroute2", "cryptography", "aiohttp", "asyncio", "subprocess"}
    assert not heavy & set(modules)
    assert "anubis.lab.scene" not in modules
