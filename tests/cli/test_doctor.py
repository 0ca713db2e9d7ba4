"""`lash doctor`: it works whatever is broken, changes nothing and says what to do (contract 08 §6.8)."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import msgspec
import pytest

from lash_cli.cli.doctor_places import Finding, places
from lash_cli.core.codec import encode
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputDraft
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.paths import resolve_paths
from lash_cli.store.base import LaneRequest, SessionCreate
from lash_cli.system import SystemClock, this_process
from lash_cli.wiring import open_store


async def make_database(home):
    home.mkdir(mode=0o700, exist_ok=True)
    store = open_store(resolve_paths({"LASH_HOME": str(home)}))
    config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
    await store.create_session(SessionCreate("s_1", config, 1, name="quiet-fjord"))
    return store


def test_a_fresh_machine_is_healthy_and_nothing_is_created(lash, home):
    result = lash("doctor", "-o", "json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (document["kind"], document["healthy"]) == ("Doctor", True)
    assert document["database"]["state"] == "absent"
    assert {"database", "config_file", "keys_file", "log_file"} <= {item["name"] for item in document["paths"]}
    assert document["versions"]["sqlite"] == sqlite3.sqlite_version
    assert not home.exists()
    assert "nothing is wrong" in lash("doctor").out


async def test_files_made_by_lash_are_private_and_healthy(lash, home):
    store = await make_database(home)
    await store.aclose()
    result = lash("doctor", "-o", "json")
    assert result.code == 0, result.out
    assert result.json["database"] == {
        "path": str(home / "lash.db"), "state": "ok", "bytes": (home / "lash.db").stat().st_size, "sessions": 1,
    }  # fmt: skip
    modes = {item["name"]: item["mode"] for item in result.json["paths"]}
    assert (modes["data_dir"], modes["database"]) == ("0700", "0600")
    assert " bytes, 1 session\n" in lash("doctor").out


async def test_what_others_can_read_is_exit_5_with_the_repair(lash, home):
    store = await make_database(home)
    await store.aclose()
    (home / "lash.db").chmod(0o644)
    home.chmod(0o755)
    result = lash("doctor", "-o", "json")
    assert result.code == 5
    hints = {finding["hint"] for finding in result.json["findings"]}
    assert {f"chmod 600 {home / 'lash.db'}", f"chmod 700 {home}"} <= hints
    assert {finding["code"] for finding in result.json["findings"]} == {"permissions_unsafe"}


async def test_a_live_lease_and_its_unfinished_turn_are_shown_without_a_complaint(lash, home):
    store = await make_database(home)
    try:
        await hold_lane(store, LeaseOwnerIdentity("me", "one", this_process(), "turn"))
        result = lash("doctor", "-o", "json")
        assert result.code == 0, result.out
        (holder,) = result.json["lease_holders"]
        assert (holder["session"], holder["state"], holder["label"]) == ("s_1", "live", "turn")
        assert holder["pid"] == this_process().pid
        (turn,) = result.json["unfinished_turns"]
        assert (turn["session"], turn["turn"], turn["holder"]) == ("s_1", "t_1", this_process().pid)
        assert result.json["findings"] == []
    finally:
        await store.aclose()


async def test_a_turn_whose_process_died_is_a_warning_with_the_next_command(lash, home):
    store = await make_database(home)
    import msgspec

    dead = msgspec.structs.replace(this_process(), process_start="1")
    await hold_lane(store, LeaseOwnerIdentity("gone", "one", dead, "turn"))
    await store.aclose()
    result = lash("doctor", "-o", "json")
    assert result.code == 0
    (finding,) = result.json["findings"]
    assert (finding["code"], finding["severity"]) == ("turn_unfinished", "warning")
    assert finding["hint"] == "finish it with: lash resume s_1; or end it with: lash cancel s_1"
    assert result.json["lease_holders"][0]["state"] == "dead"
    assert "quiet-fjord" in lash("doctor").out


async def hold_lane(store, owner):
    now_ms = SystemClock().now_ms()
    draft = InputDraft(session_id="s_1", input_id="in_1", input=TurnInput.text("hello"))
    await store.open_lane(
        LaneRequest(
            session_id="s_1", owner=owner, ttl_ms=60_000, now_ms=now_ms, lease_token="lt", claim_token="ct",
            turn_id="t_1", draft=draft,
        )
    )  # fmt: skip


def test_a_corrupt_database_is_reported_with_exit_9(lash, home):
    home.mkdir(mode=0o700)
    database = home / "lash.db"
    database.write_bytes(b"this is not a database at all" * 200)
    database.chmod(0o600)
    before = database.read_bytes()
    result = lash("doctor", "-o", "json")
    assert result.code == 9
    assert result.json["database"]["state"] == "store_corrupt"
    assert database.read_bytes() == before
    assert "store_corrupt" in lash("doctor").out


async def test_a_database_of_a_newer_lash_is_reported_with_exit_9(lash, home):
    store = await make_database(home)
    await store.aclose()
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    result = lash("doctor", "-o", "json")
    assert result.code == 9
    assert result.json["database"]["state"] == "schema_too_new"


def test_an_invalid_configuration_is_one_finding_among_the_others(lash, home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("[defaults]\nmodle = 1\n")
    (home / "config.toml").chmod(0o600)
    result = lash("doctor", "-o", "json")
    assert result.code == 5
    (finding,) = result.json["findings"]
    assert finding["code"] == "config_invalid"
    assert result.json["configuration"]["valid"] is False


def codes(result) -> set[str]:
    return {finding["code"] for finding in result.json["findings"]}


def test_fix_makes_everything_private_and_says_what_it_changed(lash, home):
    lash("open", "s")
    lash("db", "backup")
    script = home / "key.sh"
    script.write_text("#!/bin/sh\n")
    (home / "link").symlink_to("/etc/hostname")
    (backup,) = (home / "backups").iterdir()
    for path, mode in ((home, 0o755), (home / "lash.db", 0o644), (backup, 0o664), (script, 0o755)):
        path.chmod(mode)
    told = lash("doctor", "-o", "json")
    assert told.code == 5 and told.json["fixed"] == []
    hints = {finding["hint"] for finding in told.json["findings"]}
    assert {f"chmod 600 {backup}", f"chmod 700 {script}", f"chmod 700 {home}"} <= hints
    fixed = lash("doctor", "--fix", "-o", "json")
    assert (fixed.code, fixed.json["findings"]) == (0, [])
    # SQLite gives its log the mode of the database.
    logs = {str(path) for path in home.glob("lash.db-*")}
    assert set(fixed.json["fixed"]) - logs == {str(path) for path in (home, home / "lash.db", backup, script)}
    assert [path.stat().st_mode & 0o777 for path in (home, home / "lash.db", backup, script)] == [
        0o700, 0o600, 0o600, 0o700,
    ]  # fmt: skip
    assert "nothing is wrong" in lash("doctor", "--fix").out


def test_an_old_database_is_a_warning_with_the_next_command(lash, home):
    lash("open", "s")
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    result = lash("doctor", "-o", "json")
    assert (result.code, result.json["database"]["state"]) == (0, "schema_old")
    assert [finding["hint"] for finding in result.json["findings"]] == ["bring it up to date with: lash db migrate"]


def test_every_model_and_provider_that_cannot_be_made_is_found(lash, home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        '[providers.a]\nkind = "smoke"\n[providers.b]\nkind = "openai_chat"\nkey = "env:NOT_THERE"\n'
        '[providers.c]\nkind = "openai_chat"\nkey = "file:/no/such/file"\n[repl.keys]\nsubmitt = ["enter"]\n'
    )
    (home / "config.toml").chmod(0o600)
    result = lash("doctor", "-o", "json")
    assert (result.code, result.json["configuration"]["valid"]) == (5, False)
    messages = {finding["message"] for finding in result.json["findings"]}
    assert any(f"{home / 'config.toml'}:2: providers.a" in message for message in messages)
    assert any("submitt" in message for message in messages)
    assert {"NOT_THERE", "/no/such/file"} <= {
        message.split(" is in ")[1].split(",")[0] for message in messages if " is in " in message
    }


def test_the_project_file_and_whether_it_is_trusted_are_shown(lash, tmp_path):
    project = tmp_path / "project"
    (project / ".lash").mkdir(parents=True)
    file = project / ".lash" / "config.toml"
    file.write_text('[defaults]\nmodel = "m"\n')
    assert lash("doctor", "-o", "json").json["configuration"]["project"] is None
    shown = lash("doctor", "-o", "json", cwd=project).json["configuration"]["project"]
    assert shown == {"file": str(file), "state": "harmless", "keys": []}
    file.write_text('[defaults]\nprovider = "loopback"\n')
    shown = lash("doctor", "-o", "json", cwd=project).json["configuration"]["project"]
    assert shown == {"file": str(file), "state": "unknown", "keys": ["defaults.provider"]}
    lash("config", "trust", str(project), "--yes")
    result = lash("doctor", "-o", "json", cwd=project)
    assert (result.code, result.json["configuration"]["project"]["state"]) == (0, "trusted")


def test_writing_into_a_database_that_others_can_read_is_warned_of_and_done(lash, home):
    lash("open", "s")
    assert "warning" not in lash("turn", "s", "!text one").err
    (home / "lash.db").chmod(0o644)
    done = lash("turn", "s", "!text two", "-o", "json")
    assert done.code == 0
    warning = done.error
    assert (warning["kind"], warning["code"]) == ("Warning", "permissions_unsafe")
    assert "lash doctor --fix" in warning["message"] and str(home / "lash.db") in warning["message"]
    lash("doctor", "--fix")
    assert "warning" not in lash("turn", "s", "!text three").err


@pytest.mark.parametrize("column", ["config", "turn_state", "labels"])
async def test_a_record_that_does_not_decode_is_damage_and_the_way_to_find_it_is_named(lash, home, column):
    store = await make_database(home)
    await store.aclose()
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute(f"UPDATE sessions SET {column} = 'x'")
    connection.close()
    result = lash("doctor", "-o", "json")
    assert (result.code, codes(result)) == (9, {"store_corrupt"})
    for command in ("ls", "show s_1", "log s_1", "export s_1", "fork s_1", "turn s_1 hi", "enqueue s_1 hi"):
        refused = lash(*command.split(), "-o", "json")
        assert (refused.code, refused.out, refused.error["code"]) == (9, "", "store_corrupt")
        assert "lash db check" in refused.error["hint"]
    assert lash("db", "check").code == 9


def test_a_lease_of_another_boot_that_a_clock_set_back_makes_last_is_told(lash, home):
    lash("open", "s")
    lash("open", "other")
    later_ms = SystemClock().now_ms() + 86_400_000

    def lease(session_id: str, boot: str, claimed_at_ms: int) -> None:
        owner = LeaseOwnerIdentity("o", "1", msgspec.structs.replace(this_process(), boot_id=boot), "turn")
        with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
            connection.execute(
                "UPDATE sessions SET lease_token = 'x', lease_owner = ?, lease_claimed_at_ms = ?,"
                " lease_expires_at_ms = ? WHERE session_id = ?",
                (encode(owner).decode(), claimed_at_ms, claimed_at_ms + 30_000, session_id),
            )
        connection.close()

    def told() -> list[str]:
        result = lash("doctor", "-o", "json")
        assert result.code == 0
        return [f["hint"] for f in result.json["findings"] if f["code"] == "lease_from_the_future"]

    lease("s", "before", later_ms)
    lease("other", "before", SystemClock().now_ms() - 1)  # as after any crash of the machine: it runs out by itself
    (hint,) = told()
    assert hint.endswith("lash fork s") and lash("fork", "s").code == 0
    lease("s", this_process().boot_id, later_ms)  # whether that one lives is known
    assert told() == []


def test_nobody_is_told_to_change_a_mode_on_a_disk_that_is_read_only(home, monkeypatch):
    home.mkdir(mode=0o700)
    disk = os.statvfs(home)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*disk[:8], disk.f_flag | os.ST_RDONLY, disk[9])))
    monkeypatch.setattr(os, "access", lambda *_: False)
    findings: list[Finding] = []
    places(resolve_paths({"LASH_HOME": str(home)}), findings)
    told = [(finding.message, finding.hint) for finding in findings if finding.code == "permissions_unsafe"]
    assert told == [
        (f"cannot write {home}: its disk is read-only", "choose a writable place with --home DIR or LASH_HOME")
    ]
