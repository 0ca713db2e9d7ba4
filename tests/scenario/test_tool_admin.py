"""A host edits the tools of a session: committed before the call returns, or not done at all (contract 05 §2.4)."""

from __future__ import annotations

import msgspec
import pytest
from support.scripted import ScriptedCaller, text

from lash_cli.api import FunctionToolProvider, tool
from lash_cli.errors import GenerationMismatch, ReconfigureError, StoreError


class Words(msgspec.Struct):
    """Something to say."""

    text: str


@tool(name="shout")
async def shout(args: Words, context: object) -> str:
    """Say it louder."""
    return args.text.upper()


def names(session) -> list[str]:
    return [manifest.name for manifest in session.tools().active_manifests()]


async def test_an_added_source_is_offered_to_the_model_until_its_handle_removes_it(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    async with await make_core(caller).open_session("s1") as session:
        handle = await session.tools().add_provider(FunctionToolProvider([shout]))
        await session.turn("a").run()
        before = session.tools().state().generation
        assert await session.tools().remove_source(handle) > before
        await session.turn("b").run()
        assert [[offered.name for offered in request.tools] for request in caller.requests] == [["shout"], []]
        with pytest.raises(ReconfigureError) as gone:
            await session.tools().remove_source(handle)
        assert gone.value.code == "tool_source_unknown"


async def test_an_added_source_is_committed_before_the_call_returns(make_core) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
        head = await core.host.store.head_position("s1")
        await session.tools().add_provider(FunctionToolProvider([shout]))
        assert await core.host.store.head_position("s1") != head


async def test_an_edit_that_cannot_be_committed_is_taken_back_with_its_source(make_core, monkeypatch) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
        before = session.tools().state()

        async def refuse(*_: object, **__: object) -> None:
            raise StoreError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(type(core.host.store), "commit_runtime_state", refuse)
            with pytest.raises(StoreError):
                await session.tools().add_provider(FunctionToolProvider([shout]))
        assert (names(session), session.tools().state()) == ([], before)
        await session.tools().add_provider(FunctionToolProvider([shout]))
        assert names(session) == ["shout"]


async def test_a_whole_state_is_applied_only_to_the_surface_it_was_taken_from(make_core) -> None:
    async with await make_core(ScriptedCaller([]), tools=[FunctionToolProvider([shout])]).open_session("s1") as session:
        admin = session.tools()
        taken = admin.state()
        tool_id = admin.active_manifests()[0].id
        await admin.advanced().apply_state(taken.set_membership(tool_id, False))
        assert names(session) == []
        with pytest.raises(GenerationMismatch):
            await admin.advanced().apply_state(taken)
        await admin.advanced().restore_state(taken)
        assert names(session) == ["shout"]
