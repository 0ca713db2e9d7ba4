"""A clock or a maker of ids that answers what nobody could read again is refused where it is asked: no record, no lease
and no turn is made of it (contract 01 §1, design D18)."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
import uuid
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from support.driving import S, said
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, ModelSpec, SqliteStore, provider
from lash_cli.errors import ConfigError, SessionExecutionBusy
from lash_cli.system import SystemClock, SystemIds


class Answering:
    """A clock and a maker of ids as those of the machine, of which one method answers `answer` once that is set."""

    def __init__(self, method: str = "", answer: Any = None) -> None:
        self._clock, self._ids = SystemClock(), SystemIds()
        self._method, self._answer = method, answer
        self.is_wrong = bool(method)

    def __getattr__(self, name: str) -> Any:
        if self.is_wrong and name == self._method:
            return lambda *_: self._answer
        return getattr(self._clock if hasattr(self._clock, name) else self._ids, name)


class Seeded(SystemIds):
    """Ids as forked workers draw them whose random numbers go on from one seed: each draws the same."""

    def __init__(self) -> None:
        super().__init__()
        self._random = random.Random(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}_{self._random.getrandbits(64):x}"

    def token(self) -> str:
        return f"{self._random.getrandbits(128):x}"


WORKER = """
import asyncio, sys
from pathlib import Path
from scenario.test_given_clocks import Seeded
from support.scripted import ScriptedCaller, text
from lash_cli.api import LashCore, ModelSpec, SqliteStore

async def main():
    caller = ScriptedCaller([text("done")])
    caller.gate = asyncio.Event()
    store = SqliteStore.open(Path(sys.argv[1]))
    async with LashCore(provider=caller, model=ModelSpec("m"), store=store, queue_driver="none", ids=Seeded()) as core:
        turn = asyncio.create_task((await core.open_session("s1")).turn("one").run())
        await caller.entered.wait()
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        caller.gate.set()
        print((await turn).result.assistant_message(), flush=True)

asyncio.run(main())
"""


async def test_two_processes_that_draw_the_same_ids_do_not_share_a_lane(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lash.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(path), stdin=PIPE, stdout=PIPE, env=environment
    )
    try:
        assert worker.stdout is not None and await worker.stdout.readline() == b"running\n"
        caller = ScriptedCaller([text("never")], repeat=True)
        store = SqliteStore.open(path)
        async with LashCore(
            provider=caller, model=ModelSpec("m"), store=store, queue_driver="none", ids=Seeded()
        ) as core:
            with pytest.raises(SessionExecutionBusy):
                await (await core.open_session(S)).turn("two").run()
        assert await worker.communicate(b"go on\n") == (b"done\n", None)
        assert caller.requests == []
    finally:
        if worker.returncode is None:
            worker.kill()


WRONG = pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("now_ms", 1_700_000_000_000.5),
        ("now_ms", 1_700_000_000_000.0),
        ("now_ms", None),
        ("monotonic", math.nan),
        ("monotonic", None),
        ("new", ""),
        ("new", uuid.UUID(int=1)),
        ("token", None),
        ("token", "half \ud800"),
        ("bits", -1),
        ("bits", 0.5),
    ],
    ids=repr,
)
CLOCKS = ("now_ms", "monotonic")


def core_of(tmp_path: Path, given: Answering | None, **options: Any) -> LashCore:
    own: dict[str, Any] = {} if given is None else {"clock": given, "ids": given}
    store = SqliteStore.open(tmp_path / "home" / "lash.db", **own)
    caller = ScriptedCaller([text("fine")], repeat=True)
    return LashCore(provider=caller, model=ModelSpec("m"), store=store, queue_driver="none", **own, **options)


@WRONG
async def test_what_it_answers_at_once_is_refused_as_it_is_given(tmp_path: Path, method: str, answer: Any) -> None:
    given = Answering(method, answer)
    if method in CLOCKS:
        with pytest.raises(ConfigError, match=method) as refused:
            SqliteStore.open(tmp_path / "home" / "lash.db", clock=given)  # type: ignore[arg-type]
        assert refused.value.code == "config_invalid"
        assert not (tmp_path / "home").exists()
        with pytest.raises(ConfigError, match=method):
            provider("loopback", clock=given)  # type: ignore[arg-type]
    if method in (*CLOCKS, "token"):
        with pytest.raises(ConfigError, match=method):
            LashCore(provider=provider("loopback"), model=ModelSpec("m"), clock=given, ids=given)  # type: ignore[arg-type]


@WRONG
async def test_what_it_answers_later_fails_what_asks_and_the_session_goes_on(
    tmp_path: Path, method: str, answer: Any
) -> None:
    given = Answering(method, answer)
    given.is_wrong = False
    async with core_of(tmp_path, given) as core:
        given.is_wrong = True
        try:
            session = await core.open_session(S)
            await session.turn("begun").run()
            await session.enqueue("left")
        except ConfigError as refused:
            assert refused.code == "config_invalid" and method in refused.message
        given.is_wrong = False
        session = await core.open_session(S)
        await session.turn("one").run()
    async with core_of(tmp_path, None) as other:
        session = await other.open_session(S)
        while (await session.queued_turn().run()) is not None:
            pass
        await session.turn("two").run()
        texts = said(session.read_view().messages)
        assert texts.count("one") == texts.count("two") == 1 and texts.count("begun") <= 1
        assert (await other.store.session_row(S)).running_turn_id is None
