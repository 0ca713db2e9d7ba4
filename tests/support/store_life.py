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
from support.clock import ManualClock, settle
from support.driving import Crash, unseen
from support.life_process import BESIDE, TOKENS_BESIDE, Process, SourceDown, World
from support.made_files import lay
from support.scripted import ScriptedCaller, calls, error, text
from support.store_owner import StoreOwner
from support.switching import switch
from support.witness import BESIDE_SOURCE, Witness

from lash_cli.api import (
    ActiveTurn,
    ByInputId,
    DirectRequest,
    LashCore,
    LashSession,
    ModelLimits,
    ModelSpec,
    NextTurn,
    RefreshToolCatalog,
    ResetSession,
    ResolvedErr,
    ResolvedOk,
    SessionConfigPatch,
    SessionSpec,
    SqliteStore,
    Stopped,
    TurnInput,
    WorkOptions,
)
from lash_cli.api.turns import answering
from lash_cli.core.content import (
    AttachmentItem,
    Inline,
    Message,
    ProtocolTurnOptions,
    Role,
    TextItem,
    TextPart,
    is_safe_to_resume,
)
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.lease import LeaseFence, is_row_live
from lash_cli.core.queued_work import ProcessWake, SessionCommand, wake_draft
from lash_cli.errors import (
    ConflictError,
    JournalFault,
    NotFoundError,
    SessionClosed,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
    StoreError,
)
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.frame_opening import OpenAgentFrameRequest
from lash_cli.runtime.requests import TurnRequest
from lash_cli.store.base import DrainSelection
from lash_cli.store.sqlite.backup import back_up
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.maintenance import Maintenance
from lash_cli.system import SystemIds

T = TypeVar("T")
REFUSALS = (
    ConflictError,
    JournalFault,
    NotFoundError,
    SessionClosed,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
    SourceDown,
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
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
# How often what is left to do in a copy may be begun anew: a lane runs out while somebody outside is waited for.
PASSES = 60
# As often as others: what makes the middle of a turn long enough for something to happen in it.
OFTEN = {
    "turn": 6,
    "answer": 14,
    "drain": 4,
    "redrive": 2,
    "command": 2,
    "enqueue": 4,
    "work": 3,
    "change": 3,
    "rewind": 2,
    "wake": 3,
    "sleep": 3,
    "sweep": 2,
}


class StoreLife(StoreOwner):
    """One life; `log` says what happened in it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.path = lay(directory / "lash.db")
        self.witness = Witness(self.path, SqliteStore.open(self.path, clock=self.clock, ids=SystemIds()))
        self.world = World()
        self.processes = [self._process() for _ in range(2)]
        self.count = 0
        self.log: list[str] = []
        self.parked: list[Any] = []
        self.states: list[Any] = []
        self.copies: list[Any] = []

    def _process(self) -> Process:
        return Process(self.path, self.clock.now_ms(), self.world, self.random)

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
        assert max(self.world.ran.values(), default=0) <= 1, "what may not be repeated was"

    async def end(self) -> None:
        for process in self.processes:
            await process.stop()
        self.witness.close()
        await self.witness.store.aclose()

    def _any(self) -> Process:
        """One that is not stopped."""
        return self.random.choice([process for process in self.processes if not process.is_stopped])

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

    def _content(self, words: str) -> TurnInput:
        """A text, now and then with an attachment, and now and then one whose answer has to fit a schema."""
        content = TurnInput.text(words)
        if self.random.random() < 0.2:
            content = TurnInput((TextItem(words), AttachmentItem(Inline("image/png", words.encode()))))
        return answering(content, SCHEMA) if self.random.random() < 0.2 else content

    async def _try(self, process: Process, verb: Awaitable[T]) -> T | None:
        """What the verb returns; None when it was refused, its database failed or its process died in it."""
        try:
            return await verb
        except Crash as crash:
            self.log.append(f"  crashed {crash}")
            await self._die(process)
        except REFUSALS as refusal:
            self.log.append(f"  {type(refusal).__name__} {refusal.code}")
        except StoreError as failure:
            self.log.append(f"  {type(failure).__name__} {failure.code}")
            if not process.db.has_failed:
                raise
        return None

    async def _die(self, process: Process) -> None:
        """Nothing of a process runs on; its lanes run out, or somebody proves it dead."""
        owners = process.owners
        await process.stop()
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
        is_free = old is not None and (process.driven is None or old._shared is not process.driven._shared)
        if old is not None and is_free and not old._shared.is_gone and self.random.random() < 0.7:
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
            process.begin(session, session._run(request, CancelToken(), unseen))
            await self._until_paused(process)

    async def _until_paused(self, process: Process) -> None:
        """Let a drive, and what waits behind it, go on until everything waits for somebody else or is over."""
        while process.drive is not None and process in self.processes:
            if (over := await process.pause()) is not None:
                await self._try(process, over)
            elif not await self._goes_on(process):
                break

    async def _goes_on(self, process: Process) -> bool:
        """Whether something is written beside what waits: of the calls of one answer only some may wait."""
        before = self.witness.data_version()
        await Database.write(process.db, lambda connection: None, durable=False)
        await settle()
        return self.witness.data_version() != before

    async def _tick(self, seconds: float) -> None:
        """Time passes for everybody, and who waited for it goes on."""
        self.clock.tick(seconds)
        for process in self.processes:
            process.tick(seconds)
        for process in tuple(self.processes):
            if not process.is_stopped:
                await self._until_paused(process)

    async def do_open(self, process: Process | None = None) -> None:
        if len(self.witness.sessions()) < MOST_SESSIONS:
            process = process or self._any()
            name = self._name("s")
            self.witness.beside[name] = 0
            await self._try(process, process.core.open_session(name))

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
        else:
            content = self._content(words)
        wait_ms = self.random.choice([0, 0, 5_000])
        await self._drive(process, self._session(), TurnRequest(content, None, key, busy_wait_ms=wait_ms))

    async def do_drain(self, process: Process) -> None:
        await self._drive(process, self._session(), TurnRequest(None, drain=DrainSelection()))

    async def do_command(self, process: Process) -> None:
        if process.drive is None:
            session = await self._try(process, self._handle(process, self._session()))
            if session is not None:
                process.begin(session, session.drain_next_session_command())
                await self._until_paused(process)

    async def do_redrive(self, process: Process) -> None:
        await self._drive(process, self._session(0.8), TurnRequest(None))

    async def do_answer(self, process: Process) -> None:
        if process.drive is None or process.caller.reply is None or process.caller.reply.done():
            return
        both = [(self._name("call"), "safe", "{}"), (self._name("call"), "never", "{}")]
        moved = switch(self._name("frame"), self._name("task "), self._name("call"))
        answers = [text(self._name("answer ")), text(""), calls(both[0]), calls(*both), error("server")]
        answers += [moved, calls(both[0], (self._name("call"), "later", "{}")), text('{"n": 1}')]
        answers += [calls((self._name("call"), "unknown", "[")), error("context_overflow", retryable=True)]
        process.caller.parked.clear()
        process.caller.reply.set_result(self.random.choice([answers[0], answers[0], answers[0], *answers]))
        await self._until_paused(process)

    async def do_resolve(self, process: Process) -> None:
        """Somebody outside answers a call; it may have been answered, given up or lost with its turn."""
        if self.world.keys:
            said = self.random.choice([ResolvedOk("from outside"), ResolvedErr("no", "not done")])
            key = self.random.choice(self.world.keys[-3:])
            await self._try(process, process.core.effect_host.resolve_await_event(key, said))
            await self._tick(1.0)

    async def do_revoke(self, process: Process) -> None:
        """Nobody outside is waited for any more."""
        host = process.core.effect_host
        await self._try(process, host.cancel_await_events_for_session(self._session(0.8)))
        await self._tick(1.0)

    async def do_direct(self, process: Process) -> None:
        session = await self._try(process, self._handle(process, self._session()))
        if session is not None:
            asked = DirectRequest((Message("m", Role.USER, (TextPart(BESIDE),)),), caused_by=BESIDE_SOURCE)
            if session.session_id in self.witness.beside:
                self.witness.beside[session.session_id] += sum(TOKENS_BESIDE)
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
        drivers = [other for other in self.processes if other.drive is not None]
        if not any(other.driven is None or other.driven.session_id == session_id for other in drivers):
            await self._try(process, process.core.request_turn_cancel(session_id))

    async def do_die(self, process: Process) -> None:
        await self._die(process)

    async def do_wait(self, process: Process) -> None:
        await self._tick(self.random.choice([0.001, 1.0, 31.0, 130.0]))

    async def do_jump(self, process: Process) -> None:
        """Somebody sets the clock of the machine."""
        seconds = self.random.choice([-7_200.0, -40.0, -1.0, 3_600.0, 3 * 86_400.0])
        for clock in (self.clock, *(other.clock for other in self.processes)):
            clock.jump(seconds)  # also of who is stopped

    async def do_fail(self, process: Process) -> None:
        """Some of the next writes of a process will fail."""
        process.db.fault = self.random.choice(["locked", "full", "unsure"])
        process.db.times, process.db.spared = self.random.choice([1, 1, 1, 3]), self.random.randint(0, 6)

    async def do_source(self, process: Process) -> None:
        """A source of tools goes down or is there again."""
        process.is_source_down = self.random.random() < 0.4

    async def do_close(self, process: Process) -> None:
        """End a process as it should: what it drives ends as cancelled, and it holds nothing any more."""
        process.armed, process.db.times = None, 0
        owners, tasks = process.owners, [process.drive, *process.others] if process.drive else []
        if process.drive is not None and process.driven is None:
            process.drive.cancel()
            await asyncio.wait(tasks)
            if not process.drive.cancelled() and isinstance(process.drive.exception(), Crash):
                # It had died in one of the sessions that it worked on.
                await self._die(process)
                return
            tasks = []
        await process.close()
        for task in tasks:
            await self._try(process, task)
        self.processes[self.processes.index(process)] = self._process()
        for session_id in self.witness.held_lanes():
            row = await self.witness.store.session_row(session_id)
            assert row is not None and row.lease.owner is not None
            is_its = row.lease.owner.owner_id in owners and is_row_live(row.lease, self.clock.now_ms())
            # Where giving it back failed it runs out.
            assert not is_its or process.db.has_failed, "a lane was not given back"

    async def do_beside(self, process: Process) -> None:
        """Something through another handle of a session that a turn may be under way in, which it waits for."""
        session = process.driven
        if process.drive is None:
            session = await self._try(process, self._handle(process, self._session()))
        if session is None or session._is_closed:
            return
        clone = session.clone()
        admin, message = clone.admin(), Message("", Role.USER, (TextPart(self._name("beside ")),))
        verbs = [
            lambda: clone.configure(SessionConfigPatch(model=ModelSpec(f"m{self.count % 3}"))),
            lambda: admin.append_messages([message]),
            lambda: admin.branch_to_node(None),
            lambda: admin.compact_context(),
            lambda: clone._run(TurnRequest(self._content(self._name("text "))), CancelToken(), unseen),
            lambda: clone._run(TurnRequest(None, drain=DrainSelection()), CancelToken(), unseen),
        ]

        async def use() -> None:
            try:
                await self.random.choice(verbs)()
            finally:
                clone.close_handle()

        process.begin(clone, use())
        await self._until_paused(process)

    async def do_worker(self, process: Process) -> None:
        """Somebody works off all queues there are."""
        if process.drive is None:
            failing = self.random.choice(["pause", "continue"])
            options = WorkOptions(until_empty=True, lease_wait_ms=0, on_failure=failing)
            process.begin(None, process.core.worker(options).run())
            await self._until_paused(process)

    async def do_compact(self, process: Process) -> None:
        if process.drive is None:
            session = await self._try(process, self._handle(process, self._session()))
            if session is not None:
                operation_id = self.random.choice([None, None, "again"])
                process.begin(session, session.admin().compact_with_report("shortly", operation_id=operation_id))
                await self._until_paused(process)

    async def do_enqueue(self, process: Process) -> None:
        session_id, key = self._session(), self.random.choice([None, None, "e1", "e2"])
        turn_id = self.witness.last_turn_of(session_id) or "none"
        now = ActiveTurn(turn_id, self.random.choice(["after_work", "before_completion"]))
        content = TurnInput.text("same") if key else self._content(self._name("queued "))
        ingress = self.random.choice([NextTurn(), now])
        await self._try(process, process.core.queue(session_id).enqueue(content, key=key, ingress=ingress))

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
            lambda: session.configure(SessionConfigPatch(model=self._model())),
            lambda: admin.set_protocol_turn_options(self._options()),
            lambda: admin.set_protocol_turn_options_all_frames(self._options()),
            lambda: session.tools().set_membership("never", self.random.random() < 0.5),
            lambda: admin.append_messages([message], operation_id=self.random.choice([None, "again"])),
            lambda: admin.append_plugin_body("note", self.count),
            lambda: admin.open_agent_frame(frame),
            lambda: admin.replace_active_read_state([*(kept if is_safe_to_resume(kept) else ()), message]),
            session.refresh,
            session.flush,
            session.close,
        ]
        await self._try(process, self.random.choice(verbs)())

    def _model(self) -> ModelSpec:
        """One of a few; some are soon full, so that a turn compacts first."""
        return ModelSpec(f"m{self.count % 3}", limits=ModelLimits(self.random.choice([None, None, 16])))

    def _options(self) -> ProtocolTurnOptions:
        asked = answering(TurnInput.text("any"), SCHEMA).protocol_turn_options
        return self.random.choice([ProtocolTurnOptions(), ProtocolTurnOptions(), asked])

    async def do_given(self, process: Process) -> None:
        """Open a session with a state that was exported before, of itself or of another; it is written with the next
        commit."""
        state = self.random.choice([*self.states, None])
        session_id = self._session()
        if state is not None and (process.driven is None or process.driven.session_id != session_id):
            opening = process.core.open_with_state(session_id, state.rebound_to(session_id))
            session = await self._try(process, opening)
            if session is not None:
                process.handles[session_id] = session
                self.witness.given.add(session_id)

    async def do_state(self, process: Process) -> None:
        """Export the whole state of a session, and go on from one that was exported before."""
        session = await self._try(process, self._handle(process, self._session()))
        if session is None:
            return
        state = await self._try(process, session.admin().export_persistence_state())
        if state is not None:
            self.states = [*self.states[-7:], state]
        older = [one for one in self.states if one.session_id == session.session_id]
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
            source, name = self._session(), self._name("i")
            archive = await self._try(process, process.store.export_session(source))
            if archive is not None:
                if source in self.witness.given:
                    self.witness.given.add(name)
                await self._try(process, process.store.import_sessions([(archive, name)]))

    async def do_hide(self, process: Process) -> None:
        session_id = self._session()
        await self._try(process, process.store.tombstone_nodes(session_id, [self._node(session_id)]))

    async def do_sweep(self, process: Process) -> None:
        store, now_ms = process.store, self.clock.now_ms()
        if self.random.random() < 0.3:
            process.db.times = 0
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
        if self.random.random() < 0.5 and session_id != "none":
            await self._try(process, process.core.delete_session(session_id))
            if session_id not in self.witness.sessions():
                self.witness.gone.add(session_id)

    async def do_copy(self, process: Process) -> None:
        """Whatever is left to do could be done by somebody who has the store to himself: he does it in a copy."""
        copy = self.path.with_name(f"{self._name('copy')}.db")
        back_up(self.path, copy)
        clock = ManualClock(self.clock.now_ms() + 86_400_000, auto_advance=True)
        store = SqliteStore.open(copy, clock=clock, ids=SystemIds(), synchronous="normal")
        answers = ScriptedCaller([text('{"n": 1}')], repeat=True)
        tools = World().tools()
        async with LashCore(
            provider=answers, model=ModelSpec("m"), store=store, tools=tools, clock=clock, queue_driver="none"
        ) as core:
            for session_id in self.witness.sessions():
                await self._do_what_is_left(core, session_id, clock)
            assert store.db.read(broken_rules) == []
            assert store.db.read(integrity) == []
        copy.unlink()

    async def _do_what_is_left(self, core: LashCore, session_id: str, clock: ManualClock) -> None:
        await core.store.set_session_flags(session_id, closed_at_ms=None, parked_at_ms=None)
        queue = core.queue(session_id)
        await queue.release()
        for _ in range(PASSES):
            clock.tick(60.0)
            async with await core.open_session(session_id, create=False, spec=SessionSpec(inherit="stored")) as session:
                try:
                    done = await session._run(TurnRequest(None, drain=DrainSelection()), CancelToken(), unseen)
                except SessionExecutionLeaseExpired:
                    continue
            if done.result is None and not done.commands and not await queue.pending_inputs():
                break
        assert await core.running_turn(session_id) is None, f"a turn of {session_id} cannot be finished"
        assert await queue.pending_inputs() == (), f"an input of {session_id} cannot be used"
        left = [batch.batch_id for batch in await queue.pending_batches() if batch.state == "pending"]
        assert left == [], f"work of {session_id} cannot be done"
        session = await core.open_session(session_id, create=False, spec=SessionSpec(inherit="stored"))
        last = await session.turn("and then").run()
        assert last.result is not None and not isinstance(last.result.outcome, Stopped), last.result


ACTIONS = [
    name.removeprefix("do_") for name in dir(StoreLife) if name.startswith("do_") for _ in range(OFTEN.get(name[3:], 1))
]
