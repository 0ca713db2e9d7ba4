"""A host edits the tools of a session: committed before the call returns, or not done at all (contract 05 §2.4)."""

from __future__ import annotations

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, tool
from lash_cli.core.tools import SafeRetry, ToolContract
from lash_cli.errors import ConflictError, GenerationMismatch, ReconfigureError, StoreError


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


class TightenedWords(FunctionToolProvider):
    """Wants shorter texts than its tool says, once `longest` is set."""

    longest: int | None = None

    def contract(self, tool_id: str) -> ToolContract:
        said = super().contract(tool_id)
        if self.longest is None:
            return said
        return msgspec.structs.replace(said, input_schema={**said.input_schema, "maxProperties": self.longest})


async def test_the_next_turn_asks_for_what_a_source_says_of_its_tools_then_and_in_the_same_shape_meanwhile(
    make_core,
) -> None:
    source = TightenedWords([shout])
    caller = ScriptedCaller([text("one"), text("two"), text("three"), text("four")])
    async with await make_core(caller, tools=[source]).open_session("s1") as session:
        await session.turn("a").run()
        await session.turn("b").run()
        source.longest = 5
        await session.turn("c").run()
        admin = session.tools()
        (manifest,) = admin.active_manifests()
        entry = msgspec.structs.replace(
            admin.state().tools[manifest.id], manifest=msgspec.structs.replace(manifest, description="Much louder.")
        )
        await admin.advanced().apply_state(msgspec.structs.replace(admin.state(), tools={manifest.id: entry}))
        await session.turn("d").run()
    first, second, third, fourth = (request.tools for request in caller.requests)
    assert first is second and "maxProperties" not in first[0].input_schema
    assert third[0].input_schema["maxProperties"] == 5
    assert fourth[0].description == "Much louder."


async def test_a_tool_is_named_by_its_id_or_else_by_its_name(make_core) -> None:
    @tool(name="say", tool_id="words.say")
    async def say(args: Words, context: object) -> str:
        return args.text

    @tool(name="words.say", tool_id="words.other")
    async def other(args: Words, context: object) -> str:
        return args.text

    core = make_core(ScriptedCaller([]), tools=[FunctionToolProvider([say, other, shout])])
    async with await core.open_session("s1") as session:
        admin = session.tools()
        await admin.set_membership("words.say", False)
        assert names(session) == ["shout", "words.say"]
        await admin.set_membership_many([("words.other", False), ("say", True), ("shout", False)])
        assert names(session) == ["say"]
        before = admin.state()
        with pytest.raises(ReconfigureError, match="unknown tool `nobody`") as unknown:
            await admin.set_membership_many([("words.other", True), ("nobody", True)])
        assert (unknown.value.code, admin.state()) == ("tool_unknown", before)


async def test_an_exported_state_is_edited_tool_by_tool_and_applied(make_core) -> None:
    core = make_core(ScriptedCaller([]), tools=[FunctionToolProvider([shout])])
    async with await core.open_session("s1") as session:
        admin = session.tools()
        taken = admin.state()
        with pytest.raises(ReconfigureError, match="unknown tool id `nobody`"):
            taken.set_membership("nobody", True)
        with pytest.raises(ReconfigureError, match="unknown tool id `nobody`"):
            taken.remove("nobody")
        softly = msgspec.structs.replace(taken.tools["shout"].manifest, description="Say it softly.")
        with pytest.raises(ReconfigureError, match="unknown tool id `nobody`"):
            taken.with_manifest(msgspec.structs.replace(softly, id="nobody"))
        await admin.advanced().apply_state(taken.with_manifest(softly))
        assert [manifest.description for manifest in admin.active_manifests()] == ["Say it softly."]
        await admin.advanced().apply_state(admin.state().remove("shout"))
        assert (admin.state().tools, admin.active_manifests()) == ({}, ())


@tool(name="whisper", retry=SafeRetry(2, 0, 0))
async def whisper(args: Words, context: object) -> str:
    """Say it quietly."""
    return args.text.lower()


async def test_tools_stay_as_they_are_while_a_turn_that_was_cut_off_waits_to_be_finished(make_core) -> None:
    """It would be driven again with other tools than its journal says, and nothing but a cancel could end it."""
    tools = [FunctionToolProvider([shout, whisper])]
    caller = ScriptedCaller([calls(("c1", "whisper", '{"text": "A"}')), text("done"), text("next")])
    first = await make_core(caller, tools=tools, crash_point=CrashPoints("after:model_recorded")).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("x").run()
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        before = session.tools().state()
        with pytest.raises(ConflictError) as refused:
            await session.tools().set_membership("shout", False)
        assert refused.value.code == "turn_unfinished"
        assert session.tools().state() == before
        output = await session.redrive().run()
        assert output.result.assistant_message() == "done"
        await session.tools().set_membership("shout", False)
        await session.turn("y").run()
        assert [offered.name for offered in caller.requests[-1].tools] == ["whisper"]
