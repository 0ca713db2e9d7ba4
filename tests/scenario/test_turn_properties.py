"""Random lives of a session against a small oracle: turns, crashes at named points, re-drives, cancels, repeats.

The oracle never asks the store what should be true. It watches which named
points a drive reached and keeps a list of texts; everything a reader of the
session sees must follow from that list (contract 01 §5.4, §9.2, design §3).
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.made_files import lay
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelSpec,
    SessionConfigPatch,
    SessionSpec,
    SqliteStore,
    Stopped,
    tool,
)
from lash_cli.core.content import Message, Role, ToolCallPart, ToolResultPart, is_safe_to_resume, message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.lease import LeaseFence
from lash_cli.core.llm import LlmRequest, LlmResponse
from lash_cli.core.tools import SafeRetry
from lash_cli.errors import ConflictError, PendingTurnInputSourceKeyConflict
from lash_cli.runtime.requests import TurnOutput
from lash_cli.store.base import ReadScope
from lash_cli.system import SystemClock, SystemIds

T = TypeVar("T")
S = "s1"
TOKENS = (10, 5)
# Model calls of a turn that answers.
STAGES = {"plain": 1, "tools": 2}
POINTS = (
    "before:lane",
    "after:lane",
    "before:model_recorded",
    "after:model_recorded",
    "before:tool_started",
    "after:tool_started",
    "before:tool_recorded",
    "after:tool_recorded",
    "before:commit",
    "after:commit",
)

kinds = st.sampled_from(tuple(STAGES))
crashes = st.none() | st.tuples(st.sampled_from(POINTS), st.integers(1, 2))


class Crash(BaseException):
    """Ends a core where it stands; nothing of the runtime may catch it."""


class Empty(msgspec.Struct):
    """No arguments."""


@dataclass
class Turn:
    """What the oracle knows about one text that became safe."""

    kind: str
    model: str
    key: str | None = None
    is_cancelled: bool = False
    is_committed: bool = False


class World:
    """What is outside every core and survives its crash: the model, the tools, and the hook that crashes."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, int]] = Counter()
        self.lost: Counter[tuple[str, int]] = Counter()
        self.models: dict[str, set[str]] = {}
        self.ran: Counter[str] = Counter()
        self.trace: list[str] = []
        self.armed: tuple[str, int] | None = None
        self.latest: tuple[str, int] = ("", 0)

    def answer(self, request: LlmRequest) -> LlmResponse:
        """Depends on the conversation only: two calls first when the text asks for tools, then prose."""
        messages = list(request.messages)
        last = max(index for index, item in enumerate(messages) if item.role is Role.USER and message_text(item))
        asked = message_text(messages[last])
        stage = 1 + any(isinstance(part, ToolResultPart) for item in messages[last:] for part in item.parts)
        self.latest = (asked, stage)
        self.asked[self.latest] += 1
        self.models.setdefault(asked, set()).add(request.model.id)
        if asked.startswith("tools") and stage == 1:
            return calls((f"safe {asked}", "safe", "{}"), (f"never {asked}", "never", "{}"), tokens=TOKENS)
        return text(f"answer to {asked}", tokens=TOKENS)

    def tools(self) -> FunctionToolProvider:
        """A tool that may be repeated and one that may not."""

        @tool(name="safe", retry=SafeRetry(2, 0, 0))
        async def safe(args: Empty, context: Any) -> str:
            """May be repeated."""
            self.ran[context.call_id] += 1
            return "ran"

        @tool(name="never")
        async def never(args: Empty, context: Any) -> str:
            """May not be repeated."""
            self.ran[context.call_id] += 1
            return "ran"

        return FunctionToolProvider([safe, never])

    def reach(self, point: str) -> None:
        """The crash hook."""
        self.trace.append(point)
        if self.armed is None or self.armed[0] != point:
            return
        name, left = self.armed
        self.armed = (name, left - 1) if left > 1 else None
        if left == 1:
            if point == "before:model_recorded":
                self.lost[self.latest] += 1
            raise Crash(point)


class SessionLife(RuleBasedStateMachine):
    """One session; at any time one opened handle of it, replaced after every crash."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "lash.db"
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.turns: dict[str, Turn] = {}
        self.unfinished: str | None = None
        self.model = "model-0"
        self.revision = 0
        self.submitted = 0
        self.cores: list[LashCore] = []
        self.reader = self._store()
        self._open()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for core in self.cores:
            self.loop.run_until_complete(core.aclose())
        self.reader.close()
        self.loop.close()
        self.directory.cleanup()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _store(self) -> SqliteStore:
        return SqliteStore.open(lay(self.path), clock=SystemClock(), ids=SystemIds(), synchronous="normal")

    def _core(self) -> LashCore:
        caller = ScriptedCaller([self.world.answer], repeat=True)
        core = LashCore(
            provider=caller,
            model=ModelSpec("model-0"),
            store=self._store(),
            tools=[self.world.tools()],
            crash_point=self.world.reach,
            queue_driver="none",
        )
        self.caller = caller
        self.cores.append(core)
        return core

    def _open(self) -> None:
        self.core = self._core()
        self.session: LashSession = self._do(self.core.open_session(S, spec=SessionSpec(inherit="stored")))

    def _abandon(self) -> None:
        """What the death of a process does: nothing of it runs on, and its lane goes to whoever proves it dead."""
        self.cores.remove(self.core)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._do(asyncio.sleep(0))
        self._do(self.core.aclose())
        row = self._do(self.reader.session_row(S))
        assert row is not None
        owner = row.lease.owner
        if owner is not None and row.lease.token is not None:
            fence = LeaseFence(S, owner.owner_id, owner.incarnation_id, row.lease.token, row.lease.fencing_token)
            self._do(self.reader.release_lease(fence))

    def _drive(self, work: Coroutine[Any, Any, TurnOutput], crash: tuple[str, int] | None) -> TurnOutput | None:
        """Run a drive; None when it crashed, and then a new core stands ready."""
        row = self._do(self.reader.session_row(S))
        self.is_behind = row is not None and row.head_revision != self.session.read_view().head_revision
        self.world.trace.clear()
        self.world.armed = crash
        try:
            return self._do(work)
        except Crash:
            self._abandon()
            self._open()
            return None
        finally:
            self.world.armed = None

    def _follow(self, fresh: tuple[str, Turn] | None) -> None:
        """Read from the points that were reached what must be true now; `fresh` is the text that was submitted."""
        for point in self.world.trace:
            if point == "after:lane" and self.unfinished is None and fresh is not None:
                if self.is_behind:
                    # It has the lane alone, and asks again from the head that it finds.
                    self.is_behind = False
                    continue
                name, turn = fresh
                if name not in self.turns:
                    self.turns[name] = turn
                    self.unfinished = name
            elif point == "after:commit":
                assert self.unfinished is not None, "a commit without a turn"
                self.turns[self.unfinished].is_committed = True
                self.unfinished = None
                self.is_behind = False

    def _expect(self, name: str, result: Any) -> None:
        if self.turns[name].is_cancelled:
            assert result.outcome == Stopped("cancelled")
        else:
            assert result.assistant_message() == f"answer to {name}"

    def _check(self, output: TurnOutput | None, name: str, before: str | None) -> None:
        """A drive that did not crash finished the crashed turn first, then its own."""
        if output is None:
            return
        assert self.unfinished is None
        if before is not None and before != name:
            (finished,) = output.redriven
            self._expect(before, finished)
        self._expect(name, output.result)

    def _name(self, kind: str) -> str:
        """A text nobody submitted before, not even one that a crash lost."""
        self.submitted += 1
        return f"{kind} {self.submitted}"

    def _submit(self, name: str, turn: Turn, crash: tuple[str, int] | None) -> None:
        before = self.unfinished
        output = self._drive(self.session.turn(name, key=turn.key).run(), crash)
        self._follow((name, turn))
        self._check(output, name, before)

    def _committed(self) -> list[str]:
        return [name for name, turn in self.turns.items() if turn.is_committed]

    @rule(kind=kinds, has_key=st.booleans(), crash=crashes)
    def turn(self, kind: str, has_key: bool, crash: tuple[str, int] | None) -> None:
        name = self._name(kind)
        self._submit(name, Turn(kind, self.model, f"key of {name}" if has_key else None), crash)

    @rule(crash=crashes)
    def redrive(self, crash: tuple[str, int] | None) -> None:
        before = self.unfinished
        output = self._drive(self.session.redrive().run(), crash)
        self._follow(None)
        if output is not None and before is None:
            assert output.result is None
        elif output is not None and before is not None:
            self._expect(before, output.result)
            assert self.unfinished is None

    @rule(crash=crashes)
    def submit_the_unfinished_text_again(self, crash: tuple[str, int] | None) -> None:
        name = self.unfinished
        if name is not None and self.turns[name].key is not None:
            before = dict(self.turns)
            output = self._drive(self.session.turn(name, key=self.turns[name].key).run(), crash)
            self._follow(None)
            assert self.turns.keys() == before.keys()
            if output is not None:
                assert output.replayed
                self._expect(name, output.result)

    @rule(pick=st.integers(0, 10), is_changed=st.booleans())
    def repeat_a_key(self, pick: int, is_changed: bool) -> None:
        keyed = [name for name in self._committed() if self.turns[name].key is not None]
        if not keyed:
            return
        name = keyed[pick % len(keyed)]
        asked = self.world.asked.copy()
        if is_changed:
            try:
                self._do(self.session.turn(f"not {name}", key=self.turns[name].key).run())
            except PendingTurnInputSourceKeyConflict:
                return
            raise AssertionError("another text was accepted under a used key")
        output = self._do(self.session.turn(name, key=self.turns[name].key).run())
        assert output.replayed
        self._expect(name, output.result)
        assert self.world.asked == asked

    @rule(kind=kinds)
    def turn_cancelled_before_it_begins(self, kind: str) -> None:
        name = f"{self._name(kind)} stop"
        before = self.unfinished
        if before is not None:
            self.turns[before].is_cancelled = True
        builder = self.session.turn(name)
        builder.cancel(reason="early")
        output = self._drive(builder.run(), None)
        self._follow((name, Turn(kind, self.model, is_cancelled=True)))
        self._check(output, name, before)

    @rule(kind=kinds, from_afar=st.booleans())
    def turn_cancelled_while_the_model_thinks(self, kind: str, from_afar: bool) -> None:
        if self.unfinished is not None:
            return
        name = f"{self._name(kind)} stop"

        async def run() -> TurnOutput:
            self.caller.gate = asyncio.Event()
            self.caller.entered.clear()
            running = asyncio.create_task(self.session.turn(name).run())
            await self.caller.entered.wait()
            if from_afar:
                other = self._core()
                receipt = await other.request_turn_cancel(S, request_id="r1")
                assert receipt.outcome == "requested"
            else:
                assert self.session.cancel_running_turns() == 1
            return await running

        caller = self.caller
        output = self._drive(run(), None)
        caller.gate = None
        self.caller = caller
        self._follow((name, Turn(kind, self.model, is_cancelled=True)))
        self._check(output, name, None)

    @rule()
    def request_a_cancel_of_the_crashed_turn(self) -> None:
        try:
            receipt = self._do(self.core.request_turn_cancel(S))
        except ConflictError as error:
            assert (error.code, self.unfinished) == ("no_active_turn", None)
            return
        assert self.unfinished is not None
        is_first = not self.turns[self.unfinished].is_cancelled
        assert receipt.outcome == ("requested" if is_first else "already_requested")
        self.turns[self.unfinished].is_cancelled = True

    @rule(number=st.integers(0, 3))
    def configure(self, number: int) -> None:
        self.model = f"model-{number}"
        patch = SessionConfigPatch(model=ModelSpec(self.model))
        self._do(self.session.configure(patch))

    @rule()
    def park_and_resume(self) -> None:
        parked = self._do(self.session.park())
        self.session = self._do(self.core.resume(parked))

    @rule()
    def go_on_in_another_core(self) -> None:
        self._do(self.session.close())
        self._open()

    @rule()
    def leave_a_handle_behind_that_knows_an_old_head(self) -> None:
        """A second core runs a turn meanwhile."""
        old = self.core, self.session, self.caller
        self._open()
        self._submit(self._name("plain"), Turn("plain", self.model), None)
        self.core, self.session, self.caller = old

    @invariant()
    def a_reader_sees_exactly_what_was_committed(self) -> None:
        if not hasattr(self, "reader"):
            return
        read = self._do(self.reader.load_session(S, ReadScope.ACTIVE_PATH))
        committed = self._committed()
        if read is None:
            assert committed == []
            return
        messages = [node.payload.message for node in read.nodes if isinstance(node.payload, ConversationPayload)]
        self._check_transcript(messages, committed)
        rows = self._do(self.reader.turns(S, limit=1000))
        finished = [row for row in rows if row.state == "committed"]
        assert len(finished) == len(committed)
        assert [row.state for row in rows if row.state == "running"] == ["running"] * (self.unfinished is not None)
        revisions = [row.head_revision or 0 for row in reversed(finished)]
        assert revisions == sorted(set(revisions)), "every commit moved the head"
        assert [row.turn_index for row in reversed(finished)] == list(range(1, len(finished) + 1))
        assert read.head_revision >= max(self.revision, len(finished), *revisions, 0)
        self.revision = read.head_revision
        summaries = [row.summary for row in finished if row.summary is not None]
        assert sum(entry.usage.total for entry in read.token_ledger) == sum(item.usage.total for item in summaries)
        spent = sum(summary.usage.total for summary in summaries)
        answered = [self.turns[name] for name in committed if not self.turns[name].is_cancelled]
        least = sum(TOKENS) * sum(STAGES[turn.kind] for turn in answered)
        most = sum(TOKENS) * sum(STAGES[self.turns[name].kind] for name in committed)
        assert least <= spent <= most

    def _check_transcript(self, messages: list[Message], committed: list[str]) -> None:
        assert is_safe_to_resume(messages)
        asked = [message_text(item) for item in messages if item.role is Role.USER and message_text(item)]
        assert asked == committed, "every text once, in the order of the lanes"
        prose = [message_text(item) for item in messages if item.role is Role.ASSISTANT and message_text(item)]
        assert prose == [f"answer to {name}" for name in committed if not self.turns[name].is_cancelled]
        parts = [part for item in messages for part in item.parts]
        results = [part for part in parts if isinstance(part, ToolResultPart)]
        called = Counter(part.tool_call_id for part in parts if isinstance(part, ToolCallPart))
        assert Counter(part.tool_call_id for part in results) == called
        assert set(called.values()) <= {1}
        told = {part.tool_call_id: part.content for part in results}
        for name in committed:
            turn = self.turns[name]
            if turn.kind == "tools" and not turn.is_cancelled:
                assert told[f"safe {name}"] == "ran" and self.world.ran[f"safe {name}"] >= 1
                was_cut_off = re.search("interrupted", told[f"never {name}"]) is not None
                assert was_cut_off or (told[f"never {name}"], self.world.ran[f"never {name}"]) == ("ran", 1)

    @invariant()
    def nothing_that_was_recorded_is_done_twice(self) -> None:
        if not hasattr(self, "world"):
            return
        for name, turn in self.turns.items():
            assert self.world.ran[f"never {name}"] <= 1
            assert self.world.models.get(name, {turn.model}) == {turn.model}, "a turn keeps the model it began with"
            if turn.is_committed and not turn.is_cancelled:
                for stage in range(1, STAGES[turn.kind] + 1):
                    call = (name, stage)
                    assert self.world.asked[call] == 1 + self.world.lost[call], call


TestSessionLife = SessionLife.TestCase
TestSessionLife.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
