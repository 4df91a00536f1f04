"""Search for inputs that break a promise: `python -m tests.fuzz [TARGET ...]`.

Without --seconds each target tries its fixed number of inputs from a fixed seed, so that runs are
much alike; where the code lies in memory has a part in it, too. With --seconds it searches so long,
each time elsewhere; what reached something new is kept in `.fuzz` for the next time, and `--keep`
takes the best of it into the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from tests.fuzz.catalogue import CORPUS, TARGETS, load

_ROOT = Path(__file__).parents[2]
_WORK = _ROOT / ".fuzz"
_INPUT_SECONDS = 30  # for one input, on a machine that does other things as well
_PROGRESS = re.compile(r"^#(\d+)\s+(INITED|DONE)\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_EXIT_MISSING = 69  # sysexits.h: a program that is needed is not there
_HERE = f"Python {platform.python_version()} on {platform.machine()}"


@dataclass(frozen=True, slots=True)
class Search:
    """How one search ended. `reached` and `begun_with` count branches of the code."""

    target: str
    tried: int
    begun_with: int
    reached: int
    seconds: float
    finding: str  # libFuzzer's words on it, "" for none

    def __str__(self) -> str:
        return (
            f"{self.target:17} {self.tried:9,} inputs  {self.seconds:5.0f} s"
            f"  branches {self.begun_with} -> {self.reached}  {'FOUND' if self.finding else 'ok'}"
        )


def main() -> int:
    """Search, print a line for each target, and return 1 if anything was found."""
    options = _options()
    if find_spec("atheris") is None:
        return _without_atheris(if_possible=options.if_possible)
    failed = False
    with ThreadPoolExecutor(options.jobs) as pool:
        if options.keep:
            list(pool.map(_keep, options.targets))
            return 0
        for search in pool.map(lambda name: _search(name, options.seconds), options.targets):
            print(search, flush=True)  # noqa: T201  this is what it is for
            if search.finding:
                failed = True
                sys.stderr.write(search.finding)
    return int(failed)


def _without_atheris(*, if_possible: bool) -> int:
    """Say that nothing is searched. That is right only where pyproject.toml does not ask for it."""
    if _is_asked_for():
        sys.stderr.write("error: atheris is not installed\nhint: make check installs it\n")
        return _EXIT_MISSING
    sys.stderr.write(
        f"{'note' if if_possible else 'error'}: not fuzzed: atheris is not made for {_HERE}\n"
        "hint: pytest tests/fuzz replays the inputs that were found elsewhere\n"
    )
    return 0 if if_possible else _EXIT_MISSING


def _is_asked_for() -> bool:
    wanted = (Requirement(text) for text in requires("anubis-gatekeeper") or ())
    return any(
        each.name == "atheris"
        and each.marker is not None
        and each.marker.evaluate({"extra": "dev"})
        for each in wanted
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, help="search so long for each target")
    parser.add_argument(
        "--if-possible", action="store_true", help="succeed where there is no atheris to be had"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="searches at one time")
    parser.add_argument("--keep", action="store_true", help="take what is in .fuzz into the corpus")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    options.targets = options.targets or TARGETS
    return options


def _search(name: str, seconds: int | None) -> Search:
    target, begin = load(name), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        seeds, words = _write(name, Path(scratch))
        found = _directory(_WORK / name) if seconds else _directory(Path(scratch) / "new")
        bounds = (f"-max_total_time={seconds}",) if seconds else (f"-runs={target.RUNS}", "-seed=1")
        done = _fuzz(
            name,
            scratch,
            *bounds,
            f"-max_len={target.MAX_LENGTH}",
            f"-timeout={_INPUT_SECONDS}",
            "-mutate_depth=3",
            *words,
            f"-artifact_prefix={_directory(_WORK / 'found')}/{name}-",
            str(found),
            str(_directory(CORPUS / name)),
            str(seeds),
        )
    text = done.stderr + done.stdout
    progress = {word: (int(n), int(c)) for n, word, c, _ in _PROGRESS.findall(text)}
    tried, reached = progress.get("DONE", (0, 0))
    finding = "" if done.returncode == 0 else _explained(name, text)
    took = time.monotonic() - begin
    return Search(name, tried, progress.get("INITED", (0, 0))[1], reached, took, finding)


def _fuzz(name: str, scratch: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the search. It ends without cleaning up, so its own files are in `scratch`, too."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *words],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": scratch},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _write(name: str, scratch: Path) -> tuple[Path, tuple[str, ...]]:
    """Write a target's seeds and words where libFuzzer reads them; return where."""
    target, seeds, words = load(name), _directory(scratch / "seeds"), scratch / "words"
    for data in target.seeds():
        (seeds / _name_of(data)).write_bytes(data)
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.TOKENS)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    return seeds, (f"-dict={words}",) if target.TOKENS else ()


def _explained(name: str, text: str) -> str:
    """Return what went wrong, without libFuzzer's progress, and how to see it again."""
    begin = max(text.find("=== Uncaught Python exception"), text.find("==ERROR"), 0)
    return f"{text[begin:]}\nagain: python -m tests.fuzz.one {name} .fuzz/found/{name}-...\n"


def _keep(name: str) -> None:
    """Make the corpus of a target the fewest inputs that reach what all of them do.

    What the seeds reach is reached anyway, and what a bug was found with is kept under its name.
    """
    corpus, work = _directory(CORPUS / name), _directory(_WORK / name)
    with tempfile.TemporaryDirectory() as scratch:
        seeds, _ = _write(name, Path(scratch))
        best = _directory(Path(scratch) / "best")
        length = f"-max_len={load(name).MAX_LENGTH}"
        done = _fuzz(
            name,
            scratch,
            "-merge=1",
            "-use_counters=0",
            length,
            str(best),
            str(seeds),
            str(corpus),
            str(work),
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        for path in _generated(corpus):
            path.unlink()
        known = {path.name for path in seeds.iterdir()}
        for path in best.iterdir():
            if path.name not in known:
                (corpus / path.name).write_bytes(path.read_bytes())


def _generated(corpus: Path) -> Iterator[Path]:
    return (path for path in corpus.iterdir() if path.name == _name_of(path.read_bytes()))


def _name_of(data: bytes) -> str:
    """Return the name that libFuzzer gives to an input."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
