"""What a start may import, and that the short cut says what the long way says (contract 08 §9, design D16)."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from functools import cache

import pytest
from support.cli import environment, run_lash
from support.prepared import OPEN, prepare

from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputDraft
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.core.queued_work import ProcessWake, wake_draft
from lash_cli.paths import resolve_paths
from lash_cli.store.base import LaneRequest, SessionCreate
from lash_cli.store.sqlite import listing
from lash_cli.system import SystemClock, this_process
from lash_cli.wiring import open_store

HEAVY = {
    "rich", "prompt_toolkit", "pydantic", "httpx2", "httpx", "sqlite_utils", "jsonschema_rs", "lupa", "pluggy",
    "uvloop",
}  # fmt: skip
NAMED = ("open", "s", "--name", "work")
REPORT = """
import sys
from lash_cli.__main__ import main
sys.argv[0] = "lash"
code = main(sys.argv[1:])
sys.stdout.flush()
print("\\n" + " ".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def alone(home):
    """The environment of a command that finds no bell: one that another test left behind hangs under the inode of its
    store, which may be that of this one by now, and ringing loads what nobody else needs."""
    return environment(home, {"TMPDIR": str(home.parent)})


def loaded(home, *args, code=0):
    """The modules a command loaded; `code` None takes any exit status."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *args], env=alone(home), capture_output=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL, cwd=home.parent,
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stderr
    return set(done.stderr.decode().splitlines()[-1].split())


def imported(home, *args, code=0):
    """The packages a command loaded."""
    return {name.partition(".")[0] for name in loaded(home, *args, code=code)}


async def fill(home):
    """Sessions in every state a listing can show."""
    store = open_store(resolve_paths({"LASH_HOME": str(home)}))
    config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
    now_ms = SystemClock().now_ms()
    for number in range(5):
        await store.create_session(
            SessionCreate(f"s_{number}", config, now_ms - number, name=f"n{number}", cwd="/x", labels={"k": "v"})
        )
    await store.set_session_flags("s_1", closed_at_ms=now_ms, parked_at_ms=None)
    await store.set_session_flags("s_2", closed_at_ms=None, parked_at_ms=now_ms)
    await store.set_queue_hold("s_0", held_at_ms=now_ms, reason="why")
    await store.enqueue_turn_input(InputDraft("s_0", "in_waiting", TurnInput.text("waits")))
    await store.enqueue_queued_work(wake_draft("s_0", ProcessWake("w", "p", 1, "done")))
    for session_id in ("s_3", "s_4"):
        owner = LeaseOwnerIdentity(f"owner-{session_id}", "one", this_process(), "turn")
        draft = InputDraft(session_id=session_id, input_id=f"in_{session_id}", input=TurnInput.text("hello"))
        ttl_ms = 3_600_000 if session_id == "s_3" else 1
        await store.open_lane(
            LaneRequest(
                session_id=session_id, owner=owner, ttl_ms=ttl_ms, now_ms=now_ms - 10, lease_token="lt",
                claim_token="ct", turn_id=f"t_{session_id}", draft=draft,
            )
        )  # fmt: skip
    return store


@pytest.mark.parametrize("args", [["--version"], ["__complete", "--", "show", ""]])
def test_what_answers_at_once_imports_nothing(home, args):
    modules = imported(home, *args)
    assert not modules & (HEAVY | {"typer", "msgspec", "asyncio", "sqlite3", "json", "platformdirs", "typing"})


@pytest.mark.parametrize("words", [["show", "s"], ["queue", "cancel", ""], ["turn", "s", "--model", "q"]])
def test_completion_of_what_a_database_knows_imports_its_driver_and_nothing_else(home, words):
    prepare(home, OPEN, ("model", "alias", "quick", "gpt-6-luna"))
    modules = imported(home, "__complete", "--", *words)
    assert not modules & (HEAVY | {"typer", "msgspec", "asyncio", "json", "platformdirs", "sqlite3", "urllib"})


def test_a_listing_for_a_program_imports_no_parser_and_no_event_loop(home):
    modules = imported(home, "ls", "-o", "json")
    assert not modules & (HEAVY | {"typer", "msgspec", "asyncio", "platformdirs"})


# Beside those of which every module is listed below.
@pytest.mark.parametrize(
    "args",
    [["show", "work", "-o", "jsonl"], ["show", "@any"], ["log", "s", "--last", "1", "-o", "jsonl"], ["log", "@last"]],
)
def test_a_look_at_one_session_imports_no_parser_and_no_event_loop(home, args):
    prepare(home, NAMED, ("turn", "s", "hello", "-q"))
    assert not imported(home, *args) & (HEAVY | {"typer", "click", "asyncio", "typing_extensions"})


@pytest.mark.parametrize(
    "args",
    [
        ["queue", "add", "work", "hello", "--key", "k", "-o", "json"],
        ["queue", "ls", "s"],
        ["queue", "list", "work", "-o", "json"],
    ],
)
def test_putting_text_into_a_queue_imports_no_parser_and_no_event_loop(home, args):
    prepare(home, NAMED)
    assert not imported(home, *args) & (HEAVY | {"typer", "click", "asyncio", "typing_extensions"})


# What the commands that programs ask many times may load of lash. Whoever adds a name adds its price to every status
# bar: import it where it is needed instead, or say here why each of these commands needs it.
FOR_ALL = """
    . __main__ cli cli.fast cli.globals errors paths store store.sqlite store.sqlite.file_names store.sqlite.schema
    umask views views.safe_text views.times
"""
FOR_A_SESSION = """
    cli.documents cli.failure cli.invocation cli.output cli.reading cli.references core core.claim_limits core.codec
    core.content core.head_state core.ids core.lease core.policy core.prompt core.usage store.base store.queueing
    store.shelf store.sqlite.connections store.sqlite.database store.sqlite.log store.sqlite.places
    store.sqlite.process_forks
    store.sqlite.sessions store.sqlite.store store.sqlite.writer system views.tables wiring
"""
OF_A_GRAPH = "core.frames core.graph store.sqlite.graph store.sqlite.lineage"
OF_A_QUEUE = """
    cli.queue_access cli.queue_documents core.ingress core.queued_work store.sqlite.inputs store.sqlite.numbered_tables
    store.sqlite.pending_inputs views.queue views.shell_words
"""
OF_TURNS = "core.commit core.llm core.outcome core.schemas core.tool_shapes core.tools"
# Text asks the settings whether it is what is wanted.
FOR_TEXT = "settings settings.loading settings.schema settings.values"
TEXT_LIBRARIES = "__future__ contextlib errno gc sqlite3 typing math msgspec queue threading"
LIST_LIBRARIES = "__future__ contextlib errno gc json sqlite3 typing"
# Which of them loads `math` differs from one Python to the next.
LIBRARIES = f"{TEXT_LIBRARIES} json"
LOOKS = {
    "ls -o json": (LIST_LIBRARIES, FOR_ALL, "store.sqlite.listing"),
    "show s -o json": (LIBRARIES, FOR_ALL, FOR_A_SESSION, OF_A_GRAPH, "cli.session_detail views.shell_words"),
    "show s": (
        TEXT_LIBRARIES, FOR_ALL, FOR_A_SESSION, OF_A_GRAPH, FOR_TEXT,
        "cli.session_detail views.session views.shell_words",
    ),
    "log s -o json": (
        LIBRARIES, FOR_ALL, FOR_A_SESSION, OF_A_GRAPH, "cli.transcript_detail store.sqlite.turn_spans",
    ),
    "log s": (
        TEXT_LIBRARIES, FOR_ALL, FOR_A_SESSION, OF_A_GRAPH, FOR_TEXT,
        "cli.transcript_detail store.sqlite.turn_spans views.transcript",
    ),
    "queue ls s -o json": (
        LIBRARIES, FOR_ALL, FOR_A_SESSION, OF_A_QUEUE,
        "cli.queue_detail store.sqlite.batches store.sqlite.queue_announcing",
    ),
    "enqueue s hello -q": (
        f"{TEXT_LIBRARIES} binascii importlib", FOR_ALL, FOR_A_SESSION, OF_A_GRAPH, OF_A_QUEUE, OF_TURNS, FOR_TEXT,
        "api api.queue cli.enqueueing cli.running cli.stdin core.activity core.attachments core.observation runtime",
        "runtime.bells store.live store.sqlite.announcing store.sqlite.answers store.sqlite.live",
        "store.sqlite.enqueueing store.sqlite.live_rows",
    ),
}  # fmt: skip


@cache
def loaded_by(libraries):
    """What these libraries load themselves, which is theirs to say; msgspec is content without typing_extensions."""
    program = (
        "import sys\nsys.modules['typing_extensions'] = None\n"
        f"import {', '.join(libraries.split())}\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return frozenset(done.stdout.split()) - {"typing_extensions"}


@pytest.mark.parametrize("command", LOOKS)
def test_what_programs_ask_many_times_loads_what_is_listed_and_nothing_else(home, command):
    prepare(home, OPEN, ("turn", "s", "hello", "-q"))
    libraries, *groups = LOOKS[command]
    listed = lash_modules(" ".join(groups))
    modules = loaded(home, *command.split()) - loaded_by(libraries)
    newcomers, leavers = sorted(modules - listed), sorted(listed - modules)
    assert not newcomers, f"import inside the function that needs it: {', '.join(newcomers)}"
    assert not leavers, f"no longer loaded, take off the list: {', '.join(leavers)}"


COMPILED = """
import re, sys
real = re.compile
def compile(*args):
    sys.stderr.write(f"compiled by {sys._getframe(1).f_globals['__name__']}\\n")
    return real(*args)
re.compile = compile
from lash_cli.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", LOOKS)
def test_what_programs_ask_many_times_compiles_only_what_it_looks_for(home, command):
    prepare(home, OPEN, ("turn", "s", "hello", "-q"))
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, *command.split()], env=alone(home), capture_output=True, text=True,
        timeout=60, check=True, stdin=subprocess.DEVNULL, cwd=home.parent,
    )  # fmt: skip
    by = set(done.stderr.splitlines())
    # Every session is found by its id, and what was said is looked through for what steers a terminal.
    needed = {"compiled by lash_cli.core.ids", "compiled by lash_cli.views.safe_text"}
    assert {line for line in by if "by lash_cli" in line} <= needed
    assert "compiled by platform" not in by


# A program that embeds lash and opens a session, and what its first turn adds.
EMBEDDED = """
import asyncio, sys
from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.content import ProsePart
from lash_cli.core.llm import AttemptRecord, LlmCallRecord, LlmCallResult, LlmResponse
from lash_cli.core.policy import ModelSpec
from lash_cli.core.usage import TokenUsage

class Instant:
    provider_id = "instant"

    async def call(self, request, *, sink, cancel):
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed")
        return LlmCallResult(
            LlmCallRecord(request.scope.request_id, (attempt,)), response=LlmResponse((ProsePart("hi"),), TokenUsage())
        )

    async def aclose(self):
        pass

async def main():
    _, path, driver = sys.argv
    store = SqliteStore.open(path)
    core = LashCore(provider=Instant(), model=ModelSpec("instant"), store=store, queue_driver=driver)
    session = await core.open_session("s")
    before = len(session.read_view().messages)
    opened = set(sys.modules)
    await session.turn("hello").run()
    assert len(session.read_view().messages) == before + 2
    await session.close()
    await core.aclose()
    print(*opened)
    print(*set(sys.modules) - opened)

asyncio.run(main())
"""
TO_OPEN = """
    . alarms api api.across api.core api.history api.session api.shared api.turns api.verbs core core.activity
    core.attachments core.claim_limits core.codec core.commit core.content core.context core.effect core.frames
    core.graph core.head_state core.ids core.ingress core.lease core.llm core.observation core.outcome core.policy
    core.pricing core.prompt core.protocols core.queued_work core.schemas core.superseded core.tool_definition
    core.tool_shapes core.tools core.usage core.wait
    effects effects.host effects.journal effects.resolver errors plugins
    plugins.rolling_history runtime
    runtime.bells runtime.cancellation runtime.demand runtime.drivers runtime.earlier_calls runtime.ending runtime.host
    runtime.lane runtime.phases runtime.requests runtime.session runtime.state store store.base store.live
    store.queueing store.shelf store.sqlite store.sqlite.announcing store.sqlite.answers store.sqlite.connections
    store.sqlite.database store.sqlite.file_names store.sqlite.graph store.sqlite.lineage store.sqlite.live
    store.sqlite.live_rows store.sqlite.log store.sqlite.places store.sqlite.process_forks store.sqlite.schema
    store.sqlite.sessions store.sqlite.store store.sqlite.writer system tools tools.registry tools.surface
"""
# A turn that calls no tool, compacts nothing and has a store needs none of them.
ONLY_IN_SOME_TURNS = """
    api.queue api.tools core.archive core.history core.machine_checkpoint core.structured effects.inline effects.renewal
    runtime.attempts runtime.commands runtime.compaction runtime.dispatch runtime.ephemeral runtime.frame_opening
    runtime.history runtime.nested runtime.persistence runtime.replacing runtime.structured runtime.tracing
    store.resident_log store.sqlite.attachments store.sqlite.waits tools.context tools.function tools.schema
"""


def lash_modules(names):
    return {f"lash_cli.{name}".removesuffix("..") for name in names.split()}


def loaded_by_a_program(home, driver):
    """The modules after it opened a session, and those its first turn adds."""
    home.mkdir(parents=True, exist_ok=True)
    argv = ["-c", str(home / "lash.db"), driver]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", argv)
        exec(EMBEDDED, {})  # makes the file
    program = [sys.executable, "-c", EMBEDDED, *argv[1:]]
    done = subprocess.run(program, env=alone(home), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    opened, by_turn = done.stdout.splitlines()
    return set(opened.split()), set(by_turn.split())


def test_a_program_that_opens_a_session_loads_what_is_listed_and_nothing_else(home):
    opened, by_turn = loaded_by_a_program(home, "none")
    # A library hides nothing from msgspec, which takes names from typing_extensions where that is installed.
    opened -= loaded_by(f"asyncio concurrent.futures.thread {LIBRARIES}") | {"typing_extensions"}
    newcomers, leavers = sorted(opened - lash_modules(TO_OPEN)), sorted(lash_modules(TO_OPEN) - opened)
    assert not newcomers, f"import inside the function that needs it: {', '.join(newcomers)}"
    assert not leavers, f"no longer loaded, take off the list: {', '.join(leavers)}"
    assert "lash_cli.runtime.turns" in by_turn
    assert not by_turn & (HEAVY | {"dataclasses", "pathlib", "urllib.parse"} | lash_modules(ONLY_IN_SOME_TURNS))


def test_the_first_turn_of_a_program_that_drives_its_sessions_waits_for_no_import_of_the_runtime(home):
    _, by_turn = loaded_by_a_program(home, "inline")
    assert not {name for name in by_turn if name.startswith(("lash_cli.runtime", "lash_cli.core", "lash_cli.modes"))}


@pytest.mark.parametrize(
    "args",
    [
        ["enqueue", "s", "hello", "--now", "--or-next"],
        ["enqueue", "s", "hello", "--wait=0s"],
        ["queue", "hold", "s"],
        ["queue", "cancel", "in_1"],
        ["queue", "show", "in_1"],
        ["queue", "batches", "s"],
        ["cancel-suffix", "s", "in_1"],
        ["wait", "s"],
        ["queue", "edit", "in_1", "--file", __file__],
    ],
)
def test_no_verb_of_the_queue_needs_an_event_loop(home, args):
    prepare(home, OPEN)
    assert not imported(home, *args, code=None) & (HEAVY | {"asyncio"})


@pytest.mark.parametrize(
    "args", [["ls"], ["ls", "--here"], ["--help"], ["turn", "--help"], ["config", "path"], ["version"]]
)
def test_no_light_command_imports_a_heavy_library(home, args):
    assert not imported(home, *args) & HEAVY


@pytest.mark.parametrize(
    "args",
    [
        ["doctor"], ["gc", "--dry-run"], ["db", "path"], ["db", "check"], ["db", "backup"],
        ["config", "get", "labels.a"], ["config", "set", "labels.a", "b"], ["config", "validate"],
        ["config", "trust", "--list"], ["key", "path"],
    ],
)  # fmt: skip
def test_only_verbs_that_look_into_tables_import_sqlite_utils(home, args):
    prepare(home, OPEN)
    assert not imported(home, *args) & (HEAVY - {"jsonschema_rs"})


def test_a_verb_that_looks_into_tables_imports_sqlite_utils(home):
    prepare(home, OPEN)
    assert "sqlite_utils" in imported(home, "db", "info")


def test_a_turn_that_uses_no_key_and_logs_nothing_loads_neither_keys_nor_the_redactor(home):
    prepare(home, OPEN)
    modules = loaded(home, "turn", "s", "hello", "-q")
    assert "lash_cli.runtime.turns" in modules
    assert not modules & (lash_modules("settings.editing settings.keys settings.redact") | {"secrets"})


COLLECTIONS = """
import gc, sys
from lash_cli.__main__ import main
when = []
gc.callbacks.append(lambda phase, info: when.append("asyncio" in sys.modules))
sys.argv[0] = "lash"
code = main(sys.argv[1:])
print(code, all(when), bool(when), gc.isenabled(), gc.get_freeze_count() > 10_000, file=sys.stderr)
"""


def test_the_garbage_collector_rests_until_a_command_is_loaded_and_works_from_then_on(home):
    prepare(home, OPEN)
    done = subprocess.run(
        [sys.executable, "-c", COLLECTIONS, "turn", "s", "hello", "-q"], env=alone(home), capture_output=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL, text=True, cwd=home.parent,
    )  # fmt: skip
    assert done.stderr.split() == ["0", "True", "True", "True", "True"]


def without_moments(document):
    """A listing without what changes between two looks at it."""
    for item in document["items"]:
        if item["lease"] is not None:
            item["lease"].pop("expires_in_ms")
    return document


async def test_the_short_cut_and_the_real_command_say_the_same(lash, home):
    assert lash("ls", "-o", "json").out == lash("ls", "-o", "json", "--debug").out
    assert lash("turn", "--or-open", "s_0", "hello").code == 0
    store = await fill(home)
    try:
        for extra in ([], ["-n", "2"], ["--limit", "5"]):
            short = lash("ls", "-o", "json", *extra)
            real = lash("ls", "-o", "json", "--debug", *extra)
            assert short.code == real.code == 0, real.err
            assert without_moments(json.loads(short.out)) == without_moments(json.loads(real.out))
            assert list(short.json["items"][0]) == list(real.json["items"][0])
        statuses = {item["id"]: item["status"] for item in lash("ls", "-o", "json").json["items"]}
        assert statuses == {"s_0": "queued", "s_1": "closed", "s_2": "parked", "s_3": "running", "s_4": "stuck"}
        assert lash("ls", "-o", "name").out == lash("ls", "-o", "name", "--debug").out
        first = lash("ls", "-o", "json", "-n", "2").json
        second = lash("ls", "-o", "json", "--cursor", first["next"]).json
        both = [item["id"] for item in (*first["items"], *second["items"])]
        assert both == [item["id"] for item in lash("ls", "-o", "json").json["items"]]
    finally:
        await store.aclose()


REFERENCES = ("s_0", "n1", "s_2", "n3", "s_4", "work", "proj", "nowhere", "s_9", "s_", "gone", "@last", "@any")


def comparable(done):
    """What a command said, without what differs between any two runs of it."""
    err = re.sub(r'"request_id":"r_[0-9a-f]+"', '"request_id":"r"', done.err)
    return done.code, re.sub(r'"expires_in_ms":\d+', '"expires_in_ms":0', done.out), err


async def test_the_short_way_to_one_session_says_what_the_long_way_says(lash, home):
    for arguments in (
        ("open", "talk", "--name", "work", "--system", "be brief"),
        ("turn", "talk", "!usage 7 3\n!text one\u2028", "-q"),
        ("turn", "talk", '!text looking\n!tool exec_command {"cmd":"echo x"}\n!then\n!text two', "-q",
         "--approve", "execute=auto"),
        ("open", "project-a"), ("open", "project-b"), ("open", "gone"), ("rm", "gone", "--yes"),
    ):  # fmt: skip
        assert lash(*arguments).code == 0, arguments
    store = await fill(home)
    try:
        codes = set()
        looks = [("show", reference, "json") for reference in REFERENCES]
        # What a reference names is found before it is asked what is shown of it, and how.
        looks += [("log", reference, "json") for reference in ("s_0", "work", "proj", "nowhere", "gone", "@last")]
        looks += [("log", reference, "jsonl") for reference in ("work", "gone")]
        for verb, reference, form in looks:
            short = comparable(lash(verb, reference, "-o", form))
            # After "--" only the parser knows what stands there.
            long = comparable(lash(verb, "-o", form, "--", reference))
            assert short == long
            codes.add(short[0])
        assert codes == {0, 2, 3}
        for options in (["--last", "1"], ["--last=2"], ["--last", "0"], ["--last", "x"]):
            short = comparable(lash("log", "work", *options, "-o", "json"))
            assert short == comparable(lash("log", *options, "-o", "json", "--", "work"))
        for form in ("text", "name", "table"):
            for verb in ("show", "log"):
                assert comparable(lash(verb, "work", "-o", form)) == comparable(lash(verb, "-o", form, "--", "work"))
        stuck = lash("show", "s_4", "-o", "json").json
        assert (stuck["status"], stuck["unfinished_turn"]["id"], len(stuck["queue"])) == ("stuck", "t_s_4", 0)
        assert "was interrupted" in stuck["warnings"][0]
    finally:
        await store.aclose()


def without_ids(done):
    """What a command said, without the ids and moments of what it made."""
    code, out, err = comparable(done)
    out = re.sub(r"in_[0-9a-z]{26}", "in_X", out)
    out = re.sub(r'"enqueued_at":"[^"]*"|"seq":\d+| +(now|\d+[smh] ago) +', "", out)
    return code, out, re.sub(r"in_[0-9a-z]{26}", "in_X", err)


def test_the_short_way_into_a_queue_says_what_the_long_way_says(lash, home):
    for arguments in (
        ("open", "s", "--name", "work"), ("open", "shut"), ("close", "shut"), ("enqueue", "s", "!text 1"),
        ("enqueue", "work", "another", "--key", "old"), ("queue", "hold", "s", "--reason", "why"),
    ):  # fmt: skip
        assert lash(*arguments).code == 0, arguments
    codes = set()

    def compare(verb, options, words, form):
        short = without_ids(lash(*verb, *options, *words, "-o", form))
        assert short == without_ids(lash(*verb, *options, "-o", form, "--", *words))
        codes.add(short[0])

    look, put = ("queue", "ls"), ("enqueue",)
    for reference in ("s", "work", "nowhere", "shut"):
        compare(look, (), (reference,), "json")
    for words in (("s", "text"), ("work", "text"), ("nowhere", "text"), ("shut", "text"), ("s", " ")):
        compare(put, (), words, "json")
    for key in (("--key", "old"), ("--key=old",), ("--key", "a\nb"), ("--key", ""), ("--key=",)):
        compare(put, key, ("s", "another"), "json")
    # What is done, or why it is refused, does not depend on the form in which it is told.
    for form in ("text", "jsonl", "name", "table"):
        for reference in ("s", "nowhere"):
            compare(look, (), (reference,), form)
            compare(put, (), (reference, "text"), form)
        compare(put, ("--key", "old"), ("s", "another"), form)
    assert codes == {0, 2, 3, 4}
    assert lash("enqueue", "s", "x", "--key").code == lash("enqueue", "s", "x", "y").code == 2
    piped = [lash("enqueue", "-o", "json", *words, input="from stdin") for words in (("s",), ("--", "s"))]
    assert without_ids(piped[0]) == without_ids(piped[1])


def test_without_a_reference_the_short_way_asks_for_one_too(lash):
    for verb in ("show", "log"):
        assert comparable(lash(verb, "-o", "json")) == comparable(lash(verb, "-o", "json", "--"))
        named = {"LASH_SESSION": "nowhere"}
        short = comparable(lash(verb, env=named))
        assert short == comparable(lash(verb, "--", env=named)) and short[0] == 3


def test_a_long_transcript_reaches_a_slow_reader_whole(lash, home):
    prepare(home, OPEN)
    assert lash("turn", "s", "-", "-q", input="!text ok\n" + "# padding\n" * 60_000).code == 0
    assert len(lash("log", "s", "-o", "json").json["items"][0]["text"]) > 400_000


def test_a_schema_of_another_day_is_left_to_the_store(lash, home):
    prepare(home, OPEN)
    assert listing.first_page(str(home / "lash.db"), limit=1, now_ms=1) is not None
    connection = sqlite3.connect(home / "lash.db")
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    assert listing.first_page(str(home / "lash.db"), limit=1, now_ms=1) is None
    done = lash("ls", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (9, "", "schema_too_new")


def test_what_is_no_database_is_left_to_the_store(lash, home):
    home.mkdir(mode=0o700)
    (home / "lash.db").write_bytes(b"not a database, but long enough to be looked at" * 20)
    assert listing.first_page(str(home / "lash.db"), limit=1, now_ms=1) is None
    done = lash("ls", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (9, "", "store_corrupt")


def test_looking_creates_nothing(home):
    for arguments in (["ls"], ["ls", "-o", "json"], ["doctor"], ["config", "show"], ["key", "ls"]):
        assert run_lash(arguments, home=home).code == 0
    assert not home.exists()


def test_only_a_chat_at_a_terminal_imports_its_prompt(home):
    for args, code in ((("chat", "--help"), 0), (("chat", "s"), 2)):
        assert not imported(home, *args, code=code) & (HEAVY | {"asyncio"})
    assert not home.exists()
