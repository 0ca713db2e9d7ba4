"""How a command names a session, against a real store (contract 08 §4)."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from lash_cli.cli import invocation
from lash_cli.cli.globals import hoist
from lash_cli.cli.references import resolve_session
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.errors import NotFoundError, SessionDeleted, UsageError
from lash_cli.paths import resolve_paths
from lash_cli.store.base import SessionCreate
from lash_cli.wiring import open_store


@pytest.fixture
async def store(tmp_path, monkeypatch):
    monkeypatch.setattr(invocation, "_current", None)
    environment = {"LASH_HOME": str(tmp_path / "home")}
    invocation.begin(hoist([])[0], environment)
    store = open_store(resolve_paths(environment))
    yield store
    await store.aclose()


async def create(store, session_id, name, *, cwd=None, at=1):
    config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
    return await store.create_session(SessionCreate(session_id, config, at, name=name, cwd=cwd))


async def test_exact_id_wins_over_name_and_name_over_prefix(store):
    await create(store, "alpha", "first")
    await create(store, "other", "alphabet")
    await create(store, "alphabetic", "third")
    assert (await resolve_session(store, "alpha")).session_id == "alpha"
    assert (await resolve_session(store, "alphabet")).session_id == "other"
    assert (await resolve_session(store, "alphabeti")).session_id == "alphabetic"


async def test_a_prefix_needs_four_characters(store):
    await create(store, "s_abcdef", "one")
    assert (await resolve_session(store, "s_ab")).session_id == "s_abcdef"
    with pytest.raises(NotFoundError) as caught:
        await resolve_session(store, "s_a")
    assert caught.value.code == "session_not_found"


async def test_several_matches_are_ambiguous_and_listed(store):
    await create(store, "s_abc1", "one")
    await create(store, "s_abc2", "two")
    with pytest.raises(UsageError) as caught:
        await resolve_session(store, "s_abc")
    assert caught.value.code == "session_ambiguous"
    assert caught.value.exit_status == 2
    assert caught.value.details["candidates"] == [{"id": "s_abc1", "name": "one"}, {"id": "s_abc2", "name": "two"}]


async def test_a_session_that_was_not_named_itself_is_said(store, capsys, tmp_path):
    invocation.begin(hoist([])[0], {"LASH_SESSION": "@last", "LASH_HOME": str(tmp_path)})
    await create(store, "mine", "quiet-fjord", cwd=os.getcwd(), at=1)
    for reference, said in (("@last", "is @last"), ("@any", "is @any"), (None, "from LASH_SESSION")):
        await resolve_session(store, reference)
        assert capsys.readouterr().err == f"session quiet-fjord (mine) {said}\n"
    await resolve_session(store, "quiet-fjord")
    assert capsys.readouterr().err == ""


async def test_last_is_of_this_directory_only_and_any_is_global(store, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    await create(store, "mine", "mine", cwd=os.getcwd(), at=1)
    await create(store, "theirs", "theirs", cwd=str(elsewhere), at=2)
    assert (await resolve_session(store, "@last")).session_id == "mine"
    assert (await resolve_session(store, "@any")).session_id == "theirs"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        await resolve_session(store, "@last")


async def test_the_newest_is_the_one_with_a_commit_while_there_is_one():
    class Shelf:
        def __init__(self, *commits):
            self.rows = [
                SimpleNamespace(meta=SimpleNamespace(session_id=f"s{n}", name=f"n{n}", cwd="/"), last_commit_at_ms=at)
                for n, at in enumerate(commits)
            ]

        async def list_sessions(self, *, limit, cursor):
            page = int(cursor or 0)
            return self.rows[page : page + 1], str(page + 1) if page + 1 < len(self.rows) else None

    assert (await resolve_session(Shelf(None, 7, 5), "@any")).session_id == "s1"
    assert (await resolve_session(Shelf(None, None), "@any")).session_id == "s0"


async def test_a_missing_session_names_the_nearest(store):
    await create(store, "s_1", "quiet-fjord")
    with pytest.raises(NotFoundError) as caught:
        await resolve_session(store, "quiet-ford")
    assert caught.value.hint == "did you mean: quiet-fjord"
    assert caught.value.exit_status == 3


async def test_a_deleted_id_says_so(store):
    await create(store, "gone", "gone")
    await store.delete_session("gone", 2)
    with pytest.raises(SessionDeleted):
        await resolve_session(store, "gone")


async def test_the_default_comes_from_the_environment_and_is_announced(store, tmp_path, capsys):
    await create(store, "s_1", "quiet-fjord")
    with pytest.raises(UsageError):
        await resolve_session(store, None)
    invocation.begin(hoist([])[0], {"LASH_HOME": str(tmp_path), "LASH_SESSION": "quiet-fjord"})
    assert (await resolve_session(store, None)).session_id == "s_1"
    assert capsys.readouterr().err == "session quiet-fjord (s_1) from LASH_SESSION\n"
