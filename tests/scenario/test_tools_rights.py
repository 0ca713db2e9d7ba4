# ruff: noqa: ASYNC240 - small files in a test may block
"""Who may do what with a file is as before when a tool replaced it, and as its directory says when a tool made it
(contract 05 §6)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.rights import ACCESS, DEFAULT, acl, set_or_skip
from support.tools import Workbench, value_of

from lash_cli import umask


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


async def replaced(bench: Workbench, path: Path) -> None:
    value_of(await bench.call("write", path=str(path), content="new"))
    assert path.read_text() == "new"


async def test_rights_of_single_users_and_what_programs_keep_with_a_file_stay(bench: Workbench) -> None:
    path = bench.write("file", "old")
    rights = acl(owner=6, group=0, other=0, somebody=6)
    set_or_skip(path, "user.kept", b"by a program")
    set_or_skip(path, ACCESS, rights)
    mode = path.stat().st_mode
    await replaced(bench, path)
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {
        "user.kept": b"by a program",
        ACCESS: rights,
    }
    assert path.stat().st_mode == mode


async def test_what_only_a_directory_grants_is_not_granted_for_a_file_that_was_there(bench: Workbench) -> None:
    path = bench.write("file", "old")
    path.chmod(0o640)
    set_or_skip(bench.root, DEFAULT, acl(owner=7, group=5, other=0, somebody=7))
    await replaced(bench, path)
    assert os.listxattr(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_right_that_its_content_had_is_not_one_of_the_new_content(bench: Workbench) -> None:
    path = bench.write("file", "old")
    set_or_skip(path, "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
    await replaced(bench, path)
    assert os.listxattr(path) == []


async def test_what_a_directory_grants_is_granted_for_new_files_whatever_the_umask(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_or_skip(bench.root, DEFAULT, acl(owner=7, group=7, other=0))
    monkeypatch.setattr(umask, "of_user", lambda: 0o022)
    new = bench.root / "made" / "file"
    await replaced(bench, new)
    assert stat.S_IMODE(new.stat().st_mode) == 0o660
    assert stat.S_IMODE(new.parent.stat().st_mode) == 0o770


async def test_where_files_have_no_attributes_they_are_replaced_all_the_same(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> list[str]:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    path = bench.write("file", "old")
    path.chmod(0o640)
    monkeypatch.setattr(os, "listxattr", refuse)
    await replaced(bench, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_label_that_is_not_ours_to_give_is_left_to_the_system(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = bench.write("file", "old")
    set_or_skip(path, "security.selinux", b"label")
    monkeypatch.setattr(os, "setxattr", refuse)
    await replaced(bench, path)


async def test_a_file_that_may_be_written_and_not_read_is_replaced(nobodys_bench: Workbench) -> None:
    path = nobodys_bench.write("file", "old")
    path.chmod(0o200)
    value_of(await nobodys_bench.call("write", path="file", content="new"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o200
    path.chmod(0o600)
    assert path.read_text() == "new"


async def test_rights_of_single_users_stay_where_a_file_may_be_written_and_not_read(nobodys_bench: Workbench) -> None:
    path = nobodys_bench.write("file", "old")
    rights = acl(owner=2, group=0, other=0, somebody=6)
    set_or_skip(path, "user.kept", b"for those who may read it")
    set_or_skip(path, ACCESS, rights)
    value_of(await nobodys_bench.call("write", path="file", content="new"))
    assert os.getxattr(path, ACCESS) == rights, "without it the mask of single users would be the rights of the group"
    path.chmod(0o600)
    assert path.read_text() == "new"


async def test_an_attribute_that_is_gone_before_it_is_read_is_not_kept(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("file", "old")
    set_or_skip(path, "user.kept", b"by a program")
    names = os.listxattr
    monkeypatch.setattr(os, "listxattr", lambda file: [*names(file), "user.gone"])
    await replaced(bench, path)
    assert names(path) == ["user.kept"]


async def test_a_label_of_the_system_stays_on_a_file_that_takes_the_place_of_one_that_is_not_read(
    nobodys_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = nobodys_bench.write("file", "old")
    path.chmod(0o200)
    monkeypatch.setattr(os, "listxattr", lambda _: ["security.selinux"], raising=False)
    monkeypatch.setattr(os, "getxattr", lambda *_: b"label", raising=False)
    monkeypatch.setattr(os, "removexattr", refuse, raising=False)
    value_of(await nobodys_bench.call("write", path="file", content="new"))
    path.chmod(0o600)
    assert path.read_text() == "new"


async def test_nobody_reads_a_private_file_while_it_is_replaced(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    fchmod = os.fchmod

    def looked_at(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    path = bench.write("file", "old")
    path.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", looked_at)
    await replaced(bench, path)
    assert modes == [0o600]


async def test_files_are_made_also_where_the_file_system_has_no_modes(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FAT, on which a file is what the mount says, and may not be made anything else."""

    def refuse(_: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(umask, "of_user", lambda: 0o022)
    monkeypatch.setattr(os, "fchmod", refuse)
    await replaced(bench, bench.root / "made" / "file")


async def test_directories_are_made_as_the_user_makes_them_also_where_none_can_be_opened_for_search_only(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, which has no names for descriptors either."""
    for lacking in ("O_PATH", "getxattr", "listxattr"):
        monkeypatch.delattr(os, lacking, raising=False)
    monkeypatch.setattr(umask, "of_user", lambda: 0o022)
    before = os.umask(umask.PRIVATE)
    try:
        for name in ("made/below/first", "made/below/second"):
            await replaced(bench, bench.root / name)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in bench.root.rglob("*")}
    assert modes == {"made": 0o755, "below": 0o755, "first": 0o644, "second": 0o644}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])  # the other where an owner has no number in a container
async def test_a_group_of_ours_gets_no_rights_that_were_given_to_another_one(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fchown(_: int, owner: int, group: int) -> None:
        raise OSError(number, os.strerror(number))

    path = bench.write("file", "old")
    path.chmod(0o664)
    monkeypatch.setattr(os, "fchown", fchown)
    await replaced(bench, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
