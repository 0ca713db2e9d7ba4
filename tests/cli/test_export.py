"""`lash export` and `lash import` through the real command: nothing is lost on the way, and nothing that is no export
of ours changes anything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import run_lash
from support.prepared import OPEN, prepare
from support.wire import ThreadedChatServer, chat_provider, text_reply, tool_calls_reply

from lash_cli.cli.import_command import read_export
from lash_cli.errors import UsageError

KEY = "sk-abcdefghijklmnop0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


def exported(lash: Any, path: Path, session: str = "s", *options: str) -> Any:
    done = lash("export", session, "--as", "json", "--out", str(path), *options)
    assert done.code == 0, done.err
    return json.loads(path.read_text())


def test_export_then_rm_then_import_asks_the_model_the_same_next(lash: Any, home: Path, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    copy = tmp_path / "copy-home"
    replies = [
        tool_calls_reply([("glob", {"pattern": "*.none"})]),
        text_reply("done"),
        text_reply("2"),
        text_reply("3"),
    ]
    with ThreadedChatServer([*replies, text_reply("3")]) as server:
        env = chat_provider(server)
        lash("open", "s", "--name", "kept", "--system", "Be brief.", "--label", "a=b", env=env)
        assert lash("turn", "s", "what is it", "-a", str(image), env=env).code == 0
        assert lash("turn", "s", "and then", env=env).code == 0
        file = tmp_path / "s.json"
        exported(lash, file)
        shutil.copytree(home, copy)
        assert lash("rm", "s", "--yes").code == 0
        done = lash("import", str(file), "--id", "again", "-o", "json", env=env)
        assert (done.code, done.json["items"]) == (
            0,
            [{"id": "again", "name": "kept", "outcome": "imported", "code": None}],
        )
        assert run_lash(["turn", "s", "next"], home=copy, env=env).out == "3\n"
        assert lash("turn", "again", "next", env=env).out == "3\n"
        original, imported = server.requests[-2:]
    assert imported.body == original.body
    shown = lash("show", "again", "-o", "json").json
    assert (shown["turns"], shown["labels"], shown["name"], shown["policy"]["system"]) == (
        3, {"a": "b"}, "kept", "Be brief.",
    )  # fmt: skip
    assert len(lash("tree", "again", "-o", "json").json["items"]) == len(
        json.loads(run_lash(["tree", "s", "-o", "json"], home=copy).out)["items"]
    )


def test_an_export_cannot_steer_the_terminal_and_is_the_same_in_ascii(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    said = "caf\u00e9 \u202egnihton\u202c \x9b2J \x1b[2J"
    lash("turn", "s", f"{said}\n!text ok")
    plain, ascii_only = lash("export", "s", "--as", "json"), lash("export", "s", "--as", "json", "--ascii")
    assert not any(character in plain.out for character in "\x1b\x9b\u202e") and ascii_only.out.isascii()
    assert plain.json["sessions"] == ascii_only.json["sessions"]
    (tmp_path / "s.json").write_text(ascii_only.out)
    assert lash("import", str(tmp_path / "s.json"), "--id", "n").code == 0
    assert lash("log", "n", "-o", "json").json["items"][0]["text"].startswith(said)


def test_a_session_keeps_its_id_where_that_was_never_used(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, ("open", "s", "--name", "kept"))
    lash("turn", "s", "!text one")
    exported(lash, tmp_path / "s.json")
    other = tmp_path / "other-home"
    done = run_lash(["import", str(tmp_path / "s.json"), "-o", "json"], home=other)
    assert done.json["items"][0]["id"] == "s"
    listed = json.loads(run_lash(["ls", "-o", "json"], home=other).out)["items"][0]
    assert listed["last_activity_at"] == lash("ls", "-o", "json").json["items"][0]["last_activity_at"]
    assert run_lash(["log", "s"], home=other).out == lash("log", "s").out


def test_an_id_in_use_or_deleted_is_refused_and_a_dry_run_writes_nothing(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one")
    file = str(tmp_path / "s.json")
    exported(lash, Path(file))
    taken = lash("import", file, "-o", "json")
    assert (taken.code, taken.out, taken.error["code"]) == (4, "", "session_exists")
    lash("rm", "s", "--yes")
    deleted = lash("import", file, "-o", "json")
    assert (deleted.code, deleted.error["code"]) == (3, "session_deleted") and "--id" in deleted.error["hint"]
    elsewhere = run_lash(["import", file, "--id", "new", "--dry-run"], home=home, cwd="/")
    assert f"new works in {home.parent}" in elsewhere.err
    dry = lash("import", file, "--id", "new", "--dry-run", "-o", "json")
    assert dry.json["items"][0]["outcome"] == "would_import"
    assert lash("ls", "-o", "json").json["items"] == []
    nowhere = tmp_path / "nowhere"
    assert run_lash(["import", file, "--dry-run"], home=nowhere).code == 0 and not nowhere.exists()


def test_a_dry_run_names_no_session_by_a_name_that_is_taken(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"), ("open", "t", "--name", "new"))
    file = tmp_path / "s.json"
    exported(lash, file)
    dry = lash("import", str(file), "--id", "other", "--dry-run", "-o", "json")
    assert dry.json["items"] == [{"id": "other", "name": None, "outcome": "would_import", "code": None}]
    said = lash("import", str(file), "--id", "other", "--dry-run")
    assert "other: the name fjord is taken" in said.err and "-     other" in said.out
    lash("rename", "t", "fjord-2")
    lash("rm", "s", "--yes")
    free = lash("import", str(file), "--id", "other", "--dry-run", "-o", "json")
    assert free.json["items"][0]["name"] == "fjord"
    lash("open", "fjord")
    assert lash("import", str(file), "--id", "other", "--dry-run", "-o", "json").json["items"][0]["name"] is None
    made = lash("import", str(file), "--id", "other")
    assert made.code == 0 and "other: the name fjord is taken" in made.err


def with_moments(value: Any, moment: int) -> Iterator[Any]:
    """`value` once for each time in it, which is another one there."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key.endswith("at_ms") and isinstance(part, int):
                yield {**value, key: moment}
            yield from ({**value, key: changed} for changed in with_moments(part, moment))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            for changed in with_moments(part, moment):
                yield [*value[:place], changed, *value[place + 1 :]]


def test_a_truncated_or_foreign_file_changes_nothing(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one")
    whole = exported(lash, tmp_path / "s.json")
    lash("rm", "s", "--yes")
    data = (tmp_path / "s.json").read_bytes()
    bad = tmp_path / "bad.json"
    session = whole["sessions"][0]
    too_great = {**session, "session_id": "n", "head": {**session["head"], "head_revision": 2**63}}
    foreign: list[bytes] = [
        b"", b"{}", b"[]", b"null", b"not json", b"[" * 100_000, b'{"kind":' + b"[" * 100_000, b'{"kind":"\xff"}',
        data.replace(b'"s"', b'"\xff"', 1), b'{"schema":"lash/1","kind":"Transcript","items":[]}', PNG,
        *(data[: len(data) * part // 7] for part in range(1, 7)), data[:-2], data.replace(b'"nodes"', b'"nodez"'),
        json.dumps({**whole, "sessions": []}).encode(),
        json.dumps({**whole, "sessions": [{**session, "session_id": "../up"}]}).encode(),
        json.dumps({**whole, "sessions": [{**session, "name": "@last"}]}).encode(),
        # A moment no listing could show would keep every listing of the store from being shown.
        *(json.dumps(changed).encode() for changed in with_moments(whole, 5 * 10**15)),
        *(json.dumps(changed).encode() for changed in with_moments(whole, -1)),
        json.dumps({**whole, "sessions": [{**session, "name": "a\x1b[2J"}]}).encode(),
    ]  # fmt: skip
    for content in foreign:
        with pytest.raises(UsageError) as refused:
            read_export(content, "bad.json")
        assert refused.value.code == "archive_invalid", content[:60]
    # What the whole command makes of it; a revision that no database can hold and a second session are its to find.
    rest = [json.dumps({**whole, "sessions": sessions}).encode() for sessions in ([too_great], [session, session])]
    for content in (b"", data[:-2], data.replace(b'"s"', b'"\xff"', 1), foreign[-1], *rest):
        bad.write_bytes(content)
        done = lash("import", str(bad), "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (2, "", "archive_invalid"), content[:60]
    bad.write_text(json.dumps({**whole, "format": 99}))
    assert lash("import", str(bad), "-o", "json").error["code"] == "archive_too_new"
    assert lash("import", str(tmp_path / "absent.json"), "-o", "json").code == 3
    assert lash("ls", "-o", "json").json["items"] == []


def test_what_is_nested_deeper_than_can_be_shown_is_not_imported(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one")
    whole = exported(lash, tmp_path / "s.json")
    lash("rm", "s", "--yes")
    part = whole["sessions"][0]["head"]["nodes"][1]["payload"]["message"]["parts"][0]
    part["response_meta"] = {"deep": "HERE"}
    text = json.dumps({**whole, "sessions": [{**whole["sessions"][0], "session_id": "deep", "name": "deep"}]})
    file = tmp_path / "deep.json"
    file.write_text(text.replace('"HERE"', "[" * 370 + "]" * 370))
    assert lash("import", str(file)).code == 0
    assert lash("log", "deep", "-o", "json").code == lash("turn", "deep", "hi").code == 0
    file.write_text(text.replace('"HERE"', "[" * 500 + "]" * 500))
    done = lash("import", str(file), "--id", "deeper", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "archive_invalid")
    assert "384 levels" in done.error["message"]


def test_texts_are_redacted_but_for_json_and_what_was_done_is_said(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", f"my key is {KEY}\n!text I will not repeat {KEY}")
    for chosen, is_redacted in (("md", True), ("html", True), ("jsonl", True), ("json", False)):
        done = lash("export", "s", "--as", chosen)
        assert done.code == 0 and (KEY in done.out) is not is_redacted, chosen
        assert f"redaction: {'on' if is_redacted else 'off'}" in done.err
        assert KEY in lash("export", "s", "--as", chosen, "--no-redact").out
        assert KEY not in lash("export", "s", "--as", chosen, "--redact").out
    off = {"LASH_CFG__privacy__redact_export": "false"}
    assert KEY in lash("export", "s", "--as", "md", env=off).out
    redacted = exported(lash, tmp_path / "r.json", "s", "--redact")["sessions"][0]
    assert "nodes" in redacted["head"] and "blobs" not in redacted["head"], "nobody can read in those"
    refused = lash("import", str(tmp_path / "r.json"), "--id", "n", "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "archive_redacted")


def test_a_key_this_machine_uses_is_masked_whatever_it_looks_like(lash: Any) -> None:
    env = {"OPENAI_API_KEY": "plain words as key"}
    lash("open", "s")
    lash("turn", "s", "it is plain words as key indeed\n!text ok")
    assert "plain words as key" not in lash("export", "s", env=env).out


def test_a_file_is_private_whole_and_never_replaced_unasked(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "hello\n!text there")
    page = tmp_path / "s.html"
    old = os.umask(0o022)
    try:
        done = lash("export", "s", "--out", str(page), "-o", "json")
    finally:
        os.umask(old)
    assert done.json == {
        "schema": "lash/1", "kind": "Exported", "id": str(page), "file": str(page), "format": "html", "redacted": True,
        "bytes": page.stat().st_size,
        "sessions": [{"id": "s", "name": lash("show", "s", "-o", "json").json["name"], "cut_off": 0}],
    }  # fmt: skip
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    again = lash("export", "s", "--out", str(page), "-o", "json")
    assert (again.code, again.error["code"]) == (4, "file_exists")
    assert lash("export", "s", "--out", str(page), "--replace").code == 0
    failed = lash("export", "s", "--out", str(tmp_path / "no" / "dir.md"), "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "output_unwritable")
    assert sorted(path.name for path in tmp_path.glob("s.*")) == ["s.html"]


def test_only_a_file_is_ever_replaced(lash: Any, home: Path, tmp_path: Path) -> None:
    """A pipe is written to and a link is followed, by whatever writes a file: none is put in their place."""
    prepare(home, OPEN)
    lash("turn", "s", "!text the answer", "--trace", str(tmp_path / "trace.jsonl"))
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.md", tmp_path / "kept" / "target.md"
    os.mkfifo(pipe)
    target.parent.mkdir()
    link.symlink_to(target)
    for arguments in (
        ("export", "s", "--as", "md", "--out"),
        ("turn", "s", "!text the answer", "--out"),
        ("trace", "html", str(tmp_path / "trace.jsonl"), "--out"),
    ):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda into=got: into.append(pipe.read_bytes()), daemon=True)
        reader.start()
        done = lash(*arguments, str(pipe))
        assert done.code == 0, done.err
        reader.join(60)
        assert b"the answer" in got[0]
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        target.write_text("old")
        refused = lash(*arguments, str(link))
        replacing = ("--replace",) if arguments[0] == "export" else ()
        assert refused.code == (4 if replacing else 0)
        assert lash(*arguments, str(link), *replacing).code == 0
        assert link.is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o600
        assert b"the answer" in target.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target.md"]


def test_what_is_said_cannot_break_out_of_the_page_or_the_fence(lash: Any, home: Path) -> None:
    prepare(home, ("open", "s", "--name", "<b>bold</b>"))
    tool = '!tool exec_command {"cmd":"printf \'```\\nout\\n```\'"}'
    lash("turn", "s", f"<script>alert(1)</script>\n!text </p><img src=x onerror=alert(1)>\n{tool}\n!then\n!text done",
         "--approve", "execute=auto")  # fmt: skip
    page = lash("export", "s", "--as", "html", "--no-redact").out
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "default-src 'none'" in page
    text = lash("export", "s", "--as", "md").out
    assert "````" in text


def test_jsonl_has_a_line_for_each_message_of_each_session(lash: Any) -> None:
    for name in ("a", "b"):
        lash("open", name)
        lash("turn", name, f"question {name}\n!text answer {name}")
    lines = lash("export", "a", "b", "--as", "jsonl").lines
    assert [(line["session"], line["role"]) for line in lines] == [
        ("a", "user"), ("a", "assistant"), ("b", "user"), ("b", "assistant"),
    ]  # fmt: skip
    assert all(line["turn_id"] for line in lines)


def test_several_sessions_travel_in_one_file(lash: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        lash("open", name)
        lash("turn", name, f"!text answer {name}")
    file = tmp_path / "both.json"
    assert lash("export", "a", "b", "--out", str(file)).code == 0
    refused = lash("import", str(file), "--id", "one", "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    other = tmp_path / "other-home"
    assert run_lash(["import", str(file), "-q"], home=other).out == "a\nb\n"


@pytest.mark.parametrize(("name", "status"), [("absent.json", 3), (".", 2)])
def test_a_file_that_cannot_be_read_says_how_one_is_made(lash: Any, home: Path, name: str, status: int) -> None:
    done = lash("import", name, "-o", "json")
    assert (done.code, done.out) == (status, "") and "lash export" in done.error["hint"]
    assert not home.exists()


@pytest.mark.parametrize("damage", ["DELETE FROM blobs", "UPDATE blobs SET content = x'00'"])
def test_an_export_that_nothing_can_import_for_want_of_bytes_says_so(
    lash: Any, home: Path, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    lash("open", "s", "--name", "notes")
    lash("turn", "s", "look", "--attach", str(tmp_path / "a.png"))
    with contextlib.closing(sqlite3.connect(home / "lash.db", isolation_level=None)) as connection:
        connection.execute(f"{damage} WHERE length(content) = {len(PNG)}")
    done = lash("export", "s", "--as", "json")
    assert done.code == 0
    assert "warning: notes: the bytes of 1 attachment are damaged, and nothing can import it without" in done.err
    assert "damaged" not in lash("export", "s", "--as", "md").err


def test_what_is_not_exported_is_warned_of(lash: Any, home: Path) -> None:
    prepare(home, OPEN)
    lash("enqueue", "s", "later")
    assert "1 waiting in the queue" in lash("export", "s").err
    assert "waiting in the queue" not in lash("export", "s", "--as", "json").err


def test_what_waits_moves_with_its_session_and_runs_when_it_is_released(lash: Any, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    lash("open", "s")
    lash("enqueue", "s", "first", "-a", str(image), "--key", "k")
    lash("enqueue", "s", "second")
    exported(lash, tmp_path / "s.json")
    other = tmp_path / "other-home"
    done = run_lash(["import", str(tmp_path / "s.json")], home=other)
    assert "lash queue release s" in done.err
    assert run_lash(["work", "s", "--until-empty", "-o", "json"], home=other).error["code"] == "queue_held"
    assert run_lash(["enqueue", "s", "first", "-a", str(image), "--key", "k", "-o", "json"], home=other).json[
        "replayed"
    ]
    assert run_lash(["queue", "release", "s"], home=other).code == 0
    assert run_lash(["work", "s", "--until-empty"], home=other).code == 0
    items = run_lash(["log", "s", "-o", "json"], home=other).json["items"]
    users = [item for item in items if item["role"] == "user"]
    assert "first" in users[0]["text"] and "second" in "".join(item["text"] for item in users)


def test_a_header_with_a_credential_is_redacted_like_a_key(lash: Any, home: Path) -> None:
    secret = "team-token-81c5d07"
    prepare(home, OPEN)
    (home / "config.toml").write_text(
        f'[providers.mine]\nbase_url = "http://127.0.0.1:9/v1"\noptions = {{headers = {{X-Team-Token = "{secret}"}}}}\n'
    )
    assert lash("turn", "s", f"it is {secret}").code == 0
    redacted = lash("export", "s", "--redact").out
    assert "it is [redacted]" in redacted and secret not in redacted


def test_what_waits_is_redacted_like_everything_else(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("enqueue", "s", f"use {KEY}")
    assert KEY not in json.dumps(exported(lash, tmp_path / "s.json", "s", "--redact"))


def test_an_export_of_an_older_lash_is_imported_and_one_of_none_is_not(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "hello")
    file = tmp_path / "s.json"
    document = exported(lash, file)
    assert document["format"] == 2
    for number, code, status in ((1, None, 0), (3, None, 0), (0, "archive_invalid", 2), (4, "archive_too_new", 2)):
        file.write_text(json.dumps({**document, "format": number}))
        done = lash("import", str(file), "--id", f"s{number}", "-o", "json")
        assert (done.code, done.error["code"] if code else None) == (status, code)


@pytest.mark.parametrize("arguments", [("s", "--as", "pdf"), ("nope",)])
def test_a_wrong_export_prints_nothing(lash: Any, home: Path, arguments: tuple[str, ...]) -> None:
    prepare(home, OPEN)
    done = lash("export", *arguments, "-o", "json")
    assert done.out == "" and done.code in (2, 3)


def test_no_name_in_an_imported_file_can_steer_the_terminal(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one")
    lash("turn", "s", "!text two")
    lash("enqueue", "s", "later")
    text = json.dumps(exported(lash, tmp_path / "s.json"))
    (session,) = json.loads(text)["sessions"]
    nodes = [node["node_id"] for node in session["head"]["nodes"]]
    turns = [turn["turn_id"] for turn in session["turns"]]
    inputs = [one["input_id"] for one in session["inputs"]]
    for name in (*nodes, *turns, *inputs, *(frame["frame_id"] for frame in session["head"]["frames"])):
        text = text.replace(json.dumps(name), json.dumps(f"{name}\x1b[2J"))
    hostile = json.loads(text)
    (session,) = hostile["sessions"]
    session.update(parent_session_id="p\x1b[2J", labels={"k\x1b[2J": "v\x1b[2J"}, cwd="/x\x1b[2J")
    session["config"]["provider_id"] = session["config"]["model"]["id"] = "m\x1b[2J"
    for booked in session["usage"]:
        booked["entry"].update(source="s\x1b[2J", model="m\x1b[2J")
    (tmp_path / "hostile.json").write_text(json.dumps(hostile))
    assert lash("import", str(tmp_path / "hostile.json"), "--id", "far").code == 0
    node, turn, waiting = (f"{name}\x1b[2J" for name in (nodes[0], turns[0], inputs[0]))
    for command in (
        ["ls"], ["show", "far"], ["show", "far", "--policy", "--tools", "--lease"], ["show", "far", "--turn", turn],
        ["log", "far", "--frames"], ["tree", "far"], ["tree", "far", "--ascii"], ["search", "two"],
        ["usage", "far"], ["usage", "--by", "model,source"], ["queue", "ls", "far", "--all"],
        ["queue", "show", waiting], ["tail", "far", "--from", "start", "--no-follow"], ["fork", "far", "--at", node],
        ["rewind", "far", "--to", node], ["queue", "cancel", waiting], ["queue", "show", waiting], ["doctor"],
    ):  # fmt: skip
        done = lash(*command)
        assert "\x1b" not in done.out + done.err, command
        assert done.code == 0, (command, done.err)


def test_a_file_without_a_name_is_a_usage_error(lash, home) -> None:
    prepare(home, OPEN)
    for verb in (("export", "s"), ("db", "backup")):
        done = lash(*verb, "--out", "", "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
