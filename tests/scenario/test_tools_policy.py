"""The file policy against real links: nothing leads out of the roots or into the denied directories."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lash_cli.core.tools import FailureClass
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.policy import FilePolicy, require_regular
from lash_cli.tools.writing import replace_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (made / "inside").write_text("inside")
    return made


def refused(policy: FilePolicy, path: str, cwd: Path) -> ToolFault:
    for resolve in (policy.resolve_read, policy.resolve_write):
        with pytest.raises(ToolFault) as caught:
            resolve(path, cwd)
        assert caught.value.code == "path_outside_roots"
    return caught.value


def test_a_path_inside_is_resolved_relative_to_the_working_directory(root: Path) -> None:
    policy = FilePolicy((root,))
    assert policy.resolve_read("inside", root) == root / "inside"
    assert policy.resolve_write(str(root / "a" / ".." / "new"), Path("/")) == root / "new"


@pytest.mark.parametrize("path", ["../outside/secret", "/etc/passwd", "a/../../outside/secret", "~", "..", "/"])
def test_no_spelling_leads_outside_and_the_refusal_names_the_roots(root: Path, path: str) -> None:
    fault = refused(FilePolicy((root,)), path, root)
    assert fault.failure_class is FailureClass.PERMISSION_DENIED
    assert str(root) in fault.message


def test_a_root_whose_name_begins_like_another_does_not_cover_it(root: Path) -> None:
    (root.parent / "project-other").mkdir()
    refused(FilePolicy((root,)), "../project-other/file", root)


@pytest.mark.parametrize(
    "path", ["file", "directory/secret", "directory/new/deep", "dangling", "twice", "directory/dangling"]
)
def test_no_symbolic_link_leads_outside(root: Path, path: str) -> None:
    outside = root.parent / "outside"
    (root / "file").symlink_to(outside / "secret")
    (root / "directory").symlink_to(outside)
    (root / "dangling").symlink_to(outside / "not-yet-there")
    (root / "twice").symlink_to(root / "file")
    (outside / "dangling").symlink_to(outside / "nor-this")
    refused(FilePolicy((root,)), path, root)


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    (root / "link").symlink_to("inside")
    assert FilePolicy((root,)).resolve_write("link", root) == root / "inside"


def test_a_root_reached_through_a_link_is_the_directory_behind_it(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    policy = FilePolicy((root.parent / "alias",))
    assert policy.resolve_read("inside", root.parent / "alias") == root / "inside"


@pytest.mark.parametrize("path", ["", "a\0b", "a" + "/" * 4096])
def test_an_impossible_path_is_a_bad_request(root: Path, path: str) -> None:
    with pytest.raises(ToolFault) as caught:
        FilePolicy((root,)).resolve_read(path, root)
    assert caught.value.code == "invalid_path"


def test_a_denied_directory_inside_of_a_root_stays_closed(root: Path) -> None:
    (root / "home").mkdir()
    (root / "home" / "keys.toml").write_text("key")
    (root / "way-in").symlink_to("home")
    policy = FilePolicy((root,), denied=(root / "home",))
    for path in ("home/keys.toml", "home", "way-in/keys.toml", "home/../home/keys.toml"):
        refused(policy, path, root)
    assert policy.resolve_read("inside", root)


def test_denied_wins_over_allow_outside_and_over_an_equal_root(root: Path) -> None:
    outside = root.parent / "outside"
    open_policy = FilePolicy((root,), allow_outside=True, denied=(outside,))
    assert open_policy.resolve_read("/etc/hostname", root)
    refused(open_policy, str(outside / "secret"), root)
    refused(FilePolicy((outside,), denied=(outside,)), "secret", outside)


def test_a_root_deeper_than_the_denied_directory_is_usable(root: Path) -> None:
    policy = FilePolicy((root,), denied=(root.parent,))
    assert policy.resolve_write("inside", root)
    refused(policy, "../keys.toml", root)


def test_what_is_denied_is_what_stands_there_now(root: Path) -> None:
    """As a file with keys that is written anew, and so is another file, under another spelling of its name."""
    keys, again, free = (root / name for name in ("keys.toml", "KEYS.toml", "free"))
    keys.write_text("old")
    policy = FilePolicy((root,), denied=(keys, root / "later.toml"))
    keys.rename(free)
    keys.write_text("new")
    (root / "later.toml").write_text("new")
    again.hardlink_to(keys)
    (root / "LATER.toml").hardlink_to(root / "later.toml")
    for name in ("keys.toml", "KEYS.toml", "later.toml", "LATER.toml"):
        refused(policy, name, root)
    assert policy.resolve_read("free", root) == free


def test_the_environment_of_processes_is_never_readable(root: Path) -> None:
    refused(FilePolicy((root,), allow_outside=True), "/proc/self/environ", root)
    refused(FilePolicy((Path("/"),)), f"/proc/{os.getpid()}/environ", root)


def test_with_a_readable_tree_everything_else_is_as_before(root: Path) -> None:
    outside = root.parent / "outside"
    policy = FilePolicy((root,), allow_outside=True, denied=(outside,)).with_readable(outside / "kept")
    assert policy.resolve_write("/etc/hostname", root)
    assert policy.resolve_read(str(outside / "kept" / "file"), root)
    refused(policy, str(outside / "secret"), root)


def test_a_readable_tree_cannot_be_written(root: Path) -> None:
    policy = FilePolicy((root,)).with_readable(root.parent / "outside")
    assert policy.resolve_read("../outside/secret", root)
    with pytest.raises(ToolFault):
        policy.resolve_write("../outside/secret", root)


def test_a_file_swapped_for_a_link_after_the_check_is_not_opened(root: Path) -> None:
    policy = FilePolicy((root,))
    real = policy.resolve_read("inside", root)
    real.unlink()
    real.symlink_to(root.parent / "outside" / "secret")
    with pytest.raises(ToolFault) as caught:
        policy.open_file(real)
    assert caught.value.code == "path_outside_roots"
    with pytest.raises(ToolFault):
        replace_file(policy, real, b"overwritten")
    assert (root.parent / "outside" / "secret").read_text() == "secret"


def test_a_directory_swapped_for_a_link_after_the_check_is_not_entered(root: Path) -> None:
    policy = FilePolicy((root,))
    (root / "sub").mkdir()
    (root / "sub" / "secret").write_text("harmless")
    real = policy.resolve_write("sub/secret", root)
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to(root.parent / "outside")
    with pytest.raises(ToolFault):
        policy.open_file(real)
    with pytest.raises(ToolFault):
        replace_file(policy, real, b"overwritten")
    assert (root.parent / "outside" / "secret").read_text() == "secret"
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    policy = FilePolicy((root,))
    with pytest.raises(ToolFault):
        policy.open_file(policy.resolve_read("loop", root))


def test_a_fifo_is_not_opened_and_one_that_takes_the_place_of_a_file_neither_blocks_nor_reads(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "fifo")
    policy = FilePolicy((root,))
    with pytest.raises(ToolFault, match="not a regular file"):
        policy.open_file(policy.resolve_read("fifo", root))
    real = policy.resolve_read("inside", root)
    look = os.stat

    def look_then_swap(name: str, **how: Any) -> os.stat_result:
        status = look(name, **how)
        (root / "fifo").rename(real)
        return status

    monkeypatch.setattr(os, "stat", look_then_swap)
    descriptor = policy.open_file(real)
    with pytest.raises(ToolFault, match="not a regular file"):
        require_regular(descriptor, "inside")
    os.close(descriptor)


# Whoever syncs the content is killed there: the old file is as it was, and so is its directory.
KILLED = """
import os, signal, sys
from pathlib import Path
from lash_cli.tools import writing
from lash_cli.tools.policy import FilePolicy
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
root = Path(sys.argv[1])
writing.replace_file(FilePolicy((root,)), root / "file", b"new" * 100_000)
"""


unnamed = pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="only Linux has files without a name")


@unnamed
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"old"


@unnamed
@pytest.mark.parametrize("lacking", ["O_TMPFILE", "tmpfile", "link"])
def test_a_file_is_replaced_where_none_can_be_without_a_name(tmp_path: Path, monkeypatch, lacking: str) -> None:
    opening = os.open

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM if lacking == "link" else errno.EOPNOTSUPP, "not here")

    def opened(path: str, flags: int, *arguments: int, **options: int) -> int:
        is_unnamed = flags & os.O_TMPFILE == os.O_TMPFILE
        return refuse() if is_unnamed else opening(path, flags, *arguments, **options)  # type: ignore[func-returns-value]

    match lacking:
        case "O_TMPFILE":
            monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        case "tmpfile":
            monkeypatch.setattr(os, "open", opened)
        case _:
            monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "file"
    policy = FilePolicy((tmp_path,))
    assert replace_file(policy, target, b"old") and not replace_file(policy, target, b"new")
    with pytest.raises(ToolFault):
        replace_file(policy, target, b"newer", expected=b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
