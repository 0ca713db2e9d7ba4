"""What every verb really prints, on a home where things have happened, is what `lash schema` says: each key of the
shape is there and no key is that the shape does not name, so that neither can drift from the other."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from support.cli import run_lash, spawn_lash

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import closed, schema_of
from lash_cli.core import activity as shown
from lash_cli.core.observation import ProcessChanged
from lash_cli.core.queued_work import (
    AgentFrameTask,
    CommandWork,
    DeliveryPolicy,
    QueuedWorkBatchDraft,
    RefreshToolCatalog,
    SlotPolicy,
    frame_task_draft,
)
from lash_cli.core.usage import TokenUsage
from lash_cli.store.conformance.live import StoredLog
from lash_cli.store.sqlite import live
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

TOOL = '!text looking\n!tool exec_command {"cmd":"echo hi"}\n!then\n!text done'
SERVED = (
    '{"id": 1, "method": "ping"}', '{"id": 2, "method": "tail", "params": {"session": "s", "follow": false}}',
    '{"id": 3, "method": "shutdown", "params": {"drain": true}}',
)  # fmt: skip
# What an embedding program may leave in a live log and no verb of ours causes: every tail can meet it.
RARE_EVENTS = [
    shown.ReasoningShown("hm"),
    shown.CodeBlockStarted("lua", "x = 1", "effect:s:t:e"),
    shown.CodeBlockCompleted("lua", "", False, 3, "no such name", ("c_1",)),
    shown.ChildUsage("s_2", "subagent", "m", 0, TokenUsage(1), TokenUsage(2)),
    shown.PluginRuntime("p", shown.PluginStatus("key", "label")),
    shown.PluginRuntime("p", shown.PluginCustom("name", {"any": 1})),
    shown.ValueShown("grep", [1]),
    shown.FinalValueShown({"a": 1}),
]


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(closed(schema_of(KINDS[name])))


def problems(name: str, *documents: Any) -> list[str]:
    """What is wrong with documents that are to be of this kind."""
    rules = validator(name)
    return [
        f"{name}: {'/'.join(map(str, error.instance_path))}: {error.message}"
        for document in documents
        for error in rules.iter_errors(document)
    ]


def check(name: str, document: Any) -> None:
    assert problems(name, document)[:5] == []


class Printed:
    """A home, and everything that was printed there by kind."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.documents: dict[str, list[Any]] = defaultdict(list)

    def __call__(self, *arguments: str, status: int | None = 0, input: str | None = None) -> Any:
        done = run_lash([*arguments, "-o", "json"], home=self.home, input=input)
        assert status is None or done.code == status, (arguments, done.code, done.err)
        for line in done.err.splitlines():
            if line.startswith("{"):
                self.keep(json.loads(line))
        document = json.loads(done.out) if done.out else None
        if document is not None:
            self.keep(document)
        return document

    def keep(self, document: Any) -> None:
        self.documents[document["kind"]].append(document)

    def lines(self, *arguments: str) -> list[Any]:
        done = run_lash([*arguments, "-o", "jsonl"], home=self.home)
        lines = [json.loads(line) for line in done.out.splitlines()]
        for line in lines:
            self.documents[line["type"]].append(line)
        return lines

    def until(self, arguments: list[str], word: bytes, number: int = signal.SIGINT) -> None:
        """Start a stream, wait for a line with `word`, end it by a signal, and keep its lines."""
        process = spawn_lash([*arguments, "-o", "jsonl"], home=self.home, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        read = b""
        while word not in read:
            line = process.stdout.readline()
            assert line, read
            read += line
        process.send_signal(number)
        with process.stdout:
            read += process.stdout.read()
        process.wait(60)
        for line in read.splitlines():
            document = json.loads(line)
            self.documents[document["type"]].append(document)


async def put_batches(home: Path, session_id: str, count: int) -> list[str]:
    """Background work, as an embedding program queues it."""
    store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds())
    try:
        made = []
        for number in range(count):
            draft = QueuedWorkBatchDraft(
                session_id=session_id,
                delivery_policy=DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT,
                slot_policy=SlotPolicy.EXCLUSIVE,
                payloads=(CommandWork(RefreshToolCatalog(f"test {number}")),),
                source_key=f"host:batch-{number}",
            )
            made.append((await store.enqueue_queued_work(draft)).batch_id)
        return made
    finally:
        await store.aclose()


async def put_rare(home: Path, session_id: str) -> None:
    """A session in whose log everything stands that happens seldom."""
    clock = SystemClock()
    store = SqliteStore.open(home / "lash.db", clock, SystemIds())
    try:
        log = StoredLog(store, clock, session_id)
        await log.begin()
        await log.commit()
        await log.show([
            shown.TurnActivity(session_id, "t_1", f"row {number}", event, clock.now_ms(), f"a_{number}")
            for number, event in enumerate(RARE_EVENTS)
        ])  # fmt: skip
        started = ProcessChanged("started", ("p_1",))
        await store.db.write(
            lambda connection: live.announce_in(connection, session_id, started, clock.now_ms()), durable=True
        )
        await log.commit("t_1", frame_id="f_2")
    finally:
        await store.aclose()


async def put_task(home: Path, session_id: str) -> None:
    """A task for the next turn, as a turn leaves it that hands on to another frame."""
    store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds())
    try:
        await store.enqueue_queued_work(frame_task_draft(session_id, "t_0", AgentFrameTask("f_1", "!text handed on")))
    finally:
        await store.aclose()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    home = tmp_path_factory.mktemp("schema") / "home"
    lash = Printed(home)
    _sessions(lash)
    _queues(lash)
    _streams(lash)
    _setup(lash)
    _shelf(lash)
    _upkeep(lash)
    return lash


def _sessions(lash: Printed) -> None:
    lash("ls")
    lash("open", "s", "--name", "work", "--label", "area=test", "--system", "Be brief.")
    usage = lash.home.parent / "usage.json"
    lash("turn", "s", TOOL, "--turn-id", "t_1", "--approve", "execute=auto", "--usage-file", str(usage))
    lash.keep(json.loads(usage.read_text()))
    lash("turn", "s", "!fail server", status=None)
    lash("turn", "s", "", status=2)
    lash("ls")
    lash("show", "s")
    lash("show", "s", "--tools")
    lash("tool", "ls", "s")
    lash("tool", "off", "s", "grep")
    lash("tool", "on", "s", "grep")
    lash("show", "s", "--turn", "t_1")
    lash("usage", "s")
    lash("log", "s")
    lash("log", "s", "--since-cursor", "lashsc2:0000000000000000:0:0:s")
    lash("wait", "s")
    lash("help")
    lash("help", "glossary")
    lash("completion", "fish", "--install")
    lash("tree", "s")
    lash("compact", "s", "!text the gist")
    lash("log", "s", "--frames")
    fork = lash("fork", "s", "--at", "t_1", "--name", "branch")
    lash("rewind", fork["id"], "--to", "root")
    lash("park", "s")
    lash("resume", "s")
    for session in ("gone", "shut"):
        lash("open", session)
    lash("close", "shut")
    lash("rm", "gone", "--yes")


def _queues(lash: Printed) -> None:
    first = lash("enqueue", "s", "first", "--key", "k")["id"]
    lash("enqueue", "s", "first", "--key", "k")
    second = lash("enqueue", "s", "second")["id"]
    lash("enqueue", "s", "third")
    one, two = asyncio.run(put_batches(lash.home, "s", 2))
    lash("show", "s")
    lash("queue", "ls", "s", "--all")
    lash("queue", "show", first)
    lash("queue", "batches", "s")
    text = lash.home.parent / "text"
    text.write_text("changed text")
    edited = lash("queue", "edit", first, "--file", str(text))["items"]
    lash("queue", "edit", "--recover")
    lash("queue", "hold", "s", "--reason", "later")
    lash("doctor", status=None)
    lash("queue", "release", "s")
    lash("queue", "cancel", edited[1]["id"])
    lash("queue", "cancel", edited[1]["id"], second, "in_none", status=8)
    lash("queue", "cancel-suffix", "s", edited[2]["id"])
    lash("queue", "cancel-batch", one)
    lash("queue", "cancel-batch", one)
    lash("queue", "revoke-waits", "s", "--yes")
    lash("queue", "ls", "s")
    lash("work", "s", "--until-empty", status=None)
    lash("queue", "wait-batch", two, "--timeout", "5s", status=None)
    lash("wait", "s", "--for", "turn=t_1", "--for", "queue-empty")


def _streams(lash: Printed) -> None:
    lash.lines("turn", "s", TOOL, "--approve", "execute=auto")
    lash.lines("turn", "s", "!fail auth")
    lash.lines("turn", "s", "!text partial\n!fail stream_cut 1")
    lash("enqueue", "s", "!text from the queue")
    lash.lines("work", "s", "--until-empty")
    lash.lines("tail", "s", "--from", "start", "--until", "idle")
    lash.lines("tail", "s", "--from", "lashsc2:00000000deadbeef:1:1:s", "--until", "idle")
    lash.until(["tail", "s", "--heartbeat", "50ms"], b'"heartbeat"')
    lash.until(["log", "s", "--follow"], b'"message"')
    lash.until(["ls", "--watch"], b'"session","change"')
    busy = spawn_lash(["turn", "s", "!sleep 60", "--turn-id", "t_busy"], home=lash.home, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL)  # fmt: skip
    while lash("show", "s")["running_turn"] != "t_busy":
        pass
    lash.lines("turn", "s", "later", "--if-busy", "enqueue")
    lash("ls")
    lash("cancel", "s", "--reason", "enough", "--wait=60s")
    busy.wait(60)
    _abandon(lash)
    _rare(lash)


def _rare(lash: Printed) -> None:
    """What happens seldom: a queue that is held, an early injection, handed-on work, a lane that stays busy, and what
    only an embedding program causes."""
    beginning = "lashsc2:0000000000000000:0:0:"
    asyncio.run(put_rare(lash.home, "rare"))
    lash.lines("tail", "rare", "--from", beginning + "rare", "--no-follow")
    lash("open", "held")
    lash("enqueue", "held", "waits")
    lash("queue", "hold", "held")
    lash.lines("tail", "held", "--from", beginning + "held", "--no-follow")
    lash("open", "task")
    asyncio.run(put_task(lash.home, "task"))
    lash.lines("work", "task", "--until-empty")
    lash("open", "now")
    gate = lash.home.parent / "gate"
    prompt = f'!wait-file {gate}\n!tool glob {{"pattern":"*.none"}}\n!then\n!text done'
    turn = spawn_lash(["turn", "now", prompt, "-o", "jsonl"], home=lash.home, stderr=subprocess.DEVNULL)
    while lash("show", "now")["running_turn"] is None:
        pass
    lash("enqueue", "now", "and this", "--now")
    lash("enqueue", "now", "later")
    lash.lines("work", "now", "--until-empty", "--lease-wait", "10ms")
    gate.touch()
    for line in turn.communicate(timeout=60)[0].splitlines():
        lash.documents[json.loads(line)["type"]].append(json.loads(line))


def _abandon(lash: Printed) -> None:
    """A claim whose owner was killed; a cancel that comes too late names it."""
    lash("open", "dead")
    taken = lash("enqueue", "dead", "!sleep 60")["id"]
    worker = spawn_lash(["work", "dead"], home=lash.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lash("show", "dead")["running_turn"] is None:
        pass
    worker.kill()
    worker.wait()
    lash("doctor", status=None)
    lash("queue", "cancel", taken, status=4)
    claim = lash.documents["Error"][-1]["details"]["items"][0]["claim"]["claim_id"]
    lash("queue", "abandon", claim)


def _setup(lash: Printed) -> None:
    trace = lash.home.parent / "trace.jsonl"
    lash("turn", "s", "!text traced", "--trace", str(trace))
    lash("trace", "html", str(trace))
    lash("config", "show")
    lash("config", "path")
    lash("config", "set", "defaults.model", "loopback")
    lash("key", "set", "openai", "--stdin", input="sk-test-0123456789abcdef\n")
    lash("key", "ls")
    lash("key", "rm", "openai")
    lash("provider", "add", "local", "--base-url", "http://127.0.0.1:9/v1", "--key", "env:LOCAL_KEY")
    lash("provider", "ls")
    lash("provider", "test", "loopback")
    lash("provider", "rm", "local")
    lash("model", "alias", "quick", "gpt-6-luna", "--variant", "low")
    lash("model", "ls")
    lash("model", "show", "quick")
    lash("model", "show", "gemini-3.8-flash")
    lash("model", "default")
    lash("model", "default", "loopback")
    lash("model", "alias", "quick", "--rm")
    lash("schema")
    served = run_lash(["serve", "--stdio"], home=lash.home, input="".join(map("{}\n".format, SERVED)))
    for line in map(json.loads, served.out.splitlines()):
        if line["type"] == "response":
            lash.keep(line["result"])
    lash("version")
    lash("doctor", status=None)


def _shelf(lash: Printed) -> None:
    lash("search", "looking", "--context", "1")
    lash("usage", "--by", "day,model,session,source")
    lash("set", "s", "max_steps=9")
    lash("label", "s", "kind=test", "area-")
    lash("rename", "s", "shelved")
    file = lash.home.parent / "shelved.json"
    lash("export", "s", "--as", "json", "--out", str(file))
    lash("import", str(file), "--id", "imported")


def _upkeep(lash: Printed) -> None:
    """The configuration and the database."""
    project = lash.home.parent / ".lash" / "config.toml"
    project.parent.mkdir()
    project.write_text("[lease]\nttl_ms = 9000\n")
    lash("config", "trust", "--yes")
    lash("doctor", status=None)
    lash("config", "trust", "--list")
    lash("config", "get", "lease.ttl_ms")
    lash("config", "set", "defaults.max_steps", "50")
    lash("config", "unset", "defaults.max_steps")
    lash("config", "validate")
    _edit_configuration(lash)
    lash("key", "set", "spare", "--stdin", input="sk-test-0123456789abcdef\n")
    lash("key", "test", "spare")
    lash("key", "path")
    for verb in ("path", "info", "check", "vacuum", "migrate"):
        lash("db", verb, status=None)
    lash("gc", "--dry-run", "-c", "retention.min_age=0", "-c", "retention.max_age=0")
    # A session of this home is held for ever; what wants a database for itself gets another one.
    other = ("--db", str(lash.home.parent / "other.db"))
    lash("open", "s", *other)
    lash("turn", "s", "!text the key is sk-abcdefghijklmnop1234", *other)
    copy = lash("db", "backup", *other)["file"]
    lash("db", "scan", *other)
    lash("db", "scrub", "--yes", *other)
    lash("db", "restore", copy, *other)
    lash("db", "purge", "--confirm", "other.db", *other)


def _edit_configuration(lash: Printed) -> None:
    ours, theirs = pty.openpty()
    try:
        process = spawn_lash(["config", "edit", "-o", "json"], home=lash.home, env={"VISUAL": "true"}, stdin=theirs,
                             stderr=theirs)  # fmt: skip
        lash.keep(json.loads(process.communicate(timeout=60)[0]))
    finally:
        os.close(ours)
        os.close(theirs)


DOCUMENTS = [name for name, kind in KINDS.items() if kind.family in ("document", "list", "notice")]
LINES = [name for name, kind in KINDS.items() if kind.family == "event"]
# The first of them runs well over a hundred commands for all.
pytestmark = pytest.mark.timeout(600)


# Few tests: every process of a parallel run that is given one of them makes the home anew.
@pytest.mark.parametrize("names", [DOCUMENTS, LINES], ids=["document", "line"])
def test_everything_that_is_printed_is_what_its_schema_says(printed: Printed, names: list[str]) -> None:
    assert [name for name in names if not printed.documents[name]] == [], "no command here printed one"
    found = {name: problems(name, *printed.documents[name])[:5] for name in names}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_nothing_is_printed_that_has_no_schema(printed: Printed) -> None:
    assert set(printed.documents) <= set(KINDS)


ITEMS = [
    (("ls",), "SessionItem"),
    (("log", "s"), "MessageItem"),
    (("export", "s"), "ExportedMessage"),
    (("export", "s", "--as", "json"), "SessionExport"),
]


@pytest.mark.parametrize(("arguments", "name"), ITEMS)
def test_an_item_by_itself_is_what_its_schema_says(printed: Printed, arguments: tuple[str, ...], name: str) -> None:
    lines = run_lash([*arguments, "-o", "jsonl"], home=printed.home).lines
    assert lines
    for line in lines:
        check(name, line)


def test_a_key_that_is_missing_or_not_named_is_found() -> None:
    good = {"schema": "lash/1", "kind": "WaitsRevoked", "id": "s", "name": "n", "revoked": 0}
    check("WaitsRevoked", good)
    for bad in ({**good, "more": 1}, {key: good[key] for key in good if key != "revoked"}, {**good, "revoked": None}):
        with pytest.raises(AssertionError):
            check("WaitsRevoked", bad)
