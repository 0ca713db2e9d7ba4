"""The library in a program that runs on uvloop: turns, tools, watching and the queue are the same there (design §3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.tools import Workbench, failure_of, value_of

from lash_cli import LashCore, ModelSpec, ObservedEvent, ObservedGap, SqliteStore, provider
from lash_cli.api import ObservableSession, SessionCursor
from lash_cli.core.activity import TurnFinished
from lash_cli.core.observation import ActivityObserved, QueueChanged, SessionObservationEvent
from lash_cli.core.outcome import Finished, Stopped
from lash_cli.runtime import bells

uvloop = pytest.importorskip("uvloop")

PATIENCE_S = 60
S = "s"


@pytest.fixture(autouse=True)
def rings_only(monkeypatch: pytest.MonkeyPatch, runtime_dir: Path) -> None:
    """Nothing but a ring wakes anybody."""
    monkeypatch.setattr(bells, "BACKSTOP_SECONDS", 3_600.0)


@pytest.fixture
def on_uvloop() -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(work: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await work

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    return run


def core_on(path: Path, **options: Any) -> LashCore:
    return LashCore(
        provider=provider("loopback"), model=ModelSpec("loopback"), store=SqliteStore.open(path / "lash.db"), **options
    )


async def until_turns_ended(observed: ObservableSession, cursor: SessionCursor, count: int) -> list[Any]:
    """Everything after `cursor`, each pulled with a time limit that may cut it off, until so many turns ended."""
    stream = observed.subscribe_and_recover(cursor)
    seen: list[SessionObservationEvent] = []
    async with stream:
        while count:
            try:
                item = await asyncio.wait_for(stream.__anext__(), 0.003)
            except TimeoutError:
                continue
            assert isinstance(item, ObservedEvent), item
            seen.append(item.event)
            payload = item.event.payload
            count -= isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
    return seen


def test_a_turn_runs_and_streams(tmp_path: Path, on_uvloop) -> None:
    async def work() -> None:
        async with core_on(tmp_path) as core, await core.open_session(S) as session:
            output = await session.turn("!stream 3").run()
            assert output.result is not None and isinstance(output.result.outcome, Finished)
            async with session.turn("!text told").stream() as stream:
                assert [activity async for activity in stream]
                result = (await stream.result()).result
            assert result is not None and result.assistant_message() == "told"

    on_uvloop(work())


def test_what_is_watched_is_the_log_although_pulls_are_cut_off(tmp_path: Path, on_uvloop) -> None:
    async def work() -> None:
        async with (
            core_on(tmp_path) as core,
            core_on(tmp_path, queue_driver="none") as other,
            await core.open_session(S) as session,
        ):
            observed = other.observe(S)
            cursor = (await observed.current_observation()).cursor
            watching = asyncio.create_task(until_turns_ended(observed, cursor, 3))
            for text in ("!stream 20", "!text two", "!text three"):
                await session.turn(text).run()
            seen = await watching
            found = await observed.resume_from_cursor(cursor)
            assert not isinstance(found, ObservedGap)
            assert tuple(seen) == found.events

    on_uvloop(work())


def test_the_queue_is_drained_by_its_core_and_its_changes_are_told(tmp_path: Path, on_uvloop) -> None:
    async def work() -> None:
        async with core_on(tmp_path) as core, core_on(tmp_path, queue_driver="none") as other:
            async with await core.open_session(S) as session:
                observed = other.observe(S)
                cursor = (await observed.current_observation()).cursor
                watching = asyncio.create_task(until_turns_ended(observed, cursor, 1))
                await session.enqueue("!text from the queue")
                seen = await watching
            assert any(isinstance(event.payload, QueueChanged) for event in seen)

    on_uvloop(work())


def test_a_cancelled_task_ends_its_turn_as_cancelled(tmp_path: Path, on_uvloop) -> None:
    async def work() -> None:
        async with core_on(tmp_path) as core, await core.open_session(S) as session:
            observed = session.observe()
            cursor = (await observed.current_observation()).cursor
            running = asyncio.create_task(session.turn("!sleep 600").run())
            stream = observed.subscribe_and_recover(cursor)
            async with stream:
                await stream.__anext__()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            (ended,) = [
                event.payload.activity.event
                for event in await until_turns_ended(observed, cursor, 1)
                if isinstance(event.payload, ActivityObserved)
                and isinstance(event.payload.activity.event, TurnFinished)
            ]
            assert isinstance(ended.outcome, Stopped)

    on_uvloop(work())


def test_a_command_gets_its_go_and_what_cannot_be_one_is_not_started_in_part(tmp_path: Path, on_uvloop) -> None:
    async def work() -> None:
        bench = Workbench(tmp_path)
        assert value_of(await bench.call("exec_command", cmd="echo out; exit 3"))["output"] == "out\n"
        assert failure_of(await bench.call("exec_command", cmd="echo a\0b")).code == "command_not_started"
        await bench.provider.aclose()

    on_uvloop(work())
