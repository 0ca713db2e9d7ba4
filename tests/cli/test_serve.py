"""`lash serve --stdio` as the program that started it meets it: a real process, lines in and lines out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from support.cli import run_lash, spawn_lash
from support.made_files import lay
from support.prepared import OPEN, prepare
from support.processes import PATIENCE_S

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import closed, schema_of

SHAPES = {
    kind: jsonschema_rs.Draft202012Validator(closed(schema_of(KINDS[name])))
    for kind, name in (("ready", "RpcReady"), ("event", "RpcEvent"), ("response", "RpcResponse"))
}


class Peer:
    """A program that talks to a server of its own."""

    def __init__(self, home: Path, *arguments: str, **options: Any) -> None:
        self.process = spawn_lash(["serve", "--stdio", *arguments], home=home, stdin=subprocess.PIPE, **options)
        self.seen: list[Any] = []
        self._unclaimed: list[Any] = []
        self.ready = self.read()

    def send(self, request_id: Any, method: str, **parameters: Any) -> None:
        # `from` is no name in Python.
        named = {name.rstrip("_"): value for name, value in parameters.items()}
        self.write(json.dumps({"id": request_id, "method": method, "params": named}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), (line, self.process.stderr and self.process.stderr.read())
        document = json.loads(line)
        SHAPES[document["type"]].validate(document)
        self.seen.append(document)
        if document["type"] == "response":
            self._unclaimed.append(document)
        return document

    def response(self, request_id: Any) -> Any:
        """The next response to a request; what comes before it is kept."""
        while True:
            found = next((document for document in self._unclaimed if document["id"] == request_id), None)
            if found is not None:
                self._unclaimed.remove(found)
                return found
            self.read()

    def ask(self, request_id: Any, method: str, **parameters: Any) -> Any:
        """The result of a request that is to succeed."""
        self.send(request_id, method, **parameters)
        response = self.response(request_id)
        assert response["ok"], response["error"]
        return response["result"]

    def refused(self, request_id: Any, method: str, **parameters: Any) -> Any:
        """The error of a request that is to fail."""
        self.send(request_id, method, **parameters)
        response = self.response(request_id)
        assert not response["ok"] and response["result"] is None
        return response["error"]

    def event(self, request_id: Any, kind: str) -> Any:
        """The next event of that type, of that request."""
        while True:
            document = self.read()
            assert document["type"] == "event" or document["id"] != request_id, document
            if document["type"] == "event" and document["id"] == request_id and document["event"]["type"] == kind:
                return document["event"]

    def events(self, request_id: Any) -> list[Any]:
        """The events of a request that were read so far."""
        return [item["event"] for item in self.seen if item["type"] == "event" and item["id"] == request_id]

    def rest(self) -> list[Any]:
        """What is written until the end."""
        assert self.process.stdout is not None
        lines = [json.loads(line) for line in self.process.stdout]
        self.seen += lines
        return lines

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def peer(home):
    prepare(home, ("open", "s", "--name", "work"))
    return Peer(home)


@pytest.fixture
def database(home):
    """A connection of somebody else to a database without sessions."""
    with contextlib.closing(sqlite3.connect(lay(home / "lash.db"))) as connection:
        yield connection


def responses(lines: list[Any]) -> dict[Any, Any]:
    return {line["id"]: line for line in lines if line["type"] == "response"}


def texts(lash, session: str = "s") -> list[str]:
    return [item["text"] for item in lash("log", session, "-o", "json").json["items"]]


def test_the_first_line_says_what_is_there(peer):
    assert peer.ready["protocol"] == "lash.rpc.v1" and peer.ready["protocol_version"] == 1
    assert peer.ready["methods"] == [
        "prompt", "enqueue", "cancel", "cancel_suffix", "tail", "show", "ping", "shutdown",
    ]  # fmt: skip
    assert peer.ask("a text as id", "ping")["kind"] == "RpcPong"
    peer.close_stdin()
    assert (peer.rest(), peer.ended()) == ([], 0)


def test_a_prompt_is_told_as_the_stream_of_a_turn_and_answered_with_its_result(peer, lash):
    result = peer.ask(1, "prompt", session="work", text="!text one two", key="k")
    assert (result["kind"], result["text"], result["ok"], result["replayed"]) == ("TurnResult", "one two", True, False)
    events = peer.events(1)
    assert [event["seq"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[1], kinds[-2], kinds[-1]) == ("stream_start", "turn_started", "turn_finished", "stream_end")
    assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "one two"
    assert texts(lash) == ["!text one two", "one two"]
    again = peer.ask(2, "prompt", session="s", text="!text one two", key="k", events=False)
    assert (again["replayed"], again["turn_id"], peer.events(2)) == (True, result["turn_id"], [])
    assert peer.refused(3, "prompt", session="s", text="another", key="k")["code"] == "source_key_conflict"


def test_a_turn_that_stopped_is_the_error_of_the_command(peer):
    error = peer.refused(1, "prompt", session="s", text="!fail auth")
    assert (error["code"], error["exit"], error["kind"]) == ("key_rejected", 5, "Error")
    assert error["details"]["turn"]["turn_id"] == peer.events(1)[-1]["turn"]
    assert peer.events(1)[-1]["error"]["code"] == "key_rejected"
    assert peer.refused(2, "prompt", session="nowhere", text="x")["exit"] == 3
    assert peer.ask(3, "prompt", session="nowhere", text="x", or_open=True)["session"] == "nowhere"
    assert peer.refused(4, "prompt", session="s", text=" ")["code"] == "empty_prompt"
    assert peer.refused(5, "prompt", session="s", text="x", provider="nobody")["code"] == "provider_unconfigured"


def test_a_session_that_is_opened_for_a_prompt_is_as_the_command_opens_one(home, lash):
    config = home / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[labels]\nteam = "a"\n')
    config.chmod(0o600)
    Peer(home).ask(1, "prompt", session="served", text="x", or_open=True)
    assert lash("turn", "turned", "x", "--or-open").code == 0
    labels = {name: lash("show", name, "-o", "json").json["labels"] for name in ("served", "turned")}
    assert labels == {"served": {"team": "a"}, "turned": {"team": "a"}}


def test_a_session_may_be_named_once_for_all_requests(home, lash):
    prepare(home, OPEN)
    peer = Peer(home, "s")
    assert peer.ask(1, "show")["id"] == "s"
    assert peer.ask(2, "prompt", text="hello")["session"] == "s"
    assert peer.refused(3, "show", session="")["code"] == "session_not_found", "an empty name is no name left out"


def test_nobody_is_asked_and_what_may_run_is_said_at_the_start(peer, home, lash):
    text = '!tool exec_command {"cmd": "echo from-a-tool"}'
    peer.ask(1, "prompt", session="s", text=text)
    assert "from-a-tool" not in texts(lash)[-1]
    allowed = Peer(home, "--approve", "execute=auto")
    assert "from-a-tool" in allowed.ask(1, "prompt", session="s", text=text)["text"]


def test_a_busy_session_is_an_error_that_may_be_retried_or_a_receipt(peer, home, tmp_path):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/go")
    turn = peer.event(1, "turn_started")["turn"]
    busy = peer.refused(2, "prompt", session="s", text="x")
    assert (busy["code"], busy["exit"], busy["retryable"]) == ("session_execution_busy", 75, True)
    receipt = peer.ask(3, "prompt", session="s", text="!text later", if_busy="enqueue")
    assert (receipt["kind"], receipt["delivery"]) == ("PendingInput", "next_turn")
    assert peer.ask(4, "show", session="s", turn=turn)["state"] == "running"
    peer.send(5, "prompt", session="s", text="!text third", if_busy="wait")
    (tmp_path / "go").touch()
    got = responses([peer.response(1), peer.response(5)])
    assert got[1]["ok"] and got[5]["ok"]
    assert peer.refused(6, "prompt", session="s", text="x", if_busy="shrug")["code"] == "usage"


def test_a_turn_is_cancelled_by_another_request(peer, tmp_path):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/never")
    turn = peer.event(1, "turn_started")["turn"]
    receipt = peer.ask(2, "cancel", session="s", reason="enough")
    assert (receipt["kind"], receipt["outcome"], receipt["turn_id"]) == ("CancelReceipt", "requested", turn)
    error = peer.response(1)["error"]
    assert (error["code"], error["exit"]) == ("turn_cancelled", 7)
    assert peer.refused(3, "cancel", session="s")["exit"] in (3, 4), "nothing runs any more"


def test_texts_are_queued_in_the_order_in_which_they_were_sent(peer, lash):
    for number in range(20):
        peer.send(number, "enqueue", session="s", text=f"text {number}", key=f"k{number}")
    receipts = [peer.response(number)["result"] for number in range(20)]
    waiting = lash("queue", "ls", "s", "-o", "json").json["items"]
    assert [item["preview"] for item in waiting] == [f"text {number}" for number in range(20)]
    again = peer.ask("again", "enqueue", session="s", text="text 3", key="k3")
    assert (again["id"], again["replayed"]) == (receipts[3]["id"], True)
    cut = peer.ask("cut", "cancel_suffix", session="s", anchor=receipts[5]["id"])
    assert [item["id"] for item in cut["items"]] == [receipt["id"] for receipt in receipts[5:]]
    assert {item["outcome"] for item in cut["items"]} == {"cancelled"}
    assert peer.ask("by key", "cancel_suffix", session="s", key="k4")["items"][0]["id"] == receipts[4]["id"]
    assert peer.refused("none", "cancel_suffix", session="s", anchor="in_nowhere")["code"] == "input_not_found"
    assert peer.refused("both", "cancel_suffix", session="s", anchor="a", key="b")["code"] == "invalid_params"
    assert peer.refused("now", "enqueue", session="s", text="x", now=True)["code"] == "no_active_turn"
    assert peer.refused("next", "enqueue", session="s", text="x", or_next=True)["code"] == "invalid_params"


def test_text_enters_the_turn_that_runs(peer, tmp_path, lash):
    text = f'!wait-file {tmp_path}/go\n!tool glob {{"pattern": "*"}}\n!then\n!text done'
    peer.send(1, "prompt", session="s", text=text)
    peer.event(1, "turn_started")
    receipt = peer.ask(2, "enqueue", session="s", text="also this", now=True)
    assert receipt["delivery"] == "this_turn"
    (tmp_path / "go").touch()
    assert peer.response(1)["ok"]
    accepted = [event for event in peer.events(1) if event["type"] == "input_accepted"]
    assert len(accepted) == 1 and texts(lash).count("also this") == 1


def test_a_tail_follows_what_other_processes_do_and_goes_on_from_its_cursor(peer, lash):
    peer.send("t", "tail", session="work", from_="start")
    assert peer.event("t", "snapshot")["messages"] == []
    assert lash("turn", "s", "!text from elsewhere", "-q").code == 0
    assert peer.event("t", "turn_finished")["text"] == "from elsewhere"
    assert peer.refused("u", "tail", stop="nobody")["code"] == "request_not_found"
    peer.send("u", "tail", stop="t")
    found = responses([peer.response("u"), peer.response("t")])
    assert found["u"]["result"]["reason"] == "stopping"
    assert found["t"]["result"]["reason"] == "stopped"
    cursor = found["t"]["result"]["cursor"]
    assert lash("turn", "s", "!text second", "-q").code == 0
    more = peer.ask("v", "tail", session="s", from_=cursor, follow=False)
    assert more["reason"] == "caught_up"
    assert [event["text"] for event in peer.events("v") if event["type"] == "turn_finished"] == ["second"]
    assert peer.events("v")[-1]["type"] == "stream_end"


def test_a_tail_with_an_end_says_that_a_writer_died(peer, home, tmp_path, lash):
    peer.send("t", "tail", session="s")
    with spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'never'}"], home=home) as writer:
        turn_id = peer.event("t", "model_request_started")["turn"]
        writer.kill()
        writer.communicate()
    waiting = (("u", "idle"), ("v", "turn"), ("w", "committed"))
    for request_id, until in waiting:
        peer.send(request_id, "tail", session="s", until=until)
    for request_id, _ in waiting:
        response = peer.response(request_id)
        assert not response["ok"] and response["result"] is None
        error = response["error"]
        assert (error["code"], error["exit"]) == ("session_execution_lease_lost", 75)
        assert turn_id in error["message"]


def test_a_tail_ends_as_its_turn_did_or_when_its_time_is_up(peer, tmp_path, lash):
    peer.send("t", "tail", session="s", until="turn", types=["turn_started", "turn_finished"])
    peer.event("t", "stream_start")
    assert lash("turn", "s", "!fail auth", "-q").code == 5
    error = peer.response("t")["error"]
    assert error["exit"] == 6 and error["code"].startswith("turn_stopped")
    assert [event["type"] for event in peer.events("t")] == [
        "stream_start", "turn_started", "turn_finished", "stream_end",
    ]  # fmt: skip
    assert peer.ask("u", "tail", session="s", timeout_ms=1)["reason"] == "timeout"
    assert peer.ask("v", "tail", session="s", from_="last-commit", follow=False)["reason"] == "caught_up"
    assert [event["type"] for event in peer.events("v")] == ["stream_start", "stream_end"]
    peer.send("w", "tail", session="s", until="committed")
    peer.event("w", "stream_start")
    assert lash("set", "s", "max_steps=9").code == 0
    assert peer.response("w")["result"]["reason"] == "committed"
    assert [event["type"] for event in peer.events("w")] == ["stream_start", "committed", "stream_end"]
    assert peer.refused("v", "tail", session="s", types=["nonsense"])["code"] == "invalid_params"
    assert peer.refused("w", "tail", session="s", from_="yesterday")["code"] == "cursor_invalid"
    assert peer.refused("x", "tail", session="nowhere")["code"] == "session_not_found"


def test_what_cannot_be_understood_is_answered_and_changes_nothing(peer, lash):
    bad = (
        (b"{broken", "invalid_json"), (b"\xff\xfe", "invalid_json"), (b"[" * 100_000, "invalid_json"),
        (b'{"id":1,"method":"prompt","params":{"session":"s","text":"half \\ud83d"}}', "invalid_json"),
        (b"[1]", "invalid_request"), (b'{"method":"ping"}', "invalid_request"),
        (b'{"id":true,"method":"ping"}', "invalid_request"), (b'{"id":1.5,"method":"ping"}', "invalid_request"),
    )  # fmt: skip
    for line, code in bad:
        peer.write(line + b"\n\n  \n")
        response = peer.read()
        assert (response["id"], response["ok"], response["error"]["code"]) == (None, False, code), line
        assert response["error"]["exit"] == 2
    assert peer.refused(1, "prompts", session="s", text="x")["code"] == "unknown_method"
    for parameters in ({"txt": "x"}, {"text": 3}, {"text": "x", "keys": "k"}, {"text": "x", "events": "no"}):
        error = peer.refused(2, "prompt", session="s", **parameters)
        assert error["code"] == "invalid_params" and "it takes: " in error["hint"]
    peer.write(b'{"id":3,"method":"ping","params":[1]}\n')
    assert peer.response(3)["error"]["code"] == "invalid_params"
    assert peer.ask(4, "ping")["kind"] == "RpcPong"
    assert texts(lash) == []


def test_an_id_is_not_used_twice_at_a_time(peer, tmp_path):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/go")
    peer.event(1, "turn_started")
    peer.send(1, "ping")
    assert peer.response(1)["error"]["code"] == "id_in_use"
    (tmp_path / "go").touch()
    assert peer.response(1)["ok"]
    assert peer.ask(1, "ping")["kind"] == "RpcPong"


def test_a_way_to_be_reached_must_be_named(lash):
    done = lash("serve", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")


def test_requests_in_a_file_are_all_answered(home, lash):
    prepare(home, OPEN)
    requests = [
        {"id": 1, "method": "prompt", "params": {"session": "s", "text": "!text one"}},
        {"id": 2, "method": "tail", "params": {"session": "s"}},
        {"id": 4, "method": "tail", "params": {"session": "s", "from": "start", "follow": False}},
        {"id": 3, "method": "ping"},
    ]
    done = run_lash(["serve", "--stdio"], home=home, input="\n".join(map(json.dumps, requests)))
    assert done.code == 0
    got = responses(done.lines)
    assert got[1]["result"]["text"] == "one" and got[3]["ok"], "the last line needs no line feed"
    # It would have gone on for ever: stopped if it was under way before anybody saw the end of the file.
    assert got[2]["result"]["reason"] in ("caught_up", "stopped")
    assert got[4]["result"]["reason"] == "caught_up"
    told = [line["event"]["type"] for line in done.lines if line["type"] == "event" and line["id"] == 4]
    assert told[:2] == ["stream_start", "snapshot"]


def test_the_end_of_stdin_lets_a_turn_end_by_itself(peer, tmp_path, lash):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/go\n!text finished")
    peer.event(1, "turn_started")
    peer.close_stdin()
    (tmp_path / "go").touch()
    assert responses(peer.rest())[1]["result"]["text"] == "finished"
    assert peer.ended() == 0


def test_the_end_of_stdin_ends_a_tail_under_way_that_has_no_end_of_its_own(peer):
    peer.send(1, "tail", session="s")
    peer.event(1, "stream_start")
    peer.close_stdin()
    assert responses(peer.rest())[1]["result"]["reason"] == "stopped"
    assert peer.ended() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "shutdown"])
def test_an_orderly_end_cancels_and_commits_what_runs(peer, tmp_path, lash, how):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/never")
    peer.event(1, "turn_started")
    if how == "shutdown":
        peer.send(2, "shutdown")
    else:
        peer.process.send_signal(how)
    lines = responses(peer.rest())
    assert lines[1]["error"]["code"] == "turn_cancelled"
    if how == "shutdown":
        assert (lines[2]["result"]["kind"], peer.ended()) == ("RpcShutdown", 0)
    else:
        assert peer.ended() == 128 + how
    shown = lash("show", "s", "-o", "json").json
    assert (shown["status"], shown["turns"], shown["unfinished_turn"]) == ("idle", 1, None)


def test_a_prompt_that_was_not_begun_when_the_server_ends_is_not_sent(home, lash, database):
    peer = Peer(home)
    database.execute("BEGIN IMMEDIATE")  # the session cannot be opened before this lets go
    peer.send(1, "prompt", session="new", text="hello", or_open=True, key="k")
    assert peer.ask(2, "shutdown")["drain"] is False
    database.rollback()
    error = responses(peer.rest())[1]["error"]
    assert (error["code"], error["exit"], error["retryable"]) == ("shutting_down", 75, True)
    assert error["message"] == "the server was shut down; nothing was sent"
    assert peer.ended() == 0
    shown = lash("show", "new", "-o", "json").json
    assert (shown["turns"], shown["unfinished_turn"], shown["lease"]) == (0, None, None)
    assert Peer(home).ask(1, "prompt", session="new", text="!text hello", key="k")["text"] == "hello"


def test_a_draining_shutdown_waits_for_what_runs(peer, tmp_path):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/go\n!text finished")
    peer.event(1, "turn_started")
    assert peer.ask(2, "shutdown", drain=True)["drain"] is True
    (tmp_path / "go").touch()
    assert responses(peer.rest())[1]["result"]["text"] == "finished"
    assert peer.ended() == 0


def test_a_peer_that_went_away_costs_nothing_that_was_asked_for(peer, tmp_path, lash):
    peer.send(1, "prompt", session="s", text=f"!wait-file {tmp_path}/go\n!text finished")
    peer.event(1, "turn_started")
    assert peer.process.stdout is not None
    peer.process.stdout.close()
    (tmp_path / "go").touch()
    assert peer.ended() == 141
    assert texts(lash)[-1] == "finished"


def test_a_server_whose_peer_died_does_not_outlive_it(peer):
    peer.send(1, "tail", session="s", until="turn")
    peer.event(1, "stream_start")
    peer.close_stdin()
    assert peer.process.stdout is not None
    peer.process.stdout.close()
    assert peer.ended() == 141


def test_a_server_that_was_killed_loses_nothing_and_its_turn_is_finished_once(peer, home, tmp_path, lash):
    text = f'!tool glob {{"pattern": "*"}}\n!then\n!wait-file {tmp_path}/go\n!text finished'
    peer.ask(0, "enqueue", session="s", text="!text from the queue", key="waits")
    peer.send(1, "prompt", session="s", text=text, key="once")
    turn = peer.event(1, "tool_completed") and peer.events(1)[-1]["turn"]
    os.kill(peer.process.pid, signal.SIGKILL)
    assert peer.ended() == -signal.SIGKILL
    assert lash("show", "s", "-o", "json").json["unfinished_turn"]["id"] == turn
    (tmp_path / "go").touch()
    again = Peer(home)
    result = again.ask(1, "prompt", session="s", text=text, key="once")
    assert (result["turn_id"], result["text"]) == (turn, "finished")
    assert texts(lash).count(text) == 1 and texts(lash).count("finished") == 1
    (waiting,) = lash("queue", "ls", "s", "-o", "json").json["items"]
    assert waiting["key"] == "waits"
