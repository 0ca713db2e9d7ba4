"""Where a database is kept, by whatever name, and where it must not be: the longest mount decides, and nothing is
created there (contract 08 §6.7, §6.8)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lash_cli.errors import StoreReadOnly
from lash_cli.store.sqlite import filesystem
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.listing import first_page
from lash_cli.system import SystemClock

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:20 / /mnt/share rw shared:1 - nfs4 server:/x rw
24 23 0:21 / /mnt/share/local rw - tmpfs tmpfs rw
25 22 0:22 / /mnt/with\\040space rw - fuse.sshfs me@host:/ rw
26 22 0:23 / /mnt/over rw - nfs server:/y rw
27 22 0:24 / /mnt/over rw - ext4 /dev/sdb1 rw
28 22 0:25 / /mnt/データ\\134x rw - nfs4 server:/z rw
29 22 0:26 / /mnt/\udcff rw - cifs //server/z rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/lash.db", None),
        ("/mnt/share/lash.db", "nfs4"),
        ("/mnt/shared/lash.db", None),
        ("/mnt/share/local/lash.db", None),
        ("/mnt/with space/deep/lash.db", "fuse.sshfs"),
        ("/mnt/over/lash.db", None),
        ("/mnt/データ\\x/lash.db", "nfs4"),
        ("/mnt/\udcff/lash.db", "cifs"),
    ],
)
def test_the_mount_that_is_nearest_decides(path, kind):
    assert filesystem.network_filesystem(Path(path), mounts=MOUNTS) == kind


def test_nothing_is_made_on_a_network_file_system(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"23 22 0:20 / {tmp_path} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    with pytest.raises(StoreReadOnly) as raised:
        Database.open(tmp_path / "home" / "lash.db", clock=SystemClock())
    assert raised.value.code == "network_filesystem" and "--db" in str(raised.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"]


def test_what_the_system_does_not_tell_is_taken_for_local(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "none")
    Database.open(tmp_path / "lash.db", clock=SystemClock()).close()


@pytest.mark.parametrize("name", ["a?mode=memory", "b#c", "d%41", "e f", "é\udcff", "g/../h"])
def test_a_database_is_the_file_of_its_name_whatever_a_uri_makes_of_that(tmp_path, monkeypatch, name):
    (tmp_path / "g").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (f"{tmp_path}/{name}/lash.db", f"/{tmp_path}/{name}/lash.db", f"{name}/lash.db"):
        Database.open(path, clock=SystemClock()).close()
        assert first_page(path, limit=1, now_ms=1) == []
        Database.open(path, clock=SystemClock(), read_only=True).close()
    assert [str(found) for found in tmp_path.rglob("lash.db")] == [os.path.normpath(f"{tmp_path}/{name}/lash.db")]
