"""What only a file has: modes, races of real processes, damage, `kill -9`, group commit (contract 01 §18)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.old_files import with_nodes_by_session
from support.processes import start_process

from lash_cli.core.codec import encode
from lash_cli.core.commit import Append, CheckpointComponent
from lash_cli.core.frames import initial_frame_id
from lash_cli.core.graph import chain
from lash_cli.core.lease import LeaseFence
from lash_cli.errors import ConflictError, NotFoundError, StoreError, StoreReadOnly, StoreUnusable
from lash_cli.store.base import ReadScope
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite import announcing, commit, graph, schema
from lash_cli.store.sqlite import log as log_of_the_file
from lash_cli.store.sqlite.connections import WAL_KEPT_BYTES, WRITER_PRAGMAS
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lineage import segments_of
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
_INSERT = "INSERT INTO deleted_sessions (session_id, deleted_at_ms) VALUES (?, 0)"

PRELUDE = """
import asyncio, sys
from pathlib import Path
from lash_cli.store.conformance import builders as make
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds
path = Path(sys.argv[1])
name = sys.argv[2]
clock = SystemClock()
"""

OPEN = (
    PRELUDE
    + """
store = SqliteStore.open(path, clock, SystemIds())
asyncio.run(make.create(store, clock, f"s-{name}"))
store.close()
"""
)

CLAIM_AND_COMMIT = (
    PRELUDE
    + """
async def main():
    store = SqliteStore.open(path, clock, SystemIds())
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for session in range(20):
        lane = await store.open_lane(make.lane_request(clock, name, session_id=f"s{session}", turn_id=f"t-{name}",
                                                       input_id=f"in-{name}-{session}"))
        won += type(lane).__name__ == "LaneGranted"
    print(won, flush=True)
    await store.aclose()
asyncio.run(main())
"""
)

WRITE_FOR_EVER = (
    PRELUDE
    + """
async def main():
    store = SqliteStore.open(path, clock, SystemIds())
    fence = await make.fence_of(store)
    parent, revision = None, None
    for index in range(10**6):
        ids = [f"n{index}-{step}" for step in range(20)]
        delta = make.append(ids, parent=parent)
        result = await store.commit_runtime_state(make.commit(fence, delta, expected=revision))
        parent, revision = ids[-1], result.head_revision
        print(revision, flush=True)
asyncio.run(main())
"""
)


def start(script: str, path: Path, name: str) -> subprocess.Popen[str]:
    return start_process(
        [sys.executable, "-c", script, str(path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_nobody_else_can_read_the_database_whatever_the_umask(database_path: Path, clock: ManualClock) -> None:
    previous = os.umask(0o022)
    try:
        database = Database.open(database_path, clock=clock)
        database.write_sync(lambda connection: connection.execute(_INSERT, ("x",)).rowcount, durable=True)
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in database_path.parent.iterdir()}
        database.close()
    finally:
        os.umask(previous)
    assert modes == {"lash.db": 0o600, "lash.db-wal": 0o600, "lash.db-shm": 0o600}
    assert stat.S_IMODE(database_path.parent.stat().st_mode) == 0o700


def test_a_newer_schema_is_refused_and_left_untouched(database_path: Path, clock: ManualClock) -> None:
    Database.open(database_path, clock=clock).close()
    with contextlib.closing(sqlite3.connect(database_path)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()
    before = database_path.read_bytes()
    with pytest.raises(StoreUnusable) as caught:
        Database.open(database_path, clock=clock)
    assert (caught.value.code, caught.value.exit_status) == ("schema_too_new", 9)
    assert database_path.read_bytes() == before


def test_a_foreign_database_is_refused_and_left_untouched(database_path: Path, clock: ManualClock) -> None:
    database_path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(database_path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = database_path.read_bytes()
    with pytest.raises(StoreUnusable) as caught:
        Database.open(database_path, clock=clock)
    assert caught.value.code == "store_corrupt"
    assert database_path.read_bytes() == before


def test_a_file_that_is_no_database_is_reported_as_damaged(database_path: Path, clock: ManualClock) -> None:
    database_path.parent.mkdir()
    database_path.write_bytes(b"not a database at all, but long enough to be taken for one" * 40)
    with pytest.raises(StoreUnusable) as caught:
        Database.open(database_path, clock=clock)
    assert caught.value.code == "store_corrupt"


_NO_UTF8 = "CAST(x'7bff' AS TEXT)"


@pytest.mark.parametrize("stored", ['\'{"kind":"conver\'', _NO_UTF8], ids=["cut off", "no text"])
async def test_a_damaged_node_is_named_and_never_skipped(
    open_store: OpenStore, clock: ManualClock, stored: str
) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
    damage = f"UPDATE nodes SET body = {stored} WHERE node_id = 'm2'"
    await store.db.write(lambda connection: connection.execute(damage).rowcount, durable=True)
    for scope in (ReadScope.FULL_GRAPH, ReadScope.ACTIVE_PATH):
        with pytest.raises(StoreUnusable) as caught:
            await store.load_session(make.SESSION, scope)
        assert caught.value.details["node_id"] == "m2"
    with pytest.raises(StoreUnusable) as caught:
        await store.load_node(make.SESSION, "m2")
    assert caught.value.details["node_id"] == "m2"


async def test_text_that_is_none_any_more_is_damage_and_not_repeated(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock)
    damage = "UPDATE sessions SET name = CAST(x'73656372657420ff' AS TEXT)"
    await store.db.write(lambda connection: connection.execute(damage).rowcount, durable=True)
    with pytest.raises(StoreUnusable) as caught:
        await store.session_row(make.SESSION)
    assert caught.value.code == "store_corrupt" and "secret" not in caught.value.message


_TWO_IN_ONE = """
UPDATE nodes SET body = (SELECT body FROM nodes WHERE node_id = 'm40') || ',' || body WHERE node_id = 'm41'
"""


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE nodes SET body = 'null' WHERE node_id = 'm41'", {"node_id": "m41"}),
        (f"UPDATE nodes SET body = {_NO_UTF8} WHERE node_id = 'm41'", {"node_id": "m41"}),
        (_TWO_IN_ONE, {"node_id": "m41"}),
        ("DELETE FROM nodes WHERE node_id = 'm41'", {"seq": 42}),
        ("UPDATE nodes SET tombstoned = 1 WHERE node_id = 'm41'", {"node_id": "m41"}),
    ],
    ids=["no record", "no text", "two records in a row", "a gap", "hidden"],
)
async def test_a_damaged_path_is_refused_however_many_rows_are_decoded_at_once(
    open_store: OpenStore, clock: ManualClock, damage: str, told: dict[str, object]
) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append([f"m{index}" for index in range(100)])))
    await store.db.write(lambda connection: connection.execute(damage).rowcount, durable=True)
    with pytest.raises(StoreUnusable) as caught:
        await store.load_session(make.SESSION, ReadScope.CONVERSATION)
    assert caught.value.details == told


@pytest.mark.parametrize(
    ("count", "chars", "is_inline"),
    [(64, 1, True), (65, 1, False), (3, 40_000, True), (3, 50_000, False)],
    ids=["few", "many", "short", "long"],
)
async def test_only_a_short_conversation_is_read_on_the_thread_of_the_event_loop(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, count: int, chars: int, is_inline: bool
) -> None:
    store, fence = await make.held(open_store, clock)
    nodes = chain(
        [make.message(f"m{index}", "x" * chars) for index in range(count)],
        parent_node_id=None,
        agent_frame_id=initial_frame_id(make.SESSION),
        at_ms=1,
    )
    await store.commit_runtime_state(make.commit(fence, Append(nodes, nodes[-1].node_id)))
    threads: list[int] = []

    def watched(connection: sqlite3.Connection, session_key: int, next_seq: int) -> object:
        threads.append(threading.get_ident())
        return segments_of(connection, session_key, next_seq)

    monkeypatch.setattr(graph, "segments_of", watched)
    read = await store.load_session(make.SESSION, ReadScope.CONVERSATION)
    assert read is not None and len(read.messages) == count
    assert [thread == threading.get_ident() for thread in threads] == ([True] if is_inline else [True, False])


async def test_a_message_stored_twice_is_said_once(open_store: OpenStore, clock: ManualClock) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append([f"m{index}" for index in range(100)])))
    repeat = "UPDATE nodes SET body = (SELECT body FROM nodes WHERE node_id = 'm7') WHERE node_id = 'm90'"
    await store.db.write(lambda connection: connection.execute(repeat).rowcount, durable=True)
    read = await store.load_session(make.SESSION, ReadScope.CONVERSATION)
    assert read is not None
    assert [message.id for message in read.messages] == [f"m{index}" for index in range(100) if index != 90]


async def test_an_undecodable_head_aborts_the_sweep(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock)
    attachment = await store.put_attachment(make.SESSION, b"x", media_type="text/plain", owner=None, now_ms=1)
    unreferenced = "INSERT INTO blobs (hash, content) VALUES ('aa', x'00')"
    await store.db.write(lambda connection: connection.execute(unreferenced).rowcount, durable=True)
    damage = "UPDATE sessions SET components = 'nonsense'"
    await store.db.write(lambda connection: connection.execute(damage).rowcount, durable=True)
    with pytest.raises(StoreUnusable):
        await store.gc_unreachable()
    assert await store.load_component("aa") == b"\0"
    assert await store.get_attachment(make.SESSION, attachment) == b"x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_a_permission_error(tmp_path: Path, clock: ManualClock) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreReadOnly) as caught:
            Database.open(tmp_path / "lash.db", clock=clock)
        assert caught.value.exit_status == 5
    finally:
        tmp_path.chmod(0o700)


def test_a_path_that_cannot_be_a_directory_is_a_permission_error(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreReadOnly):
        Database.open(tmp_path / "home" / "lash.db", clock=clock)


def test_a_read_only_open_never_creates_a_file(database_path: Path, clock: ManualClock) -> None:
    with pytest.raises(NotFoundError):
        Database.open(database_path, clock=clock, read_only=True)
    assert not database_path.parent.exists()


async def test_a_read_only_handle_reads_and_refuses_to_write(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    await make.create(open_store(), clock)
    reader = Database.open(database_path, clock=clock, read_only=True)
    try:
        assert reader.read(lambda connection: connection.execute("SELECT session_id FROM sessions").fetchall())
        with pytest.raises(StoreReadOnly):
            await reader.write(lambda connection: connection.execute(_INSERT, ("x",)).rowcount, durable=True)
    finally:
        reader.close()


async def test_jobs_run_in_order_and_one_that_fails_takes_only_itself_back(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    order: list[int] = []

    def job(index: int) -> Callable[[sqlite3.Connection], int]:
        def run(connection: sqlite3.Connection) -> int:
            order.append(index)
            connection.execute(_INSERT, (f"row-{index}",))
            if index % 3 == 0:
                raise ValueError(index)
            return index

        return run

    outcomes = await asyncio.gather(
        *(database.write(job(index), durable=False) for index in range(30)), return_exceptions=True
    )
    # A group of which one raises is run again, job by job: what counts is the last run of each.
    assert list(dict.fromkeys(reversed(order))) == list(reversed(range(30)))
    for index, outcome in enumerate(outcomes):
        assert isinstance(outcome, ValueError) if index % 3 == 0 else outcome == index
    stored = database.read(lambda connection: connection.execute("SELECT session_id FROM deleted_sessions").fetchall())
    assert {row[0] for row in stored} == {f"row-{index}" for index in range(30) if index % 3}
    database.close()


async def test_a_lazy_write_keeps_its_place_and_one_that_is_cancelled_never_runs(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    order: list[str] = []

    def job(name: str) -> Callable[[sqlite3.Connection], str]:
        def run(connection: sqlite3.Connection) -> str:
            order.append(name)
            return name

        return run

    first, dropped = database.write_later(job("lazy")), database.write_later(job("dropped"))
    dropped.cancel()
    assert await database.write(job("awaited"), durable=False) == "awaited"
    assert (order, await first) == (["lazy", "awaited"], "lazy")
    assert await database.write_later(job("alone")) == "alone"
    database.write_later(job("at the end"))
    await database.aclose()
    assert order == ["lazy", "awaited", "alone", "at the end"]


async def test_writes_of_one_pass_of_the_loop_are_committed_together_in_order(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    order: list[int] = []

    def job(index: int) -> Callable[[sqlite3.Connection], int]:
        def run(connection: sqlite3.Connection) -> int:
            order.append(index)
            return index

        return run

    for _ in range(3):
        order.clear()
        results = await asyncio.gather(*(database.write(job(index), durable=True) for index in range(600)))
        assert results == order == list(range(600))
    await database.aclose()


async def test_a_brief_write_is_done_at_once_behind_everything_that_was_asked_for_before(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    threads: list[tuple[str, int]] = []

    def job(name: str) -> Callable[[sqlite3.Connection], str]:
        def run(connection: sqlite3.Connection) -> str:
            threads.append((name, threading.get_ident()))
            return name

        return run

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, ("undone",))
        raise ValueError("the job's own")

    here = threading.get_ident()
    assert await database.write(job("first"), durable=False) == "first"
    assert await database.write_brief(job("alone")) == "alone"
    assert [thread == here for _, thread in threads] == [False, True]
    threads.clear()
    lazy = database.write_later(job("lazy"))
    assert await database.write_brief(job("behind it")) == "behind it"
    assert [name for name, _ in threads] == ["lazy", "behind it"] and await lazy == "lazy"
    with pytest.raises(ValueError, match="the job's own"):
        await database.write_brief(failing)
    assert database.read(lambda connection: connection.execute("SELECT * FROM deleted_sessions").fetchall()) == []
    await database.aclose()


async def test_a_brief_write_that_must_wait_for_another_process_holds_up_no_task(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    await database.write(lambda connection: None, durable=False)
    other = sqlite3.connect(database_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(
        database.write_brief(lambda connection: connection.execute(_INSERT, ("late",)).rowcount)
    )
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert await waiting == 1
    await database.aclose()


async def test_the_log_is_begun_again_while_writes_go_on(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = WAL_KEPT_BYTES // 8
    monkeypatch.setattr(log_of_the_file, "_WAL_RESTART_BYTES", kept)
    limited = [pragma.replace(str(WAL_KEPT_BYTES), str(kept)) for pragma in WRITER_PRAGMAS]
    monkeypatch.setattr(announcing, "WRITER_PRAGMAS", limited)
    database = Database.open(database_path, clock=clock)
    log = database_path.with_name(f"{database_path.name}-wal")
    largest = 0
    for index in range(400):
        ids = [(f"{index}-{row:04d}-" + "x" * 200,) for row in range(200)]
        await database.write(lambda connection, ids=ids: connection.executemany(_INSERT, ids), durable=True)
        largest = max(largest, os.stat(log).st_size)
    assert os.stat(database_path).st_size > 8 * kept, "much more was written than the log may hold"
    assert largest < 8 * kept
    await database.aclose()


async def test_an_awaited_write_is_visible_to_the_next_read(database_path: Path, clock: ManualClock) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    for index in range(20):
        await database.write(lambda connection, index=index: connection.execute(_INSERT, (f"{index}",)), durable=False)
        (count,) = database.read(
            lambda connection: connection.execute("SELECT count(*) FROM deleted_sessions").fetchone()
        )
        assert count == index + 1
    await database.aclose()


async def test_a_write_cancelled_before_it_began_is_never_applied(database_path: Path, clock: ManualClock) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    entered, proceed = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        entered.set()
        proceed.wait()

    holding = asyncio.create_task(database.write(hold, durable=False))
    await asyncio.to_thread(entered.wait)
    waiting = asyncio.create_task(database.write(lambda c: c.execute(_INSERT, ("late",)).rowcount, durable=False))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    proceed.set()
    await holding
    assert database.read(lambda c: c.execute("SELECT count(*) FROM deleted_sessions").fetchone()) == (0,)
    await database.aclose()


async def test_a_closed_database_refuses_work_and_close_may_be_repeated(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock)
    await database.aclose()
    database.close()
    with pytest.raises(StoreError) as caught:
        await database.write(lambda connection: None, durable=False)
    assert caught.value.code == "store_closed"


def test_twelve_processes_open_a_home_that_does_not_exist(database_path: Path, open_store: OpenStore) -> None:
    processes = [start(OPEN, database_path, str(index)) for index in range(12)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    rows, _ = asyncio.run(open_store().list_sessions(limit=50))
    assert {row.meta.session_id for row in rows} == {f"s-{index}" for index in range(12)}


def write_older_file(path: Path, open_store: OpenStore, clock: ManualClock) -> None:
    """A file of schema 8 with one session in it."""
    store = open_store()
    asyncio.run(make.create(store, clock, "s-old"))
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with_nodes_by_session(connection)


def test_six_processes_open_an_older_file_and_one_of_them_migrates_it(
    database_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    write_older_file(database_path, open_store, clock)
    processes = [start(OPEN, database_path, str(index)) for index in range(6)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    rows, _ = asyncio.run(open_store().list_sessions(limit=50))
    assert {row.meta.session_id for row in rows} == {"s-old", *(f"s-{index}" for index in range(6))}


def test_whoever_is_killed_in_a_migration_leaves_the_file_as_it_was_at_every_statement(
    database_path: Path, open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(database_path)) as other:
            (version,) = other.execute("PRAGMA user_version").fetchone()
            seen.append((version, other.execute("SELECT * FROM sqlite_master").fetchall()))

    def watched(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(stored)
        migrate(connection)
        connection.set_trace_callback(None)

    write_older_file(database_path, open_store, clock)
    seen: list[tuple[int, list[object]]] = []
    stored("")
    migrate = schema.migrate
    monkeypatch.setattr(schema, "migrate", watched)
    open_store()
    assert len(seen) > 50 and all(look == seen[0] for look in seen) and seen[0][0] == 8
    stored("")
    assert seen[-1][0] == schema.SCHEMA_VERSION


async def test_each_of_many_lanes_has_one_winner_across_two_processes(
    database_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    for index in range(20):
        await make.create(store, clock, f"s{index}")
    processes = [start(CLAIM_AND_COMMIT, database_path, name) for name in ("a", "b")]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    wins = []
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        wins.append(int(output))
    assert sum(wins) == 20
    assert len(await store.unfinished_turns()) == 20


@pytest.mark.parametrize("commits_before", [1, 7, 19])
async def test_a_process_killed_while_it_commits_leaves_whole_commits_only(
    database_path: Path, open_store: OpenStore, clock: ManualClock, commits_before: int
) -> None:
    await make.create(open_store(), clock)
    process = start(WRITE_FOR_EVER, database_path, "w")
    assert process.stdout is not None
    for _ in range(commits_before):
        acknowledged = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    remaining, _ = process.communicate()
    acknowledged = max([acknowledged, *(int(line) for line in remaining.splitlines() if line.isdecimal())])
    read = await open_store().load_session(make.SESSION, ReadScope.ACTIVE_PATH)
    assert read is not None
    assert read.head_revision >= acknowledged, "what was acknowledged is there"
    assert len(read.nodes) == 20 * read.head_revision
    assert read.nodes[-1].node_id == f"n{read.head_revision - 1}-19"


@pytest.mark.parametrize("surplus", [0, 1])
def test_the_nodes_and_the_components_of_a_commit_count_together_to_the_byte(monkeypatch, surplus: int) -> None:
    monkeypatch.setattr(commit, "MAX_COMMIT_BYTES", 1000)
    fence = LeaseFence(make.SESSION, "a", "1", "token", 1)
    body = bytes(1000 - len(encode(make.nodes(["m1"])[0].payload)) - 10 + surplus)
    components = {"a": CheckpointComponent(body=body), "b": CheckpointComponent(body=bytes(10))}
    proposal = make.commit(fence, make.append(["m1"]), components=components)
    if not surplus:
        commit.prepare(proposal)
        return
    with pytest.raises(ConflictError) as caught:
        commit.prepare(proposal)
    assert caught.value.code == "commit_too_large"


def test_who_runs_out_of_room_is_told_to_make_some_and_to_look(database_path: Path) -> None:
    with contextlib.closing(Database.open(database_path, clock=ManualClock())) as database:

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA max_page_count = 1")  # no less than there are
            for number in range(10_000):
                connection.execute(_INSERT, (f"s-{number}",))

        with pytest.raises(StoreError) as full:
            database.write_sync(fill, durable=True)
    assert full.value.message == f"{database_path}: database or disk is full; make room there"
    assert (full.value.ambiguous, full.value.hint) == (True, "look before retrying: lash ls")


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_what_stands_beside_a_file_that_may_be_written_is_not_told_as_a_directory_that_may_not(
    database_path: Path, open_store: OpenStore, ending: str
) -> None:
    open_store().close()
    database_path.with_name(database_path.name + ending).mkdir()
    with (
        pytest.raises(StoreReadOnly) as refused,
        contextlib.closing(Database.open(database_path, clock=ManualClock())) as database,
    ):
        database.write_sync(lambda connection: connection.execute(_INSERT, ("s",)).rowcount, durable=True)
    assert str(refused.value.hint).startswith("it may be written there: a file beside it is in the way, or the disk")
