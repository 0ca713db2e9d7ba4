"""Reading without an event loop, and with one where the store asks for it (contract 08 §9, design D16)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.cli.reading import run_inline
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.errors import NotFoundError
from lash_cli.paths import resolve_paths
from lash_cli.store.base import ReadScope, SessionCreate
from lash_cli.wiring import open_store


def test_what_never_waits_runs_once_and_without_an_event_loop() -> None:
    runs = []

    async def read() -> int:
        runs.append(1)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return 7

    assert (run_inline(read), len(runs)) == (7, 1)


def test_what_waits_is_dropped_cleanly_and_run_on_an_event_loop() -> None:
    steps = []

    async def read() -> str:
        try:
            steps.append("begin")
            await asyncio.sleep(0)
            return "answer"
        finally:
            steps.append("end")

    assert run_inline(read) == "answer"
    assert steps == ["begin", "end", "begin", "end"]


def test_an_error_passes_through_and_nothing_is_run_again() -> None:
    runs = []

    async def read() -> None:
        runs.append(1)
        raise NotFoundError("nothing here")

    with pytest.raises(NotFoundError):
        run_inline(read)
    assert len(runs) == 1


def test_a_store_is_read_and_closed_without_an_event_loop(tmp_path) -> None:
    paths = resolve_paths({"LASH_HOME": str(tmp_path / "home")})

    async def fill() -> None:
        store = open_store(paths)
        await store.create_session(SessionCreate("s", PersistedSessionConfig("loopback", ModelSpec("m")), 1))
        await store.aclose()

    asyncio.run(fill())

    async def read() -> str:
        store = open_store(paths, read_only=True)
        for scope in ReadScope:
            assert await store.load_session("s", scope) is None
        row = await store.session_row("s")
        await store.aclose()
        assert row is not None
        return row.meta.session_id

    work = read()
    with pytest.raises(StopIteration) as done:
        work.send(None)
    assert done.value.value == "s"
