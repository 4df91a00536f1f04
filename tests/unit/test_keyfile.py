"""Which files are trusted, and how key files come into being."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from anubis.errors import ConfigError, LocalFailure
from anubis.files.config import parse_config
from anubis.files.keyfile import read_guarded, read_private_key
from anubis.files.setup_host import make_keys, write_configuration
from anubis.files.writing import create_file
from anubis.wireguard.keys import PrivateKey

KEY = PrivateKey.generate(secrets.token_bytes)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a good key file, in a directory that its tests may spoil."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    path = directory / "control.key"
    path.write_text(f"{KEY.base64()}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Run a test with the most careless umask."""
    old = os.umask(0)
    yield
    os.umask(old)


def refusal(path: Path) -> str:
    """Return why a key file is refused: one problem, without any part of the key."""
    with pytest.raises(ConfigError) as caught:
        read_private_key(path)
    (problem,) = caught.value.problems
    assert KEY.base64()[:10] not in str(problem)
    return str(problem)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_file_is_read(key_file: Path, mode: int) -> None:
    """A key of `wg genkey`, for its owner alone, is read."""
    key_file.chmod(mode)
    assert read_private_key(key_file) == KEY


def test_public_key_is_what_wg_computes(key_file: Path) -> None:
    """`wg pubkey` agrees with us about the key in the file."""
    printed = subprocess.run(
        ["wg", "pubkey"], input=key_file.read_bytes(), capture_output=True, check=True
    )
    assert str(read_private_key(key_file).public_key()) == printed.stdout.decode().strip()


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_readable_key_is_refused_and_the_remedy_works(key_file: Path, mode: int) -> None:
    """The message names the command that mends it; run as printed, it does."""
    key_file.chmod(mode)
    problem = refusal(key_file)
    assert "others can read this private key" in problem
    command = f"chmod 600 {key_file}"
    assert command in problem
    subprocess.run(shlex.split(command), check=True)
    assert read_private_key(key_file) == KEY


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_file_that_others_write_is_refused(key_file: Path, mode: int) -> None:
    """Who can write the file decides what it says."""
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"others can write this file .chmod go-w {key_file}"):
        read_guarded(key_file)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_directory_that_others_write_is_refused(key_file: Path, mode: int) -> None:
    """Who can write the directory can put another file in place of this one."""
    key_file.parent.chmod(mode)
    assert f"chmod go-w {key_file.parent}" in refusal(key_file)


def test_sticky_directory_is_safe(key_file: Path) -> None:
    """In a directory like /tmp nobody can take away what belongs to another."""
    key_file.parent.chmod(0o1777)
    assert read_private_key(key_file) == KEY


@pytest.mark.parametrize("spoilt", ["file", "directory"])
def test_what_belongs_to_a_stranger_is_refused(key_file: Path, spoilt: str) -> None:
    """A file or directory of neither root nor the running user is not trusted."""
    path = key_file if spoilt == "file" else key_file.parent
    os.chown(path, 65534, 0)
    problem = refusal(key_file)
    assert "belongs to user 65534" in problem
    assert f"chown root {path}" in problem


def test_link_to_a_safe_file_is_followed(key_file: Path, tmp_path: Path) -> None:
    """Tools that keep the files elsewhere may leave a link."""
    link = tmp_path / "link"
    link.symlink_to(key_file)
    assert read_private_key(link) == KEY


def test_link_is_no_way_around_the_rules(key_file: Path, tmp_path: Path) -> None:
    """What counts is where the link leads, and where it stands."""
    loose = tmp_path / "loose"
    loose.mkdir()
    inward, outward = tmp_path / "inward", loose / "outward"
    inward.symlink_to(loose / "key")
    outward.symlink_to(key_file)
    (loose / "key").write_text(KEY.base64())
    (loose / "key").chmod(0o600)
    loose.chmod(0o777)
    for path in (inward, outward):
        assert f"chmod go-w {loose}" in refusal(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: os.mkfifo(path, 0o600), "not a regular file"),
        (lambda path: path.symlink_to(path), "no such file|circle|symbolic links"),
        (lambda path: None, "no such file .*anubis keygen"),
    ],
    ids=["directory", "pipe", "circle", "missing"],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make, expected: str) -> None:  # type: ignore[no-untyped-def]
    """Neither a directory nor a pipe that nobody writes holds the reader up."""
    path = tmp_path / "control.key"
    make(path)
    with pytest.raises(ConfigError, match=expected):
        read_private_key(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        KEY.base64()[:-1].encode(),
        KEY.base64().encode() * 2,
        b" " + KEY.base64().encode(),
        f"{KEY.base64()}\nx".encode(),
        bytes(KEY),
        b"\xff" * 44,
        b"A" * 43 + b"=",
    ],
)
def test_what_is_no_key_is_refused_unseen(key_file: Path, content: bytes) -> None:
    """A file with anything but one key is refused, and its content is not shown."""
    key_file.write_bytes(content)
    assert "private key" in refusal(key_file)


def test_huge_file_is_refused(key_file: Path) -> None:
    """A file of any size costs no more than its limit."""
    os.truncate(key_file, 2**33)
    assert "more than 1024 bytes" in refusal(key_file)
    with pytest.raises(ConfigError, match="more than 100 bytes"):
        read_guarded(key_file, limit=100)


def test_refusals_leave_no_descriptor_open(key_file: Path) -> None:
    """A daemon that is asked to reload a bad file for ever does not run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a count of names
    key_file.chmod(0o644)
    refusal(key_file)
    key_file.unlink()
    key_file.mkdir()
    refusal(key_file)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  a count of names


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_keys_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    """Neither a careless nor a paranoid umask changes the modes of what is made."""
    config = parse_config(b"", tmp_path / "new/etc/anubis.conf")
    old = os.umask(mask)
    try:
        own, files = make_keys(config)
    finally:
        os.umask(old)
    assert [file.made for file in files] == [True, True]
    assert [file.path.stat().st_mode & 0o7777 for file in files] == [0o600, 0o600]
    assert (tmp_path / "new/etc").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in (tmp_path / "new/etc").iterdir()) == [
        "control.key",
        "production.key",
    ]
    assert own.production != own.control


def test_keys_are_private_from_the_first_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_umask: None
) -> None:
    """No name in the directory is ever readable by others, at any step of the making."""
    modes: set[int] = set()
    for function in ("link", "fsync", "fchmod", "unlink"):
        real = getattr(os, function)

        def watched(*args: object, _real=real, **keywords: object) -> object:  # type: ignore[no-untyped-def]
            modes.update(path.stat().st_mode & 0o777 for path in tmp_path.iterdir())
            return _real(*args, **keywords)

        monkeypatch.setattr(os, function, watched)
    make_keys(parse_config(b"", tmp_path / "anubis.conf"))
    assert modes == {0o600}


def test_existing_keys_are_kept(tmp_path: Path) -> None:
    """A second run changes nothing, and tells the same keys."""
    config = parse_config(b"", tmp_path / "anubis.conf")
    own, files = make_keys(config)
    content = [file.path.read_bytes() for file in files]
    config.control.private_key_file.chmod(0o400)
    again, kept = make_keys(config)
    assert again == own
    assert [file.made for file in kept] == [False, False]
    assert [file.path.read_bytes() for file in kept] == content


def test_name_taken_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two makers at once, the second keeps the first one's file, and leaves nothing of its."""
    path = tmp_path / "control.key"
    real = os.link

    def late(source: Path, target: Path) -> None:
        path.write_text("first")
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert create_file(path, "second", 0o600).made is False
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full while a key is written leaves no half of a key."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalFailure, match=r"cannot write .*control.key: No space left"):
        create_file(tmp_path / "control.key", "x", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_unsafe_directory_gets_no_key(tmp_path: Path) -> None:
    """A key is not made where others could replace it."""
    directory = tmp_path / "loose"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="others can write in this directory"):
        make_keys(parse_config(b"", directory / "anubis.conf"))
    assert list(directory.iterdir()) == []


def test_written_configuration_says_the_addresses(tmp_path: Path) -> None:
    """What `init` writes is read back as it was meant, and not written twice."""
    addresses = [ip_interface("10.9.0.2/24"), ip_interface("fd00:9::2/64")]
    config, _ = write_configuration(tmp_path / "anubis.conf", addresses)
    assert config.production.addresses == tuple(addresses)
    assert (tmp_path / "authorized_peers").stat().st_mode & 0o777 == 0o600
    again, files = write_configuration(tmp_path / "anubis.conf", addresses[:1])
    assert again == config
    assert [file.made for file in files] == [False, False]


def test_a_key_that_was_handed_over_is_taken(key_file: Path, tmp_path: Path) -> None:
    """The service gets a copy of what root alone can read, by the name that the unit gives it."""
    handed = tmp_path / str(key_file).strip("/").replace("/", "-")
    handed.write_text(f"{KEY.base64()}\n")
    handed.chmod(0o440)  # an access control list shows itself in the group's place
    key_file.write_text("not what counts")
    assert read_private_key(key_file, tmp_path) == KEY
    key_file.unlink()
    assert read_private_key(key_file, tmp_path) == KEY


@pytest.mark.parametrize("handed", [None, b"", b"\n"])
def test_a_key_that_was_not_handed_over_is_read(
    key_file: Path, tmp_path: Path, handed: bytes | None
) -> None:
    """The unit hands over a blank for a missing file; then the file itself is asked for."""
    if handed is not None:
        (tmp_path / str(key_file).strip("/").replace("/", "-")).write_bytes(handed)
    assert read_private_key(key_file, tmp_path) == KEY
    key_file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        read_private_key(key_file, tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_was_handed_over_must_be_safe_where_it_is(
    key_file: Path, tmp_path: Path, mode: int
) -> None:
    """Also systemd would hand over a key that everybody can read; the daemon refuses it."""
    (tmp_path / str(key_file).strip("/").replace("/", "-")).write_text(KEY.base64())
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"others can .*{key_file}"):
        read_private_key(key_file, tmp_path)


@pytest.mark.parametrize(("group", "private"), [(4298, True), (0, False), (None, False)])
def test_what_the_service_reads_is_private(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, group: int | None, private: bool
) -> None:
    """A file of group anubisd is nobody's but root's and the daemon's; a key is not even that."""
    monkeypatch.setattr("anubis.files.keyfile.service_group", lambda: group)
    os.chown(key_file, -1, 4298)
    key_file.chmod(0o640)
    assert read_guarded(key_file).private is private
    assert "others can read this private key" in refusal(key_file)
    key_file.chmod(0o644)
    assert not read_guarded(key_file).private


def test_the_peers_are_for_the_service_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service is installed, `anubis init` lets it read the file that may hold secrets."""
    monkeypatch.setattr("anubis.files.setup_host.service_group", lambda: 4298)
    etc = tmp_path / "etc"
    write_configuration(etc / "anubis.conf", [ip_interface("10.9.0.1/32")])
    status = (etc / "authorized_peers").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 4298, 0o640)
    assert (etc / "anubis.conf").stat().st_gid == 0
