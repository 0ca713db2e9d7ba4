"""Attachments over a real store: stored before the input that names them, read only where they are first written,
and never across sessions (contract 01 §9.7, 05 §1.5, 06 §7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.frozen import cut_lease
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    AttachmentItem,
    AttachmentSource,
    ConversationPayload,
    FailureClass,
    Finished,
    FunctionToolProvider,
    LashCore,
    LashSession,
    Message,
    ModelSpec,
    OpenAgentFrameRequest,
    Role,
    SessionSpec,
    Stopped,
    TextItem,
    TextPart,
    ToolContext,
    ToolFault,
    TurnInput,
    tool,
)
from lash_cli.core.attachments import AttachmentPolicy
from lash_cli.core.codec import sha256_hex
from lash_cli.core.content import AttachmentPart, ExternalUrl, Inline, Stored
from lash_cli.core.llm import LlmRequest
from lash_cli.errors import LashError, LlmTransportError, NotFoundError, StoreError, TooManyOpenFiles, UsageError
from lash_cli.providers.attachments import CARRIED, RequestAttachments, carrying_refusal

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
REF = "sha256:" + sha256_hex(PNG)


class Nothing(msgspec.Struct):
    """No arguments."""


def with_image(words: str = "look") -> TurnInput:
    return TurnInput((TextItem(words), AttachmentItem(Inline("image/png", PNG, "cat.png"))))


def attached(messages: Any) -> list[Any]:
    return [part.attachment for message in messages for part in message.parts if isinstance(part, AttachmentPart)]


async def test_only_a_reference_reaches_the_transcript_and_the_bytes_are_the_sessions(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
        assert attached(session.read_view().messages) == [Stored(REF, "image/png", len(PNG), "cat.png")]
    (row,) = await core.store.list_attachments("s1")
    assert (row["committed_at_ms"] is not None, row["label"]) == (True, "cat.png")
    assert await core.store.get_attachment("s1", REF) == PNG


async def test_the_bytes_are_stored_before_the_input_that_names_them(make_core) -> None:
    """A crash in between leaves an intent that ages away, and no input; a crash afterwards leaves both."""
    core = make_core(ScriptedCaller([]), crash_point=CrashPoints("before:lane"))
    with pytest.raises(Crash):
        await (await core.open_session("s1")).turn(with_image()).run()
    assert [row["attachment_ref"] for row in await core.store.list_attachments("s1", uncommitted_only=True)] == [REF]
    assert await core.store.inputs("s1", pending_only=False) == ()
    assert await core.store.forget_aged_uncommitted(2**60) == 1
    with pytest.raises(NotFoundError):
        await core.store.get_attachment("s1", REF)


async def test_a_turn_that_was_cut_off_still_has_its_image(make_core, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        crashed = make_core(ScriptedCaller([text("never")]), crash_point=CrashPoints("after:lane"))
        await (await crashed.open_session("s1")).turn(with_image()).run()
    cut_lease(tmp_path / "home" / "lash.db", "s1", left_ms=0)
    rest = ScriptedCaller([text("a cat")])
    core = make_core(rest)
    assert await core.store.forget_aged_uncommitted(2**60) == 0
    async with await core.open_session("s1", spec=SessionSpec(inherit="stored")) as session:
        output = await session.redrive(busy_wait_ms=120_000).run()
        assert output.result.assistant_message() == "a cat"
    (request,) = rest.requests
    assert request.fetch is not None
    assert await request.fetch(attached(request.messages)[0]) == PNG


@pytest.mark.parametrize("fault", [TooManyOpenFiles("no descriptor left"), StoreError("disk I/O error")])
async def test_an_image_that_cannot_be_looked_at_now_is_not_held_against_the_input(
    make_core, monkeypatch, fault: LashError
) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))

    async def refuse(session_id: str, attachment_ref: str) -> bytes:
        raise fault

    async with await core.open_session("s1") as session:
        await session.enqueue(with_image())
        with monkeypatch.context() as patched:
            patched.setattr(core.store, "get_attachment", refuse)
            with pytest.raises(type(fault)):
                await session.queued_turn().run()
        output = await session.queued_turn().run()
        assert output is not None
        assert [turn.assistant_message() for turn in output.turns] == ["a cat"]


async def test_a_waiting_input_keeps_its_attachment_however_old_it_gets(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    async with await core.open_session("s1") as session:
        queued = await session.enqueue(with_image())
        assert attached_items(queued.input) == [Stored(REF, "image/png", len(PNG), "cat.png")]
        assert await core.store.forget_aged_uncommitted(2**60) == 0
        assert (await session.queued_turn().run()) is not None
        assert attached(session.read_view().messages) == [Stored(REF, "image/png", len(PNG), "cat.png")]


async def test_an_injected_input_holds_a_reference_and_no_bytes(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    async with await core.open_session("s1"):
        stored = await core.inject_turn_input("s1", "t1", "k", with_image())
        assert [item.attachment for item in stored.input.items[1:]] == [Stored(REF, "image/png", len(PNG), "cat.png")]
        assert await core.store.get_attachment("s1", REF) == PNG


async def test_an_input_that_was_cancelled_lets_its_attachment_go(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    async with await core.open_session("s1") as session:
        queued = await session.enqueue(with_image())
        await session.cancel_pending_turn_input(queued.input_id)
        assert await core.store.forget_aged_uncommitted(2**60) == 1


def attached_items(turn_input: TurnInput) -> list[Any]:
    return [item.attachment for item in turn_input.items if isinstance(item, AttachmentItem)]


async def test_the_same_image_under_the_same_key_is_the_same_submission(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    async with await core.open_session("s1") as session:
        first = await session.turn(with_image(), key="k").run()
        again = await session.turn(with_image(), key="k").run()
    assert again.replayed and again.result.turn_id == first.result.turn_id


async def test_another_sessions_attachment_is_invalid_input(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
    async with await core.open_session("s2") as other:
        foreign = TurnInput((TextItem("look"), AttachmentItem(Stored(REF, "image/png", len(PNG)))))
        output = await other.turn(foreign).run()
    assert output.result.outcome == Stopped("invalid_input")


@pytest.mark.parametrize(
    ("source", "policy"),
    [
        (ExternalUrl("image/png", "file:///etc/passwd"), AttachmentPolicy()),
        (ExternalUrl("image/png", "https://me:secret@x.example/a.png"), AttachmentPolicy()),
        (ExternalUrl("image/png", "https://x.example/a.png"), AttachmentPolicy(allows_urls=False)),
    ],
)
async def test_a_source_the_host_does_not_allow_is_invalid_input(make_core, source, policy) -> None:
    core = make_core(ScriptedCaller([]), attachments=policy)
    async with await core.open_session("s1") as session:
        output = await session.turn(TurnInput((TextItem("look"), AttachmentItem(source)))).run()
    assert output.result.outcome == Stopped("invalid_input")


async def test_bytes_beyond_the_limit_are_refused_and_nothing_is_written(make_core) -> None:
    core = make_core(ScriptedCaller([]), attachments=AttachmentPolicy(max_bytes=4))
    async with await core.open_session("s1") as session:
        with pytest.raises(UsageError) as refused:
            await session.turn(with_image()).run()
        assert refused.value.code == "attachment_source_policy_denied"
        with pytest.raises(UsageError):
            await session.enqueue(with_image())
    assert await core.store.list_attachments("s1") == ()
    assert await core.store.inputs("s1", pending_only=False) == ()


async def test_a_picture_without_bytes_is_refused_and_nothing_is_written_but_a_text_may_be_empty(make_core) -> None:
    def empty(media_type: str) -> TurnInput:
        return TurnInput((TextItem("look"), AttachmentItem(Inline(media_type, b""))))

    core = make_core(ScriptedCaller([text("there is nothing")]))
    async with await core.open_session("s1") as session:
        for submit in (session.enqueue, lambda given: session.turn(given).run()):
            with pytest.raises(UsageError, match="image/png is empty"):
                await submit(empty("image/png"))
        assert await core.store.inputs("s1", pending_only=False) == ()
        output = await session.turn(empty("text/plain")).run()
    assert isinstance(output.result.outcome, Finished)


async def test_bytes_without_a_media_type_are_invalid_input_with_and_without_a_store(make_core) -> None:
    unusable = TurnInput((TextItem("look"), AttachmentItem(Inline("cat.png", PNG))))
    caller = ScriptedCaller([])
    async with await make_core(caller).open_session("s1") as session:
        with pytest.raises(UsageError) as refused:
            await session.turn(unusable).run()
        assert refused.value.code == "attachment_media_type_invalid"
    async with LashCore(provider=caller, model=ModelSpec("m")) as core, await core.open_session("s2") as session:
        output = await session.turn(unusable).run()
        assert output.result.outcome == Stopped("invalid_input")
        assert output.result.errors[0].message == "not a media type: 'cat.png'"


async def test_a_session_without_a_store_asks_the_host_too_and_keeps_the_bytes_in_memory() -> None:
    caller = ScriptedCaller([text("a cat")])
    async with LashCore(provider=caller, model=ModelSpec("m")) as core:
        session = await core.open_session("s1")
        denied = TurnInput((TextItem("look"), AttachmentItem(ExternalUrl("image/png", "ftp://x.example/a.png"))))
        assert (await session.turn(denied).run()).result.outcome == Stopped("invalid_input")
        await session.turn(with_image()).run()
    assert attached(caller.requests[0].messages) == [Inline("image/png", PNG, "cat.png")]


def shot(source: Any) -> FunctionToolProvider:
    @tool(name="shoot")
    async def shoot(args: Nothing, context: ToolContext) -> Any:
        raise ToolFault(FailureClass.EXECUTION, "blurred", "it is blurred", attachments=(source,))

    return FunctionToolProvider([shoot])


async def add_messages(session: LashSession, *messages: Message) -> None:
    await session.admin().append_messages(messages)


async def go_on_from(session: LashSession, *messages: Message) -> None:
    await session.admin().replace_active_read_state(messages)


async def open_frame(session: LashSession, *messages: Message) -> None:
    nodes = tuple(map(ConversationPayload, messages))
    await session.admin().open_agent_frame(OpenAgentFrameRequest("another", "test", nodes))


def showing(source: AttachmentSource) -> Message:
    return Message("shown", Role.USER, (TextPart("look"), AttachmentPart(source)))


ADDED_BY = pytest.mark.parametrize("add", [add_messages, go_on_from, open_frame])


@ADDED_BY
async def test_what_is_added_from_outside_holds_a_reference_and_the_session_has_the_bytes(make_core, add) -> None:
    caller = ScriptedCaller([text("a cat")], repeat=True)
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        await session.turn("hello").run()
        await add(session, showing(Inline("image/png", PNG, "cat.png")))
        await session.turn("what is it?").run()
    assert attached(caller.requests[-1].messages) == [Stored(REF, "image/png", len(PNG), "cat.png")]
    (row,) = await core.store.list_attachments("s1")
    assert row["committed_at_ms"] is not None, "or it would be collected when it is old enough"
    assert await core.store.get_attachment("s1", REF) == PNG


@ADDED_BY
async def test_another_sessions_attachment_is_not_added_from_outside(make_core, add) -> None:
    core = make_core(ScriptedCaller([text("a cat")], repeat=True))
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
        messages = session.read_view().messages
    async with await core.open_session("s2") as other:
        await other.turn("hello").run()
        before = other.read_view()
        with pytest.raises(NotFoundError, match="has no sha256:"):
            await add(other, *messages)
        assert other.read_view().head_revision == before.head_revision
        output = await other.turn("go on").run()
    assert isinstance(output.result.outcome, Finished), "in the transcript it would stop every later turn"


@ADDED_BY
async def test_a_source_the_host_does_not_allow_is_not_added_from_outside(make_core, add) -> None:
    core = make_core(ScriptedCaller([text("ok")]), attachments=AttachmentPolicy(max_bytes=4))
    async with await core.open_session("s1") as session:
        await session.turn("hello").run()
        with pytest.raises(UsageError) as refused:
            await add(session, showing(Inline("image/png", PNG)))
    assert refused.value.code == "attachment_source_policy_denied"
    assert await core.store.list_attachments("s1") == ()


async def test_what_is_added_to_a_session_in_memory_keeps_its_bytes_there() -> None:
    core = LashCore(provider=ScriptedCaller([text("a cat")]), model=ModelSpec("m"))
    async with await core.open_session("s1") as session:
        await open_frame(session, showing(Inline("image/png", PNG)))
        assert attached(session.read_view().messages) == [Inline("image/png", PNG)]
    await core.aclose()


async def test_what_a_failed_call_attaches_is_stored_and_shown_behind_its_message(make_core) -> None:
    caller = ScriptedCaller([calls(("a", "shoot", "{}")), text("a blurred cat")])
    core = make_core(caller, tools=[shot(Inline("image/png", PNG, "cat.png"))])
    stored = Stored(REF, "image/png", len(PNG), "cat.png")
    async with await core.open_session("s1") as session:
        output = await session.turn("look").run()
    assert output.result.tool_calls[0].output.outcome.failure.attachments == (stored,)
    parts = caller.requests[1].messages[-1].parts
    assert [part.content for part in parts[:2]] == ["[Tool execution failed]\nit is blurred", "Attached by shoot (a):"]
    assert attached(caller.requests[1].messages) == [stored]
    assert await core.store.get_attachment("s1", REF) == PNG


async def test_what_a_failed_call_attaches_is_judged_like_what_others_do(make_core) -> None:
    caller = ScriptedCaller([calls(("a", "shoot", "{}")), text("never mind")])
    core = make_core(caller, tools=[shot(ExternalUrl("image/png", "file:///etc/passwd"))])
    async with await core.open_session("s1") as session:
        failure = (await session.turn("look").run()).result.tool_calls[0].output.outcome.failure
    assert (failure.failure_class, failure.code) == ("permission_denied", "attachment_source_policy_denied")
    assert attached(caller.requests[1].messages) == []


async def test_another_sessions_attachment_is_a_failure_of_the_call_that_brings_it(make_core) -> None:
    caller = ScriptedCaller([text("a cat"), calls(("a", "shoot", "{}")), text("never mind"), text("on")])
    core = make_core(caller, tools=[shot(Stored(REF, "image/png", len(PNG)))])
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
    async with await core.open_session("s2") as other:
        failure = (await other.turn("look").run()).result.tool_calls[0].output.outcome.failure
        assert (failure.failure_class, failure.code, failure.source) == (
            "internal", "attachment_store_failed", "runtime",
        )  # fmt: skip
        assert failure.message == f"The attachment could not be stored: session s2 has no {REF}"
        assert isinstance((await other.turn("go on").run()).result.outcome, Finished)
    assert attached(caller.requests[-1].messages) == []


class CountingEncoder:
    """Writes one stored attachment, as a wire does."""

    def __init__(self, attachments: RequestAttachments) -> None:
        self.attachments = attachments
        self.tries = 0

    def body(self, request: LlmRequest) -> bytes:
        self.tries += 1
        return b"".join(self.attachments.bytes_of(source) for source in attached(request.messages))


async def test_bytes_are_read_when_an_encoder_asks_and_are_gone_afterwards(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    caller = core.host.providers.resolve("scripted")
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
    (request,) = caller.requests  # type: ignore[attr-defined]
    attachments = RequestAttachments()
    encoder = CountingEncoder(attachments)
    assert await attachments.body(encoder, request) == PNG
    assert encoder.tries == 2
    with pytest.raises(LlmTransportError) as unread:
        encoder.body(request)
    assert unread.value.code == "stored_attachment_not_resolved"


async def test_bytes_that_are_gone_fail_the_call_before_anything_is_sent(make_core) -> None:
    core = make_core(ScriptedCaller([text("a cat")]))
    caller = core.host.providers.resolve("scripted")
    async with await core.open_session("s1") as session:
        await session.turn(with_image()).run()
    await core.delete_session("s1")
    attachments = RequestAttachments()
    with pytest.raises(LlmTransportError) as unread:
        await attachments.body(CountingEncoder(attachments), caller.requests[0])  # type: ignore[attr-defined]
    assert (unread.value.code, unread.value.kind, unread.value.retryable) == (
        "stored_attachment_not_resolved",
        "validation",
        False,
    )


@pytest.mark.parametrize("kind", sorted(CARRIED))
def test_what_a_wire_cannot_carry_is_refused_by_one_table(kind: str) -> None:
    carried = CARRIED[kind]
    assert carrying_refusal(Inline("image/png", PNG), carried) is None
    assert carrying_refusal(Inline("text/plain", b"x"), carried) is None
    refusal = carrying_refusal(Inline("application/x-tar", b""), carried)
    assert refusal == "this provider cannot be sent application/x-tar attachments"


def test_a_providers_file_goes_only_to_its_provider_under_its_scope() -> None:
    from lash_cli.core.content import ProviderFile

    carried, file = CARRIED["anthropic"], ProviderFile("anthropic", "work", "file_1")
    assert carrying_refusal(file, carried, provider="anthropic", credential_scope="work") is None
    for provider, scope in (("anthropic", "home"), ("google", "work"), ("", "")):
        assert carrying_refusal(file, carried, provider=provider, credential_scope=scope) is not None
    assert carrying_refusal(file, CARRIED["openai_chat"], provider="anthropic", credential_scope="work") is not None
