"""Places and permissions as `lash doctor` sees them, and the repair of what others can read (contract 08 §6.8).

Everything below the directories of lash is looked at, whatever wrote it; links
are not followed. The only thing ever changed is the mode of what is the user's
own, and only with `--fix`.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lash_cli.cli.output import Document
from lash_cli.errors import LashError
from lash_cli.paths import Paths
from lash_cli.views.shell_words import shell_word

# Below this a turn may end with a full disk.
LOW_SPACE_BYTES = 64 * 1024 * 1024
_LOOKED_AT = 20_000
_OWN, _OTHERS = 0o700, 0o077
_ELSEWHERE = "choose a writable place with --home DIR or LASH_HOME"


class Finding(NamedTuple):
    """Something wrong. `exit_status` 0 is a warning."""

    code: str
    message: str
    hint: str | None
    exit_status: int

    @staticmethod
    def of(error: LashError) -> Finding:
        """The finding behind an error."""
        return Finding(error.code, error.message, error.hint, error.exit_status)


def places(paths: Paths, findings: list[Finding]) -> list[Document]:
    """Every place with its mode; what cannot be looked at or used is found."""
    log = zip(("database-wal", "database-shm"), paths.beside_database(), strict=True)
    rows = [(name, place) for name, place in paths.rows().items() if place is not None and name != "home"]
    items: list[Document] = []
    for name, place in [("config_dir", paths.config_dir), *rows, *log]:
        try:
            mode: int | None = stat.S_IMODE(os.stat(place).st_mode)
        except FileNotFoundError:
            mode = None
        except OSError as error:
            mode = None
            findings.append(Finding("permissions_unsafe", f"cannot look at {place}: {error.strerror}", None, 5))
        items.append({"name": name, "path": place, "exists": mode is not None, "mode": _mode_text(mode)})
    known = {item["path"] for item in items if item["exists"]}
    for place in sorted(known | set(_inside(paths))):
        _check_place(place, _directories(paths), findings)
    for place in sorted(known):
        if not os.access(place, os.W_OK):
            findings.append(_unwritable(place))
    findings.extend(_not_to_be_made(paths))
    findings.extend(_about_the_disk(paths))
    return items


def repair(paths: Paths) -> list[str]:
    """Make every file of the user private that others can read; the paths that were changed, sorted."""
    fixed = []
    named = {place for name, place in paths.rows().items() if place is not None and name != "home"}
    for place in sorted({paths.config_dir, *named, *paths.beside_database(), *_inside(paths)}):
        found = _shared(place, _directories(paths))
        if found is None or os.stat(place).st_uid != os.getuid():
            continue
        os.chmod(place, found)
        fixed.append(place)
    return fixed


def _directories(paths: Paths) -> set[str]:
    return {paths.config_dir, paths.data_dir, paths.state_dir}


def _mode_text(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:04o}"


def _inside(paths: Paths) -> Iterator[str]:
    """What is below the directories of lash, as far as a look costs little; never what is below somebody's home."""
    left = _LOOKED_AT
    for top in sorted(_directories(paths) - {os.path.expanduser("~"), os.sep}):
        for directory, names, files in os.walk(top):
            for name in (*names, *files):
                place = os.path.join(directory, name)
                left -= 1
                if left < 0:
                    return
                if not os.path.islink(place):
                    yield place


def _shared(place: str, ours: set[str]) -> int | None:
    """The mode a place should have when others can get at it; None when it is as it should be.

    Files are private; a directory is when it is one of ours or inside one. A socket is guarded by its directory.
    """
    try:
        mode = os.stat(place).st_mode
    except OSError:
        return None
    if not stat.S_IMODE(mode) & _OTHERS or stat.S_ISSOCK(mode):
        return None
    is_inside = any(place == top or place.startswith(top + os.sep) for top in ours)
    return mode & _OWN if is_inside or not stat.S_ISDIR(mode) else None


def _check_place(place: str, ours: set[str], findings: list[Finding]) -> None:
    wanted = _shared(place, ours)
    if wanted is not None:
        hint = f"chmod {wanted:o} {shell_word(place)}"
        findings.append(Finding("permissions_unsafe", f"others can read {place}", hint, 5))


def _unwritable(place: str) -> Finding:
    try:
        is_read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    except OSError:
        is_read_only = False  # it is gone meanwhile, as the log of a database is that somebody closed
    if is_read_only:  # no mode can be changed there
        return Finding("permissions_unsafe", f"cannot write {place}: its disk is read-only", _ELSEWHERE, 5)
    return Finding("permissions_unsafe", f"cannot write {place}", f"chmod u+w {shell_word(place)}", 5)


def _not_to_be_made(paths: Paths) -> Iterator[Finding]:
    """Directories that are not there yet and cannot be made where they are to be; one finding for each such place."""
    told: set[str] = set()
    for directory in sorted(_directories(paths) | {os.path.dirname(paths.database)}):
        above = directory
        while not os.path.lexists(above) and above != os.path.dirname(above):
            above = os.path.dirname(above)
        is_usable = os.path.isdir(above) and (above == directory or os.access(above, os.W_OK | os.X_OK))
        if not is_usable and above not in told:
            told.add(above)
            reason = "cannot be written" if os.path.isdir(above) else "is not a directory"
            yield Finding("permissions_unsafe", f"cannot make {directory}: {above} {reason}", _ELSEWHERE, 5)


def _about_the_disk(paths: Paths) -> Iterator[Finding]:
    from lash_cli.store.sqlite.filesystem import network_filesystem

    kind = network_filesystem(Path(paths.database))
    if kind is not None:
        message = f"the database is on a network file system ({kind}), where two machines would damage it"
        yield Finding("network_filesystem", message, "keep it on a local disk: --db FILE or LASH_DB", 5)
    try:
        free = shutil.disk_usage(os.path.dirname(paths.database)).free
    except OSError:
        return  # there is no such directory yet
    if free < LOW_SPACE_BYTES:
        message = f"only {free // (1024 * 1024)} MiB are free for {paths.database}"
        yield Finding("disk_almost_full", message, "make room; lash gc and lash db vacuum may help", 0)
