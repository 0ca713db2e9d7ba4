"""What a program that embeds lash writes first: a provider and a store in a few words, a turn over a socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lash_cli import (
    EventSink,
    FunctionToolProvider,
    LashCore,
    LashSession,
    LlmRequest,
    LlmResponse,
    ModelSpec,
    OpenAgentFrameRequest,
    PromptContribution,
    PromptLayer,
    QueuedTurnBuilder,
    RetryingCaller,
    RetryPolicy,
    SessionConfigPatch,
    SessionPolicy,
    SessionSpec,
    SqliteStore,
    Stopped,
    ToolContext,
    ToolManifest,
    TurnActivity,
    TurnActivityFanout,
    TurnActivitySink,
    TurnBuilder,
    provider,
    tool,
)
from lash_cli.errors import (
    ConfigError,
    NotFoundError,
    PluginRegistrationError,
    ReconfigureError,
    SessionClosed,
    StoreSessionMismatch,
    UsageError,
)
from lash_cli.runtime.host import SingleProvider
from tests.support.tools import NamedTools
from tests.support.wire import ChatServer, text_reply

KEY = "sk-embedded-0001"


async def test_a_provider_named_in_one_call_answers_over_http_and_is_remembered_by_its_name(tmp_path: Path) -> None:
    async with ChatServer([text_reply("forty two")]) as server:
        caller = provider("openai_chat", name="local", base_url=server.base_url, key=KEY, max_attempts=1)
        store = SqliteStore.open(str(tmp_path / "notes.db"))
        async with (
            LashCore(provider=caller, model=ModelSpec("any"), store=store) as core,
            await core.open_session("notes") as session,
        ):
            output = await session.turn("How many?").run()
            assert output.result is not None
            assert output.result.assistant_message() == "forty two"
            assert session.policy_snapshot.provider_id == "local"
        (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(caller)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240 - over


async def test_an_option_of_a_named_provider_is_its_retry_ladder(tmp_path: Path) -> None:
    async with ChatServer() as server:
        caller = provider("openai_chat", base_url=server.base_url, max_attempts=1)
        async with (
            LashCore(provider=caller, model=ModelSpec("any")) as core,
            await core.open_session("notes") as session,
        ):
            output = await session.turn("How many?").run()
        assert output.result is not None and isinstance(output.result.outcome, Stopped)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("nothing", {}, "config_invalid"),
        ("loopback", {"no_such_option": 1}, "config_invalid"),
        ("openai_chat", {}, "key_missing"),
        ("openai_chat", {"base_url": "not an address"}, "invalid_provider_endpoint"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_is_sent(
    kind: str, options: dict[str, object], code: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        provider(kind, **options)
    assert refused.value.code == code


def test_who_passes_no_key_is_told_how_it_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(ConfigError) as refused:
        provider("anthropic")
    assert refused.value.hint is not None
    assert "key=" in refused.value.hint and "ANTHROPIC_API_KEY" not in refused.value.hint


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="look", tool_id="first")
def look(arguments: Nothing, context: ToolContext) -> None:
    """Look around."""


@tool(name="look", tool_id="second")
def look_again(arguments: Nothing, context: ToolContext) -> None:
    """Look around."""


@pytest.mark.parametrize(
    ("wiring", "code"),
    [
        ({"provider": None}, "missing_provider"),
        ({"model": None}, "missing_model_spec"),
        ({"policy": SessionPolicy(ModelSpec("m"), "loopback")}, "config_invalid"),
        ({"providers": SingleProvider(provider("loopback"))}, "config_invalid"),
        ({"queue_driver": "inline"}, "durable_store_required:session_store"),
        ({"queue_driver": "outline"}, "config_invalid"),
        ({"tools": [FunctionToolProvider([look, look_again])]}, "plugin_registration"),
        ({"tools": [FunctionToolProvider([look]), FunctionToolProvider([look])]}, "plugin_registration"),
    ],
)
def test_a_core_that_no_session_could_be_opened_from_is_refused_as_it_is_built(
    wiring: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        LashCore(**{"provider": provider("loopback"), "model": ModelSpec("loopback"), **wiring})
    assert refused.value.code == code


class Bare:
    """A `Provider` whose author forgot what goes around it."""

    kind = "bare"

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        return LlmResponse(())

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(
    ("wiring", "hint"),
    [
        ({"provider": Bare()}, "RetryingCaller("),
        ({"provider": "loopback"}, "provider("),
        ({"store": "notes.db"}, "SqliteStore.open("),
        ({"tools": [look]}, "FunctionToolProvider(["),
        ({"approval": lambda manifest, call: None}, "decide"),
    ],
    ids=["provider of one's own", "name of a provider", "path of a store", "bare tool", "function"],
)
def test_what_is_given_in_the_place_of_a_collaborator_is_refused_with_what_makes_one_of_it(
    wiring: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        LashCore(**{"provider": provider("loopback"), "model": ModelSpec("loopback"), **wiring})
    assert refused.value.code == "config_invalid" and hint in (refused.value.hint or "")


def test_what_a_provider_is_wrapped_with_is_told_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        RetryingCaller(Bare(), RetryPolicy())  # type: ignore[misc]


async def test_a_queue_of_a_session_that_never_was_names_what_makes_one(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    async with LashCore(provider=provider("loopback"), model=ModelSpec("loopback"), store=store) as core:
        with pytest.raises(NotFoundError) as refused:
            await core.queue("never").enqueue("hello")
    assert "open" in (refused.value.hint or "")


def test_a_function_that_is_no_tool_yet_is_refused_with_what_makes_it_one() -> None:
    with pytest.raises(PluginRegistrationError) as refused:
        FunctionToolProvider([look.function])  # type: ignore[list-item]
    assert "@tool(" in refused.value.message


@pytest.mark.parametrize(
    "unreadable", [{"model": "a name"}, {"max_turns": "5"}, {"max_turns": 0}, {"prompt": "Be brief."}]
)
async def test_a_policy_that_no_turn_could_use_is_stored_nowhere(unreadable: dict[str, Any], tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    wiring: dict[str, Any] = {"provider": provider("loopback"), "model": ModelSpec("loopback"), "store": store}
    with pytest.raises(UsageError) as of_core:
        LashCore(**wiring | unreadable)
    async with LashCore(**wiring) as core:
        with pytest.raises(UsageError) as of_open:
            await core.open_session("new", spec=SessionSpec(**unreadable))
        async with await core.open_session("old") as session:
            with pytest.raises(UsageError) as of_configure:
                await session.configure(SessionConfigPatch(**unreadable))
            assert (await session.turn("hello").run()).result is not None
        async with await core.open_session("old"):
            pass
        with pytest.raises(NotFoundError):
            await core.open_session("new", create=False)
    assert {refused.value.code for refused in (of_core, of_open, of_configure)} == {"policy_invalid"}


@pytest.mark.parametrize(("given", "made"), [({"model": "a name"}, ModelSpec), ({"prompt": "Be brief."}, PromptLayer)])
def test_who_gives_a_text_for_what_is_made_of_it_is_told_how(given: dict[str, Any], made: type) -> None:
    with pytest.raises(UsageError) as refused:
        LashCore(**{"provider": provider("loopback"), "model": ModelSpec("loopback")} | given)
    assert refused.value.hint is not None
    names = {kind.__name__: kind for kind in (ModelSpec, PromptContribution, PromptLayer)}
    assert isinstance(eval(refused.value.hint.partition(" made by ")[2], names), made)


async def test_a_tool_that_could_not_be_read_again_is_stored_nowhere(tmp_path: Path) -> None:
    foreign = NamedTools(ToolManifest("t", "t", "d", approval="reading"))  # type: ignore[arg-type]
    wiring: dict[str, Any] = {"provider": provider("loopback"), "model": ModelSpec("loopback")}
    with pytest.raises(ConfigError) as of_core:
        LashCore(**wiring, tools=[foreign])
    assert of_core.value.code == "plugin_registration"
    store = SqliteStore.open(tmp_path / "lash.db")
    async with LashCore(**wiring, store=store) as core:
        async with await core.open_session("s") as session:
            with pytest.raises(ReconfigureError):
                await session.tools().add_provider(foreign)
            assert (await session.turn("hello").run()).result is not None
        async with await core.open_session("s") as session:
            assert session.tools().state().tools == {}


UNREADABLE: dict[str, Callable[[LashCore, LashSession], Any]] = {
    "a cost limit that is a number": lambda _, s: s.turn("x", cost_limit=5),  # type: ignore[arg-type]
    "half an iteration": lambda _, s: s.turn("x", max_turns=1.5),  # type: ignore[arg-type]
    "half an iteration of the queue": lambda _, s: s.queued_turn(max_turns=1.5),  # type: ignore[arg-type]
    "a cancel by nobody": lambda core, s: core.request_turn_cancel("s", turn_id="t", origin=5),  # type: ignore[arg-type]
    "a label that is a number": lambda core, _: core.open_session("t", labels={"ticket": 4711}),  # type: ignore[dict-item]
    "a name that is a number": lambda core, _: core.open_session("t", name=5),  # type: ignore[arg-type]
    "a directory that is a path": lambda core, _: core.open_session("t", cwd=Path("/")),  # type: ignore[arg-type]
    "a fork with such a label": lambda core, _: core.fork_session("s", labels={"ticket": 4711}),  # type: ignore[dict-item]
    "a mode of one's own": lambda core, _: core.open_session("s", mode="Fresh"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_what_could_not_be_read_again_is_refused_and_the_session_goes_on(what: str, tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    async with LashCore(provider=provider("loopback"), model=ModelSpec("loopback"), store=store) as core:
        async with await core.open_session("s") as session:
            await session.turn("hello").run()
            with pytest.raises(UsageError):
                described = UNREADABLE[what](core, session)
                await (described.run() if isinstance(described, TurnBuilder | QueuedTurnBuilder) else described)
        async with await core.open_session("s") as session:
            assert (await session.turn("and again").run()).result is not None
            assert len(await session.admin().message_tree()) == 4
        rows, _ = await store.list_sessions(limit=9)
        assert [row.meta.session_id for row in rows] == ["s"]


def test_what_is_given_beside_a_policy_stands_over_it() -> None:
    prompt = PromptLayer().replace_prompt_slot("intro", PromptContribution("intro", "Be brief."))
    policy = SessionPolicy(ModelSpec("m"), "loopback", max_turns=9)
    core = LashCore(provider=provider("loopback"), policy=policy, max_turns=2, prompt=prompt)
    assert (core.policy.max_turns, core.policy.prompt, core.policy.model.id) == (2, prompt, "m")
    assert LashCore(provider=provider("loopback"), policy=policy).policy == policy


def test_what_other_programs_take_for_no_file_is_not_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="file"):
        SqliteStore.open(":memory:")
    assert not [*tmp_path.iterdir()]


async def test_what_is_refused_leaves_no_session_behind(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    async with (
        LashCore(provider=provider("loopback"), model=ModelSpec("loopback"), store=store) as core,
        await core.open_session("s") as session,
    ):
        with pytest.raises(StoreSessionMismatch):
            await core.open_with_state("other", session.export_state())
        with pytest.raises(UsageError):
            await core.fork_session("s", session_id="no id")
        rows, _ = await store.list_sessions(limit=9)
        assert [row.meta.session_id for row in rows] == ["s"]


async def test_a_session_in_memory_that_is_not_to_be_made_is_not_there() -> None:
    async with LashCore(provider=provider("loopback"), model=ModelSpec("loopback")) as core:
        with pytest.raises(NotFoundError):
            await core.open_session("s", create=False)


async def test_an_admin_of_a_closed_handle_does_nothing_any_more(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    async with LashCore(provider=provider("loopback"), model=ModelSpec("loopback"), store=store) as core:
        session = await core.open_session("s")
        admin = session.admin()
        await session.close()
        for verb in (
            admin.message_tree,
            admin.fork,
            admin.compact_context,
            lambda: admin.branch_to_node(None),
            lambda: admin.append_plugin_body("note", {}),
            lambda: admin.open_agent_frame(OpenAgentFrameRequest("f", "test")),
        ):
            with pytest.raises(SessionClosed):
                await verb()


async def test_a_fanout_hands_every_activity_to_each_sink_in_their_order() -> None:
    seen: list[tuple[str, str]] = []

    def sink(name: str) -> TurnActivitySink:
        async def take(activity: TurnActivity) -> None:
            seen.append((name, activity.id))

        return take

    async with (
        LashCore(provider=provider("loopback"), model=ModelSpec("loopback")) as core,
        await core.open_session("notes") as session,
    ):
        await session.turn("!text hello").stream_to(TurnActivityFanout([sink("first"), sink("second")]))
    ids = [activity_id for name, activity_id in seen if name == "first"]
    assert ids and seen == [(name, activity_id) for activity_id in ids for name in ("first", "second")]
