"""The live view of a tail ends when it is told to, whatever happens at that moment (contract 08 §8)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lash_cli.cli import invocation
from lash_cli.cli.following import Following
from lash_cli.cli.globals import hoist
from lash_cli.cli.tail_live import FRAMES_PER_SECOND, LiveTail
from lash_cli.cli.turn_stream import OutputPump

PATIENCE_S = 30
# More than any wait takes from what it waits for to the task that goes on.
PASSES = 8


async def _is_unwatched() -> None:
    """A session that is gone: the picture has nothing to read."""


@pytest.mark.parametrize("passes", range(PASSES))
async def test_a_picture_that_is_to_change_as_it_is_to_end_ends(
    passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that ends the view changes its picture too, and so does a commit that comes with a Ctrl-C."""
    monkeypatch.setattr(invocation, "_current", None)
    invocation.begin(hoist([])[0], {"LASH_HOME": str(tmp_path)})
    descriptor = os.open(os.devnull, os.O_WRONLY)
    watched = SimpleNamespace(name="fjord", session_id="s", row=_is_unwatched)
    live = LiveTail(Following(OutputPump(descriptor)), cast(Any, watched), types=None, raw=False)
    await live.flush()
    drawing = asyncio.ensure_future(live.run())
    await asyncio.sleep(2 / FRAMES_PER_SECOND)  # drawn, and at rest

    await live.flush()
    for _ in range(passes):
        await asyncio.sleep(0)
    drawing.cancel()
    ended, _ = await asyncio.wait({drawing}, timeout=PATIENCE_S)
    os.close(descriptor)

    assert ended and drawing.cancelled()
