"""The doorbell: how a commit wakes whoever watches a session, in any process (contract 04 §10.4).

SQLite is the truth, a ring is a hint to look; it may carry what it rings for,
and its hearer judges by itself whether that is what comes next. Every observer owns one Unix
datagram socket in a directory of the session it watches; whoever committed
sends a datagram to each socket there. No registry, no connection, no daemon: an
address whose owner died is removed by the first ring that finds nobody, or by
the next observer. A ring
that cannot be delivered changes nothing, because observers look by themselves
four times a second. Where there are no such sockets, or the path to one would
be too long, the observer polls.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from binascii import crc32
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    import socket

    from lash_cli.runtime.waking import PromptWait
    from lash_cli.store.live import LiveNews

# An observer looks this often even when nobody rings: a writer may die between COMMIT and ring.
BACKSTOP_SECONDS: Final = 0.25
# Without sockets: how often to look while somebody holds the lane, and while nobody does.
POLL_BUSY_SECONDS: Final = 0.005
POLL_IDLE_SECONDS: Final = 0.1

# Where there are no users, no socket can be kept from others.
_HAS_USERS: Final = hasattr(os, "getuid")
# What fits into a socket address with its final zero: 104 bytes on macOS, 108 on Linux.
_LONGEST_PATH: Final = 103
_PRIVATE: Final = 0o700
_TEMPORARY: Final = "/tmp"
# Longer than any message of a ring.
_DRAIN_BYTES: Final = 1024
_UNREAD_BYTES: Final = 1024 * 1024
# Who waited this long before it rang had read everything.
_CALM_SECONDS: Final = 0.001
_BIND_ATTEMPTS: Final = 8
# An address stands a moment before somebody can be reached at it.
_SWEPT_AFTER_NS: Final = 5_000_000_000
_KNOWN_DIRECTORIES: Final = 1024
# A listing taken this soon after the directory changed may have missed a change of the same clock tick.
_RACY_NS: Final = 50_000_000


def bell_root() -> str | None:
    """The directory of this user's bells: in `XDG_RUNTIME_DIR`, else in a private directory of the temporary one.

    None when the place exists but is not ours alone.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        root = os.path.join(runtime, "lash")
    else:
        root = os.path.join(os.environ.get("TMPDIR") or _TEMPORARY, f"lash-{os.getuid()}")
    try:
        return root if _is_ours(root) else None
    except FileNotFoundError:
        return root
    except OSError:
        return None


def _is_ours(root: str) -> bool:
    """Whether nobody else can put anything into `root`, such as an address to send to or a link to follow."""
    status = os.lstat(root)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def bell_directory(root: str, store_name: str, session_id: str) -> str:
    """Where the sockets of one session's observers are; short, because an address is."""
    return os.path.join(root, _short(store_name), _short(session_id))


def _short(name: str) -> str:
    # Two names that come out alike share a directory, and a ring too many only costs a look.
    return f"{crc32(name.encode()):08x}"


class BellRinger:
    """Wakes the observers of a store's sessions; called after COMMIT, by one thread at a time.

    A session nobody watches costs one look for a directory that is not there.
    """

    def __init__(self, store_name: str) -> None:
        self._socket: socket.socket | None = None
        self._store_name = store_name
        self._root = bell_root() if _HAS_USERS else None
        self._directories: dict[str, str] = {}
        self._listings: dict[str, tuple[int, tuple[str, ...]]] = {}

    def __del__(self) -> None:
        # A command leaves its ringer to its store, and whoever closes it may be followed by a last ring.
        self.close()

    def __call__(self, news: Mapping[str, LiveNews]) -> None:
        """Ring for every session in `news`."""
        if self._root is None:
            return
        for session_id, appended in news.items():
            directory = self._directories.get(session_id)
            if directory is None:
                if len(self._directories) >= _KNOWN_DIRECTORIES:
                    self._directories.clear()
                directory = self._directories[session_id] = bell_directory(self._root, self._store_name, session_id)
            addresses = self._listed(directory)
            if addresses:
                message = appended.message()
                for address in addresses:
                    self._send(address, message)

    def close(self) -> None:
        """Give the socket back. A later ring takes another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listed(self, directory: str) -> tuple[str, ...]:
        """The addresses in a directory, read again only when it changed."""
        known = self._listings.get(directory)
        if known is None and not os.access(directory, os.F_OK):
            # As mostly. A `stat` that finds nothing makes an error, and that takes longer than the answer to this.
            return ()
        try:
            changed_ns = os.stat(directory).st_mtime_ns
            if known is not None and known[0] == changed_ns:
                return known[1]
            if self._root is None or not _is_ours(self._root):
                # Made by somebody else since we began: what lies there is not to be told anything, nor removed.
                return ()
            is_racy = time.time_ns() - changed_ns < _RACY_NS
            addresses = tuple(entry.path for entry in os.scandir(directory))
        except OSError:
            self._listings.pop(directory, None)
            return ()
        if is_racy:
            self._listings.pop(directory, None)
        else:
            self._listings[directory] = (changed_ns, addresses)
        return addresses

    def _send(self, address: str, message: bytes) -> None:
        if self._socket is None:
            import socket  # most commands find nobody to ring for (design D16)

            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            # What observers that were stopped left unread counts against the sender: as much of it as is allowed.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
        try:
            self._socket.sendto(message, address)
        except (ConnectionRefusedError, FileNotFoundError):
            # Nobody is behind it any more.
            with contextlib.suppress(OSError):
                os.unlink(address)
        except BlockingIOError:
            # The observer has rings waiting that it did not look at yet; one more would tell it nothing.
            return
        except OSError as error:
            _debug("a bell could not be rung at %s: %s", address, error)


def _debug(message: str, *arguments: object) -> None:
    import logging  # which costs a command that says nothing more than its ring (design D16)

    logging.getLogger("lash.live").debug(message, *arguments)


class Bell(Protocol):
    """What an observer waits on. Arm it, look, and only then wait: a ring in between is kept."""

    def wait(self, *, is_busy: bool) -> Awaitable[bytes | None]:
        """Awaited, it returns when there may be something new: the message of the ring if it was the only one since
        the last wait, else None. `is_busy` says that somebody works on the session. Await it at once and from one
        task; cancelling that loses no ring."""
        ...

    def close(self) -> None:
        """Stop listening. May be repeated."""
        ...


class PollingBell:
    """A bell that rings by itself, for systems and places without sockets."""

    async def wait(self, *, is_busy: bool) -> None:
        """See `Bell.wait`."""
        import asyncio

        await asyncio.sleep(POLL_BUSY_SECONDS if is_busy else POLL_IDLE_SECONDS)

    def close(self) -> None:
        """See `Bell.close`."""


class SocketBell:
    """An observer's own datagram socket, read by the running loop. Made by `hang_bell`."""

    def __init__(self, listening: socket.socket, address: str) -> None:
        self._socket = listening
        self.address = address
        self._has_rung = False
        self._message: bytes | None = None
        import asyncio

        from lash_cli.runtime.waking import PromptWait

        self._new_wait = PromptWait
        self._waiter: PromptWait[bytes | None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening, self._take)
        # One timer for many waits: it is put off when it comes due, not at every ring.
        self._backstop: asyncio.TimerHandle | None = None
        self._waits_since = 0.0

    def _take(self) -> None:
        """Take what rang, and hand it to who waits."""
        waiter = self._waiter
        if waiter is not None and not waiter.is_awaited:
            # Its task was cancelled and did not hear of it yet: what rings meanwhile is kept for the next wait.
            waiter = None
        try:
            message: bytes | None = self._socket.recv(_DRAIN_BYTES)
            if waiter is None or time.monotonic() - self._waits_since < _CALM_SECONDS:
                message = self._drained(message)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if waiter is None:
            self._message = message
            self._has_rung = True
        else:
            self._waiter = None
            try:
                waiter.end_now(message)
            except BaseException:
                # Ctrl-C: whoever still waits for this ring is to look.
                waiter.end_soon(None)
                raise

    def _drained(self, message: bytes | None) -> bytes | None:
        """Empty the socket: of several rings none is kept. It may have been full, and what was refused then is found
        by a look, which answers all of them. After a calm wait nothing of this is asked, because there was room."""
        if self._has_rung:
            message = None
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(_DRAIN_BYTES)
                message = None
        return message

    def _backstop_is_due(self) -> None:
        self._backstop = None
        waiter = self._waiter
        if waiter is None or not waiter.is_awaited:
            return
        left_s = self._waits_since + BACKSTOP_SECONDS - time.monotonic()
        if left_s > 0:
            self._backstop = self._loop.call_later(left_s, self._backstop_is_due)
        else:
            self._waiter = None
            waiter.end_now(None)

    def wait(self, *, is_busy: bool) -> PromptWait[bytes | None]:
        """See `Bell.wait`; returns after `BACKSTOP_SECONDS` at the latest."""
        waiter: PromptWait[bytes | None] = self._new_wait(loop=self._loop)
        if self._has_rung:
            waiter.set_result(self._message)
            self._message = None
            self._has_rung = False
            return waiter
        if self._waiter is not None and self._waiter.is_awaited:
            # One of the two would never go on.
            raise RuntimeError("another task is waiting on this stream; every observer needs a stream of its own")
        self._waiter = waiter
        self._waits_since = time.monotonic()
        if self._backstop is None:
            self._backstop = self._loop.call_later(BACKSTOP_SECONDS, self._backstop_is_due)
        return waiter

    def close(self) -> None:
        """See `Bell.close`; the address is removed, and its directory with the last one."""
        if self._socket.fileno() < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._backstop is not None:
            self._backstop.cancel()
            self._backstop = None
        # Who waits is woken to end, not to be given one more.
        self._message = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.end_soon(None)
        with contextlib.suppress(OSError):
            os.unlink(self.address)
            session_directory = os.path.dirname(self.address)
            os.rmdir(session_directory)
            os.rmdir(os.path.dirname(session_directory))


def hang_bell(store_name: str, session_id: str) -> Bell:
    """A bell for one observer of a session, in the running loop; polls where no socket can be had."""
    import socket

    root = bell_root() if _HAS_USERS and hasattr(socket, "AF_UNIX") else None
    if root is None:
        return PollingBell()
    directory = bell_directory(root, store_name, session_id)
    address = os.path.join(directory, f"{os.getpid()}-{os.urandom(3).hex()}")
    if len(os.fsencode(address)) > _LONGEST_PATH:
        return PollingBell()
    try:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as error:
        _debug("no socket for a bell, polling instead: %s", error)
        return PollingBell()
    listening.setblocking(False)
    try:
        _bind(listening, address, directory, root)
        _sweep(directory)
        return SocketBell(listening, address)
    except (OSError, NotImplementedError) as error:
        listening.close()
        with contextlib.suppress(OSError):
            os.unlink(address)
        _debug("no bell at %s, polling instead: %s", address, error)
        return PollingBell()


def _bind(listening: socket.socket, address: str, directory: str, root: str) -> None:
    """Bind inside directories only this user can enter; another observer may remove an empty one at any time."""
    for attempt in range(_BIND_ATTEMPTS):
        for place in (root, os.path.dirname(directory), directory):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(place, _PRIVATE)
        if bell_root() is None:
            raise PermissionError(f"{root} belongs to somebody else")
        try:
            listening.bind(address)
            return
        except FileNotFoundError:
            if attempt == _BIND_ATTEMPTS - 1:
                raise


def _sweep(directory: str) -> None:
    """Remove the addresses in `directory` that nobody is behind: of a session that nobody writes to no ring would, and
    who watches it again and again and is killed each time would fill the place."""
    import socket

    with contextlib.suppress(OSError):
        newest_ns = time.time_ns() - _SWEPT_AFTER_NS
        for entry in os.scandir(directory):
            if entry.stat(follow_symlinks=False).st_mtime_ns > newest_ns:
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(entry.path)
                except ConnectionRefusedError:
                    os.unlink(entry.path)
