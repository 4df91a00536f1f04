"""What blocks does so beside the daemon: its end is told, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from anubis.daemon.aside import Aside

DEADLINE = 10.0  # seconds


async def test_the_end_of_a_call_is_told() -> None:
    """What it returns or raises comes to whoever waits, and it counts as running no more."""
    aside = Aside[int]("test")
    assert await asyncio.wait_for(aside.begin(lambda: 7), DEADLINE) == 7
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(aside.begin(lambda: 1 // 0), DEADLINE)
    assert aside.running == 0


async def test_a_call_that_nobody_waits_for_any_more_still_counts() -> None:
    """Else callers that come and go would gather threads; its late end harms nobody."""
    aside, released = Aside[bool]("test"), threading.Event()
    waiting = aside.begin(lambda: released.wait(DEADLINE))
    waiting.cancel()
    assert aside.running == 1
    released.set()
    async with asyncio.timeout(DEADLINE):
        while aside.running:  # noqa: ASYNC110 - a thread ends
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert waiting.cancelled()
