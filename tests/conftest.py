"""Settings for all tests."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import settings

from anubis.lab.slowness import stretched

# Time limits of single examples only measure the machine; pytest's own timeout ends what hangs.
# In CI every run tries the same examples, so that a failure is the change's, not the dice's.
_CI = bool(os.environ.get("CI"))
settings.register_profile("quick", max_examples=100, deadline=None, derandomize=_CI)
settings.register_profile("long", max_examples=100_000, deadline=None, derandomize=_CI)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def kernel_has_wireguard() -> bool:
    """Ask iproute2, in a namespace of its own."""
    trial = ["unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"]
    return subprocess.run(trial, stderr=subprocess.DEVNULL, check=False).returncode == 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the word for the virtual machine."""
    parser.addoption(
        "--kernel",
        action="store_true",
        help="all WireGuard has to be the kernel's, and all modules of tests/lab share one lab",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give a test more time where everything takes longer, before pytest-timeout reads it.

    A kernel without WireGuard, where it has to have it, is an error: no test would miss it.
    """
    if config.option.kernel and not kernel_has_wireguard():
        raise pytest.UsageError("--kernel: this kernel has no WireGuard")
    if config.option.timeout is None:
        config.option.timeout = stretched(float(config.getini("timeout")))
