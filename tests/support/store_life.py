"""Random lives of a whole store: many sessions, two processes that come and go, every verb there is.

A turn is stepped by hand: each model call waits until a step answers it, so any
other verb, of either process, may come in the middle of a turn, before a
process dies and after its lane ran out. What a verb is refused with is no
matter here as long as it is a refusal; what must hold is what `witness` says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from support.clock import ManualClock
from support.driving import Crash, unseen
from support.made_files import lay
from support.scripted import ScriptedCaller, calls, error, text
from support.switching import Switching, switch
from support.witness import Witness

from lash_cli.api import (
    ActiveTurn,
    AwaitEventKey,
    ByInputId,
    DirectRequest,
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelSpec,
    NextTurn,
    PendingCompletion,
    RefreshToolCatalog,
    ResetSession,
    ResolvedErr,
    ResolvedOk,
    SessionConfigPatch,
    SessionSpec,
    SqliteStore,
    TurnInput,
    tool,
)
from lash_cli.core.content import (
    AttachmentItem,
    Inline,
    Message,
    Role,
    TextItem,
    TextPart,
    is_safe_to_resume,
    message_text,
)
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.lease import LeaseFence
from lash_cli.core.queued_work import ProcessWake, SessionCommand, wake_draft
from lash_cli.core.tools import SafeRetry
from lash_cli.errors import (
    ConflictError,
    NotFoundError,
    SessionClosed,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
)
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.frame_opening import OpenAgentFrameRequest
from lash_cli.runtime.requests import TurnOutput, TurnRequest
from lash_cli.store.base import DrainSelection
from lash_cli.store.sqlite.maintenance import Maintenance
from lash_cli.system import SystemIds

T = TypeVar("T")
REFUSALS = (
    ConflictError,
    NotFoundError,
    SessionClosed,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
)
POINTS = (
    "before:lane",
    "after:lane",
    "before:model_recorded",
    "after:model_recorded",
    "before:tool_recorded",
    "after:tool_recorded",
    "before:checkpoint_claimed",
    "after:checkpoint_claimed",
    "after:checkpoint_recorded",
    "before:commit",
    "after:commit",
    "before:apply",
    "after:apply",
    "before:frame",
    "after:frame",
    "before:append",
    "after:append",
    "before:replace",
    "after:replace",
)
MOST_SESSIONS = 4
# What a model is asked beside the turns, which is answered at once.
BESIDE = "beside"
# How long, by the clock on the wall, somebody outside is given until what he said is heard.
HEARD_S = 0.05
# As often as others: what makes the middle of a turn long enough for something to happen in it.
OFTEN = {
    "turn": 6,
    "answer": 10,
    "drain": 4,
    "redrive": 2,
    "enqueue": 4,
    "work": 3,
    "change": 3,
    "rewind": 2,
    "sweep": 2,
}


class Empty(msgspec.Struct):
    """No arguments."""


@tool(name="safe", retry=SafeRetry(2, 0, 0))
async def safe(args: Empty, context: Any) -> str:
    """May be repeated."""
    return "done"


@tool(name="never")
async def never(args: Empty, context: Any) -> str:
    """May not be repeated."""
    return "done"


class SteppedCaller(ScriptedCaller):
    """Answers a call when it is told to; `parked` says that one waits."""

    def __init__(self) -> None:
        super().__init__([])
        self.parked = asyncio.Event()
        self.reply: asyncio.Future[Any] | None = None

    async def call(self, request: Any, *, sink: Any, cancel: Any) -> Any:
        assert is_safe_to_resume(list(request.messages)), "no provider would take this"
        if message_text(request.messages[-1]) == BESIDE:
            self.steps = [text("said beside")]
            return await super().call(request, sink=sink, cancel=cancel)
        self.reply = asyncio.get_running_loop().create_future()
        stopped = asyncio.ensure_future(cancel.wait())
        self.parked.set()
        try:
            await asyncio.wait({self.reply, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.parked.clear()
            stopped.cancel()
        self.steps = [self.reply.result()] if self.reply.done() else []
        return await super().call(request, sink=sink, cancel=cancel)


class Process:
    """One core, the handles it has, and the turn under way in it."""

    def __init__(self, store: SqliteStore, clock: ManualClock, keys: list[AwaitEventKey], *, keeps_all: bool) -> None:
        """`keys` get those of the calls that are left to somebody outside."""
        self.store = store
        self.caller = SteppedCaller()

        @tool(name="later")
        async def later(args: Empty, context: Any) -> PendingCompletion:
            """Is answered by somebody outside, or by nobody for a minute."""
            keys.append(await context.completion_key())
            self.caller.parked.set()
            return PendingCompletion(timeout_ms=60_000)

        self.armed: str | None = None
        self.core = LashCore(
            provider=self.caller,
            model=ModelSpec("m"),
            store=store,
            tools=[FunctionToolProvider([safe, never, later]), Switching()],
            clock=clock,
            crash_point=self._reach,
            queue_driver="none",
            residency="keep_all" if keeps_all else "active_path_only",
        )
        self.handles: dict[str, LashSession] = {}
        self.drive: asyncio.Task[TurnOutput] | None = None
        self.driven: LashSession | None = None

    def _reach(self, point: str) -> None:
        if point == self.armed:
            self.armed = None
            raise Crash(point)


class StoreLife:
    """One life; `log` says what happened in it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.path = lay(directory / "lash.db")
        self.witness = Witness(self.path, self._store())
        self.keys: list[AwaitEventKey] = []
        self.processes = [self._process() for _ in range(2)]
        self.count = 0
        self.log: list[str] = []
        self.parked: list[Any] = []
        self.states: list[Any] = []

    def _store(self) -> SqliteStore:
        return SqliteStore.open(self.path, clock=self.clock, ids=SystemIds(), synchronous="normal")

    def _process(self) -> Process:
        return Process(self._store(), self.clock, self.keys, keeps_all=self.random.random() < 0.5)

    async def begin(self) -> None:
        await self.do_open()

    async def step(self) -> None:
        """Do something; now and then somebody is to die at the next named point of a kind that he comes to."""
        process = self._any()
        if self.random.random() < 0.2:
            process.armed = self.random.choice(POINTS)
        name = self.random.choice(ACTIONS)
        self.log.append(f"{name} {self.processes.index(process)} {process.armed or ''}")
        await getattr(self, f"do_{name}")(process)

    async def end(self) -> None:
        for process in self.processes:
            await self._stop(process)
        self.witness.close()
        await self.witness.store.aclose()

    def _any(self) -> Process:
        return self.random.choice(self.processes)

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def _session(self, mid_turn: float = 0.2) -> str:
        """One that is there, so often one in which a turn is under way; or now and then one that is not any more."""
        if self.witness.gone and self.random.random() < 0.05:
            return self.random.choice(sorted(self.witness.gone))
        if (unfinished := self.witness.in_mid_turn()) and self.random.random() < mid_turn:
            return self.random.choice(unfinished)
        return self.random.choice(sorted(self.witness.sessions()) or ["none"])

    def _node(self, session_id: str) -> str:
        return self.random.choice([*self.witness.nodes_of(session_id), "none"])

    async def _try(self, process: Process, verb: Awaitable[T]) -> T | None:
        """What the verb returns; None when it was refused or its process died in it."""
        try:
            return await verb
        except Crash as crash:
            self.log.append(f"  crashed {crash}")
            await self._die(process)
        except REFUSALS as refusal:
            self.log.append(f"  {type(refusal).__name__} {refusal.code}")
        return None

    async def _stop(self, process: Process) -> None:
        if process.drive is not None:
            process.drive.cancel()
            await asyncio.wait({process.drive})
            process.drive = None
        await process.core.aclose()

    async def _die(self, process: Process) -> None:
        """Nothing of a process runs on; its lanes run out, or somebody proves it dead."""
        owners = {shared.owner.owner_id for shared in process.core._opened_sessions}
        await self._stop(process)
        self.processes[self.processes.index(process)] = self._process()
        for session_id in self.witness.held_lanes():
            row = await self.witness.store.session_row(session_id)
            assert row is not None
            owner, token = row.lease.owner, row.lease.token
            if owner is not None and token is not None and owner.owner_id in owners and self.random.random() < 0.7:
                fence = LeaseFence(session_id, owner.owner_id, owner.incarnation_id, token, row.lease.fencing_token)
                await self.witness.store.release_lease(fence)

    async def _handle(self, process: Process, session_id: str) -> LashSession:
        """An old handle or a new one, never that of the turn under way: it would be waited for."""
        old = process.handles.get(session_id)
        if old is not None and old is not process.driven and not old._shared.is_gone and self.random.random() < 0.7:
            return old
        process.handles[session_id] = await process.core.open_session(
            session_id, create=False, spec=SessionSpec(inherit="stored")
        )
        return process.handles[session_id]

    async def _drive(self, process: Process, session_id: str, request: TurnRequest) -> None:
        if process.drive is not None:
            return
        session = await self._try(process, self._handle(process, session_id))
        if session is not None:
            process.driven = session
            process.drive = asyncio.create_task(session._run(request, CancelToken(), unseen))
            await self._until_paused(process)

    async def _until_paused(self, process: Process) -> None:
        """Let a drive go on until a model call waits or it is over."""
        drive = process.drive
        assert drive is not None
        parked = asyncio.ensure_future(process.caller.parked.wait())
        # A turn that is driven again waits for somebody outside without asking anybody anew.
        limit = HEARD_S if self.keys else None
        await asyncio.wait({drive, parked}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        parked.cancel()
        if drive.done():
            process.drive = process.driven = None
            await self._try(process, drive)

    async def do_open(self, process: Process | None = None) -> None:
        if len(self.witness.sessions()) < MOST_SESSIONS:
            process = process or self._any()
            await self._try(process, process.core.open_session(self._name("s")))

    async def do_open_fresh(self, process: Process) -> None:
        session_id = self._session()
        session = await self._try(process, process.core.open_fresh(session_id))
        if session is not None:
            process.handles[session_id] = session

    async def do_turn(self, process: Process) -> None:
        words, key = self._name("text "), None
        if self.random.random() < 0.3:
            words, key = self.random.choice(["same", "other"]), self.random.choice(["k1", "k2"])
        content = TurnInput.text(words)
        if self.random.random() < 0.2:
            content = TurnInput((TextItem(words), AttachmentItem(Inline("image/png", words.encode()))))
        await self._drive(process, self._session(), TurnRequest(content, None, key))

    async def do_drain(self, process: Process) -> None:
        await self._drive(process, self._session(), TurnRequest(None, drain=DrainSelection()))

    async def do_redrive(self, process: Process) -> None:
        await self._drive(process, self._session(0.8), TurnRequest(None))

    async def do_answer(self, process: Process) -> None:
        if process.drive is None or process.caller.reply is None or process.caller.reply.done():
            return
        both = [(self._name("call"), "safe", "{}"), (self._name("call"), "never", "{}")]
        moved = switch(self._name("frame"), self._name("task "), self._name("call"))
        answers = [text(self._name("answer ")), text(""), calls(both[0]), calls(*both), error("server")]
        answers += [moved, calls(both[0], (self._name("call"), "later", "{}"))]
        process.caller.parked.clear()
        process.caller.reply.set_result(self.random.choice([answers[0], *answers]))
        await self._until_paused(process)

    async def do_resolve(self, process: Process) -> None:
        """Somebody outside answers a call; it may have been answered, given up or lost with its turn."""
        if self.keys:
            said = self.random.choice([ResolvedOk("from outside"), ResolvedErr("no", "not done")])
            key = self.random.choice(self.keys[-3:])
            await self._try(process, process.core.effect_host.resolve_await_event(key, said))
            await asyncio.sleep(HEARD_S)

    async def do_direct(self, process: Process) -> None:
        session = await self._try(process, self._handle(process, self._session()))
        if session is not None:
            asked = DirectRequest((Message("m", Role.USER, (TextPart(BESIDE),)),), caused_by="the life")
            await self._try(process, session.direct_completion(asked))

    async def do_shut(self, process: Process) -> None:
        """Close a session for all, or open it again."""
        closed_at_ms = self.clock.now_ms() if self.random.random() < 0.3 else None
        shutting = process.store.set_session_flags(self._session(), closed_at_ms=closed_at_ms, parked_at_ms=None)
        await self._try(process, shutting)

    async def do_cancel_here(self, process: Process) -> None:
        if process.driven is not None:
            process.caller.parked.clear()
            process.driven.cancel_running_turns()
            await self._until_paused(process)

    async def do_cancel_afar(self, process: Process) -> None:
        """Of a turn that nobody drives: it is cancelled when it is driven again."""
        session_id = self._session()
        if not any(other.driven and other.driven.session_id == session_id for other in self.processes):
            await self._try(process, process.core.request_turn_cancel(session_id))

    async def do_die(self, process: Process) -> None:
        await self._die(process)

    async def do_wait(self, process: Process) -> None:
        self.clock.tick(self.random.choice([0.001, 1.0, 31.0, 130.0]))

    async def do_enqueue(self, process: Process) -> None:
        session_id, key = self._session(), self.random.choice([None, None, "e1", "e2"])
        turn_id = self.witness.last_turn_of(session_id) or "none"
        now = ActiveTurn(turn_id, self.random.choice(["after_work", "before_completion"]))
        words = "same" if key else self._name("queued ")
        ingress = self.random.choice([NextTurn(), now])
        await self._try(process, process.core.queue(session_id).enqueue(words, key=key, ingress=ingress))

    async def do_work(self, process: Process) -> None:
        session_id = self._session()
        queue = process.core.queue(session_id)
        if self.random.random() < 0.4:
            name = self.random.choice([self._name("command"), "again"])
            command: SessionCommand = self.random.choice([ResetSession(name), RefreshToolCatalog(name)])
            await self._try(process, queue.submit_command(command, name))
            return
        sequence = self.random.randint(1, 4)
        draft = wake_draft(session_id, ProcessWake(f"w{sequence}", "p1", sequence, "done", sequence))
        later = self.random.choice([0, self.clock.now_ms() + 2_000])
        await self._try(process, queue.enqueue_work(msgspec.structs.replace(draft, available_at_ms=later)))

    async def do_cut(self, process: Process) -> None:
        queue = process.core.queue(self._session())
        rows = await self._try(process, queue.pending_inputs())
        batches = await self._try(process, queue.pending_batches())
        if batches and self.random.random() < 0.4:
            await self._try(process, queue.cancel_batch(self.random.choice(batches).batch_id))
        elif rows:
            chosen = ByInputId(self.random.choice(rows).input_id)
            await self._try(
                process, self.random.choice([queue.cancel_suffix, lambda one: queue.cancel_inputs([one])])(chosen)
            )

    async def do_hold(self, process: Process) -> None:
        queue = process.core.queue(self._session())
        await self._try(process, queue.hold("why") if self.random.random() < 0.3 else queue.release())

    async def do_park(self, process: Process) -> None:
        session = await self._try(process, self._handle(process, self._session()))
        parked = None if session is None else await self._try(process, session.park())
        if parked is not None:
            self.parked.append(parked)

    async def do_resume(self, process: Process) -> None:
        if self.parked:
            await self._try(process, process.core.resume(self.parked.pop()))

    async def do_change(self, process: Process) -> None:
        session = await self._try(process, self._handle(process, self._session()))
        if session is None:
            return
        admin, message = session.admin(), Message("", Role.USER, (TextPart(self._name("said ")),))
        said = list(session.read_view().messages)
        kept = said[: self.random.randint(0, len(said))]
        frame = OpenAgentFrameRequest(self._name("frame"), "test", (ConversationPayload(message),))
        verbs = [
            lambda: session.configure(SessionConfigPatch(model=ModelSpec(f"m{self.count % 3}"))),
            lambda: session.tools().set_membership("never", self.random.random() < 0.5),
            lambda: admin.append_messages([message], operation_id=self.random.choice([None, "again"])),
            lambda: admin.append_plugin_body("note", self.count),
            lambda: admin.open_agent_frame(frame),
            lambda: admin.replace_active_read_state([*(kept if is_safe_to_resume(kept) else ()), message]),
            session.refresh,
            session.close,
        ]
        await self._try(process, self.random.choice(verbs)())

    async def do_state(self, process: Process) -> None:
        """Export the whole state of a session, and go on from one that was exported before."""
        session = await self._try(process, self._handle(process, self._session()))
        if session is None:
            return
        state = await self._try(process, session.admin().export_persistence_state())
        self.states.append(state)
        older = [one for one in self.states if one is not None and one.session_id == session.session_id]
        if older and self.random.random() < 0.5:
            await self._try(process, session.admin().apply_persistence_state(self.random.choice(older)))

    async def do_fork(self, process: Process) -> None:
        source = self._session()
        if len(self.witness.sessions()) < MOST_SESSIONS:
            at = self.random.choice([None, self._node(source)])
            await self._try(process, process.core.fork_session(source, session_id=self._name("f"), at=at))

    async def do_rewind(self, process: Process) -> None:
        session_id = self._session()
        node_id = self._node(session_id)
        move = process.core.branch_to_node if self.random.random() < 0.6 else process.core.branch_before_node
        await self._try(process, move(session_id, node_id))

    async def do_import(self, process: Process) -> None:
        if len(self.witness.sessions()) < MOST_SESSIONS:
            archive = await self._try(process, process.store.export_session(self._session()))
            if archive is not None:
                await self._try(process, process.store.import_session(archive, self._name("i")))

    async def do_hide(self, process: Process) -> None:
        session_id = self._session()
        await self._try(process, process.store.tombstone_nodes(session_id, [self._node(session_id)]))

    async def do_sweep(self, process: Process) -> None:
        store, now_ms = process.store, self.clock.now_ms()
        if self.random.random() < 0.3:
            tried = await Maintenance(store.db).try_collect(now_ms + 1)
            assert await Maintenance(store.db).collect(now_ms + 1) == tried
            return
        sweeps = [
            lambda: Maintenance(store.db).collect(now_ms - 10_000),
            lambda: store.vacuum(self._session()),
            lambda: store.vacuum(None),
            store.gc_unreachable,
        ]
        await self._try(process, self.random.choice(sweeps)())

    async def do_delete(self, process: Process) -> None:
        session_id = self._session()
        if self.random.random() < 0.5:
            report = await self._try(process, process.core.delete_session(session_id))
            if report is not None and report.existed:
                self.witness.gone.add(session_id)


ACTIONS = [
    name.removeprefix("do_") for name in dir(StoreLife) if name.startswith("do_") for _ in range(OFTEN.get(name[3:], 1))
]
