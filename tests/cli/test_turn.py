"""`lash turn` through the real entry point: what it prints, what it costs, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash, started_turn
from support.error_world import dump, told
from support.prepared import OPEN, prepare
from support.wire import (
    ThreadedChatServer,
    cut_reply,
    error_reply,
    text_reply,
    thoughts_reply,
    tool_calls_reply,
    usage_of,
)

TWO_STEPS = '!tool exec_command {"cmd":"true"}\n!then\n!tool exec_command {"cmd":"true"}'
ONCE = {"LASH_CFG__providers__loopback__options": "{max_attempts = 1}"}


def openai(server: ThreadedChatServer, **more: str) -> dict[str, str]:
    """The environment that makes the scripted server the provider."""
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "k-canary", "OPENAI_MODEL": "m-1", **more}


def ended(process: subprocess.Popen[bytes]) -> tuple[int, list[Any], str]:
    """Exit status, remaining events and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def test_a_first_turn_needs_no_configuration_and_tells_how_to_go_on(lash) -> None:
    done = lash("turn", "--or-open", "notes", "hello")
    assert done.code == 0
    assert done.out.startswith("You said: hello") and done.out.endswith("\n")
    name = lash("show", "notes", "-o", "json").json["name"]
    assert f"session {name} (notes)" in done.err and f'resume: lash turn {name} "…"' in done.err


def test_text_has_the_prose_of_every_step_and_quiet_only_the_answer(lash, home: Path) -> None:
    prepare(home, OPEN)
    prompt = '!text I will look\n!tool exec_command {"cmd":"echo hi"}\n!then\n!text found it'
    done = lash("turn", "s", prompt, "--approve", "execute=auto")
    assert done.out == "I will look\nfound it\n"
    assert "[tool] exec_command started" in done.err and "[tool] exec_command · ok" in done.err
    quiet = lash("turn", "s", prompt, "--approve", "execute=auto", "-q")
    assert (quiet.out, quiet.err) == ("found it\n", "")


def test_json_is_one_document_with_the_answer_usage_and_calls(lash, home: Path) -> None:
    prepare(home, OPEN)
    done = lash("turn", "s", "!usage 7 3\n!text hi", "-o", "json")
    document = done.json
    assert (document["schema"], document["kind"], document["ok"]) == ("lash/1", "TurnResult", True)
    assert (document["text"], document["session"], document["head_revision"]) == ("hi", "s", 1)
    assert document["usage"]["input_tokens"] == 7 and document["usage"]["output_tokens"] == 3
    assert done.err == ""


def test_fields_templates_and_names_choose_from_the_same_document(lash, home: Path) -> None:
    prepare(home, OPEN)
    assert lash("turn", "s", "!text hi", "--format", "{text}/{usage.output_tokens}").out == "hi/1\n"
    assert lash("turn", "s", "!text hi", "-o", "json", "--fields", "text").json["text"] == "hi"
    assert lash("turn", "s", "!text hi", "-o", "name", "--turn-id", "t_mine").out == "t_mine\n"


def test_jsonl_streams_events_from_stream_start_to_stream_end(lash, home: Path) -> None:
    prepare(home, OPEN)
    events = lash(
        "turn",
        "s",
        '!tool exec_command {"cmd":"echo hi"}\n!then\n!text done',
        "-o",
        "jsonl",
        "--approve",
        "execute=auto",
    ).lines
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("stream_start", "stream_end")
    assert kinds.index("turn_started") < kinds.index("tool_started") < kinds.index("tool_completed")
    assert kinds.index("committed") < kinds.index("turn_finished") == len(kinds) - 2
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert all(event["v"] == 1 and event["session"] == "s" for event in events)
    assert events[0]["protocol_version"] == 1
    assert (events[-1]["reason"], events[-1]["exit"], events[-1]["error"]) == ("turn", 0, None)
    completed = next(event for event in events if event["type"] == "tool_completed")
    assert (completed["name"], completed["status"]) == ("exec_command", "ok")
    assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "done"


def test_terminal_escapes_of_a_model_are_visible_unless_raw(lash, home: Path) -> None:
    prepare(home, OPEN)
    prompt = '!text "\\u001b]0;owned\\u0007\\u202eback"'
    assert lash("turn", "s", prompt).out == "\\x1b]0;owned\\x07\\u202eback\n"
    assert lash("turn", "s", prompt, "--raw").out == "\x1b]0;owned\x07\u202eback\n"
    assert lash("turn", "s", prompt, "-o", "json").json["text"] == "\x1b]0;owned\x07\u202eback"


def test_out_and_usage_files_are_written_instead_of_stdout(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    answer, usage = tmp_path / "answer.txt", tmp_path / "usage.json"
    done = lash("turn", "s", "!usage 7 3\n!text hi", "--out", str(answer), "--usage-file", str(usage))
    assert (done.code, done.out, answer.read_text()) == (0, "", "hi\n")
    assert json.loads(usage.read_text())["total_usage"]["total_tokens"] == 10
    lash("turn", "s", "!text ho", "-o", "json", "--out", str(answer))
    assert json.loads(answer.read_text())["text"] == "ho"


def test_an_ephemeral_turn_keeps_nothing(lash) -> None:
    done = lash("turn", "--ephemeral", "!text hi", "-q")
    assert (done.code, done.out) == (0, "hi\n")
    assert lash("ls", "-o", "json").json["items"] == []


def test_two_parallel_calls_and_a_second_model_call_make_the_exact_transcript(lash, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.txt").write_text("alpha\n")
    (work / "b.txt").write_text("beta\n")
    calls = [("read_file", {"path": "a.txt"}, "call_a"), ("read_file", {"path": "b.txt"}, "call_b")]
    replies = [
        tool_calls_reply(calls, text="Reading both.", usage=usage_of(100, 20)),
        text_reply("They differ.", usage=usage_of(150, 5)),
        text_reply("Yes."),
    ]
    with ThreadedChatServer(replies) as server:
        env = openai(server)
        assert lash("open", "s", "--system", "be exact", env=env, cwd=work).code == 0
        done = lash("turn", "s", "Compare a.txt and b.txt", "-o", "json", env=env, cwd=work)
        assert done.code == 0, done.err
        assert done.json["text"] == "They differ."
        assert [(call["call_id"], call["status"]) for call in done.json["tool_calls"]] == [
            ("call_a", "success"),
            ("call_b", "success"),
        ]
        assert lash("turn", "s", "Sure?", "-q", env=env, cwd=tmp_path).out == "Yes.\n"
        bodies = [request.json for request in server.requests]

    items = lash("log", "s", "--turn", done.json["turn_id"], "-o", "json").json["items"]
    assert [item["role"] for item in items][:2] == ["user", "assistant"]
    assert items[0]["text"] == "Compare a.txt and b.txt"
    parts = [part for item in items[1:] for part in item["parts"]]
    assert [part["kind"] for part in parts] == [
        "prose",
        "tool_call",
        "tool_call",
        "tool_result",
        "tool_result",
        "prose",
    ]
    assert [part["tool_call_id"] for part in parts[1:5]] == ["call_a", "call_b", "call_a", "call_b"]
    assert "alpha" in parts[3]["content"] and "beta" in parts[4]["content"]
    assert {item["turn_id"] for item in items} == {done.json["turn_id"]}

    usage = lash("show", "s", "-o", "json").json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (260, 30)
    assert usage["by_source_model"][0]["model"] == "m-1"

    assert [len(body["messages"]) for body in bodies] == [2, 5, 7]
    assert bodies[0]["messages"][0] == {"role": "system", "content": "be exact"}
    assert bodies[1]["messages"][:2] == bodies[0]["messages"], "the prefix is sent again as it was"
    assert [message["role"] for message in bodies[2]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]


# A host that can take back what it showed says so (contract 06 §3.2); otherwise nothing is asked for twice.
RESET = {"LASH_CFG__providers__openai__options": "{retry_after_output = 'reset', base_delay_ms = 1, jitter = 0.0}"}


def test_a_stream_cut_after_output_fails_the_turn_and_its_text_never_reaches_stdout(lash) -> None:
    with ThreadedChatServer([cut_reply("half an ans"), text_reply("never asked for")]) as server:
        env = openai(server)
        lash("open", "s", env=env)
        done = lash("turn", "s", "hi", "-o", "json", env=env)
        assert len(server.requests) == 1
    assert (done.code, done.out, done.error["code"]) == (75, "", "provider_unavailable")
    assert done.error["hint"].endswith("run it again: lash turn s '…'")
    (issue,) = done.error["details"]["turn"]["errors"]
    assert (issue["code"], issue["retryable"]) == ("unsafe_retry_after_output_started", False)
    assert "half an ans" not in json.dumps(lash("log", "s", "-o", "json").json)


def test_a_stream_cut_before_its_end_is_retried_and_its_text_never_reaches_stdout(lash) -> None:
    with ThreadedChatServer([cut_reply("half an ans"), text_reply("the whole answer")]) as server:
        env = openai(server) | RESET
        lash("open", "s", env=env)
        done = lash("turn", "s", "hi", env=env)
        assert len(server.requests) == 2
    assert (done.code, done.out) == (0, "the whole answer\n")
    assert "[retry]" in done.err
    assert "half an ans" not in json.dumps(lash("log", "s", "-o", "json").json)


def test_jsonl_retracts_exactly_the_text_of_the_failed_attempt(lash) -> None:
    with ThreadedChatServer([cut_reply("half"), text_reply("whole")]) as server:
        env = openai(server) | RESET
        lash("open", "s", env=env)
        events = lash("turn", "s", "hi", "-o", "jsonl", env=env).lines
    shown: dict[str, str] = {}
    for event in events:
        if event["type"] == "text_delta":
            shown[event["correlation_id"]] = shown.get(event["correlation_id"], "") + event["text"]
        if event["type"] == "attempt_reset":
            assert set(event["text_ids"]) <= set(shown)
            for correlation_id in event["text_ids"]:
                del shown[correlation_id]
    assert list(shown.values()) == ["whole"]
    assert any(event["type"] == "retry" for event in events)


def test_a_rejected_key_is_exit_5_and_the_key_is_nowhere_in_the_output(lash) -> None:
    with ThreadedChatServer([error_reply(401, {"error": {"message": "bad k-canary", "code": "invalid_api_key"}})]) as s:
        env = openai(s)
        lash("open", "s", env=env)
        done = lash("turn", "s", "hi", "-o", "json", env=env)
    assert (done.code, done.out, done.error["code"]) == (5, "", "key_rejected")
    assert "k-canary" not in done.err + lash("show", "s", "-o", "json").out + lash("log", "s", "-o", "json").out


@pytest.mark.parametrize(
    ("prompt", "options", "status", "code"),
    [
        ("!fail rate_limit", (), 75, "provider_rate_limited"),
        ("!fail overload", (), 75, "provider_unavailable"),
        ("!fail network", (), 75, "provider_unavailable"),
        ("!text partial\n!fail stream_cut", (), 75, "provider_unavailable"),
        ("!fail auth", (), 5, "key_rejected"),
        ("!fail quota", (), 6, "turn_stopped:provider_error"),
        ("!sleep 30", ("--timeout", "200ms"), 124, "wait_timeout"),
        (TWO_STEPS, ("--max-steps", "1"), 6, "turn_stopped:max_turns"),
    ],
)  # fmt: skip
def test_a_turn_that_does_not_finish_leaves_stdout_empty_and_tells_which_turn_it_was(
    lash, home: Path, prompt, options, status, code
) -> None:
    prepare(home, OPEN)
    done = lash("turn", "s", prompt, *options, "-o", "json", env=ONCE)
    assert (done.code, done.out, done.error["code"]) == (status, "", code), done.err
    assert len(done.err.splitlines()) == 1
    turn = done.error["details"]["turn"]
    assert turn["session"] == "s" and turn["ok"] is False
    assert lash("show", "s", "--turn", turn["turn_id"], "-o", "json").json["state"] == "committed"
    text = lash("turn", "s", prompt, *options, env=ONCE)
    assert (text.code, text.out) == (status, "")
    assert "error: " in text.err and "resume: lash turn" in text.err
    assert lash("turn", "s", "!text fine", "-q").out == "fine\n", "the session stays usable"


@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_a_turn_that_answers_with_reasoning_alone_says_that_there_is_no_answer(lash, blank: str) -> None:
    with ThreadedChatServer([thoughts_reply("hmm", text=blank)]) as server:
        env = openai(server)
        lash("open", "s", env=env)
        done = lash("turn", "s", "hi", env=env)
    assert (done.code, done.out.strip()) == (0, "")
    assert "warning: the model ended the turn without a word" in done.err


PRICED = "[models.loopback]\nprices = { input = 1.0, output = 2.0 }\n"


def test_a_turn_makes_no_call_beyond_its_cost_limit(lash, home) -> None:
    prepare(home, OPEN)
    (home / "config.toml").write_text(PRICED)
    (home / "config.toml").chmod(0o600)
    done = lash("turn", "s", TWO_STEPS, "--max-cost", "0.000001", "--approve", "execute=auto", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (6, "", "turn_stopped:max_cost"), done.err
    assert "Cost limit reached (0.000001 USD)" in lash("log", "s").out
    assert lash("show", "s", "-o", "json").json["usage"]["total_tokens"] > 0
    again = lash("turn", "s", TWO_STEPS, "--max-cost", "5", "--approve", "execute=auto")
    assert again.code == 0, again.err


@pytest.mark.parametrize("session", [("s",), ("new", "--or-open")])
def test_a_cost_limit_of_a_model_without_prices_is_refused_before_anything_is_written(
    lash, home: Path, session
) -> None:
    prepare(home, OPEN)
    done = lash("turn", *session, "hi", "--max-cost", "1", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "price_unknown"), done.err
    assert lash("log", "s").out == "" and lash("show", "new").code == 3


def test_a_failed_stream_ends_with_its_error(lash, home: Path) -> None:
    prepare(home, OPEN)
    done = lash("turn", "s", "!fail quota", "-o", "jsonl", env=ONCE)
    end = done.lines[-1]
    assert (done.code, end["type"], end["reason"], end["exit"]) == (6, "stream_end", "turn", 6)
    assert end["error"]["code"] == "turn_stopped:provider_error"
    assert done.error["code"] == end["error"]["code"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("nope", "hi"), 3, "session_not_found"),
        (("s", ""), 2, "empty_prompt"),
        (("s",), 2, "empty_prompt"),
        (("s", "hi", "--if-busy", "queue"), 2, "usage"),
        (("s", "hi", "--approve", "execute=maybe"), 2, "usage"),
        (("s", "hi", "--timeout", "soon"), 2, "usage"),
        (("s", "hi", "--max-steps", "0"), 2, "usage"),
        (("s", "hi", "--max-cost", "0"), 2, "usage"),
        (("s", "hi", "--max-cost", "-1"), 2, "usage"),
        (("s", "hi", "--max-cost", "nan"), 2, "usage"),
        (("s", "hi", "--max-cost", "1_0"), 2, "usage"),
        (("s", "hi", "--max-cost", "a lot"), 2, "usage"),
        (("s", "hi", "--max-cost", "1e999999"), 2, "usage"),
        (("s", "hi", "--provider", "nowhere"), 5, "provider_unconfigured"),
        (("--ephemeral", "s", "hi"), 2, "usage"),
        (("--or-open", "no/slash", "hi"), 2, "usage"),
        ((), 2, "empty_prompt"),
    ],
)
def test_what_is_wrong_with_the_call_is_told_before_anything_is_written(
    lash, home: Path, arguments, status, code
) -> None:
    prepare(home, OPEN)
    before = dump(home / "lash.db")
    told(lash("turn", *arguments, "-o", "json"), status, code)
    assert before is not None and dump(home / "lash.db") == before


def test_a_missing_provider_key_is_exit_5_and_nothing_is_written(lash) -> None:
    env = {"LASH_CFG__providers__mine__base_url": "http://127.0.0.1:9/v1", "LASH_CFG__providers__mine__key": "env:NOPE"}
    lash("open", "s", "--provider", "mine", "--model", "m", env=env)
    done = lash("turn", "s", "hi", "-o", "json", env=env)
    assert (done.code, done.out, done.error["code"]) == (5, "", "key_missing")
    assert lash("log", "s", "-o", "json").json["items"] == []


def test_the_same_key_runs_once_and_answers_the_same(lash, home: Path) -> None:
    prepare(home, OPEN)
    first = lash("turn", "s", "!text hi", "--key", "k1", "-o", "json").json
    again = lash("turn", "s", "!text hi", "--key", "k1", "-o", "json").json
    assert (again["turn_id"], again["text"], again["replayed"]) == (first["turn_id"], "hi", True)
    assert lash("turn", "s", "!text hi", "--key", "k1").out == "hi\n"
    assert lash("show", "s", "-o", "json").json["turns"] == 1
    other = lash("turn", "s", "!text other", "--key", "k1", "-o", "json")
    assert (other.code, other.out, other.error["code"]) == (4, "", "source_key_conflict")


def test_a_busy_session_names_its_holder_and_can_be_waited_for(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    gate = tmp_path / "gate"
    running = started_turn(home, "s", f"!wait-file {gate}\n!text first")
    try:
        busy = lash("turn", "s", "hi", "-o", "json")
        assert (busy.code, busy.out, busy.error["code"]) == (75, "", "session_execution_busy")
        assert busy.error["retryable"] is True
        assert busy.error["details"]["holder"]["pid"] == running.pid
        impatient = lash("turn", "s", "hi", "--if-busy", "wait=100ms", "-o", "json")
        assert (impatient.code, impatient.error["code"]) == (75, "session_execution_busy")
        patient = spawn_lash(["turn", "s", "!text second", "-q", "--if-busy", "wait"], home=home)
        gate.touch()
        assert patient.communicate(timeout=60)[0] == b"second\n"
        assert ended(running)[0] == 0
    finally:
        running.kill()
    texts = [item["text"] for item in lash("log", "s", "--role", "assistant", "-o", "json").json["items"]]
    assert texts == ["first", "second"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_commits_the_turn_as_cancelled(lash, home: Path, number, status) -> None:
    prepare(home, OPEN)
    process = started_turn(home, "s", "!sleep 60")
    process.send_signal(number)
    code, events, err = ended(process)
    assert code == status
    assert (events[-1]["type"], events[-1]["reason"], events[-1]["exit"]) == ("stream_end", "signal", status)
    assert json.loads(err.splitlines()[-1])["code"] == "turn_cancelled"
    shown = lash("show", "s", "-o", "json").json
    assert (shown["status"], shown["turns"], shown["lease"]) == ("idle", 1, None)
    assert lash("log", "s", "-o", "json").json["items"][0]["text"] == "!sleep 60"
    assert lash("turn", "s", "!text after", "-q").out == "after\n"


def test_a_reader_that_stalls_holds_up_neither_the_turn_nor_the_second_signal(lash, home: Path) -> None:
    prepare(home, OPEN)
    process = spawn_lash(["turn", "s", "!stream 2000\n!text " + "word " * 20_000, "-o", "jsonl"], home=home)
    try:
        while lash("show", "s", "-o", "json").json["turns"] == 0:
            assert process.poll() is None
        assert lash("turn", "s", "!text meanwhile", "-q").out == "meanwhile\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (-signal.SIGINT, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("option", ["--out", "--usage-file", "--trace"])
def test_a_file_without_a_name_is_refused_before_anything_is_sent(lash, home: Path, option: str) -> None:
    prepare(home, OPEN)
    done = lash("turn", "s", "!text hi", option, "", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
    assert option in done.error["message"]
    assert lash("show", "s", "-o", "json").json["turns"] == 0


def test_a_reader_that_leaves_gets_141_and_the_turn_is_committed(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    for form in (("-o", "jsonl"), ()):
        # It says something only when nobody reads any more: what is said before might all fit into the pipe.
        gate = tmp_path / f"gate-{len(form)}"
        read, write = os.pipe()
        process = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text hello", *form], home=home, stdout=write)
        os.close(write)
        if form:
            os.read(read, 1)
        os.close(read)
        gate.touch()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 141, err
        assert b"Traceback" not in err and b"BrokenPipe" not in err
    assert lash("show", "s", "-o", "json").json["turns"] == 2


def test_an_interrupted_turn_is_finished_first_and_only_the_new_answer_is_on_stdout(
    lash, home: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    lash("open", "s", "--name", "work")
    process = started_turn(home, "s", f"!wait-file {gate}\n!text old answer", "--turn-id", "t_old")
    process.kill()
    process.communicate()
    shown = lash("show", "s", "-o", "json").json
    assert (shown["status"], shown["unfinished_turn"]["id"]) == ("stuck", "t_old")
    assert "interrupted" in shown["warnings"][0] and "warning: " in lash("show", "s").out
    gate.touch()
    done = lash("turn", "s", "!text new answer")
    assert (done.code, done.out) == (0, "new answer\n")
    assert "finishing interrupted turn t_old" in done.err and "old answer" in done.err
    texts = [item["text"] for item in lash("log", "s", "--role", "assistant", "-o", "json").json["items"]]
    assert texts == ["old answer", "new answer"]


def test_in_jsonl_an_interrupted_turn_has_its_own_turn_id(lash, home: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    prepare(home, OPEN)
    process = started_turn(home, "s", f"!wait-file {gate}\n!text old", "--turn-id", "t_old")
    process.kill()
    process.communicate()
    gate.touch()
    events = lash("turn", "s", "!text new", "--turn-id", "t_new", "-o", "jsonl").lines
    finished = [(event["turn"], event["ok"]) for event in events if event["type"] == "turn_finished"]
    assert finished == [("t_old", True), ("t_new", True)]
    redriven = {event["turn"]: event["redriven"] for event in events if event["type"] == "turn_started"}
    assert redriven == {"t_old": True, "t_new": False}


def test_an_ephemeral_turn_that_failed_is_run_again_as_one(lash) -> None:
    failed = lash("turn", "--ephemeral", "!fail network", "-o", "json")
    assert (failed.code, failed.out) == (75, "")
    assert "lash turn --ephemeral '…'" in failed.error["hint"] and " s_" not in failed.error["hint"]
