"""The doorbell: heard, never lost for good, and its leavings cleaned (contract 04 §10.4)."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.interrupts import interrupted

from lash_cli.runtime import bells
from lash_cli.runtime.bells import Bell, BellRinger, PollingBell, SocketBell, bell_directory, bell_root, hang_bell
from lash_cli.store.sqlite.announcing import LogNews

STORE, SESSION = "store", "s1"
PATIENCE_S = 30


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the backstop only a ring ends a wait."""
    monkeypatch.setattr(bells, "BACKSTOP_SECONDS", 3_600.0)


@pytest.fixture
def ring(runtime_dir: Path) -> Iterator[BellRinger]:
    ringer = BellRinger(STORE)
    yield ringer
    ringer.close()


def directory() -> Path:
    root = bell_root()
    assert root is not None
    return Path(bell_directory(root, STORE, SESSION))


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_a_ring_is_heard_whether_it_came_before_or_while_waiting(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    ring({SESSION: LogNews(1)})
    await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S)
    waiting = asyncio.ensure_future(bell.wait(is_busy=False))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    ring({SESSION: LogNews(2)})
    await asyncio.wait_for(waiting, PATIENCE_S)
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_a_ring_that_came_alone_is_handed_over_and_of_several_none_is(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    for calm_s in (0, 0.05):
        waiting = asyncio.ensure_future(bell.wait(is_busy=False))
        await asyncio.sleep(calm_s)
        ring({SESSION: LogNews(7)})
        assert await asyncio.wait_for(waiting, PATIENCE_S) == b"7"
    ring({SESSION: LogNews(8)})
    await asyncio.sleep(0.01)
    ring({SESSION: LogNews(9)})
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S) is None
    ring({SESSION: LogNews(10)})
    ring({SESSION: LogNews(11)})
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S) is None
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_who_was_rung_more_often_than_a_socket_holds_is_told_to_look_in_the_end(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    waiting = asyncio.ensure_future(bell.wait(is_busy=False))
    await asyncio.sleep(0.05)
    for tail in range(1, 2_000):
        ring({SESSION: LogNews(tail)})
    messages = [await asyncio.wait_for(waiting, PATIENCE_S)]
    while messages[-1] is not None:
        messages.append(await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S))
    # One more may be handed over for each time that this process was held up between waiting and reading.
    assert messages == [*(b"%d" % tail for tail in range(1, len(messages))), None]
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_every_observer_is_rung_and_only_those_of_the_session(ring: BellRinger) -> None:
    ours, ours_too, theirs = hang_bell(STORE, SESSION), hang_bell(STORE, SESSION), hang_bell(STORE, "s2")
    ring({SESSION: LogNews(1)})
    await asyncio.wait_for(asyncio.gather(ours.wait(is_busy=False), ours_too.wait(is_busy=False)), PATIENCE_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(theirs.wait(is_busy=False), 0.05)
    for bell in (ours, ours_too, theirs):
        bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_an_observer_that_came_within_one_tick_of_the_listing_is_rung_too(ring: BellRinger) -> None:
    first = hang_bell(STORE, SESSION)
    # However long the machine takes, this moment is not past.
    moment_ns = time.time_ns() + 3_600 * 10**9
    os.utime(directory(), ns=(moment_ns, moment_ns))
    ring({SESSION: LogNews(1)})
    second = hang_bell(STORE, SESSION)
    # As if the file system had given both changes the same time.
    os.utime(directory(), ns=(moment_ns, moment_ns))
    ring({SESSION: LogNews(2)})
    await asyncio.wait_for(second.wait(is_busy=False), PATIENCE_S)
    first.close()
    second.close()


@pytest.mark.usefixtures("runtime_dir")
async def test_a_wait_ends_by_itself_when_nobody_rings() -> None:
    bell = hang_bell(STORE, SESSION)
    await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S)
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_a_cancelled_wait_keeps_the_ring(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bell.wait(is_busy=False), 0.01)
    ring({SESSION: LogNews(1)})
    await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S)
    bell.close()


@pytest.mark.usefixtures("runtime_dir")
async def test_the_socket_of_a_dead_observer_is_removed_by_the_next_ring(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    assert isinstance(bell, SocketBell)
    dead = directory() / "999999-abcdef"
    abandoned = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    abandoned.bind(str(dead))
    abandoned.close()
    ring({SESSION: LogNews(1)})
    assert os.listdir(directory()) == [os.path.basename(bell.address)]
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_the_next_observer_removes_the_sockets_of_dead_ones_and_no_other(ring: BellRinger) -> None:
    alive = hang_bell(STORE, SESSION)
    assert isinstance(alive, SocketBell)
    dead, new = directory() / "999999-abcdef", directory() / "999999-fedcba"
    for address in (dead, new):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abandoned:
            abandoned.bind(str(address))
    for address in (dead, alive.address):
        os.utime(address, (0, 0))
    bell = hang_bell(STORE, SESSION)
    assert isinstance(bell, SocketBell)
    left = {os.path.basename(address) for address in (alive.address, bell.address, new)}
    assert set(os.listdir(directory())) == left
    ring({SESSION: LogNews(1)})
    await asyncio.wait_for(asyncio.gather(alive.wait(is_busy=False), bell.wait(is_busy=False)), PATIENCE_S)
    alive.close()
    bell.close()


@pytest.mark.usefixtures("runtime_dir")
async def test_an_observer_that_does_not_listen_holds_nobody_up(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    for tail in range(1_000):
        ring({SESSION: LogNews(tail)})
    await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S)
    bell.close()


async def test_the_directories_are_the_users_alone_and_the_last_observer_removes_them(runtime_dir: Path) -> None:
    bell, other = hang_bell(STORE, SESSION), hang_bell(STORE, SESSION)
    place = directory()
    for level in (place, place.parent, place.parent.parent):
        assert stat.S_IMODE(level.stat().st_mode) == 0o700
    bell.close()
    assert place.exists()
    other.close()
    other.close()
    assert os.listdir(runtime_dir / "lash") == []


async def test_too_long_a_path_falls_back_to_polling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    bell = hang_bell(STORE, SESSION)
    assert isinstance(bell, PollingBell)
    await asyncio.wait_for(bell.wait(is_busy=True), PATIENCE_S)
    BellRinger(STORE)({SESSION: LogNews(1)})
    assert list(long.iterdir()) == []


@pytest.mark.usefixtures("runtime_dir")
async def test_a_system_without_unix_sockets_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    assert isinstance(hang_bell(STORE, SESSION), PollingBell)
    BellRinger(STORE)({SESSION: LogNews(1)})


async def test_a_place_that_others_can_write_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = bell_root()
    assert root == str(tmp_path / f"lash-{os.getuid()}")
    os.mkdir(root, 0o700)
    assert bell_root() == root
    os.chmod(root, 0o770)
    assert bell_root() is None
    assert isinstance(hang_bell(STORE, SESSION), PollingBell)
    os.rmdir(root)
    os.symlink(tmp_path, root)
    assert bell_root() is None


async def test_a_runtime_directory_of_others_is_not_used(runtime_dir: Path) -> None:
    (runtime_dir / "lash").mkdir(mode=0o755)
    assert bell_root() is None
    assert isinstance(hang_bell(STORE, SESSION), PollingBell)


def test_what_others_have_put_where_the_bells_were_to_be_is_neither_told_nor_removed(
    runtime_dir: Path, tmp_path: Path
) -> None:
    ringer = BellRinger(STORE)
    # As somebody else could who may write the directory above: a place they own, with a way to our files.
    place = Path(bell_directory(str(runtime_dir / "lash"), STORE, SESSION))
    place.parent.mkdir(parents=True)
    (runtime_dir / "lash").chmod(0o777)
    (tmp_path / "letter").write_text("kept")
    place.symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.bind(str(runtime_dir / "s"))
        (tmp_path / "told").symlink_to(runtime_dir / "s")
        stranger.setblocking(False)
        ringer({SESSION: LogNews(1)})
        with pytest.raises(BlockingIOError):
            stranger.recv(1024)
    ringer.close()
    assert (tmp_path / "letter").read_text() == "kept"


@pytest.mark.usefixtures("runtime_dir")
async def test_who_has_no_descriptor_left_for_a_socket_polls() -> None:
    hang_bell(STORE, "s0").close()  # what a bell imports is read before there is nothing left
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        bell = hang_bell(STORE, SESSION)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(bell, PollingBell)


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_a_second_task_on_one_bell_is_refused_and_the_first_goes_on(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)

    async def wait() -> bytes | None:
        return await bell.wait(is_busy=False)

    first = asyncio.create_task(wait())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await bell.wait(is_busy=False)
    ring({SESSION: LogNews(1)})
    await asyncio.wait_for(first, PATIENCE_S)
    bell.close()


@pytest.mark.usefixtures("runtime_dir", "patient")
async def test_a_wait_that_nobody_awaited_hinders_no_other(ring: BellRinger) -> None:
    bell = hang_bell(STORE, SESSION)
    bell.wait(is_busy=False)
    asyncio.get_running_loop().call_soon(ring, {SESSION: LogNews(7)})
    assert await asyncio.wait_for(bell.wait(is_busy=False), PATIENCE_S) == b"7"
    bell.close()


@pytest.mark.usefixtures("runtime_dir")
def test_ringing_for_a_session_nobody_watches_creates_nothing() -> None:
    BellRinger(STORE)({SESSION: LogNews(1)})
    root = bell_root()
    assert root is not None and not os.path.exists(root)


@pytest.mark.usefixtures("runtime_dir")
def test_an_interrupt_anywhere_while_a_ring_is_taken_leaves_nobody_waiting_for_ever(ring: BellRinger) -> None:
    loop = asyncio.new_event_loop()

    async def listen() -> tuple[Bell, asyncio.Task[bytes | None]]:
        bell = hang_bell(STORE, SESSION)

        async def wait() -> bytes | None:
            return await bell.wait(is_busy=False)

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        return bell, waiting

    for place in itertools.count():
        bell, waiting = loop.run_until_complete(listen())
        ring({SESSION: LogNews(place)})
        with interrupted(SocketBell._take, place) as strike, suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait((waiting,)))
        loop.run_until_complete(asyncio.wait((waiting,), timeout=PATIENCE_S))
        assert waiting.done(), strike.place
        # Inside the task an interrupt is the task's own.
        assert type(waiting.exception()) in (type(None), KeyboardInterrupt), strike.place
        bell.close()
        if not strike.has_struck:
            assert waiting.result() == b"%d" % place
            break
    assert place > 8
    loop.close()
