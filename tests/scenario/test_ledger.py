"""What a session has cost is written once, whatever stands in the way of writing it (contract 01 §12, §4.3, §5.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from support.driving import AtPoint, S, from_afar
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    DirectRequest,
    FunctionToolProvider,
    JsonSchemaOutput,
    LashCore,
    LashSession,
    ModelSpec,
    OutputSpec,
    SessionConfigPatch,
    SqliteStore,
    ToolContext,
    ToolSuccess,
    tool,
)
from lash_cli.core.content import Message, Role, TextPart, ToolCallPart
from lash_cli.core.context import CompactionContext, ContextMoment
from lash_cli.core.graph import ConversationPayload, NodePayload
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import (
    ConflictError,
    DirectCompletionError,
    LashError,
    LashRuntimeError,
    SessionClosed,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    StoreError,
    StoreLocked,
)
from lash_cli.plugins.rolling_history import RollingHistory
from lash_cli.store.base import ReadScope


class Nothing(msgspec.Struct):
    """A tool without arguments."""


SOMEBODY = LeaseOwnerIdentity("somebody", "elsewhere")


def asking(words: str = "title?", output: OutputSpec | None = None) -> DirectRequest:
    return DirectRequest((Message("m", Role.USER, (TextPart(words),)),), output=output)


def spent(session: LashSession) -> dict[str, int]:
    return {source: usage.total for source, usage in session.usage_report().by_source.items()}


async def stored(core) -> dict[str, int]:
    read = await core.store.load_session(S, ReadScope.HEAD)
    return {} if read is None else {entry.source: entry.usage.total for entry in read.token_ledger}


async def held_by_somebody(core):
    """The lane of the session in other hands, and what gives it back."""
    lease = await core.store.try_claim_lease(S, SOMEBODY, ttl_ms=60_000, token="theirs")
    return lease.fence()


async def that_owes(core):
    """A session that had a turn, and whose completion could not be booked after it."""
    session = await core.open_session(S)
    await session.turn("a").run()
    fence = await held_by_somebody(core)
    await session.direct_completion(asking())
    await core.store.release_lease(fence)
    return session


@pytest.mark.parametrize("booked_by", ["turn", "configure", "close", "completion"])
async def test_a_cost_that_could_not_be_booked_goes_along_with_the_next_commit(make_core, booked_by: str) -> None:
    caller = ScriptedCaller([text("one"), text("title", tokens=(7, 1)), text("two")])
    core = make_core(caller)
    async with await core.open_session(S) as session:
        await session.turn("a").run()
        fence = await held_by_somebody(core)
        assert (await session.direct_completion(asking())).text == "title"
        assert spent(session) == {"turn": 15, "direct": 8}
        assert await stored(core) == {"turn": 15}
        await core.store.release_lease(fence)
        if booked_by == "turn":
            await session.turn("b").run()
        elif booked_by == "configure":
            await session.configure(SessionConfigPatch(max_turns=3))
        elif booked_by == "completion":
            await session.direct_completion(asking())
        else:
            await session.close()
        total = {"turn": {"turn": 30, "direct": 8}, "completion": {"turn": 15, "direct": 23}}
        assert await stored(core) == total.get(booked_by, {"turn": 15, "direct": 8})
        if booked_by != "close":
            assert spent(session) == await stored(core)
    assert await stored(core) == total.get(booked_by, {"turn": 15, "direct": 8})


async def test_a_session_is_not_closed_over_a_cost_that_cannot_be_booked(make_core) -> None:
    core = make_core(ScriptedCaller([text("title")]))
    session = await core.open_session(S)
    fence = await held_by_somebody(core)
    await session.direct_completion(asking())
    for leave in (session.close, session.park):
        with pytest.raises(SessionExecutionBusy):
            await leave()
    await core.store.release_lease(fence)
    await session.park()
    assert await stored(core) == {"direct": 15}


@contextmanager
def commits_of_unknown_outcome(core: LashCore, monkeypatch: pytest.MonkeyPatch, stands: bool) -> Iterator[None]:
    """Each commit of the block is told as refused; whether it `stands` all the same is not. The block has to fail."""
    commit_runtime_state = core.store.commit_runtime_state

    async def unsure(commit, **options):
        if stands:
            await commit_runtime_state(commit, **options)
        raise StoreError("the disk refused")

    with monkeypatch.context() as failing, pytest.raises(StoreError):
        failing.setattr(core.store, "commit_runtime_state", unsure)
        yield


@pytest.mark.parametrize("stands", [True, False], ids=["it stands", "it does not"])
@pytest.mark.parametrize("taken_by", ["turn", "change"])
async def test_a_cost_that_went_along_with_a_commit_of_unknown_outcome_is_booked_once(
    make_core, monkeypatch, taken_by: str, stands: bool
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("title"), text("two"), text("three")]))
    session = await that_owes(core)
    with commits_of_unknown_outcome(core, monkeypatch, stands):
        if taken_by == "turn":
            await session.turn("b").run()
        else:
            await session.configure(SessionConfigPatch(max_turns=7))
    await session.turn("c").run()
    turns = 3 if taken_by == "turn" else 2
    assert spent(session) == await stored(core) == {"turn": 15 * turns, "direct": 15}


@pytest.mark.parametrize("stands", [True, False], ids=["it stands", "it does not"])
async def test_what_a_completion_cost_is_booked_once_also_where_its_own_commit_is_of_unknown_outcome(
    make_core, monkeypatch, stands: bool
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("title"), text("two")]))
    session = await core.open_session(S)
    await session.turn("a").run()
    with commits_of_unknown_outcome(core, monkeypatch, stands):
        await session.direct_completion(asking())
    await session.turn("b").run()
    assert spent(session) == await stored(core) == {"turn": 30, "direct": 15}


@pytest.mark.parametrize("stands", [True, False], ids=["it stands", "it does not"])
async def test_a_cost_in_doubt_is_booked_once_also_where_somebody_else_has_committed_since(
    make_core, monkeypatch, stands: bool
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("title"), text("three")]))
    session = await that_owes(core)
    with commits_of_unknown_outcome(core, monkeypatch, stands):
        await session.configure(SessionConfigPatch(max_turns=7))
    other = await make_core(ScriptedCaller([text("two")])).open_session(S)
    await other.turn("b").run()
    await session.refresh()
    await session.turn("c").run()
    assert spent(session) == await stored(core) == {"turn": 45, "direct": 15}


async def test_a_cost_that_went_along_with_a_refused_commit_is_not_taken_for_what_somebody_else_booked(
    make_core, monkeypatch
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("title"), text("two")]))
    session = await that_owes(core)

    async def refuse(*_: object, **__: object) -> None:
        raise StoreLocked("busy")

    with monkeypatch.context() as refusing, pytest.raises(StoreLocked):
        refusing.setattr(core.store, "commit_runtime_state", refuse)
        await session.configure(SessionConfigPatch(max_turns=7))
    other = await make_core(ScriptedCaller([text("title")])).open_session(S)
    await other.direct_completion(asking())
    await session.turn("b").run()
    assert spent(session) == await stored(core) == {"turn": 30, "direct": 30}


async def test_a_summary_that_came_too_late_is_paid_for_all_the_same(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two"), text("gist", tokens=(70, 7)), text("three")])
    core = make_core(caller)
    async with await core.open_session(S) as session:
        for words in ("a", "b"):
            await session.turn(words).run()
        caller.gate, caller.entered = asyncio.Event(), asyncio.Event()
        compacting = asyncio.ensure_future(session.admin().compact_context())
        async with asyncio.timeout(30):
            await caller.entered.wait()
        lease = (await core.store.session_row(S)).lease
        taken = await core.store.reclaim_lease(
            S, SOMEBODY, observed_fencing_token=lease.fencing_token, ttl_ms=60_000, token="theirs"
        )
        caller.gate.set()
        with pytest.raises(SessionExecutionLeaseExpired):
            await compacting
        await core.store.release_lease(taken.fence())
        assert (spent(session), await stored(core)) == ({"turn": 30, "compaction": 77}, {"turn": 30})
        await session.turn("c").run()
        assert await stored(core) == {"turn": 45, "compaction": 77}


async def test_a_completion_asked_for_by_a_tool_of_the_session_is_booked_with_its_turn(make_core) -> None:
    caller = ScriptedCaller([calls(("c1", "title", "{}")), text("title", tokens=(7, 1)), text("done")])
    sessions: list[LashSession] = []

    @tool(name="title", description="Find a title.")
    async def title(arguments: Nothing, context: ToolContext) -> str:
        return (await sessions[0].direct_completion(asking())).text

    core = make_core(caller, tools=[FunctionToolProvider([title])])
    async with await core.open_session(S) as session:
        sessions.append(session)
        output = await session.turn("a").run()
        assert output.result.tool_calls[0].output.outcome == ToolSuccess("title")
        assert spent(session) == await stored(core) == {"turn": 30, "direct": 8}


async def asked_at_a_gate(core, caller: ScriptedCaller, request: DirectRequest):
    """A session whose completion waits for the model, and the task it runs in."""
    session = await core.open_session(S)
    caller.gate = asyncio.Event()
    asked = asyncio.ensure_future(session.direct_completion(request))
    async with asyncio.timeout(30):
        await caller.entered.wait()
    return session, asked


async def test_an_answer_that_came_when_its_session_was_closed_is_told_and_paid_for(make_core) -> None:
    caller = ScriptedCaller([text("late"), text("one")])
    core = make_core(caller)
    session, asked = await asked_at_a_gate(core, caller, asking())
    await session.close()
    caller.gate.set()
    assert (await asked).text == "late"
    assert await stored(core) == {"direct": 15}
    assert (await core.store.session_row(S)).lease.token is None
    with pytest.raises(SessionClosed):
        session.usage_report()
    async with await core.open_session(S) as again:
        await again.turn("a").run()
        assert spent(again) == await stored(core) == {"turn": 15, "direct": 15}


@pytest.mark.parametrize("end", ["core", "deleted", "busy"])
async def test_an_answer_whose_cost_nobody_can_book_any_more_is_told_all_the_same(make_core, caplog, end: str) -> None:
    caller = ScriptedCaller([text("late")])
    core = make_core(caller)
    session, asked = await asked_at_a_gate(core, caller, asking())
    await session.close()
    if end == "core":
        await core.aclose()
    elif end == "deleted":
        await core.delete_session(S)
    else:
        await held_by_somebody(core)
    caller.gate.set()
    assert (await asked).text == "late"
    assert f"session {S} was closed before it was known that it had cost 15 tokens more (direct)" in caplog.text


async def test_a_call_that_failed_when_its_session_was_closed_says_what_failed(make_core) -> None:
    caller = ScriptedCaller([text("no json", tokens=(4, 4))])
    core = make_core(caller)
    request = asking(output=JsonSchemaOutput("answer", {"type": "object"}))
    session, asked = await asked_at_a_gate(core, caller, request)
    await session.close()
    caller.gate.set()
    with pytest.raises(DirectCompletionError):
        await asked
    assert await stored(core) == {"direct": 8}


async def test_who_stops_waiting_for_a_turn_to_end_has_paid_all_the_same(make_core, monkeypatch) -> None:
    """The call is over; only its booking waits, because a turn of the session runs."""
    caller = ScriptedCaller([text("title", tokens=(7, 1)), text("one")])
    core = make_core(caller)
    async with await core.open_session(S) as session:
        is_booking, change = asyncio.Event(), session._change

        async def booking(*given, **options) -> None:
            is_booking.set()
            await change(*given, **options)

        monkeypatch.setattr(session, "_change", booking)
        caller.gate = asyncio.Event()
        asked = asyncio.ensure_future(session.direct_completion(asking()))
        async with asyncio.timeout(30):
            await caller.entered.wait()
        asking_first, caller.gate = caller.gate, asyncio.Event()
        caller.entered.clear()
        running = asyncio.ensure_future(session.turn("a").run())
        async with asyncio.timeout(30):
            await caller.entered.wait()
        # The steps of the script go to who gets through first: the completion.
        asking_first.set()
        async with asyncio.timeout(30):
            await is_booking.wait()
        assert len(caller.steps) == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        caller.gate.set()
        await running
        assert spent(session) == {"turn": 15, "direct": 8}
        await session.flush()
        assert await stored(core) == {"turn": 15, "direct": 8}


async def test_what_is_owed_while_a_change_fails_stays_owed(make_core, monkeypatch) -> None:
    """Whoever is stopped before it is his turn to book leaves what he spent with the session."""
    core = make_core(ScriptedCaller([text("one"), text("title")]))
    async with await core.open_session(S) as session:
        await session.turn("a").run()
        state = await session.admin().export_persistence_state()
        is_booking, change = asyncio.Event(), session._change

        async def booking(*given, **options) -> None:
            is_booking.set()
            await change(*given, **options)

        async def refused(*given, **options) -> None:
            asked = asyncio.ensure_future(session.direct_completion(asking()))
            await is_booking.wait()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            raise StoreLocked("busy")

        with monkeypatch.context() as failing:
            failing.setattr(session, "_change", booking)
            failing.setattr(core.store, "commit_runtime_state", refused)
            with pytest.raises(StoreLocked):
                await session.admin().apply_persistence_state(state)
        assert spent(session) == {"turn": 15, "direct": 15}
        await session.flush()
        assert await stored(core) == {"turn": 15, "direct": 15}


async def test_a_session_in_memory_gives_a_late_answer_too() -> None:
    caller = ScriptedCaller([text("late")])
    async with LashCore(provider=caller, model=ModelSpec("model-1")) as core:
        session, asked = await asked_at_a_gate(core, caller, asking())
        await session.close()
        caller.gate.set()
        assert (await asked).text == "late"


async def test_a_failed_call_says_what_failed_also_when_its_cost_has_to_wait(make_core) -> None:
    core = make_core(ScriptedCaller([text("no json", tokens=(4, 4))]))
    async with await core.open_session(S) as session:
        fence = await held_by_somebody(core)
        with pytest.raises(DirectCompletionError) as failed:
            await session.direct_completion(asking(output=JsonSchemaOutput("answer", {"type": "object"})))
        await core.store.release_lease(fence)
        assert (failed.value.code, spent(session)) == ("invalid_structured_output", {"direct": 8})


async def test_a_state_brings_along_what_it_cost_and_nothing_is_booked_twice(make_core, tmp_path) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two"), text("three"), text("four")]))
    async with await core.open_session(S) as session:
        await session.turn("a").run()
        state = session.export_state()
        await session.turn("b").run()
    # In its own store all of it is booked, and more.
    async with await core.open_with_state(S, state) as session:
        await session.turn("c").run()
        assert spent(session) == await stored(core) == {"turn": 45}
        later = session.export_state()
    elsewhere = LashCore(
        provider=ScriptedCaller([text("four"), text("five")]),
        model=ModelSpec("model-1"),
        store=SqliteStore.open(tmp_path / "elsewhere.db"),
        queue_driver="none",
    )
    async with elsewhere:
        async with await elsewhere.open_with_state(S, later) as session:
            assert spent(session) == {"turn": 45}
            await session.turn("d").run()
            assert spent(session) == await stored(elsewhere) == {"turn": 60}
        async with await elsewhere.open_session(S) as again:
            await again.turn("e").run()
            assert spent(again) == await stored(elsewhere) == {"turn": 75}


async def test_a_fresh_start_goes_on_counting_what_was_spent_before(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two")]))
    async with await core.open_session(S) as session:
        await session.turn("a").run()
    async with await core.open_fresh(S) as fresh:
        await fresh.turn("b").run()
        assert spent(fresh) == await stored(core) == {"turn": 30}


class Stumbling(RollingHistory):
    """A compactor that asks the model and then fails, or makes what no frame can begin with, or cancels itself."""

    def __init__(self, way: str) -> None:
        self.way = way

    def is_due(self, moment: ContextMoment) -> bool:
        return self.way != "well" and moment.limits is not None

    async def compact(self, context: CompactionContext) -> tuple[NodePayload, ...]:
        payloads = await super().compact(context)
        if self.way == "fails":
            raise KeyError("stumbled")
        if self.way == "unfit":
            part = ToolCallPart("c", "look", "{}")
            return (ConversationPayload(Message("any", Role.ASSISTANT, (part,))),)
        if self.way == "stopped":
            raise asyncio.CancelledError
        return payloads


GIST = [text("one"), text("two"), text("gist", tokens=(70, 7)), text("three")]


@pytest.mark.parametrize(
    ("way", "raised"),
    [("fails", LashRuntimeError), ("unfit", ConflictError), ("stopped", LashRuntimeError)],
)
@pytest.mark.parametrize("has_store", [True, False])
async def test_a_compaction_that_fails_after_it_asked_is_paid_for(make_core, way: str, raised, has_store: bool) -> None:
    plugin = Stumbling("well")
    wiring = {"model": ModelSpec("model-1"), "context": [plugin]}
    core = make_core(ScriptedCaller(GIST), **wiring) if has_store else LashCore(provider=ScriptedCaller(GIST), **wiring)
    async with await core.open_session(S) as session:
        for words in ("a", "b"):
            await session.turn(words).run()
        plugin.way = way
        with pytest.raises(raised):
            await session.admin().compact_context()
        assert spent(session) == {"turn": 30, "compaction": 77}
        assert len(session.read_view().frames) == 1
        if has_store:
            assert await stored(core) == spent(session)
        plugin.way = "well"
        await session.turn("c").run()
        assert spent(session) == {"turn": 45, "compaction": 77}
        if has_store:
            assert await stored(core) == spent(session)


async def test_a_compaction_that_could_not_be_written_is_owed(make_core, monkeypatch) -> None:
    core = make_core(ScriptedCaller(GIST), context=[RollingHistory()])
    session = await core.open_session(S)
    for words in ("a", "b"):
        await session.turn(words).run()

    async def fail(*_: object, **__: object) -> None:
        raise StoreLocked("busy")

    with monkeypatch.context() as patched:
        patched.setattr(core.store, "commit_runtime_state", fail)
        with pytest.raises(StoreError):
            await session.admin().compact_context()
    assert spent(session)["compaction"] == 77


@pytest.mark.parametrize("stands", [True, False], ids=["it stands", "it does not"])
async def test_a_compaction_of_which_nobody_knows_whether_it_was_written_is_booked_once(
    make_core, monkeypatch, stands: bool
) -> None:
    core = make_core(ScriptedCaller(GIST), context=[RollingHistory()])
    session = await core.open_session(S)
    for words in ("a", "b"):
        await session.turn(words).run()
    with commits_of_unknown_outcome(core, monkeypatch, stands):
        await session.admin().compact_context()
    await session.turn("c").run()
    assert spent(session) == await stored(core) == {"turn": 45, "compaction": 77}


@pytest.mark.parametrize("way", ["fails", "unfit"])
async def test_room_that_could_not_be_made_before_a_turn_is_paid_for(make_core, way: str) -> None:
    plugin = Stumbling("well")
    core = make_core(ScriptedCaller(GIST), context=[plugin])
    async with await core.open_session(S) as session:
        for words in ("a", "b"):
            await session.turn(words).run()
        plugin.way = way
        with pytest.raises(LashError):
            await session.turn("c").run()
        assert await stored(core) == spent(session) == {"turn": 30, "compaction": 77}
        assert (await core.store.session_row(S)).lease.token is None
        plugin.way = "well"
        assert (await session.redrive().run()).result.is_success
        assert await stored(core) == spent(session) == {"turn": 45, "compaction": 77}


async def test_a_turn_that_another_owner_has_committed_meanwhile_takes_no_cost_of_ours_along(
    make_core, tmp_path
) -> None:
    async def finish(store: SqliteStore) -> None:
        lease = (await store.session_row(S)).lease
        fence = LeaseFence(S, lease.owner.owner_id, lease.owner.incarnation_id, lease.token, lease.fencing_token)
        await store.release_lease(fence)
        other = LashCore(provider=ScriptedCaller([]), model=ModelSpec("model-1"), store=store, queue_driver="none")
        output = await (await other.open_session(S)).redrive().run()
        assert output.result is not None and output.result.assistant_message() == "one"

    hook = AtPoint("before:commit", lambda: from_afar(tmp_path / "home" / "lash.db", finish))
    core = make_core(ScriptedCaller([text("one")]), crash_point=hook)
    session = await core.open_session(S)
    session._shared.state.owe((TokenLedgerEntry("direct", "model-1", TokenUsage(7)),))
    assert (await session.turn("a").run()).result.assistant_message() == "one"
    assert (spent(session), await stored(core)) == ({"direct": 7, "turn": 15}, {"turn": 15})
    await session.close()
    assert await stored(core) == {"direct": 7, "turn": 15}
