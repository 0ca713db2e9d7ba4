"""`lash work`: drain queues in the foreground, as long as it is told to (contract 08 §5.2).

Every session is worked on where it belongs: under its stored policy, with its
tools in its own directory. Nobody is at the terminal to be asked, so a tool
that needs a word is allowed by the configuration or by `--approve`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Literal, cast

import msgspec
import typer

from lash_cli.cli.arguments import AnySessions, Approvals
from lash_cli.cli.durations import duration_ms
from lash_cli.cli.exit_status import CLOSED_STDOUT_EXIT
from lash_cli.cli.failure import error_document, told_as
from lash_cli.cli.following import watched_reader
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, say
from lash_cli.cli.reading import has_database, present_row, run_async
from lash_cli.cli.running import (
    DIRECTORY_GONE,
    directory_gone,
    own_directory,
    store_having,
    working_directory,
    writing_store,
)
from lash_cli.cli.signals import SignalState, interrupted_before, turn_signals
from lash_cli.cli.turn_command import approvals
from lash_cli.cli.turn_cursors import TurnCursors
from lash_cli.cli.turn_stream import OutputPump, StreamLines
from lash_cli.cli.work_stream import WorkLines, WorkLog, report_document, report_text
from lash_cli.core.activity import Committed, TurnActivity
from lash_cli.errors import ConfigError, LashError, LashRuntimeError, PartialOutcomeError, UsageError
from lash_cli.runtime.work_events import ActivityShown, WorkEvent, WorkOptions, WorkReport
from lash_cli.system import SystemClock, is_write_end, loses_reader
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession
    from lash_cli.runtime.worker import QueueWorker
    from lash_cli.store.base import RuntimePersistence, SessionMeta
    from lash_cli.store.live import LiveStore
    from lash_cli.wiring import ConfiguredProviders

DEFAULT_GRACE = "20s"
ON_FAILURE = ("pause", "continue")
OWNER_LABEL = "work"
# How often a worker of every session looks whether there is a database yet.
DATABASE_POLL_S = 0.05


class WorkPlan(msgspec.Struct, frozen=True):
    """A validated `lash work`; no references means every session. `is_implied` says that `LASH_SESSION` named it."""

    references: tuple[str, ...]
    options: WorkOptions
    grace_s: float
    approve: tuple[tuple[str, str], ...] = ()
    is_implied: bool = False


def command(
    sessions: AnySessions = None,
    every: Annotated[bool, typer.Option("--all", help="Every session, those made later too.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One pass over each session, then end.")] = False,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing waits any more.")] = False,
    max_turns: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many turns.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, metavar="N", help="Sessions at the same time.")] = None,
    idle_exit: Annotated[str | None, typer.Option(metavar="DUR", help="End after so long without work.")] = None,
    on_failure: Annotated[
        str | None, typer.Option(metavar="HOW", help="A failed turn: pause holds its queue, continue goes on.")
    ] = None,
    lease_wait: Annotated[
        str | None, typer.Option(metavar="DUR", help="How long to wait for a session in use; else without end.")
    ] = None,
    grace: Annotated[
        str, typer.Option(metavar="DUR", help="How long running turns may go on after SIGTERM or Ctrl-C.")
    ] = DEFAULT_GRACE,
    approve: Approvals = None,
) -> int:
    """Drain queues: run what waits in sessions, in order, until told to stop.

    Any number of workers may run; each session is worked on by one at a time.
    Held queues are left alone, and by --all sessions whose directory is not there.
    SIGTERM or Ctrl-C lets running turns finish
    within --grace and cancels them then; a second one leaves them to whoever
    works next. Exit status 8 means that a turn failed, or that a session could not be worked on.
    """
    references, is_implied = tuple(sessions or ()), False
    if not references and not every:
        named = current().environment.get("LASH_SESSION")
        if not named:
            raise UsageError("name the sessions to work on, or give --all", hint="for example: lash work --all")
        references = (named,)
        is_implied = True
    elif references and every:
        raise UsageError("--all and named sessions contradict each other", hint="give one or the other")
    plan = WorkPlan(
        references=references,
        options=WorkOptions(
            concurrency=concurrency or current().settings.work_concurrency,
            once=once,
            until_empty=until_empty,
            max_turns=max_turns,
            idle_exit_ms=duration_ms(idle_exit) if idle_exit is not None else None,
            on_failure=_on_failure(current().settings.work_on_failure if on_failure is None else on_failure),
            lease_wait_ms=duration_ms(lease_wait) if lease_wait is not None else None,
        ),
        grace_s=duration_ms(grace) / 1000,
        approve=tuple(approvals(approve).items()),
        is_implied=is_implied,
    )
    return run_async(Work(plan).run())


def _on_failure(text: str) -> Literal["pause", "continue"]:
    if text not in ON_FAILURE:
        raise UsageError(f"--on-failure cannot be {text!r}", hint=f"there are: {', '.join(ON_FAILURE)}")
    return cast("Literal['pause', 'continue']", text)


class Work:
    """One run of a worker: what it is made of, how it is told, how it ends."""

    def __init__(self, plan: WorkPlan) -> None:
        self._plan = plan
        self._names: dict[str, str] = {}
        self._cores: dict[str, LashCore] = {}
        self._pump: OutputPump | None = None
        self._has_left = False
        self._is_stopping = asyncio.Event()
        # None until there is a database.
        self._store: RuntimePersistence | None = None
        # While it works.
        self._worker: QueueWorker | None = None
        self._live: LiveStore | None = None
        self._log: WorkLog | WorkLines = self._make_log()

    async def run(self) -> int:
        """Work, tell, and return the exit status; raises what the run amounts to when that is not success."""
        from lash_cli.wiring import open_providers

        named, options = self._plan.references, self._plan.options
        if not named and (options.once or options.until_empty) and not has_database():
            return await self._nothing(options)
        if named or has_database():
            self._store = store_having(named[0]) if named else writing_store()
        try:
            session_ids = [] if self._store is None else await self._session_ids(self._store)
            providers = open_providers(current().settings, current().paths, environment=current().environment)
            try:
                return await self._work(providers, session_ids)
            finally:
                for core in self._cores.values():
                    await core.aclose()
                await providers.aclose()
        finally:
            if self._store is not None:
                await self._store.aclose()

    async def _nothing(self, options: WorkOptions) -> int:
        """What a worker does that is through where no session was ever made: it makes no database either."""
        report = WorkReport(0, 0, 0, (), (), "once" if options.once else "empty")
        self._log.start()
        await self._end(report.stopped_by, None)
        return self._exit_status_of(report)

    async def _session_ids(self, store: RuntimePersistence) -> list[str]:
        from lash_cli.cli.bulk import resolve_all
        from lash_cli.cli.references import resolve_session

        if self._plan.is_implied:
            metas = [await resolve_session(store, None)]
        else:
            metas = await resolve_all(store, self._plan.references)
        self._names.update((meta.session_id, meta.name) for meta in metas)
        return [meta.session_id for meta in metas]

    async def _work(self, providers: ConfiguredProviders, session_ids: list[str]) -> int:
        with (
            turn_signals(self._stop, self._abandon, before_stop=self._finish_writes) as signals,
            self._watched_reader(),
        ):
            try:
                await interrupted_before()
                # Handlers first: a stream whose beginning was read has an end, whatever signal comes then.
                self._log.start()
                report = await self._report(providers, session_ids)
            except Exception as fault:  # noqa: BLE001 - raised as what was told of it
                error = told_as(fault) if self._pump is None else await self._pump.told_as(fault)
                await self._end("error", error)
                raise error  # noqa: B904 - it has its own cause
            failure = self._error_of(report, signals)
            await self._end("signal" if signals.received is not None else report.stopped_by, failure)
        if failure is not None:
            raise failure
        return self._exit_status_of(report)

    async def _report(self, providers: ConfiguredProviders, session_ids: list[str]) -> WorkReport:
        """Work until something ends it."""
        from lash_cli.runtime.worker import QueueWorker

        if self._store is None:
            ended = await self._until_database()
            if ended is not None:
                return WorkReport(0, 0, 0, (), (), ended)
            self._store = writing_store()
        store = self._store

        @asynccontextmanager
        async def opened(session_id: str) -> AsyncIterator[LashSession]:
            async with self._opened(store, providers, session_id) as session:
                yield session

        self._live = store.live
        self._worker = QueueWorker(store, SystemClock(), opened, self._plan.options, on_event=self._on_event)
        try:
            return await self._worker.run(session_ids)
        finally:
            self._worker = None

    async def _until_database(self) -> Literal["stopped", "idle"] | None:
        """Wait until somebody makes a database: who only works has nothing to put into one. Why the worker ends
        instead, None when there is one."""
        clock, most_ms = SystemClock(), self._plan.options.idle_exit_ms
        since = clock.monotonic()
        while not has_database():
            if self._is_stopping.is_set():
                return "stopped"
            if most_ms is not None and (clock.monotonic() - since) * 1000 >= most_ms:
                return "idle"
            with suppress(TimeoutError):
                async with asyncio.timeout(DATABASE_POLL_S):
                    await self._is_stopping.wait()
        return None

    def _finish_writes(self) -> None:
        if self._store is not None:
            self._store.finish_writes()

    def _exit_status_of(self, report: WorkReport) -> int:
        """Print the report of a run in which nothing failed, where no stream told it, and return the exit status."""
        if self._has_left or (self._pump is not None and self._pump.is_closed):
            return CLOSED_STDOUT_EXIT
        if self._pump is None:
            _show_report(report)
        return 0

    @asynccontextmanager
    async def _opened(
        self, store: RuntimePersistence, providers: ConfiguredProviders, session_id: str
    ) -> AsyncIterator[LashSession]:
        """A session where it belongs; store and providers are shared by all of them."""
        from lash_cli.core.policy import SessionSpec

        core = self._core_at(self._directory_of(await self._meta(store, session_id)), store, providers)
        session = await core.open_session(session_id, spec=SessionSpec(inherit="stored"), create=False)
        try:
            yield session
        finally:
            session.close_handle()

    def _directory_of(self, meta: SessionMeta) -> str:
        """Where the tools of a session work: in its own directory, or here where it was named and that is not there.

        Raises `ConfigError` (`session_directory_gone`) where nobody named it: what its tools would do here was meant
        for another place.
        """
        if meta.cwd is not None and own_directory(meta) is None and not self._plan.references:
            hint = f"to have its tools work where you are: lash work {shell_word(meta.name)}"
            details = {"session": meta.session_id}
            raise ConfigError(directory_gone(meta), code=DIRECTORY_GONE, hint=hint, details=details)
        return working_directory(meta)

    def _core_at(self, directory: str, store: RuntimePersistence, providers: ConfiguredProviders) -> LashCore:
        """The core whose tools work in `directory`; making one costs as much as a turn, so each is kept."""
        from lash_cli.cli.logs import log_prompts
        from lash_cli.wiring import open_core

        core = self._cores.get(directory)
        if core is None:
            invocation = current()
            log_prompts()
            core = self._cores[directory] = open_core(
                invocation.settings,
                invocation.paths,
                environment=invocation.environment,
                store=store,
                providers=providers,
                cwd=directory,
                approve=dict(self._plan.approve),
                owner_label=OWNER_LABEL,
            )
        return core

    async def _meta(self, store: RuntimePersistence, session_id: str) -> SessionMeta:
        meta = (await present_row(store, session_id)).meta
        self._names[session_id] = meta.name
        return meta

    def _make_log(self) -> WorkLog | WorkLines:
        options = current().output
        if not options.is_stream:
            return WorkLog(self._name_of)
        sys.stdout.flush()
        self._pump = OutputPump(sys.stdout.fileno())
        lines = StreamLines(self._pump.write, now_ms=SystemClock().now_ms, ascii_only=options.ascii)
        return WorkLines(lines, self._name_of)

    def _name_of(self, session_id: str) -> str:
        return self._names.get(session_id, session_id)

    async def _on_event(self, event: WorkEvent) -> None:
        if isinstance(self._log, WorkLines) and isinstance(event, ActivityShown):
            await self._settle(self._log, event.activity)
        self._log.show(event)
        if self._pump is not None and self._pump.is_closed:
            self._left()

    async def _settle(self, lines: WorkLines, activity: TurnActivity) -> None:
        """Look up where a turn that has just been committed stands in its session's log."""
        if isinstance(activity.event, Committed):
            settled = await TurnCursors(self._live, activity.session_id).settled(activity.turn_id)
            lines.settle(activity.session_id, activity.turn_id, settled)

    def _watched_reader(self) -> AbstractContextManager[None]:
        """Notice that nobody reads what is told any more, also while there is nothing to tell. A report that had no
        reader from the start keeps nobody from working."""
        descriptor = sys.stdout.fileno()
        if self._pump is None and is_write_end(descriptor) and loses_reader(descriptor, 0):
            return nullcontext()
        return watched_reader(descriptor, self._left)

    def _left(self) -> None:
        """Nobody reads any more: finish what runs, take nothing new."""
        self._has_left = True
        if self._pump is not None:
            self._pump.is_closed = True
        self._is_stopping.set()
        if self._worker is not None:
            self._worker.stop(self._plan.grace_s)

    def _stop(self) -> None:
        self._is_stopping.set()
        if self._worker is not None:
            say("stopping: running turns may finish…")
            self._worker.stop(self._plan.grace_s)

    def _abandon(self) -> bool:
        """Leave what runs to whoever works next; False when nothing runs any more, and only the reader is waited
        for."""
        if self._worker is None:
            return False
        self._worker.abandon()
        return True

    async def _end(self, reason: str, error: LashError | None) -> None:
        document = error_document(error) if error is not None else None
        self._log.end(reason, error.exit_status if error is not None else 0, document)
        if self._pump is not None:
            await self._pump.drained()

    def _error_of(self, report: WorkReport, signals: SignalState) -> LashError | None:
        """What a finished run amounts to; None for success."""
        details = {"report": report_document(report)}
        if signals.received is not None:
            what = "running turns were left unfinished" if report.stopped_by == "abandoned" else "nothing is unfinished"
            stopped = LashRuntimeError(
                "interrupted",
                f"{signals.received.name} received: the worker stopped, {what}",
                hint="the queues are as they were; work on with the same command",
                details=details,
            )
            stopped.exit_status = signals.exit_status or stopped.exit_status
            return stopped
        if report.failed or report.errors:
            hint = "see what waits with: lash queue ls SESSION"
            if report.held:
                hint = f"held queues wait for you: lash queue release {shell_word(self._name_of(report.held[0]))}"
            return PartialOutcomeError(report_text(report), hint=hint, details=details)
        return None


def _show_report(report: WorkReport) -> None:
    """Print what was done; as names the sessions worked on, which may be none."""
    emit_one("WorkReport", report_document(report), text=report_text(report), name="\n".join(report.sessions))
