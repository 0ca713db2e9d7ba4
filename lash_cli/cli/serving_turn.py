"""One turn of `lash serve --stdio`: the session it is about, and its events (contract 08 §6.5).

As the command does it: a core of its own over the present settings, working in
the session's directory. The turn never waits for the peer, and is committed
before its response is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document
from lash_cli.cli.enqueueing import receipt
from lash_cli.cli.exit_status import turn_error
from lash_cli.cli.failure import failure_document
from lash_cli.cli.queue_access import queue_of
from lash_cli.cli.running import find_session, opened_core, policy_options, working_directory, writing_store
from lash_cli.cli.turn_cursors import TurnCursors
from lash_cli.cli.turn_documents import turn_result_document
from lash_cli.cli.turn_stream import EventLines
from lash_cli.core.activity import Committed, TurnActivity, TurnFinished, TurnStarted
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import is_session_id
from lash_cli.errors import NotFoundError, UsageError
from lash_cli.paths import current_place
from lash_cli.system import SystemClock, SystemIds

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession, TurnBuilder
    from lash_cli.cli.serving_parameters import PromptParameters
    from lash_cli.remote.rpc import Call
    from lash_cli.store.base import RuntimePersistence, SessionMeta


@asynccontextmanager
async def opened_session(
    reference: str | None, asked: PromptParameters, approve: Mapping[str, str]
) -> AsyncIterator[tuple[LashCore, LashSession]]:
    """The session that `reference` names, created when it may be; raises what `resolve_session` raises."""
    store = writing_store()
    try:
        meta = await _located(store, reference, or_open=asked.or_open)
    except BaseException:
        await store.aclose()
        raise
    async with opened_core(
        store=store,
        provider=asked.provider,
        model=asked.model,
        needs_model=meta is None,
        cwd=working_directory(meta),
        approve=approve,
        owner_label="serve",
    ) as core:
        session = await _opened(core, meta, reference, asked)
        try:
            yield core, session
        finally:
            session.close_handle()


async def _located(store: RuntimePersistence, reference: str | None, *, or_open: bool) -> SessionMeta | None:
    """The session; None means that it is to be created."""
    meta = await find_session(store, reference)
    if meta is None and not or_open:
        from lash_cli.cli.references import resolve_session

        return await resolve_session(store, reference)  # raises with the nearest matches
    if meta is None and not is_session_id(reference or ""):
        raise UsageError(f"{reference!r} cannot be a session id", hint="letters, digits and . _ : -")
    return meta


async def _opened(
    core: LashCore, meta: SessionMeta | None, reference: str | None, asked: PromptParameters
) -> LashSession:
    spec = policy_options(model=asked.model, provider=asked.provider, system=None)
    if meta is not None:
        if meta.parked_at_ms is not None and meta.closed_at_ms is None:
            await core.store.set_session_flags(meta.session_id, closed_at_ms=None, parked_at_ms=None)
        return await core.open_session(meta.session_id, spec=spec, create=False)
    if reference is None:
        raise NotFoundError("no session was named")
    # A provider that cannot be used leaves no empty session behind.
    core.host.providers.resolve(spec.resolve_against(core.policy).provider_id)
    return await core.open_session(reference, spec=spec, cwd=current_place())


class ServedTurn:
    """A turn of this server, told as events when somebody wants them."""

    def __init__(self, core: LashCore, session: LashSession, call: Call | None) -> None:
        store = core.host.store
        self._session = session
        self._cursors = TurnCursors(store.live if store is not None else None, session.session_id)
        self._lines = EventLines(
            call.event if call is not None else _nowhere,
            session.session_id,
            session_name=session.name,
            now_ms=SystemClock().now_ms,
            ascii_only=True,
        )
        self._earlier_ids: set[str] = set()

    async def drive(self, builder: TurnBuilder) -> Document:
        """Run it to its end; the TurnResult document. Raises the error that its outcome stands for."""
        self._lines.start("turn", await self._cursors.present())
        try:
            async with builder.stream() as stream:
                async for activity in stream:
                    await self._show(activity)
                output = await stream.result()
        except Exception as failure:
            document = failure_document(failure)
            self._lines.end("error", document["exit"], document)
            raise
        result = output.result
        assert result is not None, "a turn that was given a text has a result"
        document = turn_result_document(result, name=self._session.name, replayed=output.replayed)
        provider = self._session.policy_snapshot.provider_id
        error = turn_error(result, {"turn": document}, provider=provider)
        self._lines.finish(result, replayed=output.replayed)
        if error is not None:
            self._lines.end("turn", error.exit_status, failure_document(error))
            raise error
        self._lines.end("turn", 0, None)
        return document

    async def _show(self, activity: TurnActivity) -> None:
        event = activity.event
        if isinstance(event, TurnStarted) and event.redriven:
            self._earlier_ids.add(activity.turn_id)
        if isinstance(event, Committed):
            self._lines.settle(await self._cursors.settled(activity.turn_id))
        if not isinstance(event, TurnFinished) or activity.turn_id in self._earlier_ids:
            self._lines.show(activity)


def _nowhere(_: str) -> None:
    """Nobody wants the events."""


async def enqueue_instead(core: LashCore, session_id: str, text: TurnInput, key: str | None) -> Document:
    """Queue a text whose session is busy; the PendingInput document. Raises as `SessionQueue.enqueue`, and
    `NotFoundError` when the session is deleted meanwhile."""
    queue = queue_of(core.store, session_id)
    input_id = SystemIds().new("in")
    stored = await queue.enqueue(text, key=key, input_id=input_id)
    row, found = await core.store.session_row(session_id), await queue.find_input(stored.input_id)
    if row is None or found is None:
        raise NotFoundError(f"session {session_id} was deleted meanwhile")
    return receipt(row, found[0], turn_id=found[1], is_replay=stored.input_id != input_id)
