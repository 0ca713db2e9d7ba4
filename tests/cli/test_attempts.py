"""The ledger of attempts through the real command: kept for every end, shown, and the same after a crash (06 §2)."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import begin, spawn_lash
from support.made_files import lay
from support.wire import (
    ThreadedChatServer,
    chunk,
    cut_reply,
    error_reply,
    stream_reply,
    text_reply,
    tool_calls_reply,
    usage_of,
)

from lash_cli.core.codec import decode_any, encode
from lash_cli.core.effect import EffectOutcome, LlmCallOutcome, TurnScope, scope_key
from lash_cli.core.llm import LlmCallRecord
from lash_cli.store.sqlite.stamps import decode_summary
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

REASONING = {"completion_tokens_details": {"reasoning_tokens": 15}, "prompt_tokens_details": {"cached_tokens": 40}}
TURN = ("turn", "s", "hi", "--turn-id", "t_1", "-o", "json")


@pytest.fixture(autouse=True)
def database(home: Path) -> Path:
    """The database is there before the session is."""
    return lay(home / "lash.db")


def provider(server: ThreadedChatServer, options: str = "") -> dict[str, str]:
    """The scripted server as the provider, failing fast."""
    return {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "key-of-the-test",
        "OPENAI_MODEL": "asked-model",
        "LASH_CFG__providers__openai__options": "{base_delay_ms = 20, jitter = 0.0" + options + "}",
    }


def calls_of(lash: Any, turn_id: str = "t_1") -> Any:
    return lash("show", "s", "--turn", turn_id, "-o", "json").json["model_calls"]


def test_a_turn_tells_every_attempt_and_what_really_ran(lash: Any) -> None:
    answer = text_reply("done", usage=usage_of(100, 20, **REASONING))
    with ThreadedChatServer([error_reply(503), answer]) as server:
        env = provider(server, ", response_metadata = ['header:x-request-id', 'body:/object']")
        assert lash("open", "s", env=env).code == 0
        result = lash(*TURN, env=env)
    assert result.code == 0, result.err
    (call,) = calls_of(lash)
    assert call == result.json["model_calls"][0], "what the turn said is what was kept"
    failed, completed = call["attempts"]
    assert (failed["ordinal"], failed["outcome"], failed["protocol_position"]) == (1, "failed", "response_observed")
    assert (failed["error"]["kind"], failed["error"]["status"]) == ("http", 503)
    assert failed["retry"] == {"scheduled": True, "reason": "retryable_failure", "delay_ms": 20}
    assert (failed["served_model"], failed["response_id"]) == (None, None), "what was asked is never evidence"
    assert failed["response_metadata"] == {"header:x-request-id": "req_test"}
    assert (completed["ordinal"], completed["outcome"], completed["error"]) == (2, "completed", None)
    assert (completed["served_model"], completed["response_id"]) == ("served-model", "chatcmpl-1")
    assert (completed["request_id"], completed["finish_reason"], completed["reasoning_tokens"]) == (
        "req_test",
        "stop",
        15,
    )
    assert completed["usage"] == {
        "input_tokens": 60,
        "output_tokens": 20,
        "cache_read_input_tokens": 40,
        "cache_write_input_tokens": 0,
        "reasoning_output_tokens": 15,
        "total_tokens": 120,
    }
    assert completed["response_metadata"] == {
        "header:x-request-id": "req_test",
        "body:/object": "chat.completion.chunk",
    }
    text = lash("show", "s", "--turn", "t_1").out
    for words in (
        "1 (2 attempts)",
        "1  failed after",
        "at response_observed",
        "scripted failure 503",
        "asked again after 20ms",
        "2  completed after",
        "served by served-model  finish stop  response chatcmpl-1  request req_test",
        "in 60 (cache read 40) out 20 (reasoning 15)",
        "body:/object = chat.completion.chunk",
    ):
        assert words in text, words


def test_what_a_provider_calls_itself_cannot_reach_the_terminal(lash: Any) -> None:
    evil = "m\x1b]0;owned\x07"
    reply = stream_reply(chunk({"content": "x"}) | {"model": evil}, chunk(finish_reason="stop") | {"model": evil})
    with ThreadedChatServer([reply]) as server:
        env = provider(server)
        lash("open", "s", env=env)
        assert lash(*TURN, env=env).code == 0
    assert "\x1b" not in lash("show", "s", "--turn", "t_1").out + lash("usage", "s").out


def test_a_failed_turn_keeps_its_attempts_and_says_why_nothing_followed(lash: Any) -> None:
    with ThreadedChatServer([cut_reply()]) as server:
        env = provider(server)
        lash("open", "s", env=env)
        assert lash(*TURN, env=env).code == 75
    (attempt,) = calls_of(lash)[0]["attempts"]
    assert (attempt["outcome"], attempt["protocol_position"]) == ("failed", "output_started")
    assert attempt["error"]["code"] == "unsafe_retry_after_output_started"
    assert attempt["retry"]["reason"] == "output_started_without_retry_guarantee"
    assert attempt["served_model"] == "served-model", "evidence of an attempt that failed"
    assert "not asked again: part of the answer had been shown" in lash("show", "s", "--turn", "t_1").out


def test_a_summary_that_was_cut_is_asked_for_again_because_nobody_saw_any_of_it(lash: Any) -> None:
    answers = [text_reply("one"), text_reply("two"), cut_reply("the gist be"), text_reply("the gist, whole")]
    with ThreadedChatServer(answers) as server:
        env = provider(server)
        lash("open", "s", env=env)
        for said in ("first", "second"):
            assert lash("turn", "s", said, env=env).code == 0
        result = lash("compact", "s", "-o", "json", env=env)
    assert result.code == 0, result.err
    assert result.json["summary"].endswith("the gist, whole")


def test_a_cancelled_turn_keeps_the_attempt_it_aborted(lash: Any, home: Path) -> None:
    lash("open", "s")
    stream = ("turn", "s", "!stream 100000 0.05", "--turn-id", "t_1", "-o", "jsonl")
    with spawn_lash(stream, home=home) as process:
        assert process.stdout is not None
        while b"text_delta" not in process.stdout.readline():
            assert process.poll() is None, "the turn ended before it said anything"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    (attempt,) = calls_of(lash)[0]["attempts"]
    assert (attempt["outcome"], attempt["protocol_position"]) == ("aborted", "output_started")
    assert (attempt["served_model"], attempt["retry"]["reason"]) == ("loopback", "cancelled")
    assert "1  aborted after" in lash("show", "s", "--turn", "t_1").out


def test_usage_counts_what_failed_attempts_cost(lash: Any) -> None:
    costly = stream_reply(chunk({"content": "half"}), chunk(usage=usage_of(7, 3)), done=False)
    tool = tool_calls_reply([("no_such_tool", {})], usage=usage_of(20, 2))
    with ThreadedChatServer([costly, tool, text_reply("done", usage=usage_of(30, 4)), error_reply(401)]) as server:
        env = provider(server, ", retry_after_output = 'reset'")
        lash("open", "s", "--name", "work", env=env)
        assert lash("turn", "s", "hi", env=env).code == 0
        assert lash("turn", "s", "hi", env=env).code == 5
    document = lash("usage", "work", "-o", "json").json
    assert (document["kind"], document["session"], document["session_name"]) == ("SessionUsage", "s", "work")
    assert (document["turns"], document["input_tokens"], document["output_tokens"]) == (2, 57, 9)
    assert [(row["source"], row["model"], row["total_tokens"]) for row in document["by_source_model"]] == [
        ("turn", "asked-model", 66)
    ]
    attempts = document["attempts"]
    assert [attempts[key] for key in ("calls", "attempts", "completed", "failed", "aborted", "interrupted")] == [
        3, 4, 2, 2, 0, 0,
    ]  # fmt: skip
    assert attempts["unanswered_usage"]["total_tokens"] == 10
    assert attempts["retry_wait_ms"] == 20
    assert [(row["model"], row["attempts"], row["total_tokens"]) for row in attempts["served"]] == [
        ("served-model", 3, 66),
        (None, 1, 0),
    ]
    text = lash("usage", "s").out
    for words in (
        "work  s",
        "in 57 out 9",
        "turn / asked-model",
        "3 (4 attempts: 2 failed)",
        "in 7 out 3, part of the total",
        "served-model: 3 attempts",
        "not told: 1 attempt",
    ):
        assert words in text, words
    assert lash("usage", "s", "-q").out == "s\n"
    missing = lash("usage", "nothing-like-it", "-o", "json")
    assert (missing.code, missing.out, missing.error["code"]) == (3, "", "session_not_found")


def test_usage_of_a_session_without_turns_is_nothing(lash: Any) -> None:
    lash("open", "s")
    document = lash("usage", "s", "-o", "json").json
    assert (document["total_tokens"], document["turns"], document["attempts"]["calls"]) == (0, 0, 0)
    assert "in 0 out 0" in lash("usage", "s").out


SCRIPT = "!fail overload 1\n!tool no_such_tool {}\n!then\n!fail server 2\n!usage 9 4\n!text done"


def crash(home: Path, point: str, *arguments: str) -> None:
    with spawn_lash(arguments, home=home, first=begin("crashing", point)) as killed:
        _, err = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, (killed.returncode, err)


def journalled(home: Path) -> list[LlmCallRecord]:
    """The call records in the journal, as they were written before the crash."""

    async def read() -> list[LlmCallRecord]:
        store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds(), read_only=True)
        try:
            rows = await store.journal_rows(scope_key(TurnScope("s", "t_1")))
        finally:
            await store.aclose()
        outcomes = [decode_any(row.outcome, EffectOutcome) for row in rows if row.outcome is not None]
        return [outcome.result.record for outcome in outcomes if isinstance(outcome, LlmCallOutcome)]

    return sorted(asyncio.run(read()), key=lambda record: record.attempts[0].started_at_ms)


def stored(home: Path) -> list[LlmCallRecord]:
    """The call records of the committed turn."""
    with closing(sqlite3.connect(f"file:{home / 'lash.db'}?mode=ro", uri=True)) as connection:
        statement = "SELECT summary, started_at_ms FROM turns WHERE state = 'committed'"
        ((summary, started_at_ms),) = connection.execute(statement).fetchall()
    return list(decode_summary(summary, started_at_ms).llm_calls)


@pytest.mark.parametrize("point", ["after:model_recorded", "after:model_recorded#2", "before:commit", "after:commit"])
def test_the_ledger_is_the_same_after_a_kill_and_a_re_drive(lash: Any, home: Path, point: str) -> None:
    lash("open", "s")
    crash(home, point, "turn", "s", SCRIPT, "--turn-id", "t_1", "-q")
    before = journalled(home)
    assert [len(record.attempts) for record in before] == ([2] if point == "after:model_recorded" else [2, 3])
    shown = calls_of(lash)
    resumed = lash("resume", "s", "-q")
    assert resumed.code == 0, resumed.err
    after = stored(home)
    assert after[: len(before)] == before, "times, delays, errors and usage are those of the calls that were made"
    assert calls_of(lash)[: len(shown)] == shown, "what could be read of the interrupted turn stays true"
    assert len(shown) == len(before)
    assert [len(call["attempts"]) for call in calls_of(lash)] == [2, 3]
    usage = lash("usage", "s", "-o", "json").json
    assert (usage["attempts"]["calls"], usage["attempts"]["attempts"], usage["attempts"]["failed"]) == (2, 5, 3)
    assert usage["total_tokens"] == sum(call["usage"]["total_tokens"] for call in calls_of(lash))


def test_the_ledger_outlives_the_journal(lash: Any, home: Path) -> None:
    lash("open", "s")
    assert lash("turn", "s", SCRIPT, "--turn-id", "t_1", "-q").code == 0
    before = calls_of(lash)

    async def collect() -> None:
        store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds())
        try:
            await store.gc_unreachable()
        finally:
            await store.aclose()

    asyncio.run(collect())
    assert journalled(home) == []
    assert calls_of(lash) == before and len(before) == 2


def test_a_turn_that_succeeds_at_once_pays_for_its_ledger_with_few_bytes(lash: Any, home: Path) -> None:
    lash("open", "s")
    lash("turn", "s", "!text hi", "--turn-id", "t_1", "-q")
    (record,) = stored(home)
    (attempt,) = json.loads(encode(record))["attempts"]
    assert set(attempt) <= {"ordinal", "started_at_ms", "duration_ms", "evidence", "usage"}
