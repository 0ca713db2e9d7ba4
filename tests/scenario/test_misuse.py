"""What a host may do wrong with a core and its sessions: each is told by name or made good, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import msgspec
import pytest
from support.doubling import Number
from support.driving import S, said
from support.nesting import nested
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    AttachmentItem,
    FunctionToolProvider,
    Inline,
    LashCore,
    LeaseFence,
    LeaseOwnerIdentity,
    LeaseTimings,
    Message,
    ModelSpec,
    OpenAgentFrameRequest,
    PromptContribution,
    ProtocolTurnOptions,
    SessionConfigPatch,
    SessionSpec,
    SqliteStore,
    Stopped,
    TextItem,
    ToolContext,
    TurnInput,
    tool,
)
from lash_cli.core.codec import MAX_KEPT_DEPTH, to_builtins
from lash_cli.core.content import Role, TextPart, message_text
from lash_cli.core.graph import ConversationPayload, PluginPayload
from lash_cli.core.ingress import ActiveTurn, InputDraft
from lash_cli.core.policy import session_prompt
from lash_cli.core.queued_work import (
    AgentFrameTask,
    CommandWork,
    DeliveryPolicy,
    ProcessWake,
    QueuedWorkBatchDraft,
    ResetSession,
    SlotPolicy,
)
from lash_cli.errors import (
    ConfigError,
    ConflictError,
    InvalidQueuedWorkBatch,
    LashRuntimeError,
    SessionClosed,
    SessionDeleted,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
    StoreError,
    UsageError,
)


async def test_closing_the_core_stops_its_running_turns_and_waits_for_their_commits(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session("s1")
    first = asyncio.create_task(session.turn("first").run())
    await caller.entered.wait()
    second = asyncio.create_task(session.clone().turn("second").run())
    await asyncio.sleep(0)
    await asyncio.wait_for(core.aclose(), 30)
    outcome = (await first).result.outcome
    assert isinstance(outcome, Stopped) and outcome.reason == "cancelled"
    with pytest.raises(SessionClosed):
        await second  # it had not begun, and wrote nothing
    with pytest.raises(SessionClosed):
        session.turn("third")

    other = await make_core(ScriptedCaller([text("here")])).open_session("s1")
    assert (await other.turn("after").run()).result.assistant_message() == "here"
    assert [message_text(message) for message in other.read_view().messages] == ["first", "after", "here"]


async def test_a_second_event_loop_is_refused_while_a_turn_of_the_first_runs_and_served_after_it(make_core) -> None:
    caller = ScriptedCaller([text("mine"), text("theirs")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("here").run())
    await caller.entered.wait()

    def elsewhere() -> object:
        async def turn() -> object:
            return (await session.turn("there").run()).result

        return asyncio.run(asyncio.wait_for(turn(), 30))

    with pytest.raises(LashRuntimeError) as raised:
        await asyncio.to_thread(elsewhere)
    assert raised.value.code == "session_in_another_loop"
    caller.gate.set()
    assert (await running).result.assistant_message() == "mine"
    caller.gate = None
    result = await asyncio.to_thread(elsewhere)
    assert result.assistant_message() == "theirs"  # type: ignore[attr-defined]


def test_a_session_goes_on_in_the_loop_that_runs_now_also_when_turns_wait_for_one_another(tmp_path) -> None:
    from lash_cli.api import LashCore, ModelSpec, SqliteStore

    caller = ScriptedCaller([text("said")], repeat=True)
    core = LashCore(
        provider=caller, model=ModelSpec("m"), store=SqliteStore.open(tmp_path / "lash.db"), queue_driver="none"
    )

    async def two_at_once(session):
        session = session or await core.open_session("s1")
        await asyncio.gather(session.turn("a").run(), session.turn("b").run())
        return session

    session = asyncio.run(two_at_once(None))
    session = asyncio.run(two_at_once(session))
    assert session.read_view().turn_index == 4
    asyncio.run(core.aclose())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lash")]


async def test_text_that_has_no_utf8_is_refused_before_anything_is_written(make_core) -> None:
    session = await make_core(ScriptedCaller([text("fine")])).open_session("s1")
    with pytest.raises(UsageError) as turned:
        session.turn("half \ud800")
    with pytest.raises(UsageError) as queued:
        await session.enqueue("half \ud800")
    assert {turned.value.code, queued.value.code} == {"prompt_not_utf8"}
    assert await session.pending_turn_inputs() == ()
    assert (await session.turn("whole 😀").run()).result.assistant_message() == "fine"


class Way(msgspec.Struct):
    """How a tool calls its own session."""

    name: str


async def test_a_turn_that_would_wait_for_itself_is_refused_where_it_is_asked_for(make_core) -> None:
    ways = ("turn", "clone", "other session", "queued", "refresh", "tools", "afterwards")
    later: list[asyncio.Task[object]] = []

    @tool(name="again")
    async def again(way: Way, context: object) -> str:
        """Call the session this tool runs in."""
        match way.name:
            case "turn":
                await session.turn("inner").run()
            case "clone":
                await session.clone().turn("inner").run()
            case "other session":
                await outer.turn("!inner").run()
            case "queued":
                await asyncio.wait_for(session.queued_turn().run(), 30)
            case "refresh":
                await session.refresh()
            case "tools":
                await session.tools().set_membership("again", False)
            case "afterwards":
                later.append(asyncio.ensure_future(after_this_turn()))
        return "done"

    async def after_this_turn() -> object:
        await over.wait()
        return (await session.turn("afterwards").run()).result

    @tool(name="through")
    async def through(way: Way, context: object) -> str:
        """Run a turn of the other session, whose tool comes back."""
        return str((await session.turn("x").run()).result)

    over = asyncio.Event()
    asked = [calls((f"c{n}", "again", f'{{"name": "{way}"}}')) for n, way in enumerate(ways)]
    steps = [step for pair in zip(asked, [text("over")] * len(ways), strict=True) for step in pair]
    provider = FunctionToolProvider([again, through])
    session = await make_core(ScriptedCaller([*steps, text("run")]), tools=[provider]).open_session("s1")
    outer_script = [calls(("o1", "through", '{"name": ""}')), text("outer over")]
    outer = await make_core(ScriptedCaller(outer_script), tools=[provider]).open_session("s2")
    for way in ways:
        started = outer if way == "other session" else session
        result = (await asyncio.wait_for(started.turn("go").run(), 30)).result
        is_refused = "the turn this was called from" in str(result.tool_calls[0].output)
        assert result.is_success and is_refused is (way != "afterwards"), way
    over.set()
    assert (await asyncio.wait_for(later[0], 30)).assistant_message() == "run"  # type: ignore[attr-defined]


def test_a_store_that_was_opened_before_a_fork_is_refused_in_the_child_and_stays_the_parents(tmp_path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(_FORKS)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "lash.db")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused = [f"{what}:store_forked:False" for what in ("turn", "open")]
    assert done.stdout.split() == [*refused, "own:1", "0", "parent:2"], done.stderr


def test_a_child_has_nothing_open_of_what_its_parent_synced(tmp_path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(_SYNCED_AND_FORKED)
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", str(script), str(tmp_path / "lash.db")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


_SYNCED_AND_FORKED = """
import gc, os, sys

from lash_cli.store.sqlite.database import Database
from lash_cli.system import SystemClock

database = Database.open(sys.argv[1], clock=SystemClock())
database.write_sync(lambda connection: connection.execute("DELETE FROM deleted_sessions"), durable=True)
child = os.fork()
if child == 0:
    del database
    gc.collect()
    os._exit(0)
print(os.waitpid(child, 0)[1])
database.close()
"""

_FORKS = """
import asyncio, os, sys

from lash_cli import LashCore, ModelSpec, SqliteStore, provider
from lash_cli.errors import LashError

def made():
    model = ModelSpec("loopback")
    store = SqliteStore.open(sys.argv[1])
    return LashCore(provider=provider("loopback"), model=model, store=store, queue_driver="none")

async def turn(core, name):
    session = await core.open_session(name)
    await session.turn("hi").run()
    return session

async def in_child(core, session):
    for what, asked in (("turn", lambda: session.turn("no").run()), ("open", lambda: core.open_session("t"))):
        try:
            await asyncio.wait_for(asked(), 20)
        except LashError as error:
            print(f"{what}:{error.code}:{error.ambiguous}", flush=True)
    await asyncio.wait_for(core.aclose(), 20)
    async with made() as own:
        print(f"own:{(await turn(own, 'child')).read_view().turn_index}", flush=True)

core = made()
session = asyncio.run(turn(core, "s"))
child = os.fork()
if child == 0:
    asyncio.run(in_child(core, session))
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)

async def in_parent():
    print(f"parent:{(await turn(core, 's')).read_view().turn_index}", flush=True)
    await core.aclose()

asyncio.run(in_parent())
"""


# What the parent does around the fork, and what its child does with a store of its own.
_OWN_STORE = """
import asyncio, os, sys, threading

from lash_cli import SqliteStore
from lash_cli.errors import StoreError
from lash_cli.store.conformance import builders as make
from lash_cli.store.sqlite import process_forks
from lash_cli.system import SystemClock

path, way = sys.argv[1:]


def create(store, name):
    asyncio.run(make.create(store, SystemClock(), name))


def has(store, name):
    return asyncio.run(store.session_row(name)) is not None


class Write:
    '''A write in another thread that goes on until it is let.'''

    def __init__(self, store):
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=lambda: store.db.write_sync(self.job, durable=False))
        self.thread.start()
        self.begun.wait()

    def job(self, connection):
        self.begun.set()
        self.may_end.wait(30)

    def end(self):
        self.may_end.set()
        self.thread.join()


store = SqliteStore.open(path)
create(store, "before")
to_child, to_parent = os.pipe(), os.pipe()
if way != "closed":
    write = Write(store)
    process_forks.QUIET_WITHIN_S = 0.2 if way == "writing on" else 30
    if way != "writing on":
        threading.Timer(0.2, write.may_end.set).start()
    if way == "opening":
        # Another thread opens the file while the fork waits for the one that writes.
        opened = []
        threading.Timer(0.1, lambda: opened.append(SqliteStore.open(path))).start()
child = os.fork()
if child == 0:
    try:
        own = SqliteStore.open(path, lock_timeout_s=5)
        create(own, "first")
        os.write(to_parent[1], b"1")
        os.read(to_child[0], 1)
        create(own, "second")
        print("child wrote", flush=True)
    except StoreError as error:
        print(error.code, flush=True)
        os.write(to_parent[1], b"1")
    os._exit(0)
os.read(to_parent[0], 1)
if way != "closed":
    write.end()
create(store, "parents")
asyncio.run(store.aclose())
if way == "opening":
    opened[0].close()
os.write(to_child[1], b"1")
print(os.waitpid(child, 0)[1], flush=True)
again = SqliteStore.open(path)
print(*[has(again, name) for name in ("before", "parents", "first", "second")])
"""


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("closed", ["child wrote", "0", "True True True True"]),
        ("writing", ["child wrote", "0", "True True True True"]),
        ("writing on", ["store_forked", "0", "True True False False"]),
        ("opening", ["store_forked", "0", "True True False False"]),
    ],
)
def test_a_child_has_a_store_of_its_own_or_is_refused_one_whatever_its_parent_was_doing(tmp_path, way, said) -> None:
    command = [sys.executable, "-c", _OWN_STORE, str(tmp_path / "lash.db"), way]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == said, done.stderr


async def test_the_command_a_refusal_names_can_be_typed_as_it_stands(make_core) -> None:
    core = make_core(ScriptedCaller([text("ok")]))
    session = await core.open_session(S)
    await session.turn("hello").run()
    clone = session.clone()
    with pytest.raises(SessionStillInUse) as in_use:
        await session.close()
    clone.close_handle()
    await session.close()
    fence = LeaseFence(S, "somebody", "else", "no", 1)
    with pytest.raises(SessionExecutionLeaseExpired) as lost:
        await core.store.renew_lease(fence, ttl_ms=1000)
    for refused, command in ((in_use, f"lash cancel {S} --wait"), (lost, f"lash show {S}")):
        assert refused.value.hint.endswith(command)


@pytest.mark.parametrize("busy_with", ["model", "tool"])
async def test_a_turn_that_notices_in_mid_work_that_its_lane_is_lost_names_what_to_look_at(
    make_core, caplog, busy_with: str
) -> None:
    is_begun, never = asyncio.Event(), asyncio.Event()

    @tool(name="wait", description="Wait.")
    async def wait(arguments: Number, context: ToolContext) -> str:
        is_begun.set()
        await never.wait()
        return ""

    caller = ScriptedCaller([calls(("c1", "wait", '{"value": 1}'))])
    if busy_with == "model":
        caller.entered, caller.gate = is_begun, never
    timings = LeaseTimings(60_000, 200)
    core = make_core(caller, tools=[FunctionToolProvider([wait])], lease_timings=timings)
    session = await core.open_session(S)
    turn = asyncio.ensure_future(session.turn("go").run())
    async with asyncio.timeout(30):
        await is_begun.wait()
        lease = (await core.store.session_row(S)).lease
        await core.store.reclaim_lease(
            S,
            LeaseOwnerIdentity("thief", "1"),
            observed_fencing_token=lease.fencing_token,
            ttl_ms=60_000,
            token="stolen",
        )
        with pytest.raises(SessionExecutionLeaseExpired) as lost:
            await turn
    assert lost.value.hint == f"look before retrying: lash show {S}"
    # Which is no failure of the model caller, or of the tool.
    assert " raised" not in caplog.text


@pytest.mark.parametrize("meddling", ["turn", "configure", "branch", "drain"])
async def test_two_handles_that_were_given_one_identity_do_not_share_a_lane(make_core, meddling: str) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core, owner = make_core(caller), LeaseOwnerIdentity("web", "1")
    first, second = [await core.open_session(S, owner=owner) for _ in range(2)]
    caller.gate = asyncio.Event()
    turn = asyncio.ensure_future(first.turn("hello").run())
    async with asyncio.timeout(30):
        await caller.entered.wait()
        assert (await core.store.session_row(S)).lease.owner == owner
        if meddling == "drain":
            await second.enqueue("later")
            assert await second.queued_turn().run() is None
        else:
            with pytest.raises(SessionExecutionBusy):
                if meddling == "turn":
                    await second.turn("other").run()
                elif meddling == "configure":
                    await second.configure(SessionConfigPatch(max_turns=3))
                else:
                    await core.branch_to_node(S, None, owner=owner)
        caller.gate.set()
        assert (await turn).result.assistant_message() == "one"
        await first.close()
        assert (await second.turn("other").run()).result.assistant_message() == "two"
    assert len(caller.requests) == 2


@pytest.mark.parametrize("is_error_raised", [True, False])
async def test_an_error_in_the_block_of_a_session_is_not_hidden_by_a_refused_close(
    make_core, caplog, is_error_raised: bool
) -> None:
    caller = ScriptedCaller([text("one")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    with pytest.raises(ZeroDivisionError if is_error_raised else SessionStillInUse):
        async with await core.open_session(S) as session:
            turn = asyncio.ensure_future(session.turn("hello").run())
            async with asyncio.timeout(30):
                await caller.entered.wait()
            if is_error_raised:
                raise ZeroDivisionError
    assert ("let go without its last changes" in caplog.text) is is_error_raised
    if is_error_raised:
        with pytest.raises(SessionClosed):
            session.read_view()
    caller.gate.set()
    async with asyncio.timeout(30):
        assert (await turn).result.assistant_message() == "one"
    await session.close()


@pytest.mark.parametrize("opened", ["as it is", "with another model", "fresh"])
async def test_a_handle_of_a_session_that_was_deleted_can_be_closed(make_core, opened: str) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    async with await core.open_session(S) as session:
        await session.turn("hello").run()
    spec = SessionSpec(model=ModelSpec("other")) if opened == "with another model" else None
    async with await core.open_session(S, spec=spec, mode="fresh" if opened == "fresh" else "load") as session:
        await core.delete_session(S)
        with pytest.raises(SessionDeleted):
            await session.turn("more").run()
    with pytest.raises(SessionClosed):
        session.read_view()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_who_uses_a_closed_handle_is_told_of_a_new_one_and_of_no_command(make_core, is_stored: bool) -> None:
    caller = ScriptedCaller([text("said")])
    core = make_core(caller) if is_stored else LashCore(provider=caller, model=ModelSpec("m"))
    session = await core.open_session(S)
    await session.close()
    with pytest.raises(SessionClosed) as refused:
        await session.turn("go").run()
    with pytest.raises(SessionClosed) as unread:
        session.read_view()
    assert unread.value.hint == refused.value.hint == "open the session again with: LashCore.open_session"


async def test_a_session_without_a_store_is_not_parked_and_goes_on() -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    async with LashCore(provider=caller, model=ModelSpec("m")) as core:
        session = await core.open_session(S)
        await session.turn("hello").run()
        with pytest.raises(LashRuntimeError) as refused:
            await session.park()
        assert refused.value.code == "session_not_persistent"
        await session.turn("again").run()
        assert said(session.read_view().messages) == ["hello", "one", "again", "two"]


async def test_a_parked_session_is_resumed_in_the_store_it_was_parked_in_and_in_no_other(make_core, tmp_path) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    session = await core.open_session(S)
    await session.turn("hello").run()
    parked = await session.park()
    await core.aclose()
    path = tmp_path / "elsewhere.db"
    elsewhere = LashCore(provider=ScriptedCaller([]), model=ModelSpec("m"), store=SqliteStore.open(path))
    async with elsewhere:
        await (await elsewhere.open_session(S)).close()
        with pytest.raises(ConflictError) as refused:
            await elsewhere.resume(parked)
        assert refused.value.code == "parked_elsewhere"
    resumed = await make_core(ScriptedCaller([])).resume(parked)
    assert [message_text(message) for message in resumed.read_view().messages] == ["hello", "one"]


# It can be stored; who reads it from further down the stack than who stored it may find that it cannot be read.
NESTED = nested(MAX_KEPT_DEPTH + 1)


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        b"hello",
        {"items": ["hello"]},
        TurnInput(("hello",)),  # type: ignore[arg-type]
        TurnInput((TextItem(5),)),  # type: ignore[arg-type]
        TurnInput((TextItem("a\ud800b"),)),
        TurnInput((AttachmentItem("photo.png"),)),  # type: ignore[arg-type]
        TurnInput((AttachmentItem(Inline("image/png", "no bytes")),)),  # type: ignore[arg-type]
        TurnInput((TextItem("hello"),), ProtocolTurnOptions(payload={"output": 1j})),
        pytest.param(TurnInput((TextItem("hello"),), ProtocolTurnOptions(payload={"mine": NESTED})), id="nested"),
    ],
    ids=str,
)
async def test_an_input_that_could_not_be_read_again_is_refused_before_it_is_stored(make_core, nonsense: Any) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    async with await core.open_session(S) as session:
        for submit in (
            lambda: session.turn(nonsense).run(),
            lambda: session.enqueue(nonsense),
            lambda: core.queue(S).enqueue(nonsense),
            lambda: core.inject_turn_input(S, "t", "k", nonsense),
        ):
            with pytest.raises(UsageError) as refused:
                await submit()
            assert refused.value.code in ("invalid_turn_input", "prompt_not_utf8")
        assert (await session.turn("hello").run()).result.assistant_message() == "fine"
        assert await session.pending_turn_inputs() == ()


UNREADABLE_MESSAGES = [
    "hello",
    Message("m", Role.USER, ("hello",)),  # type: ignore[arg-type]
    Message("m", Role.USER, (TextPart("\ud800"),)),
    Message("m", "somebody", (TextPart("hello"),)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    "nonsense",
    [ActiveTurn("t1", "now"), ActiveTurn(5), ActiveTurn("t1", None), "next_turn", None, to_builtins(ActiveTurn("t1"))],
    ids=repr,
)
async def test_a_place_for_an_input_that_there_is_not_is_refused_before_it_is_stored(make_core, nonsense: Any) -> None:
    """Stored, nobody could list the queue of the session any more."""
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    for submit in (
        lambda: session.enqueue("x", ingress=nonsense),
        lambda: core.queue(S).enqueue_all([InputDraft(S, "in-1", TurnInput.text("x"), nonsense)]),
    ):
        with pytest.raises(UsageError) as refused:
            await submit()
        assert refused.value.code == "invalid_turn_input"
    assert await session.pending_turn_inputs() == ()


@pytest.mark.parametrize("turn_id", ["", " \n"])
async def test_an_input_that_asks_for_a_turn_without_a_name_is_refused(make_core, turn_id: str) -> None:
    """Taken, its turn could neither run nor be passed by."""
    core = make_core(ScriptedCaller([text("hello")]))
    session = await core.open_session(S)
    nameless = TurnInput((TextItem("x"),), trace_turn_id=turn_id)
    for submit in (
        lambda: session.enqueue(nameless),
        lambda: core.queue(S).enqueue_all([InputDraft(S, "in-1", nameless)]),
        lambda: core.inject_turn_input(S, "t1", "k", nameless),
        lambda: session.turn(nameless).run(),
    ):
        with pytest.raises(UsageError) as refused:
            await submit()
        assert refused.value.code == "missing_execution_scope_id"
    assert await session.pending_turn_inputs() == ()
    assert (await session.turn("hi").run()).result.assistant_message() == "hello"


def batch_of(payload: Any, **policies: Any) -> QueuedWorkBatchDraft:
    given = QueuedWorkBatchDraft(S, (payload,), DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, SlotPolicy.EXCLUSIVE)
    return msgspec.structs.replace(given, **policies)


WAKE = ProcessWake("w", "p", 1, "done")


@pytest.mark.parametrize(
    "nonsense",
    [
        batch_of(ProcessWake("w", "p", "first", "done")),
        batch_of(ProcessWake("w", "p", 1 << 63, "done")),
        batch_of(ProcessWake("w", "p", 1, "done", object())),
        batch_of(ProcessWake("w", "p", 1, "done", NESTED)),
        batch_of(AgentFrameTask("f", 5)),
        batch_of(CommandWork(ResetSession(5))),
        batch_of("a payload"),
        batch_of(WAKE, merge_key="never"),
        batch_of(WAKE, delivery_policy="at once"),
        batch_of(WAKE, available_at_ms="soon"),
        batch_of(WAKE, payloads=None),
    ],
)
async def test_work_that_could_not_be_read_again_is_refused_before_it_is_stored(make_core, nonsense: Any) -> None:
    """Stored, it would be acknowledged and parked, or end no turn that took it."""
    core = make_core(ScriptedCaller([]))
    await core.open_session(S)
    with pytest.raises(InvalidQueuedWorkBatch):
        await core.queue(S).enqueue_work(nonsense)
    assert await core.queue(S).batches() == ()


async def test_work_whose_policies_are_given_by_their_names_is_taken(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    await core.open_session(S)
    named = batch_of(WAKE, delivery_policy="earliest_safe_boundary", slot_policy="exclusive", payloads=[WAKE])
    await core.queue(S).enqueue_work(named)
    (batch,) = await core.queue(S).batches()
    assert (batch.delivery_policy, batch.payloads) == (DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, (WAKE,))


@pytest.mark.parametrize("nonsense", UNREADABLE_MESSAGES, ids=["text", "text for a part", "no UTF-8", "nobody's"])
async def test_messages_that_could_not_be_read_again_are_refused_before_they_are_stored(
    make_core, nonsense: Any
) -> None:
    async with await make_core(ScriptedCaller([text("fine")])).open_session(S) as session:
        admin = session.admin()
        for add in (
            lambda: admin.append_messages([nonsense]),
            lambda: admin.replace_active_read_state([nonsense]),
            lambda: admin.open_agent_frame(OpenAgentFrameRequest("f", "why", (ConversationPayload(nonsense),))),
        ):
            with pytest.raises(UsageError) as refused:
                await add()
            assert refused.value.code == "node_invalid"
        assert (await session.turn("hello").run()).result.assistant_message() == "fine"
    async with await make_core(ScriptedCaller([])).open_session(S) as again:
        assert [message_text(message) for message in again.read_view().messages] == ["hello", "fine"]


async def test_a_record_of_a_plugin_is_held_as_it_is_read_again(make_core) -> None:
    core = make_core(ScriptedCaller([]), residency="keep_all")
    async with await core.open_session(S) as session:
        admin = session.admin()
        for nonsense in (object(), "\ud800", NESTED):
            with pytest.raises(UsageError) as refused:
                await admin.append_plugin_body("notes", nonsense)
            assert refused.value.code == "node_invalid"
        await admin.append_plugin_body("notes", {"seen": (1, float("nan"))})
        (node,) = session.read_view().session_graph().nodes
        assert node.payload == PluginPayload("notes", {"seen": [1, None]})
        assert (await core.get_historic_node(S, node.node_id)) == node


@pytest.mark.parametrize(
    "options",
    [
        ProtocolTurnOptions(payload={"mine": object()}),
        ProtocolTurnOptions(payload={"mine": "\ud800"}),
        ProtocolTurnOptions(payload={"mine": NESTED}),
        ProtocolTurnOptions(schema_version=True),
    ],
    ids=["no JSON", "no UTF-8", "nested too deep", "a boolean for a version"],
)
async def test_options_that_could_not_be_read_again_are_refused_before_they_are_stored(make_core, options) -> None:
    async with await make_core(ScriptedCaller([text("fine")])).open_session(S) as session:
        with pytest.raises(UsageError) as refused:
            await session.admin().set_protocol_turn_options(options)
        assert refused.value.code == "invalid_turn_options"
        with pytest.raises(UsageError) as refused:
            await session.turn("hello").protocol_turn_options(options).run()
        assert refused.value.code == "invalid_turn_input"
        assert (await session.turn("hello").run()).result.assistant_message() == "fine"


@pytest.mark.parametrize("content", ["\ud800", 5], ids=["no UTF-8", "a number"])
async def test_a_prompt_that_could_not_be_read_again_is_refused_as_it_is_asked_for(make_core, content: Any) -> None:
    async with await make_core(ScriptedCaller([])).open_session(S) as session:
        with pytest.raises(UsageError) as refused:
            session.turn("hello").prompt_contribution(PromptContribution("intro", content))
        assert refused.value.code == "prompt_invalid"
        with pytest.raises(UsageError) as refused:
            await session.configure(SessionConfigPatch(prompt=session_prompt(content)))
        assert refused.value.code == "policy_invalid"


@pytest.mark.parametrize(
    "wait", ["5", -1, float("nan"), float("inf"), 10**400], ids=["text", "negative", "nan", "infinite", "endless"]
)
async def test_a_wait_that_is_none_is_refused_before_the_lane_is_taken(make_core, wait: Any) -> None:
    caller = ScriptedCaller([text("fine")])
    async with await make_core(caller).open_session(S) as session:
        for ask in (
            partial(session.turn, "hello", timeout_ms=wait),
            partial(session.turn, "hello", busy_wait_ms=wait),
            partial(session.redrive, busy_wait_ms=wait),
            partial(session.queued_turn, timeout_ms=wait),
        ):
            with pytest.raises(UsageError, match="milliseconds"):
                ask()
        # Only the time of a turn may have no end.
        for unending in (partial(session.turn, "hello"), session.redrive):
            with pytest.raises(UsageError, match="milliseconds"):
                unending(busy_wait_ms=None)
        assert (await session.turn("hello", timeout_ms=60_000).run()).result.assistant_message() == "fine"


async def test_an_input_with_all_it_may_have_is_taken(make_core) -> None:
    whole = TurnInput(
        (TextItem("What is it?", label="typed"), AttachmentItem(Inline("image/png", b"\x89PNG"))),
        ProtocolTurnOptions(payload={"output": None}),
    )
    async with await make_core(ScriptedCaller([text("a dot")])).open_session(S) as session:
        assert (await session.turn(whole).run()).result.assistant_message() == "a dot"


@pytest.mark.parametrize("second", ["reads", "waits for the result"])
async def test_a_stream_that_two_read_ends_for_both(make_core, second: str) -> None:
    session = await make_core(ScriptedCaller([text("fine")])).open_session(S)
    async with asyncio.timeout(30), session.turn("hello").stream() as stream:

        async def read() -> int:
            return len([activity async for activity in stream])

        first = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        if second == "reads":
            assert sum(await asyncio.gather(first, read())) > 0
        else:
            assert (await stream.result()).result.assistant_message() == "fine"
            await first


async def test_a_reader_that_is_left_behind_by_the_block_of_its_stream_ends(make_core) -> None:
    caller = ScriptedCaller([text("fine")])
    caller.gate = asyncio.Event()
    async with asyncio.timeout(30), await make_core(caller).open_session(S) as session:
        async with session.turn("hello").stream() as stream:

            async def read() -> None:
                async for _ in stream:
                    pass

            reader = asyncio.ensure_future(read())
            await caller.entered.wait()
        await reader


async def test_a_stream_is_entered_once(make_core) -> None:
    caller = ScriptedCaller([text("fine"), text("twice")])
    async with await make_core(caller).open_session(S) as session:
        stream = session.turn("hello").stream()
        async with stream:
            with pytest.raises(LashRuntimeError) as refused:
                await stream.__aenter__()
            assert (await stream.result()).result.assistant_message() == "fine"
        assert refused.value.code == "turn_stream_join"
        with pytest.raises(LashRuntimeError):
            await stream.__aenter__()
        assert said(session.read_view().messages) == ["hello", "fine"]


class _Unclosable(FunctionToolProvider):
    async def aclose(self) -> None:
        raise ZeroDivisionError("of its own")


async def test_a_source_of_tools_that_cannot_be_closed_keeps_nothing_else_open(tmp_path) -> None:
    caller = ScriptedCaller([])
    closed: list[str] = []

    class Closing(FunctionToolProvider):
        async def aclose(self) -> None:
            closed.append("tools")

    async def close() -> None:
        closed.append("provider")

    caller.aclose = close  # type: ignore[method-assign]
    store = SqliteStore.open(tmp_path / "lash.db")
    tools = [_Unclosable([]), Closing([])]
    core = LashCore(provider=caller, model=ModelSpec("m"), store=store, tools=tools)
    await (await core.open_session(S)).close()
    with pytest.raises(ZeroDivisionError):
        await core.aclose()
    assert closed == ["tools", "provider"]
    with pytest.raises(StoreError) as gone:
        await store.session_row(S)
    assert gone.value.code == "store_closed"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lash-")]


@pytest.mark.parametrize(
    "name",
    [
        *("providers", "policy", "effect_host", "lease_timings", "clock", "ids", "crash_point"),
        *("queue_driver", "tracer", "attachments", "builtins", "context"),
    ],
)
async def test_what_has_not_what_a_core_asks_of_it_is_refused_by_name_when_the_core_is_built(name: str) -> None:
    given: dict[str, Any] = {"provider": ScriptedCaller([]), "model": ModelSpec("m")}
    given.pop({"providers": "provider", "policy": "model"}.get(name, ""), None)
    with pytest.raises(ConfigError, match=f"{name} cannot be of the type object"):
        LashCore(**{**given, name: [object()] if name == "context" else object()})


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), 2.5])
async def test_a_limit_that_is_no_whole_number_is_refused_and_not_stored_as_none(make_core, limit: float) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    session = await core.open_session("s1")
    with pytest.raises(UsageError, match="a whole number of them"):
        await session.configure(SessionConfigPatch(max_turns=limit))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a whole number of them"):
        LashCore(provider=ScriptedCaller([]), model=ModelSpec("m"), max_turns=limit)
    assert (await session.turn("go").run()).result.is_success
