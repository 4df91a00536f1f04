"""One boot for all tests: the service has started without a network; then there is one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.systemd.guest import anubis, in_house, run, show, wait_until

_LOG_LINES = 60
_UPLINK = "[Match]\nName=uplink\n[Network]\nAddress=192.0.2.2/24\n"
# As root by hand, in a network namespace and with directories of its own.


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Refuse to do all this to a machine that is not ours."""
    if not Path("/run/job").exists():
        pytest.exit("error: this is no virtual machine\nhint: make test-systemd", returncode=2)


@pytest.fixture(scope="session")
def service(machine: None) -> None:
    """Wait until the service has started, as it was told to at boot."""
    wait_until(lambda: show("ActiveState") not in {"inactive", "activating"}, "it has started")
    assert show("ActiveState") == "active"


@pytest.fixture(scope="session")
def uplink(service: None) -> None:
    """Have systemd-networkd bring up an interface that leads to the house."""
    wait_until(lambda: show("ActiveState", "house") == "active", "the house is there")
    Path("/run/systemd/network").mkdir(exist_ok=True)
    Path("/run/systemd/network/uplink.network").write_text(_UPLINK)
    run("networkctl", "reload")
    far = ("peer", "name", "net0", "netns", show("MainPID", "house"))
    run("ip", "link", "add", "uplink", "type", "veth", *far)
    in_house("ip", "address", "add", "192.0.2.1/24", "dev", "net0")
    in_house("ip", "link", "set", "net0", "up")
    wait_until(
        lambda: "192.0.2.2" in run("ip", "-4", "address", "show", "dev", "uplink"),
        "networkd configures the uplink",
    )


@pytest.fixture
def connection(uplink: None) -> None:
    """Have a user of group anubis bring the connection to the house up, if it is not."""
    run("systemctl", "start", "anubis")
    if not run("wg", "show", "wg0", "peers", check=False):
        anubis("up", "house", "--timeout", "2m")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal when a test failed."""
    report = yield
    if report.failed:
        lines = run("journalctl", "--output=short-precise", "--no-pager", f"--lines={_LOG_LINES}")
        report.sections.append(("journal", lines))
    return report
