"""What all unit tests start from."""

from __future__ import annotations

import pytest

from anubis.files import keyfile, setup_host


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anubis is not installed as a service, even if it is on this machine."""
    for module in (keyfile, setup_host):
        monkeypatch.setattr(module, "service_group", lambda: None)
