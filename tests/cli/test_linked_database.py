"""A database that is reached by a link is used as the file it is, with its log beside it (contract 08 §6.7, §6.8)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import run_lash
from support.prepared import prepare


@pytest.fixture
def linked(home: Path, tmp_path: Path) -> Path:
    """A home whose database is a link to a file in the directory of the session `s`; somebody else reads in it too."""
    prepare(home, ("open", "s"))
    real = tmp_path / "kept" / "real.db"
    real.parent.mkdir()
    (home / "lash.db").rename(real)
    (home / "lash.db").symlink_to(real)
    return real


def test_a_linked_database_is_written_and_its_log_is_found_where_it_is(lash, home: Path, linked: Path) -> None:
    with closing(sqlite3.connect(linked, isolation_level=None)) as reader:
        reader.execute("SELECT count(*) FROM sessions").fetchone()
        assert lash("turn", "s", "hello").code == 0
        assert lash("db", "info", "-o", "json").json["log_bytes"] == linked.with_name("real.db-wal").stat().st_size > 0
        places = {place["name"]: place for place in lash("doctor", "-o", "json").json["paths"]}
        assert places["database-wal"]["exists"] and places["database-shm"]["exists"]
        # The log holds what the others say: no tool of a model looks into it.
        call = '!tool read_file {"path": "kept/real.db-wal"}'
        events = lash("turn", "s", call, "-o", "jsonl").lines
        (done,) = [event for event in events if event["type"] == "tool_completed"]
        assert done["output"]["failure"]["code"] == "path_outside_roots"
        assert lash("open", "made-just-now").code == 0
        offered = run_lash(["__complete", "--", "show", "made"], home=home).out
        assert offered.startswith("made-just-now\t"), "it is in the log alone"
    assert (home / "lash.db").is_symlink()


def test_what_a_link_leads_to_is_put_aside_and_replaced_where_it_is(lash, home: Path, linked: Path) -> None:
    copy = lash("db", "backup", "-o", "json").json["file"]
    linked.write_bytes(b"rubbish" * 3000)
    done = lash("db", "restore", copy, "-o", "json")
    assert done.code == 0, done.err
    assert Path(done.json["kept"]).read_bytes() == b"rubbish" * 3000
    assert (home / "lash.db").is_symlink() and lash("ls", "-o", "name").out == "s\n"
    linked.unlink()
    assert lash("db", "restore", copy).code == 0, "a link that leads to nothing is the file that is to be there"
    assert linked.is_file() and lash("ls", "-o", "name").out == "s\n"
