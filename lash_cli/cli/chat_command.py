"""`lash chat`: talk in a session at a terminal (contract 08 §5.1, §7).

From the command line to a running chat: what is asked for is checked before
the store is touched, the session is opened, and a face is put on it. The chat
itself is `repl`; on leaving it says on stderr how to come back.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal, cast

import msgspec
import typer

from lash_cli.cli.head_moves import command_here
from lash_cli.cli.invocation import current
from lash_cli.cli.output import say
from lash_cli.cli.reading import has_database, present_row, run_async
from lash_cli.cli.running import (
    open_to_work,
    opened_core,
    policy_of_new_session,
    policy_options,
    store_and_session,
    working_directory,
    writing_store,
)
from lash_cli.errors import LashError, NotFoundError, UsageError

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession
    from lash_cli.cli.chat_desk import ChatAsker, ChatDesk
    from lash_cli.cli.chat_record import ChatRecording
    from lash_cli.repl.client import ChatClient, ChatEnd, ChatOptions
    from lash_cli.repl.desk import Face
    from lash_cli.repl.outbox import Outbox
    from lash_cli.store.base import SessionMeta, SessionRow

LABEL = "chat"


class ChatPlan(msgspec.Struct, frozen=True):
    """A validated `lash chat`. `reference` None is the session of `LASH_SESSION`, unless a new one begins."""

    reference: str | None
    begins_new: bool
    replay: int
    is_vi: bool
    is_plain: bool
    model: str | None = None
    record: str | None = None


def command(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Id, name, @last or @any.")] = None,
    replay: Annotated[int | None, typer.Option(min=0, metavar="N", help="Show the last N messages first.")] = None,
    vi: Annotated[bool, typer.Option("--vi", help="Edit as in vi.")] = False,
    model: Annotated[str | None, typer.Option(help="The model from now on.")] = None,
    record: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write what happens to a new FILE, as lash tail -o jsonl does.")
    ] = None,
) -> int:
    """Talk in a session; without one begin a new session.

    Enter sends; while a turn runs it enters that turn, and Tab queues the text
    for the next one. Esc cancels the turn, and no key loses what was typed.
    /help lists the commands, /keys the keys. With --plain nothing is redrawn,
    and every line begins with who says it.
    """
    settings = current().settings
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or current().no_input:
        raise UsageError(
            "lash chat needs a terminal",
            code="not_a_tty",
            hint="without one, run turns: lash turn SESSION PROMPT",
        )
    plan = ChatPlan(
        reference=session,
        begins_new=session is None and not current().environment.get("LASH_SESSION"),
        replay=int(settings.get("repl.replay")) if replay is None else replay,
        is_vi=vi or settings.get("repl.editing") == "vi",
        is_plain=current().output.plain,
        model=model,
        record=record,
    )
    return run_async(_run(plan))


async def _run(plan: ChatPlan) -> int:
    if plan.record is None:
        return (await _chats(plan, None)).status
    from lash_cli.cli.chat_record import ChatRecording
    from lash_cli.cli.failure import told_as

    recording = ChatRecording(plan.record)
    try:
        end = await _chats(plan, recording)
    except Exception as error:
        told = told_as(error)
        with contextlib.suppress(LashError):  # what ended the chat is told; the recording lacks its last line
            await recording.end("error", told.exit_status, told)
        raise
    await _end_recording(recording, end)
    return end.status


async def _end_recording(recording: ChatRecording, end: ChatEnd) -> None:
    await recording.end("signal" if end.reason == "signal" else "quit", end.status, None)


async def _chats(plan: ChatPlan, recording: ChatRecording | None) -> ChatEnd:
    """Chat in one session after another until the person leaves."""
    while True:
        end = await _chat(plan, recording)
        if end.go_to is None:
            return end
        plan = ChatPlan(end.go_to or None, not end.go_to, plan.replay, plan.is_vi, plan.is_plain)


def _vanish(status: int) -> None:
    """End this process without waiting for its turn, which whoever comes next drives on from its journal."""
    os._exit(status)


def _let_go_of_terminal() -> None:
    """What could not be written to a terminal that is gone is dropped, so that the exit status stays ours."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


async def _chat(plan: ChatPlan, recording: ChatRecording | None) -> ChatEnd:
    from lash_cli.cli.chat_desk import ChatAsker, ChatDesk

    if plan.begins_new and not has_database():
        policy_of_new_session(model=plan.model)
    store, meta = (writing_store(), None) if plan.begins_new else await store_and_session(plan.reference)
    cwd = working_directory(meta)
    asker = ChatAsker()
    async with opened_core(
        store=store, model=plan.model, needs_model=meta is None, cwd=cwd, asker=asker, owner_label=LABEL
    ) as core:
        session = await _open(core, meta, plan)
        try:
            row = await present_row(core.store, session.session_id)
            return await _talk(core, session, row, plan, asker, ChatDesk(current()), cwd, recording)
        finally:
            session.close_handle()


async def _open(core: LashCore, meta: SessionMeta | None, plan: ChatPlan) -> LashSession:
    from lash_cli.cli.chat_desk import require_open
    from lash_cli.system import SystemIds

    if meta is not None:
        require_open(meta)
    spec = policy_options(model=plan.model, provider=None, system=None)
    session = await open_to_work(core, meta, SystemIds().new("s"), spec)
    if meta is None:
        say(f"opened session {session.name} ({session.session_id})")
    return session


async def _talk(
    core: LashCore,
    session: LashSession,
    row: SessionRow,
    plan: ChatPlan,
    asker: ChatAsker,
    desk: ChatDesk,
    cwd: str,
    recording: ChatRecording | None,
) -> ChatEnd:
    from lash_cli.cli.chat_desk import chat_signals
    from lash_cli.repl.client import ChatClient
    from lash_cli.repl.memory import ReplMemory
    from lash_cli.repl.outbox import Outbox
    from lash_cli.repl.watching import Watch

    options = _options(plan, cwd)
    memory = ReplMemory(current().paths.state_dir, session.session_id)
    try:
        watch = Watch(core, row, desk)
        outbox = Outbox(core.store, core.queue(session.session_id), memory, core.host.ids)
        client = ChatClient(core, session, watch, outbox, desk, options)
        face = desk.face(client, memory, plan)
        asker.face = face
        if recording is not None:
            watch.recorder, recording.on_failure = recording, client.tell_error
        try:
            with chat_signals(client, face, is_drawn=not plan.is_plain):
                end = await _until_left(client, face, outbox, options)
        except Exception as error:
            if not _is_gone(error):
                # Nothing more can be said for certain of a session whose store just failed.
                say(f"the chat of {row.meta.name} ended by an error; what was committed stays")
                say(f"resume: {command_here('chat', row.meta.name)}")
            raise
        await _hint(core, session)
        _let_go_of_terminal()
        if recording is not None:
            await recording.leave()
        if end.reason == "abandoned":
            if recording is not None:
                await _end_recording(recording, end)
            memory.close()
            _vanish(end.status)
        return end
    finally:
        memory.close()


async def _until_left(client: ChatClient, face: Face, outbox: Outbox, options: ChatOptions) -> ChatEnd:
    try:
        return await client.run(face)
    except LashError as error:
        # Somebody deleted the session: a draft of it would wait for a chat that never comes.
        if _is_gone(error) and outbox.put_into_history(options.cwd, options.history):
            say("what you had typed and not sent is in the history: Up or Ctrl-R in another chat")
        raise


def _is_gone(error: Exception) -> bool:
    """Whether the chat failed because its session was deleted."""
    return isinstance(error, LashError) and error.exit_status == NotFoundError.exit_status


def _options(plan: ChatPlan, cwd: str) -> ChatOptions:
    from lash_cli.repl.client import ChatOptions

    settings = current().settings
    return ChatOptions(
        replay=plan.replay,
        history=int(settings.get("repl.history")),
        cwd=cwd,
        ctrl_c=cast("Literal['draft-first', 'turn-first']", settings.get("repl.ctrl_c")),
        after_interrupt=cast("Literal['hold', 'continue']", settings.get("repl.after_interrupt")),
    )


async def _hint(core: LashCore, session: LashSession) -> None:
    """How to come back, and what is left (contract 08 §7.5)."""
    row = await core.store.session_row(session.session_id)
    if row is None:
        return
    report = await session.observe().usage_report()
    tokens = report.usage.total
    shown = f"{tokens / 1000:.0f}k" if tokens >= 10_000 else str(tokens)
    say(
        f"session {row.meta.name} ({row.meta.session_id}): {row.turn_state.turn_index} turns, {shown} tokens, "
        f"queue {row.pending_inputs + row.pending_batches}"
    )
    say(f"resume: {command_here('chat', row.meta.name)}")
