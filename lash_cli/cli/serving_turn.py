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
from lash_cli.cli.exit_status import turn_error
from lash_cli.cli.failure import failure_document
from lash_cli.cli.running import (
    open_to_work,
    opened_core,
    policy_of_new_session,
    policy_options,
    store_and_session,
    working_directory,
)
from lash_cli.cli.turn_cursors import TurnCursors
from lash_cli.cli.turn_documents import turn_result_document
from lash_cli.cli.turn_stream import EventLines
from lash_cli.core.activity import Committed, TurnActivity, TurnFinished, TurnStarted
from lash_cli.system import SystemClock

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession, TurnBuilder
    from lash_cli.cli.serving_parameters import PromptParameters
    from lash_cli.remote.rpc import Call


@asynccontextmanager
async def opened_session(
    reference: str | None, asked: PromptParameters, approve: Mapping[str, str]
) -> AsyncIterator[tuple[LashCore, LashSession]]:
    """The session that `reference` names, created when it may be; raises what `resolve_session` raises."""

    def check_new() -> None:
        policy_of_new_session(provider=asked.provider, model=asked.model)

    spec = policy_options(model=asked.model, provider=asked.provider, system=None)
    store, meta = await store_and_session(reference, or_open=asked.or_open, before_creating=check_new)
    async with opened_core(
        store=store,
        provider=asked.provider,
        model=asked.model,
        needs_model=meta is None,
        cwd=working_directory(meta),
        approve=approve,
        owner_label="serve",
    ) as core:
        session = await open_to_work(core, meta, reference or "", spec)
        try:
            yield core, session
        finally:
            session.close_handle()


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
