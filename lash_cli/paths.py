"""Where the files of lash live (contract 08 §6.7, §6.8).

`LASH_HOME` or `--home` collapses every location into one directory; otherwise
each kind of file goes where the system keeps it. Nothing is created here except
by `ensure_private_directory`, and what that creates only its owner can enter.
Whoever reads a file that was named to it opens it by `only_regular` or
`regular_or_given`: a pipe nobody writes to would hold it up for ever, and a
device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping

from lash_cli.errors import ConfigError, ConflictError, LashError, LashRuntimeError, StoreReadOnly, UsageError

PRIVATE_DIRECTORY_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
_GIVEN_PLACES = ("/dev/fd", "/proc/self/fd")
# A descriptor may lead to a regular file, which belongs to whoever opened it.
_STREAM_PLACES = ("/dev", "/dev/fd")
# Why a file cannot be written: there can be none of that name, this user may not, or nothing more fits.
_NO_PLACE = frozenset(
    (
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
        errno.ENXIO, errno.ENODEV,
    )
)  # fmt: skip
_NOT_ALLOWED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# How what is about to replace a file is called beside it, and how old it is at least when a writer is known to be dead
# that has not written anything.
_DRAFT_BYTES = 8
_DIGITS = frozenset("0123456789abcdef")
_DRAFT_ENDING = ".new"
_ABANDONED_SECONDS = 60.0


def current_directory() -> str:
    """The current directory; raises `ConfigError` (`working_directory_missing`) when it was removed under us."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the current directory does not exist any more",
            code="working_directory_missing",
            hint="go to one that does, for example: cd",
        ) from error


def from_here(path: str) -> str:
    """`path` with the current directory in front of it, if it is relative. Raises as `current_directory` then."""
    return path if os.path.isabs(path) else os.path.join(current_directory(), path)


def absolute(path: str) -> str:
    """`from_here`, without `.` and `..`. Raises as that."""
    return os.path.normpath(from_here(path))


def current_place() -> str:
    """The current directory as sessions remember where they belong: bytes that are no UTF-8 are visible escapes.

    Raises as `current_directory`.
    """
    return path_text(current_directory())


def path_text(path: str) -> str:
    """`path` as text that can be stored and sent, whatever bytes it has and whatever the locale is."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def current_directory_or_root() -> str:
    """The current directory; the root when it was removed under us, where no project is."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


class Paths:
    """Absolute locations. Files need not exist."""

    def __init__(self, *, config_dir: str, data_dir: str, state_dir: str, runtime_dir: str, home: str | None) -> None:
        self.home = home  # None when the system's own places are used
        self.config_dir = config_dir
        self.data_dir = data_dir
        self.state_dir = state_dir
        self.runtime_dir = runtime_dir
        self.config_file = os.path.join(config_dir, "config.toml")
        self.keys_file = os.path.join(config_dir, "keys.toml")
        self.usual_database = self.database = os.path.join(data_dir, "lash.db")
        self.log_file = os.path.join(state_dir, "lash.log")

    def beside_database(self) -> tuple[str, str]:
        """The two files that SQLite keeps beside the database while it is open, or beside what that is a link to."""
        real = os.path.realpath(self.database)
        return real + "-wal", real + "-shm"

    def rows(self) -> dict[str, str | None]:
        """Every location by name, for `config path` and `doctor`."""
        return {
            "home": self.home,
            "config_file": self.config_file,
            "keys_file": self.keys_file,
            "database": self.database,
            "data_dir": self.data_dir,
            "state_dir": self.state_dir,
            "log_file": self.log_file,
            "runtime_dir": self.runtime_dir,
        }


def resolve_paths(
    environment: Mapping[str, str],
    *,
    home: str | None = None,
    database: str | None = None,
    log_file: str | None = None,
) -> Paths:
    """The paths of this invocation: options first, then `LASH_HOME`, `LASH_DB`, `LASH_CONFIG`, `LASH_LOG_FILE`.

    Raises `ConfigError`: `home_unknown` when the system's own places are wanted and the user has no home directory, and
    as `absolute`.
    """
    root = home or environment.get("LASH_HOME") or None
    if root is not None:
        root = absolute(os.path.expanduser(root))
        runtime = os.path.join(root, "run")
        paths = Paths(config_dir=root, data_dir=root, state_dir=root, runtime_dir=runtime, home=root)
    else:
        paths = _system_paths(environment)
    chosen_database = database or environment.get("LASH_DB")
    if chosen_database:
        paths.database = absolute(os.path.expanduser(chosen_database))
    if environment.get("LASH_CONFIG"):
        paths.config_file = absolute(os.path.expanduser(environment["LASH_CONFIG"]))
    chosen_log = log_file or environment.get("LASH_LOG_FILE")
    if chosen_log:
        paths.log_file = absolute(os.path.expanduser(chosen_log))
    return paths


def _system_paths(environment: Mapping[str, str]) -> Paths:
    import platformdirs  # costs more than everything else here, and LASH_HOME does without it

    config_dir, data_dir, state_dir = _known(
        lambda: (
            platformdirs.user_config_dir("lash"),
            platformdirs.user_data_dir("lash"),
            platformdirs.user_state_dir("lash"),
        ),
        hint="set HOME, or say where everything is to live with --home DIR or LASH_HOME",
    )
    # Without a runtime directory of the system's own, a shared place such as /tmp is no substitute; a relative one
    # is none, as XDG has it.
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Paths(
        config_dir=config_dir,
        data_dir=data_dir,
        state_dir=state_dir,
        runtime_dir=os.path.join(runtime, "lash")
        if runtime and os.path.isabs(runtime)
        else os.path.join(state_dir, "run"),
        home=None,
    )


def shell_directories() -> tuple[str, ...]:
    """Where the files of shells are, those that are data and those that configure: on every system where XDG has them.

    Raises `ConfigError` (`home_unknown`).
    """
    from platformdirs.unix import Unix

    return _known(lambda: (Unix().user_data_dir, Unix().user_config_dir), hint="set HOME")


def _known(look_up: Callable[[], tuple[str, ...]], *, hint: str) -> tuple[str, ...]:
    """The directories that are looked up. Raises `ConfigError` where one is not known, as in a container that runs
    under a number no user has."""
    try:
        places = look_up()
    except RuntimeError:
        places = ("",)
    if not all(os.path.isabs(place) for place in places):
        raise ConfigError(
            "no home directory is known: HOME is not set and this user has none", code="home_unknown", hint=hint
        )
    return places


def ensure_private_directory(path: str) -> None:
    """Create `path` with mode 0700 if it is missing; an existing directory is left as it is.

    Raises as `unusable_path` when it cannot be created or is not a directory.
    """
    try:
        os.makedirs(path, mode=PRIVATE_DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise unusable_path(path, error, "create the directory") from error


def unusable_path(path: str, error: OSError, action: str) -> LashError:
    """The error for a location that cannot be used for `action`.

    `StoreReadOnly` (`permissions_unsafe`) where that takes another place, `LashRuntimeError` (`output_not_written`)
    where the disk is full or fails.
    """
    reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown reason")
    message, details = f"cannot {action} {path}: {reason}", {"path": path}
    if error.errno in _NO_PLACE or error.errno in _NOT_ALLOWED:
        hint = "choose a writable place with --home DIR or LASH_HOME, or see: lash doctor"
        return StoreReadOnly(message, hint=hint, details=details)
    hint = "make room there, then try again" if error.errno in _NO_ROOM else "see what is wrong with that disk"
    return LashRuntimeError("output_not_written", message, hint=hint, details=details)


def unwritten_file(path: str | os.PathLike[str], error: OSError, so_far: str = "nothing was done") -> LashError:
    """The error for a file that somebody named to be written and that could not be (contract 08 §6.4).

    `UsageError` (`output_unwritable`) where no file can be, `ConfigError` (`permissions_unsafe`) where this user may
    make none, `LashRuntimeError` (`output_not_written`) for any other reason, such as a full disk. `so_far` is what
    became of the rest.
    """
    reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown reason")
    name = os.fspath(path)
    message, details = f"cannot write {name}: {reason}", {"path": name}
    if error.errno in _NO_PLACE:
        hint = f"name another file, in a directory that exists; {so_far}"
        return UsageError(message, code="output_unwritable", hint=hint, details=details)
    if error.errno in _NOT_ALLOWED:
        return ConfigError(
            message, code="permissions_unsafe", hint=f"name a file where you may write; {so_far}", details=details
        )
    hint = f"{'make room there, or ' if error.errno in _NO_ROOM else ''}name another file; {so_far}"
    return LashRuntimeError("output_not_written", message, hint=hint, details=details)


def taken_file(path: str | os.PathLike[str], hint: str) -> ConflictError:
    """The error for a file that was to be made and is there already (`file_exists`); `hint` is what to do then."""
    name = os.fspath(path)
    return ConflictError(f"{name} exists", code="file_exists", hint=hint, details={"path": name})


def readable_hint(path: str | os.PathLike[str]) -> str | None:
    """What helps where a file cannot be read; None for one that is not there, or can be."""
    import shlex  # only where something failed

    name = os.fspath(path)
    elsewhere = "choose your own place with --home DIR or LASH_HOME"
    try:
        owner = os.stat(name).st_uid
    except PermissionError:
        return f"a directory above it is closed to you: {elsewhere}"
    except OSError:
        return None
    if os.access(name, os.R_OK):
        return None
    if owner != os.geteuid():
        return f"it belongs to somebody else: {elsewhere}"
    return f"make it readable for you: chmod u+rw {shlex.quote(name)}"


def is_stream(path: str) -> bool:
    """Whether `path` is something to write to rather than a file to make or replace. Raises as `absolute`."""
    directory = os.path.dirname(absolute(path))
    if directory in _STREAM_PLACES or directory.startswith("/proc/"):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def shared_bits(path: str) -> int:
    """The permission bits of `path` that others than its owner hold; 0 when it is private or absent."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return 0
    return stat.S_IMODE(mode) & 0o077


def only_regular(path: str, flags: int) -> int:
    """An opener for `open` that opens nothing but a regular file. Raises `OSError`, for anything else before it is
    touched."""
    _require_regular(os.stat(path), path)
    # Something else may have taken its place since.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def regular_or_given(path: str, flags: int) -> int:
    """As `only_regular`, and the pipes that this process was started with: `/dev/stdin`, and what a shell puts in the
    place of `<(command)`."""
    is_given = path == "/dev/stdin" or os.path.dirname(path) in _GIVEN_PLACES
    if is_given and stat.S_ISFIFO(os.stat(path).st_mode):
        return os.open(path, flags | os.O_CLOEXEC)
    return only_regular(path, flags)


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)


def write_private_file(path: str, data: bytes) -> None:
    """`replace_file`, whose directory is made if it is missing. Raises as `unusable_path` when it cannot be written."""
    ensure_private_directory(os.path.dirname(path))
    try:
        replace_file(path, data)
    except OSError as error:
        raise unusable_path(path, error, "write") from error


def replace_file(path: str, data: bytes, *, is_lasting: bool = True) -> None:
    """Replace `path` atomically by `data` with mode 0600; readers see the old or the new content, never a part.

    It is synced, and `sweep_drafts` is done; neither is with `is_lasting` false, for what is written again and again.
    Raises `OSError`, and then the file is as it was.
    """
    # A name nobody can foresee, and one of its own for each writer: at any other a link may wait.
    draft = f"{path}.{os.urandom(_DRAFT_BYTES).hex()}{_DRAFT_ENDING}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, PRIVATE_FILE_MODE), "wb") as file:
        try:
            _lock(file.fileno())
            file.write(data)
            file.flush()
            if is_lasting:
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            _remove(draft)
            raise
    if is_lasting:
        sweep_drafts(path)


def sweep_drafts(path: str) -> None:
    """Remove what processes left beside `path` that were killed while they replaced it, as far as its directory can be
    read."""
    directory, name = os.path.split(path)
    first, last = f"{name}.", _DRAFT_ENDING
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for other in names:
        drawn = other.removeprefix(first).removesuffix(last)
        # Only what we drew: a name that somebody chose, with a day in it, may be as long.
        if other == first + drawn + last and len(drawn) == 2 * _DRAFT_BYTES and _DIGITS.issuperset(drawn):
            _remove_abandoned(os.path.join(directory, other))


def _remove_abandoned(draft: str) -> None:
    """Remove what a process left that was killed: nobody locks it. An empty one may be about to be locked."""
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            is_written = status.st_size > 0 or time.time() - status.st_mtime > _ABANDONED_SECONDS
            if is_written and _lock(descriptor, waits=False):
                os.unlink(draft)
        finally:
            os.close(descriptor)
    except OSError:
        return  # another process may do the same


def _remove(draft: str) -> None:
    try:
        os.unlink(draft)
    except FileNotFoundError:
        return  # interrupted right after it was put in place


def _lock(descriptor: int, *, waits: bool = True) -> bool:
    """Whether a file is locked for this process now; False also where files cannot be locked."""
    import fcntl  # few commands write a file

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
