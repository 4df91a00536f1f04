"""`make install` gives a host all that the README's quick start then uses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """\
set -e
make --silent install
cd /
getent group anubis
systemd-analyze verify --man=no anubis.service
anubis --version
anubis init --name house
anubis check
/opt/anubis/bin/python -c 'import pytest' 2>/dev/null && echo "pytest is there" || true
mandoc -Tlint -Wwarning /usr/share/man/man[158]/anubis*.[158] /usr/share/man/man5/authorized_peers.5
bash -c 'source /usr/share/bash-completion/completions/anubis && complete -p anubis'
zsh -n /usr/share/zsh/vendor-completions/_anubis
fish --no-execute /usr/share/fish/vendor_completions.d/anubis.fish
"""


@pytest.mark.timeout(300)
def test_make_install() -> None:
    """Commands, unit, group, man pages and completion are there, and no tool of development is."""
    result = subprocess.run(
        ["tests/on-a-layer", "bash", "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "installed in /opt/anubis; next: anubis init" in result.stdout
    assert "\nanubis:x:" in result.stdout
    assert "\nanubis 0.1.0\n" in result.stdout
    assert "wrote /etc/anubis/control.key" in result.stdout
    assert "complete -o nosort -F _anubis_completion anubis" in result.stdout
    assert "pytest is there" not in result.stdout
    assert not Path("/opt/anubis").exists()
