"""`lash turn --schema FILE` through real processes: one JSON value on stdout, or a stopped turn (contract 06 §8)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash
from support.wire import ThreadedChatServer, chat_provider, hang_reply, text_reply

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "note": {"type": "string"}},
    "required": ["city"],
}


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "city.schema.json"
    path.write_text(json.dumps(SCHEMA))
    return str(path)


def asked_for(request: Any) -> Any:
    """The schema a request carries."""
    return request.json["response_format"]["json_schema"]["schema"]


def test_stdout_is_one_json_value_and_nothing_else(lash: Any, schema: str) -> None:
    done = lash("turn", "--or-open", "s", '!text {"city": "Oslo"}', "--schema", schema)
    assert (done.code, json.loads(done.out)) == (0, {"city": "Oslo"})
    result = lash("turn", "s", '!text {"city": "Bergen"}', "--schema", schema, "-o", "json").json
    assert result["outcome"] == {
        "type": "finished",
        "finish": "final_value",
        "reason": None,
        "value": {"city": "Bergen"},
        "tool_name": None,
        "frame_id": None,
    }
    assert (result["ok"], result["text"], result["partial_text"]) == (True, None, None)


def test_the_built_in_provider_answers_with_an_example_of_the_schema(lash: Any, schema: str) -> None:
    done = lash("turn", "--ephemeral", "where", "--schema", schema)
    assert (done.code, done.json) == (0, {"city": "loopback"})


def test_a_wrong_answer_never_reaches_stdout_and_is_given_back_once(lash: Any, schema: str) -> None:
    with ThreadedChatServer([text_reply("It is Oslo."), text_reply('{"city": "Oslo", "note": null}')]) as server:
        done = lash("turn", "--or-open", "s", "where", "--schema", schema, env=chat_provider(server))
        requests = server.requests
    assert (done.code, done.out) == (0, '{"city":"Oslo"}\n')
    assert [asked_for(request)["required"] for request in requests] == [["city", "note"]] * 2
    told = requests[1].json["messages"][-1]
    assert told["role"] == "user" and "it is not JSON" in told["content"] and '"required":["city"]' in told["content"]


def test_a_second_wrong_answer_is_a_stopped_turn_with_empty_stdout(lash: Any, schema: str) -> None:
    with ThreadedChatServer([text_reply("Oslo"), text_reply("Oslo!")]) as server:
        done = lash("turn", "--or-open", "s", "where", "--schema", schema, "-o", "json", env=chat_provider(server))
        assert len(server.requests) == 2
    assert (done.code, done.out) == (6, "")
    assert done.error["code"] == "turn_stopped:provider_error"
    assert [issue["code"] for issue in done.error["details"]["turn"]["errors"] if issue["blocking"]] == [
        "invalid_structured_output"
    ]


def test_a_schema_a_provider_cannot_be_shown_is_refused_before_anything_is_sent(lash: Any, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"type": "array", "items": {"type": "string"}}')
    with ThreadedChatServer([]) as server:
        done = lash("turn", "--or-open", "s", "where", "--schema", str(path), "-o", "json", env=chat_provider(server))
        assert server.requests == []
    assert done.code == 6
    assert done.error["details"]["turn"]["errors"][0]["code"] == "schema_unrepresentable"
    assert "#/type" in done.error["message"]


def test_a_killed_turn_is_finished_under_its_schema(lash: Any, home: Path, schema: str) -> None:
    """Whoever resumes knows nothing of the file any more."""
    with ThreadedChatServer([hang_reply(), text_reply('{"city": "Oslo"}')]) as server:
        lash("open", "s", env=chat_provider(server))
        with spawn_lash(["turn", "s", "where", "--schema", schema], home=home, env=chat_provider(server)) as process:
            server.wait_for_requests(1)
            process.send_signal(signal.SIGKILL)
        Path(schema).unlink()
        resumed = lash("resume", "s", env=chat_provider(server))
        first, second = server.requests
    assert (resumed.code, resumed.out) == (0, '{"city":"Oslo"}\n'), resumed.err
    assert first.body == second.body


def test_a_busy_session_queues_the_text_with_its_schema(lash: Any, home: Path, schema: str) -> None:
    with ThreadedChatServer([hang_reply(), text_reply('{"city": "Oslo"}')]) as server:
        lash("open", "s", env=chat_provider(server))
        with spawn_lash(["turn", "s", "first"], home=home, env=chat_provider(server)) as process:
            server.wait_for_requests(1)
            queued = lash(
                "turn",
                "s",
                "where",
                "--schema",
                schema,
                "--if-busy",
                "enqueue",
                "-o",
                "json",
                env=chat_provider(server),
            )
            assert queued.json["kind"] == "PendingInput", queued.err
            process.send_signal(signal.SIGINT)
        lash("work", "s", "--until-empty", env=chat_provider(server))
        assert asked_for(server.requests[1])["required"] == ["city", "note"]
    shown = lash("log", "s", "-o", "json").json["items"][-1]
    assert json.loads(shown["text"]) == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"title":"\udcff"}', "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"type": "nonsense"}', "invalid"),
        ('{"$ref": "https://example.org/s"}', "local references"),
    ],
)
def test_a_file_that_is_no_schema_is_a_usage_error_and_nothing_is_sent(
    lash: Any, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    done = lash("turn", "--or-open", "s", "x", "--schema", str(path), "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "schema_invalid")
    assert message in done.error["message"]
    assert lash("ls", "-o", "name").out == ""


def test_the_schema_can_come_from_stdin_which_is_then_no_text(lash: Any) -> None:
    done = lash("turn", "--ephemeral", '!text {"city": "Oslo"}', "--schema", "-", input=json.dumps(SCHEMA))
    assert (done.code, done.json) == (0, {"city": "Oslo"})
    twice = lash("turn", "--ephemeral", "x", "--schema", "-", "-a", "-", "-o", "json", input="{}")
    assert (twice.code, twice.error["code"]) == (2, "usage")
