"""`lash open` through the real entry point: created, reopened, refused, started over."""

from __future__ import annotations

import shlex
from pathlib import Path

from support.cli import begin, spawn_lash


def test_open_prints_only_the_id_of_a_new_session(lash) -> None:
    done = lash("open")
    assert done.code == 0
    assert done.out.startswith("s_") and done.out.count("\n") == 1
    assert lash("ls", "-o", "name").out == done.out


def test_opening_twice_reopens_the_same_session_by_id_and_by_name(lash) -> None:
    assert lash("open", "notes", "--name", "work").out == "notes\n"
    assert lash("open", "notes").out == "notes\n"
    assert lash("open", "work").out == "notes\n"
    assert len(lash("ls", "-o", "json").json["items"]) == 1


def test_new_refuses_an_existing_session_with_exit_4_and_empty_stdout(lash) -> None:
    lash("open", "notes")
    done = lash("open", "notes", "--new", "-o", "json")
    assert (done.code, done.out) == (4, "")
    assert done.error["code"] == "session_exists"
    assert done.error["details"]["session"] == "notes"


def test_what_open_was_told_is_what_the_session_document_says(lash, tmp_path: Path) -> None:
    lash("open", "mother")
    system = tmp_path / "system.txt"
    system.write_text("be brief\n")
    done = lash(
        "open", "child", "--name", "kid", "--model", "m-1", "--provider", "loopback", "--system", f"@{system}",
        "--label", "team=a", "--parent", "mother", "-o", "json",
    )  # fmt: skip
    assert done.code == 0
    assert (done.json["kind"], done.json["id"], done.json["name"]) == ("Session", "child", "kid")
    assert (done.json["model"], done.json["provider"], done.json["parent"]) == ("m-1", "loopback", "mother")
    assert done.json["labels"] == {"team": "a"}
    assert done.json["head_revision"] is None
    assert lash("show", "child", "-o", "json").json["policy"]["system"] == "be brief"


def test_options_change_an_existing_session_before_its_id_is_printed(lash) -> None:
    lash("open", "notes")
    assert lash("open", "notes", "--model", "other", "--system", "be kind").code == 0
    policy = lash("show", "notes", "-o", "json").json["policy"]
    assert (policy["model"]["id"], policy["system"]) == ("other", "be kind")


def test_another_name_or_label_for_an_existing_session_is_a_conflict(lash) -> None:
    lash("open", "notes", "--name", "work", "--label", "team=a")
    assert lash("open", "notes", "--name", "work", "--label", "team=a").code == 0
    for options in (("--name", "play"), ("--label", "team=b")):
        done = lash("open", "notes", *options, "-o", "json")
        assert (done.code, done.error["code"]) == (4, "session_exists")


def test_fresh_needs_a_confirmation_and_then_drops_the_transcript_only(lash) -> None:
    lash("open", "notes", "--model", "kept")
    lash("turn", "notes", "hello", "-q")
    refused = lash("open", "notes", "--fresh", "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "confirmation_required")
    assert lash("show", "notes", "-o", "json").json["turns"] == 1
    fresh = lash("open", "notes", "--fresh", "--yes")
    assert fresh.code == 0
    saving = next(line for line in fresh.err.splitlines() if "saved first" in line)
    assert "lash export notes --as json --out " in saving, "what would save it can be imported again"
    shown = lash("show", "notes", "-o", "json").json
    assert (shown["turns"], shown["model"]) == (1, "kept"), "turns keep counting, so that each has a number of its own"
    assert lash("log", "notes", "-o", "json").json["items"] == []
    assert shown["usage"]["output_tokens"] > 0, "what it cost is not forgotten"


def test_nobody_starts_over_under_a_turn_that_was_cut_off(lash, home) -> None:
    lash("turn", "notes", "hello", "--or-open", "-q")
    killed = spawn_lash(["turn", "notes", "and this"], home=home, first=begin("crashing", "after:model_recorded"))
    killed.communicate(timeout=60)
    refused = lash("open", "notes", "--fresh", "--yes", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (4, "", "turn_unfinished")
    assert refused.error["hint"] == "finish it first: lash resume notes"
    assert lash("resume", "notes").code == 0
    assert [item["text"] for item in lash("log", "notes", "--role", "user", "-o", "json").json["items"]] == [
        "hello", "and this",
    ]  # fmt: skip
    assert lash("open", "notes", "--fresh", "--yes").code == 0


def test_what_saves_a_session_before_a_fresh_start_is_of_its_own_home(lash, tmp_path) -> None:
    other = ("--home", str(tmp_path / "another home"))
    lash("open", "notes", *other)
    lash("turn", "notes", "hello", *other)
    told = lash("open", "notes", "--fresh", *other).err.splitlines()[0].partition("lash ")[2]
    assert lash(*shlex.split(told), cwd=tmp_path).code == 0
    (file,) = tmp_path.glob("*.json")
    assert "hello" in file.read_text()


def test_malformed_ids_labels_and_system_files_are_usage_errors_that_create_nothing(lash) -> None:
    for arguments in (("no/slash",), ("notes", "--label", "novalue"), ("notes", "--system", "@/does/not/exist")):
        done = lash("open", *arguments, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
    assert lash("ls", "-o", "json").json["items"] == []


def test_what_cannot_be_opened_makes_no_database(lash, home: Path) -> None:
    for arguments, status in ((("--parent", "nobody"), 3), (("s", "--parent", "@last"), 3), (("not an id",), 2)):
        assert lash("open", *arguments).code == status
        assert not home.exists(), arguments


def test_an_unconfigured_provider_is_exit_5(lash) -> None:
    done = lash("open", "notes", "--provider", "nowhere", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "provider_unconfigured")


def test_a_model_or_provider_that_is_named_stands_in_for_the_default_one(lash) -> None:
    """Of a server of one's own nothing says which model it has."""
    added = ("provider", "add", "local", "--base-url", "http://127.0.0.1:1/v1", "--default")
    assert lash(*added).code == 0
    refused = lash("open", "none", "-o", "json")
    assert (refused.code, refused.out) == (5, "") and "no model is chosen" in refused.error["message"]
    for again in range(2):  # with no database, and with one
        assert lash("open", f"mine-{again}", "--model", "llama").code == 0
        assert lash("open", f"mine-{again}", "--model", "qwen").code == 0
        policy = lash("show", f"mine-{again}", "-o", "json").json["policy"]
        assert (policy["provider"], policy["model"]["id"]) == ("local", "qwen")
    assert lash("open", "off", "--provider", "loopback").code == 0
    assert lash("show", "off", "-o", "json").json["policy"]["provider"] == "loopback"


def test_opening_a_deleted_id_is_not_found(lash) -> None:
    lash("open", "notes")
    lash("rm", "notes", "--yes")
    done = lash("open", "notes", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "session_deleted")


def test_eight_processes_opening_one_id_make_one_session(lash, home: Path) -> None:
    processes = [spawn_lash(["open", "shared"], home=home) for _ in range(8)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"shared\n"), err
    assert lash("ls", "-o", "name").out == "shared\n"


def test_a_first_turn_with_an_unusable_provider_leaves_no_empty_session_behind(lash) -> None:
    lash("config", "set", "providers.far.kind", "openai_chat")
    lash("config", "set", "providers.far.base_url", "https://api.openai.com/v1")
    done = lash("turn", "s1", "--or-open", "--provider", "far", "--model", "m", "hi", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "key_missing")
    assert lash("ls", "-o", "name").out == ""
