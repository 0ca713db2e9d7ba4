"""Providers given for one turn or one open, and what a session says of its own (contract 01 §2, §2.4, §5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, calls, text
from support.switching import Switching, switch
from support.tools import NamedTools

from lash_cli.api import (
    DirectRequest,
    LashCore,
    ModelSpec,
    ProviderStatus,
    SessionConfigPatch,
    SqliteStore,
    TurnInput,
    WorkOptions,
)
from lash_cli.core.content import user_message
from lash_cli.errors import ProviderMismatch, ProviderUnconfigured


@pytest.mark.parametrize("has_store", [True, False])
async def test_a_provider_given_for_a_turn_serves_that_turn_only(make_core, has_store: bool) -> None:
    own, given = (
        ScriptedCaller([text("own")]),
        ScriptedCaller([switch("f2", "more"), text("given")], provider_id="else"),
    )
    wiring = {"tools": [Switching()]}
    core = make_core(own, **wiring) if has_store else LashCore(provider=own, model=ModelSpec("m"), **wiring)
    session = await core.open_session(S)
    assert (await session.turn("one").provider(given).run()).result.assistant_message() == "given"
    assert session.policy_snapshot.provider_id == "scripted"
    assert (await session.turn("two").run()).result.assistant_message() == "own"
    await core.aclose()


async def test_a_provider_given_for_a_turn_serves_also_where_the_recorded_one_is_not_wired(make_core) -> None:
    async with await make_core(ScriptedCaller([text("x")], provider_id="first")).open_session(S) as session:
        await session.turn("one").run()
    session = await make_core(ScriptedCaller([], provider_id="second")).open_session(S)
    assert session.provider_status().code == "llm_provider"
    output = await session.turn("two").provider(ScriptedCaller([text("given")])).run()
    assert output.result.assistant_message() == "given"
    assert session.policy_snapshot.provider_id == "first"


async def test_a_turn_that_crashed_under_a_given_provider_is_finished_under_the_sessions_own(make_core) -> None:
    given = ScriptedCaller([calls(("c1", "look", "{}"))], provider_id="else")
    core = make_core(
        ScriptedCaller([]), tools=[NamedTools(("look", "look"))], crash_point=CrashPoints("after:tool_recorded")
    )
    with pytest.raises(Crash):
        await (await core.open_session(S)).turn("one", turn_id="t1").provider(given).run()
    own, second = ScriptedCaller([text("own")]), ScriptedCaller([text("second")], provider_id="else")
    session = await make_core(own, tools=[NamedTools(("look", "look"))]).open_session(S)
    output = await session.turn("two").provider(second).run()
    assert [result.turn_id for result in output.redriven] == ["t1"]
    assert said(session.read_view().messages) == ["one", "own", "two", "second"]
    assert (len(given.requests), len(own.requests), len(second.requests)) == (1, 1, 1)


async def test_a_provider_given_at_open_serves_all_of_that_open_and_is_not_stored(make_core) -> None:
    own = ScriptedCaller([text("own")])
    given = ScriptedCaller([text("one"), text("two"), text("gist"), text("aside")], provider_id="else")
    core = make_core(own)
    session = await core.open_session(S, provider=given)
    for word in ("one", "two"):
        await session.turn(word).run()
    assert await session.admin().compact_context()
    assert (
        await session.direct_completion(DirectRequest((user_message("m", TurnInput.text("psst")),)))
    ).text == "aside"
    assert session.provider_status() == ProviderStatus("scripted")
    await session.close()
    session = await core.open_session(S)
    assert (await session.turn("three").run()).result.assistant_message() == "own"
    given.steps = [text("again")]
    resumed = await core.resume(await session.park(), provider=given)
    assert (await resumed.turn("four").run()).result.assistant_message() == "again"


async def test_a_session_says_whether_its_provider_can_be_found(make_core) -> None:
    session = await make_core(ScriptedCaller([])).open_session(S)
    assert session.provider_status() == ProviderStatus("scripted") and session.provider_status().is_usable
    await session.configure(SessionConfigPatch(provider_id="else"))
    status = session.provider_status()
    assert (status.provider_id, status.code, status.is_usable) == ("else", "llm_provider", False)
    assert "'else'" in status.message


@pytest.mark.parametrize("is_queued", [False, True])
async def test_a_provider_that_somebody_chose_meanwhile_is_found_missing_before_a_turn_begins(
    make_core, is_queued: bool
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two")]))
    session = await core.open_session(S)
    await session.turn("one").run()
    if is_queued:
        await session.enqueue("two")
    other = await make_core(ScriptedCaller([])).open_session(S)
    await other.configure(SessionConfigPatch(provider_id="else"))
    with pytest.raises(ProviderMismatch):
        await (session.queued_turn() if is_queued else session.turn("two")).run()
    assert await core.store.unfinished_turns(S) == ()
    assert len(await session.pending_turn_inputs()) == is_queued
    assert (await core.store.session_row(S)).lease.token is None
    given = ScriptedCaller([text("given")])
    assert (await session.turn("two").provider(given).run()).result.assistant_message() == "given"


async def test_a_provider_that_somebody_chose_again_meanwhile_is_used(make_core) -> None:
    session = await make_core(ScriptedCaller([text("one"), text("two")])).open_session(S)
    await session.turn("one").run()
    other = await make_core(ScriptedCaller([])).open_session(S)
    await other.configure(SessionConfigPatch(provider_id="else"))
    await session.refresh()
    assert not session.provider_status().is_usable
    await other.configure(SessionConfigPatch(provider_id="scripted"))
    assert (await session.turn("two").run()).result.assistant_message() == "two"


@pytest.mark.parametrize("is_chosen", [False, True], ids=["recorded", "another chosen since"])
async def test_a_crashed_turn_whose_provider_is_gone_can_still_be_cancelled(make_core, is_chosen: bool) -> None:
    gone = make_core(ScriptedCaller([text("lost")]), crash_point=CrashPoints("before:commit"))
    with pytest.raises(Crash):
        await (await gone.open_session(S)).turn("one", turn_id="t1").run()
    core = make_core(ScriptedCaller([text("two")], provider_id="else"))
    session = await core.open_session(S)
    if is_chosen:
        await session.configure(SessionConfigPatch(provider_id="else"))
    with pytest.raises(ProviderMismatch) as refused:
        await session.redrive().run()
    assert refused.value.hint.endswith(f"end it without with: lash cancel {S} --wait")
    await core.request_turn_cancel(S, turn_id="t1", request_id="r1")
    output = await session.redrive().run()
    assert (output.result.turn_id, output.result.cancellation.request_id) == ("t1", "r1")
    await session.configure(SessionConfigPatch(provider_id="else"))
    assert (await session.turn("two").run()).result.assistant_message() == "two"
    assert said(session.read_view().messages) == ["one", "two", "two"]


class OwnResolver:
    """A resolver as a host writes one: of a dictionary."""

    default_id = "scripted"

    def __init__(self, caller: ScriptedCaller, gone: Any) -> None:
        self.callers = {"scripted": caller}
        self._gone = gone

    def resolve(self, provider_id: str) -> Any:
        return self._gone(self.callers, provider_id)

    async def aclose(self) -> None:
        pass


GONE = pytest.mark.parametrize(
    "gone", [lambda callers, name: callers[name], lambda callers, name: callers.get(name)], ids=["raises", "has none"]
)


def core_of(tmp_path: Path, resolver: OwnResolver, **options: Any) -> LashCore:
    store = SqliteStore.open(tmp_path / "home" / "lash.db")
    return LashCore(providers=resolver, model=ModelSpec("m"), store=store, queue_driver="none", **options)


@GONE
async def test_a_resolver_that_has_no_such_provider_refuses_turns_and_holds_no_queue(tmp_path: Path, gone: Any) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    resolver = OwnResolver(caller, gone)
    async with core_of(tmp_path, resolver) as core:
        session = await core.open_session(S)
        resolver.callers.clear()
        assert session.provider_status().code == "provider_unconfigured"
        with pytest.raises(ProviderUnconfigured, match="'scripted'"):
            await session.turn("never").run()
        await session.enqueue("queued")
        report = await core.worker(WorkOptions(until_empty=True)).run()
        assert (report.errors, report.held) == (1, ())
        assert (await core.store.session_row(S)).running_turn_id is None
        resolver.callers["scripted"] = caller
        await session.queued_turn().run()
        assert said(session.read_view().messages) == ["queued", "one"]


@GONE
async def test_a_turn_that_was_cut_off_is_cancelled_also_where_the_resolver_has_its_provider_no_more(
    tmp_path: Path, gone: Any
) -> None:
    resolver = OwnResolver(ScriptedCaller([text("one")]), gone)
    with pytest.raises(Crash):
        async with core_of(tmp_path, resolver, crash_point=CrashPoints("before:commit")) as core:
            await (await core.open_session(S)).turn("one").run()
    resolver.callers.clear()
    async with core_of(tmp_path, resolver) as core:
        session = await core.open_session(S)
        with pytest.raises(ProviderUnconfigured):
            await session.redrive().run()
        await core.request_turn_cancel(S)
        result = (await session.redrive().run()).result
        assert result is not None and result.cancellation is not None
        assert said(session.read_view().messages) == ["one"]
