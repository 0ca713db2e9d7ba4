"""`lash log` through the real entry point: committed text only, chosen and made harmless."""

from __future__ import annotations

import pytest


@pytest.fixture
def session(lash) -> str:
    lash("open", "s", "--name", "work")
    lash("turn", "s", "!text one", "--turn-id", "t_1", "-q")
    prompt = '!text looking\n!tool exec_command {"cmd":"echo needle"}\n!then\n!text two'
    lash("turn", "s", prompt, "--turn-id", "t_2", "-q", "--approve", "execute=auto")
    return "s"


def texts(done) -> list[str]:
    assert done.code == 0, done.err
    return [item["text"] for item in done.json["items"] if item["text"]]


def test_the_transcript_is_one_document_in_order(lash, session) -> None:
    document = lash("log", "work", "-o", "json").json
    assert (document["kind"], document["session"], document["session_name"]) == ("Transcript", "s", "work")
    assert [item["role"] for item in document["items"]][:2] == ["user", "assistant"]
    assert {item["turn_id"] for item in document["items"]} == {"t_1", "t_2"}
    assert len({item["id"] for item in document["items"]}) == len(document["items"])


def test_jsonl_is_one_message_per_line(lash, session) -> None:
    lines = lash("log", "s", "-o", "jsonl").lines
    assert lines == lash("log", "s", "-o", "json").json["items"]


def test_role_last_and_turn_choose_messages(lash, session) -> None:
    assert texts(lash("log", "s", "--role", "assistant", "-o", "json")) == ["one", "looking", "two"]
    assert texts(lash("log", "s", "--last", "1", "-o", "json")) == ["two"]
    assert texts(lash("log", "s", "--turn", "t_1", "-o", "json")) == ["!text one", "one"]


def test_tools_are_one_line_unless_asked_for_in_full(lash, session) -> None:
    short = lash("log", "s").out
    assert "[call exec_command " in short and "[result exec_command " in short
    full = lash("log", "s", "--tools").out
    assert full.count("needle") >= 2 and len(full.splitlines()) > len(short.splitlines())


def test_text_names_who_speaks(lash, session) -> None:
    shown = lash("log", "s", "--turn", "t_1").out
    assert shown == "user:\n    !text one\n\nassistant:\n    one\n"


def test_an_empty_session_has_an_empty_transcript(lash) -> None:
    lash("open", "s")
    assert lash("log", "s").out == ""
    assert lash("log", "s", "-o", "json").json["items"] == []


def test_escapes_in_committed_text_are_visible_unless_raw(lash) -> None:
    lash("open", "s")
    lash("turn", "s", '!text "a\\u001b[2Jb"', "-q")
    assert "\x1b" not in lash("log", "s").out and "a\\x1b[2Jb" in lash("log", "s").out
    assert "a\x1b[2Jb" in lash("log", "s", "--raw").out


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("nope",), 3, "session_not_found"),
        (("s", "--turn", "t_nope"), 3, "turn_unknown"),
        (("s", "--role", "narrator"), 2, "usage"),
        (("s", "--last", "0"), 2, "usage"),
        ((), 2, "usage"),
    ],
)
def test_errors_leave_stdout_empty(lash, session, arguments, status, code) -> None:
    done = lash("log", *arguments, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (status, "", code)


def test_a_running_turn_is_not_in_the_log(lash, home, tmp_path) -> None:
    from support.cli import spawn_lash

    lash("open", "s")
    gate = tmp_path / "gate"
    running = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text late", "-o", "jsonl"], home=home)
    assert running.stdout is not None
    try:
        for line in running.stdout:
            if b"model_request_started" in line:
                break
        assert lash("log", "s", "-o", "json").json["items"] == []
        gate.touch()
        running.communicate(timeout=60)
    finally:
        running.kill()
    assert texts(lash("log", "s", "--role", "assistant", "-o", "json")) == ["late"]


def test_as_lines_the_fields_are_those_of_a_message(lash) -> None:
    lash("open", "s")
    lash("turn", "s", "!text one", "-q")
    done = lash("log", "s", "-o", "jsonl", "--fields", "role,text")
    assert done.lines == [{"role": "user", "text": "!text one"}, {"role": "assistant", "text": "one"}]
    assert lash("log", "s", "-o", "jsonl", "--format", "{role}: {text}").out == "user: !text one\nassistant: one\n"
    assert "role" in lash("log", "s", "-o", "jsonl", "--fields").out.split()
    unknown = lash("log", "s", "-o", "jsonl", "--fields", "nope")
    assert (unknown.code, unknown.out) == (2, "") and "role" in unknown.error["hint"]
    assert set(lash("log", "s", "-o", "json", "--fields", "session").json) == {"schema", "kind", "session"}
