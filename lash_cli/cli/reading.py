"""Read-only access to the store for the verbs that only look (contract 08 §6.7, design §2).

A look creates nothing: without a database there are no sessions, which is an
answer and not a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from lash_cli.cli.invocation import current
from lash_cli.core.ids import is_session_id
from lash_cli.errors import LashError, NotFoundError, StoreReadOnly, UsageError
from lash_cli.store.base import RuntimePersistence, SessionRow

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Runner

T = TypeVar("T")

NO_STORE_CODE = "store_not_found"
_PAGE_ROWS = 200


def run_async(work: Coroutine[Any, Any, T], new_loop: Callable[[], AbstractEventLoop] | None = None) -> T:
    """Run `work` on an event loop of its own, asyncio's unless `new_loop` makes another; what is logged meanwhile goes
    to the log file."""
    try:
        import asyncio
        import concurrent.futures.thread  # noqa: F401 - the store is closed with it: not to be missed then

        from lash_cli.cli.interrupt import undisturbed
        from lash_cli.cli.logs import log_to_file

        log_to_file()
        runner = asyncio.Runner(loop_factory=new_loop)
        try:
            undisturbed(runner.get_loop)
            return runner.run(work)
        finally:
            _close(runner)
    finally:
        # Python would complain of one that never began.
        work.close()


def _close(runner: Runner) -> None:
    """End a loop whose work is done, or was given up: only its threads are left, and cut off in that they would
    complain."""
    import threading

    from lash_cli.cli.interrupt import let_it_end_us, raise_it

    was_raised = threading.current_thread() is threading.main_thread() and let_it_end_us()
    try:
        runner.close()
    except RuntimeError as error:
        from lash_cli.system import is_without_thread

        # The system has none for waiting for the others, which end all the same: the end of the process waits for them.
        if not is_without_thread(error):
            raise
    finally:
        if was_raised:
            raise_it()


def run_watching(work: Coroutine[Any, Any, T]) -> T:
    """`run_async` for a command that goes on until it is told to stop and does nothing but watch."""
    from lash_cli.cli.watching_loop import let_workers_go_first, new_watching_loop

    let_workers_go_first()
    return run_async(work, new_watching_loop)


def run_inline(make_work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run work that only reads; `make_work` is called once more when the first try had to wait.

    A store that keeps its rows at hand answers a read without ever suspending: then the coroutine is an ordinary
    call, and neither an event loop nor its import (twice the price of a look) is needed. What does suspend is
    dropped and run again on an event loop, which work that changes nothing allows.
    """
    work = make_work()
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    return run_async(make_work())


def run_at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run work that writes, without an event loop: what the store is asked to do, it does before it returns.

    For commands of a few statements, which would otherwise spend more on the loop's import than on their work.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("work that was to be done at once waited for something")


@asynccontextmanager
async def reading_store() -> AsyncIterator[RuntimePersistence | None]:
    """The store opened for reading, None when there is no database yet.

    An old database is brought up to date first, which needs a writing open.
    """
    from lash_cli.wiring import open_store

    paths = current().paths
    store: RuntimePersistence | None
    try:
        store = open_store(paths, read_only=True)
    except NotFoundError as error:
        if error.code != NO_STORE_CODE:
            raise
        store = None
    except StoreReadOnly:
        with opening_told():
            store = open_store(paths)
    try:
        yield store
    finally:
        if store is not None:
            await store.aclose()


def opening_told() -> AbstractContextManager[None]:
    """Tell a person what goes on while a database is opened for writing, should it take long: an old one is brought up
    to date first, and another process may hold it."""
    # Whoever is not watched need not load what tells it (design D16).
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from lash_cli.cli.progress import progress

    return progress("opening the database")


def has_database() -> bool:
    """Whether there is a database; True where that cannot be found out, and who opens it is told why."""
    try:
        os.stat(current().paths.database)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def no_session_yet(reference: str | None) -> LashError:
    """The error of a verb that needs the session `reference` names, where there is no database."""
    named = reference if reference is not None else current().environment.get("LASH_SESSION") or None
    if named is None:
        return UsageError("a SESSION is needed", hint="make one with: lash open")
    # Under the name it was asked for, so that the same command finds it then.
    made = f"lash open {named}" if is_session_id(named) else "lash open"
    return NotFoundError(
        f"no session {named!r}",
        hint=f"there is no session yet; make one with: {made}",
        details={"reference": reference, "nearest": []},
    )


async def read_session_row(store: RuntimePersistence | None, reference: str | None) -> SessionRow:
    """The row of the session `reference` names; raises what `resolve_session` raises."""
    from lash_cli.cli.references import resolve_session

    if store is None:
        raise no_session_yet(reference)
    meta = await resolve_session(store, reference)
    return await present_row(store, meta.session_id)


@asynccontextmanager
async def named_session(
    opening: AbstractAsyncContextManager[RuntimePersistence | None], reference: str | None
) -> AsyncIterator[tuple[RuntimePersistence, SessionRow]]:
    """The session `reference` names, with the store that has it: what `opening` opens. Raises what `resolve_session`
    raises."""
    async with opening as store:
        row = await read_session_row(store, reference)
        assert store is not None, "without a store no session was found"
        yield store, row


async def present_row(store: RuntimePersistence, session_id: str) -> SessionRow:
    """The row of a session that was there a moment ago. Raises `NotFoundError` if it is not any more, and
    `SessionDeleted`."""
    row = await store.session_row(session_id)
    if row is None:
        raise NotFoundError(f"session {session_id} was deleted meanwhile")
    return row


async def every_session(store: RuntimePersistence) -> AsyncIterator[SessionRow]:
    """The row of every session, the newest activity first, read page by page."""
    cursor: str | None = None
    while True:
        rows, cursor = await store.list_sessions(limit=_PAGE_ROWS, cursor=cursor)
        for row in rows:
            yield row
        if cursor is None:
            return
