"""`LashCore`: the wiring that sessions are opened from (contract 01 §1).

It owns no session. Everything is validated when it is built, before any I/O.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import msgspec

from lash_cli.api.across import require_described, require_kind, require_session_id
from lash_cli.api.history import SessionHistories
from lash_cli.api.session import LashSession
from lash_cli.api.shared import SharedSession, refuse_within_turn, stop_own_turns
from lash_cli.core.attachments import AttachmentPolicy
from lash_cli.core.context import ContextPlugin, in_order
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseTimings
from lash_cli.core.policy import (
    ModelSpec,
    PersistedSessionConfig,
    PromptLayer,
    SessionPolicy,
    SessionSpec,
    persisted_config,
    readable_policy,
    require_iterations,
)
from lash_cli.core.prompt import NO_BUILTINS, PromptBuiltins
from lash_cli.core.protocols import (
    ApprovalPolicy,
    Clock,
    EffectHost,
    Ids,
    ModelCaller,
    ToolHook,
    ToolProvider,
    ToolResultProjector,
)
from lash_cli.errors import (
    ConfigError,
    ConflictError,
    PluginRegistrationError,
    ReconfigureError,
    SessionExecutionBusy,
    SessionNotFound,
    UsageError,
)
from lash_cli.runtime.bells import BellRinger
from lash_cli.runtime.demand import Standing, standing_of
from lash_cli.runtime.drivers import Driver, QueueDriver
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.host import (
    ANY_ATTACHMENT,
    CrashPoint,
    ProviderResolver,
    RuntimeHost,
    SingleProvider,
    collaborators,
    require_collaborators,
    resolver_of,
)
from lash_cli.runtime.session import Dirty, ResidentSession
from lash_cli.runtime.state import Residency, RuntimeSessionState, require_own
from lash_cli.store.base import RuntimePersistence, SessionCreate, SessionMeta
from lash_cli.system import clock_of, ids_of, this_process
from lash_cli.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from lash_cli.api.observable import ObservableSession
    from lash_cli.api.queue import Notify
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest
    from lash_cli.runtime.tool_hooks import ToolHookSet
    from lash_cli.runtime.tracing import Tracer
    from lash_cli.runtime.work_events import OnWorkEvent, WorkOptions
    from lash_cli.runtime.worker import QueueWorker
    from lash_cli.store.resident_log import ResidentLog

DRIVER_LABEL = "driver"
WORKER_LABEL = "work"
# Why a turn was cancelled, for who reads its end.
CLOSED = "core closed"

OpenMode = Literal["load", "fresh"]
T = TypeVar("T")


class ParkedSession(msgspec.Struct, frozen=True):
    """A quiesced session (contract 01 §4.3): enough to resume it, and under 2 KiB."""

    session_id: str
    store: RuntimePersistence
    policy: SessionPolicy

    def __repr__(self) -> str:
        """Only the id: a store and a policy are no reading matter."""
        return f"ParkedSession(session_id={self.session_id!r})"


class LashCore(SessionHistories):
    """Immutable wiring: provider, model, tools, store (contract 01 §1). One core serves any number of sessions of one
    store. Use it as an async context manager, or `aclose` it."""

    def __init__(
        self,
        *,
        provider: ModelCaller | None = None,
        providers: ProviderResolver | None = None,
        model: ModelSpec | None = None,
        policy: SessionPolicy | None = None,
        store: RuntimePersistence | None = None,
        tools: Sequence[ToolProvider] = (),
        approval: ApprovalPolicy | None = None,
        tool_hooks: Sequence[ToolHook] = (),
        tool_result_projector: ToolResultProjector | None = None,
        effect_host: EffectHost | None = None,
        lease_timings: LeaseTimings | None = None,
        max_turns: int | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        owner_label: str = "",
        crash_point: CrashPoint | None = None,
        queue_driver: Driver | Literal["inline", "none"] | None = None,
        owns_resources: bool = True,
        tracer: Tracer | None = None,
        attachments: AttachmentPolicy | None = None,
        prompt: PromptLayer | None = None,
        builtins: PromptBuiltins = NO_BUILTINS,
        context: Sequence[ContextPlugin] | None = None,
        residency: Residency | None = None,
        strict: bool = False,
    ) -> None:
        """Wire a core from keyword arguments.

        Give either `provider` or `providers`, and either `model` or a whole
        `policy`, which `max_turns` and `prompt` stand over. `store` None keeps
        sessions in memory. Without `approval` no tool is asked about: each may
        run. `tool_hooks` are asked about every call in the order given, and
        `tool_result_projector` says what the model reads of results. Without
        `effect_host` the store's journal is used, or the inline host when there
        is no store.
        `queue_driver` says who drains the queues: this core in the background
        (`inline`, the default with a store), nobody (`none`: the host calls
        `queued_turn`), or a driver of the host. With `owns_resources` off the
        store and the providers are left open at `aclose`, for a host that
        shares them among cores. `tracer` is the core's
        own: it is closed, and its records synced, with the core.
        `attachments` says which sources of attachments are allowed. `prompt` is
        the core layer of every session's prompt and `builtins` are the texts of
        its template: configuration of this host, never stored with a session.
        `context` are the plugins that keep conversations within the window, the
        rolling history unless others are named. `residency` is what an opened
        session holds in memory: `active_path_only`, the default with a store
        and possible only there, reads other branches when they are asked for;
        with `keep_all` they are read at open and shown by `read_view()`. `strict`
        is for the tests of a host: what foreign code raises, tools and their
        sources and hooks, the approval policy, the provider, the driver and the trace
        sinks, is contained nowhere but comes out of the call it happened in,
        whose turn is left unfinished, or whose command goes on waiting, so that
        a bug is loud: out of `QueueWorker.run`, and what was driven in the
        background out of `aclose`. Raises
        `ConfigError` with codes `missing_model_spec`, `missing_provider`,
        `durable_store_required:session_store`, `residency_unknown`, `plugin_registration` for two
        tools of one id or name and for hooks of one id or of another shape, or
        `config_invalid` for both of what is given either way and for what has not what will be asked of it, such as a
        provider, a source of tools or a plugin that is none; and `UsageError` (`policy_invalid`) for what no session
        could be opened under again.
        """
        require_collaborators(
            provider=provider,
            providers=providers,
            policy=policy,
            store=store,
            approval=approval,
            effect_host=effect_host,
            lease_timings=lease_timings,
            clock=clock,
            ids=ids,
            crash_point=crash_point,
            queue_driver=None if isinstance(queue_driver, str) else queue_driver,
            tracer=tracer,
            attachments=attachments,
            builtins=builtins,
        )
        self._tools = collaborators("tools", tools)
        plugins = _standard_context() if context is None else collaborators("context", context)
        resolver: ProviderResolver | None = None
        if providers is not None:
            resolver = resolver_of(providers, is_strict=strict)
        elif provider is not None:
            resolver = SingleProvider(provider)
        if resolver is None:
            raise ConfigError("a core needs a provider", code="missing_provider")
        if provider is not None and providers is not None:
            raise ConfigError("a core is given either a provider or a resolver of several, not both")
        if policy is None:
            if model is None:
                raise ConfigError("a core needs a model", code="missing_model_spec")
            policy = SessionPolicy(model, resolver.default_id)
        elif model is not None:
            raise ConfigError("a core is given either a model or a whole policy, not both")
        if max_turns is not None:
            policy = msgspec.structs.replace(policy, max_turns=max_turns)
        if prompt is not None:
            policy = msgspec.structs.replace(policy, prompt=prompt)
        if self._tools:
            self._require_distinct_tools()
        clock, ids = clock_of(clock), ids_of(ids)
        timings = lease_timings or LeaseTimings()
        if effect_host is None:
            effect_host = _default_effect_host(store, clock, ids, timings, crash_point)
        elif effect_host.durability_tier == "durable" and store is None:
            raise ConfigError(
                "a durable effect host needs a durable session store", code="durable_store_required:session_store"
            )
        self._keeps_all = _keeps_all(residency, store)
        require_iterations(policy.max_turns)
        self.policy = readable_policy(policy)
        self.host = RuntimeHost(
            store,
            effect_host,
            resolver,
            clock,
            ids,
            timings,
            approval,
            crash_point,
            tracer,
            attachments or ANY_ATTACHMENT,
            builtins,
            in_order(plugins),
            strict,
            _tool_hooks(tool_hooks, tool_result_projector) if tool_hooks or tool_result_projector is not None else None,
        )
        if tracer is not None and strict:
            tracer.let_through()
        # Logs of sessions without a store live as long as somebody has or watches the session.
        self._logs: weakref.WeakValueDictionary[str, ResidentLog] = weakref.WeakValueDictionary()
        self._ringer: BellRinger | None = None
        if store is not None and owns_resources:
            # Whatever this core commits wakes those who watch, in any process (contract 04 §10.4).
            self._ringer = BellRinger(store.live.bell_name)
            store.live.ring_with(self._ringer)
        # What was opened and is still in somebody's hands: closing the core stops its turns.
        self._opened_sessions: weakref.WeakSet[SharedSession] = weakref.WeakSet()
        self._borrowed = set()
        self._is_closed = False
        self._owner_label = owner_label
        self._owns_resources = owns_resources
        self._driver_id = ids.token()
        self._driver = self._driver_of(queue_driver)

    def _require_distinct_tools(self) -> None:
        try:
            self._registry()
        except ReconfigureError as error:
            raise PluginRegistrationError(error.message) from error

    def _driver_of(self, wanted: Driver | Literal["inline", "none"] | None) -> Driver | None:
        store = self.host.store
        if wanted is None:
            wanted = "none" if store is None else "inline"
        if wanted == "none":
            return None
        if wanted != "inline":
            if isinstance(wanted, str):
                raise ConfigError(f"a queue driver is 'inline', 'none' or a driver, not {wanted!r}")
            return wanted
        if store is None:
            raise ConfigError(
                "an inline queue driver needs a session store", code="durable_store_required:session_store"
            )
        # Who drives sessions turns them: the first turn waits for no import.
        import lash_cli.runtime.turns  # noqa: F401

        store.expect_turns()
        opener = partial(self._opened_to_drain, self._driver_id, DRIVER_LABEL)
        return QueueDriver(store, self.host.clock, opener, is_strict=self.host.is_strict)

    def worker(self, options: WorkOptions | None = None, *, on_event: OnWorkEvent | None = None) -> QueueWorker:
        """Who drains queues in the foreground: `report = await core.worker(options).run(session_ids)`, in any number of
        processes at once (contract 02 §6.3, 08 §5.2). Build the core with `queue_driver="none"`, so that nobody else
        here does.

        Sessions run under their stored policy, with the tools of this core. `on_event` is told each
        `WorkEvent`, in order, and awaited if it can be; what it raises ends the worker, after the turns that run, and
        comes out of `run`.
        Raises `LashRuntimeError` for a core without a store.
        """
        from lash_cli.runtime.worker import QueueWorker

        opener = partial(self._opened_to_drain, self.host.ids.token(), WORKER_LABEL)
        return QueueWorker(
            self.store, self.host.clock, opener, options, on_event=on_event, is_strict=self.host.is_strict
        )

    @contextlib.asynccontextmanager
    async def _opened_to_drain(self, owner_id: str, label: str, session_id: str) -> AsyncIterator[LashSession]:
        """A session under its stored policy and an owner of its own, opened and let go in silence."""
        owner = LeaseOwnerIdentity(owner_id, self.host.ids.token(), this_process(), label)
        session = await self._opened(session_id, SessionSpec(inherit="stored"), owner=lambda: owner, create=False)
        try:
            yield session
        finally:
            session.close_handle()

    async def _beside_driver(self, session_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`; while this core's own driver holds the lane, after the pass under way.

        Turns of one core queue up behind one another whoever started them.
        Raises `SessionExecutionBusy` only for another holder, and
        `LashRuntimeError` (`session_in_turn`) inside of that very pass.
        """
        try:
            return await work()
        except SessionExecutionBusy as busy:
            driver = self._driver
            holder = busy.details.get("holder") or {}
            if not isinstance(driver, QueueDriver) or holder.get("owner_id") != self._driver_id:
                raise
        refuse_within_turn(
            lambda shared: (shared.owner.owner_id, shared.state.session_id) == (self._driver_id, session_id)
        )
        async with driver.paused(session_id):
            return await work()

    @property
    def effect_host(self) -> EffectHost:
        """The effect host of all sessions; who holds an `AwaitEventKey` resolves it here, whether or not its session
        is open."""
        return self.host.effects

    def observe(self, session_id: str) -> ObservableSession:
        """A read-only handle on any session, opened or not, existing or not (yet). A core without a store shows the
        sessions of its own. Raises `UsageError` for an id of the wrong shape."""
        require_session_id(session_id)
        return self._observable(session_id, msgspec.structs.replace(self.policy, session_id=session_id))

    def _observable(self, session_id: str, policy: SessionPolicy, log: ResidentLog | None = None) -> ObservableSession:
        from lash_cli.api.observable import ObservableSession

        if self.host.store is not None:
            return ObservableSession.of_store(self.host.store, session_id, policy)
        return ObservableSession.of_log(log or self._log_of(session_id), policy)

    def _log_of(self, session_id: str, *, to_open: bool = False) -> ResidentLog:
        """The log of a session without a store: of the one that was opened last, or of the one that will be opened
        next."""
        from lash_cli.store.resident_log import ResidentLog

        log = self._logs.get(session_id)
        if log is None or log.is_closed or (to_open and log.state is not None):
            log = self._logs[session_id] = ResidentLog(session_id, self.host.clock, self.host.ids.token())
            if self._is_closed:
                log.close()  # nothing is run any more that a watcher could wait for
        return log

    async def direct_completion(self, request: DirectRequest) -> DirectLlmCompletion:
        """One model call outside any turn, with the core's provider and model where the request names none. Nothing is
        booked or journalled. Cancelling the awaiting task cancels the call. Raises `UsageError` for a schema or an
        attachment that cannot be used and `DirectCompletionError` otherwise: `invalid_request` before anything is
        sent, `invalid_structured_output` for an answer that does not fit, which is not asked for again, and the
        provider's code for a failed call, whose record it has."""
        from lash_cli.runtime.direct import complete_directly

        return await complete_directly(self.host, request, model=self.policy.model, provider_id=self.policy.provider_id)

    async def open_session(
        self,
        session_id: str,
        *,
        spec: SessionSpec | None = None,
        mode: OpenMode = "load",
        state: RuntimeSessionState | None = None,
        create: bool = True,
        must_be_new: bool = False,
        name: str | None = None,
        cwd: str | None = None,
        parent: str | None = None,
        labels: dict[str, str] | None = None,
        owner: LeaseOwnerIdentity | None = None,
        provider: ModelCaller | None = None,
    ) -> LashSession:
        """Open a session; the head is not written (contract 01 §2).

        `mode="fresh"` ignores what is stored and replaces it with the first
        commit. `state` adopts a caller's state in the same way. `owner` is who
        takes the lane, a new one unless given; while another handle of the
        session has that identity it is another incarnation of it. `provider`
        makes the model calls of this open, whatever is recorded; nothing of it
        is stored, and who gave it closes it. Raises `UsageError` for an id, a
        name, labels, a mode, a spec or an owner of the wrong shape, `ConfigError`
        for a provider that is none, `SessionNotFound` when it is absent and
        `create` is off, `ConflictError` (`session_exists`) when it had to be new
        and is not, `SessionDeleted`, and, before anything is written,
        `StoreSessionMismatch` when `state` belongs to another session and
        `UsageError` (`session_state_invalid`) when it does not hold
        together.
        """
        session = await self._opened(
            session_id,
            spec or SessionSpec(),
            mode=mode,
            state=state,
            create=create,
            must_be_new=must_be_new,
            name=name,
            cwd=cwd,
            parent=parent,
            labels=labels,
            owner=partial(self._owner_of, session_id, owner),
            provider=provider,
            notify=self._notify,
            keeps_all=self._keeps_all,
        )
        store, notify = self.host.store, self._notify
        if store is not None and notify is not None:
            demand = await store.demand(session_id)
            if standing_of(demand, self.host.clock.now_ms()) is not Standing.NOTHING:
                notify(session_id, "session_open")
        return session

    async def _opened(
        self,
        session_id: str,
        spec: SessionSpec,
        *,
        mode: OpenMode = "load",
        state: RuntimeSessionState | None = None,
        create: bool = True,
        must_be_new: bool = False,
        name: str | None = None,
        cwd: str | None = None,
        parent: str | None = None,
        labels: dict[str, str] | None = None,
        owner: Callable[[], LeaseOwnerIdentity],
        provider: ModelCaller | None = None,
        notify: Notify | None = None,
        keeps_all: bool = False,
    ) -> LashSession:
        require_session_id(session_id)
        require_kind(spec, SessionSpec, hint="it is made by SessionSpec(model=…, …)", code="policy_invalid")
        if provider is not None:
            require_collaborators(provider=provider)
        require_described(name, cwd, parent, labels)
        if mode not in get_args(OpenMode):
            raise UsageError(f"a session is opened as {' or '.join(get_args(OpenMode))}, not {mode!r}")
        if state is not None:
            require_own(session_id, state)
        base = msgspec.structs.replace(self.policy, session_id=session_id, prompt=PromptLayer())
        policy = (
            spec.resolve_against(base) if state is None else _over_recorded(spec, base, persisted_config(state.policy))
        )
        store = self.host.store
        meta: SessionMeta | None = None
        resident = ResidentSession(session_id, policy, self.policy, self._registry(), store, self.host.clock.now_ms())
        resident.is_policy_explicit = bool(spec.chosen())
        if keeps_all and store is not None:
            resident.keep_all()
        if state is not None:
            from lash_cli.runtime.persistence import put_attachments, require_attachments

            resident.adopt_state(state, self.host.clock.now_ms())  # before anything is written
            await require_attachments(store, state)
        if store is not None:
            request = SessionCreate(
                session_id=session_id,
                config=persisted_config(policy),
                now_ms=self.host.clock.now_ms(),
                name=name,
                cwd=cwd,
                parent_session_id=parent,
                labels=labels or {},
                must_be_new=must_be_new,
            )
            meta = await self._meta(store, session_id, create, request)
            if state is not None:
                await put_attachments(store, state, self.host.clock.now_ms())
        elif not create:
            raise SessionNotFound(f"there is no session {session_id!r}: this core keeps its sessions in memory only")
        if mode == "fresh":
            if store is not None:
                await self._beside_driver(session_id, partial(self._require_free_lane, session_id))
            resident.replaces_graph = True
        elif state is None and store is not None:
            await self._load(resident, store, spec, base)
        if store is None:
            from lash_cli.runtime.ephemeral import publish_state

            log = resident.log = self._log_of(session_id, to_open=True)
            publish_state(resident)
            # A session that nobody closes is let go with its last handle.
            weakref.finalize(resident, log.close).atexit = False
        if self.host.tracer is not None:
            self.host.tracer.session_opened(resident, meta.name if meta is not None else name)
        shared = SharedSession(resident, self.host.calling(provider), owner(), notify)
        # What is opened while the core closes would begin turns behind those that it waits for.
        shared.is_gone = self._is_closed
        self._opened_sessions.add(shared)
        return LashSession(
            self,
            shared,
            parent_session_id=meta.parent_session_id if meta is not None else parent,
            name=meta.name if meta is not None else name,
        )

    async def open_fresh(self, session_id: str, *, spec: SessionSpec | None = None) -> LashSession:
        """Open with an empty transcript; the first commit replaces what is stored. Raises `SessionExecutionBusy` while
        somebody holds the lane: what a running turn is about to add would be replaced unseen. One that was cut off is
        finished by the first turn, and nothing else is committed before it is."""
        return await self.open_session(session_id, spec=spec, mode="fresh")

    async def open_with_state(
        self, session_id: str, state: RuntimeSessionState, *, spec: SessionSpec | None = None
    ) -> LashSession:
        """Open with a state the caller supplies; its id must match, and it goes on from its leaf. Raises as
        `open_session`."""
        require_own(session_id, state)  # None among it, which opens what is stored there
        return await self.open_session(session_id, spec=spec, state=state)

    async def resume(
        self,
        parked: ParkedSession,
        *,
        spec: SessionSpec | None = None,
        owner: LeaseOwnerIdentity | None = None,
        provider: ModelCaller | None = None,
    ) -> LashSession:
        """Rebuild a parked session: the same path as opening it (contract 01 §4.5). What only the open before was given
        is given again or left out. Raises as `open_session`, and `ConflictError` (`parked_elsewhere`) for a session of
        another store than this core's, which may have one of that id too, and `UsageError` (`session_not_parked`) for
        what is no parked session."""
        hint = "a session that is not parked is opened by its id, with: LashCore.open_session"
        require_kind(parked, ParkedSession, hint=hint, code="session_not_parked")
        store = self.host.store
        if store is not None and not _is_one_store(store, parked.store):
            raise ConflictError(
                f"session {parked.session_id} was parked in another store than this core has",
                code="parked_elsewhere",
                hint="resume it with a core over the store it was parked in",
                details={"session": parked.session_id},
            )
        spec = spec or SessionSpec(inherit="stored")
        return await self.open_session(parked.session_id, spec=spec, create=False, owner=owner, provider=provider)

    async def _meta(
        self, store: RuntimePersistence, session_id: str, create: bool, request: SessionCreate
    ) -> SessionMeta:
        if create:
            return await store.create_session(request)
        row = await store.session_row(session_id)
        if row is None:
            raise SessionNotFound(f"there is no session {session_id!r}")
        return row.meta

    async def _load(
        self, resident: ResidentSession, store: RuntimePersistence, spec: SessionSpec, base: SessionPolicy
    ) -> None:
        """Adopt the stored head: host policy over the current frame, but the recorded provider stays."""
        while (read := await store.load_session(resident.session_id, resident.read_scope)) is not None:
            resident.policy = _over_recorded(spec, base, read.config)
            if await resident.adopt_read(read, keep_policy=True):
                return
        row = await store.session_row(resident.session_id)
        if row is not None:
            if spec.inherit == "stored":
                resident.set_policy(spec.resolve_against(base, row.config))
            if persisted_config(resident.policy) == row.config:
                # No choice that has to be written: what others choose before the first commit is followed.
                resident.dirty.discard(Dirty.CONFIG)

    def _registry(self) -> ToolRegistry:
        registry = ToolRegistry()
        for index, provider in enumerate(self._tools):
            registry.upsert_source("plugins" if index == 0 else f"plugins:{index}", provider)
        return registry

    def flush_trace_sink(self) -> None:
        """Sync what was traced, if anything is; raises `LashRuntimeError` (`trace_flush`) when the sink fails."""
        if self.host.tracer is not None:
            self.host.tracer.flush()

    async def aclose(self) -> None:
        """Stop driving, cancel the turns that run and wait for their commits, end what tools still run, and release the
        providers and the store unless a host shares them. Every handle is closed afterwards, and so is what is opened
        meanwhile or later. What one of them raises is raised when all are closed, and so is the cancellation of a task
        that is cancelled meanwhile: whoever goes on behind it, or ends the loop there, finds everything closed. Raises
        `LashRuntimeError` (`session_in_turn`), and only the turn is cancelled, where that waits for the caller, as it
        does for its sink."""
        await seen_through(self._close())

    async def _close(self) -> None:
        # What the driver has under way is not committed.
        await stop_own_turns(lambda own: own in self._opened_sessions and own.owner.owner_id != self._driver_id, CLOSED)
        async with contextlib.AsyncExitStack() as closing:
            # The last one first, and each whatever another raises: what is left open would outlive the core.
            if self._owns_resources:
                if self._ringer is not None:
                    closing.callback(self._ringer.close)
                if self.host.store is not None:
                    closing.push_async_callback(self.host.store.aclose)
                    closing.push_async_callback(self._borrowed_is_given_back)
                closing.push_async_callback(self.host.providers.aclose)
            closing.callback(self._close_logs)
            if self.host.tracer is not None:
                closing.callback(self.host.tracer.close)
            for provider in reversed(self._tools):
                closing.push_async_callback(provider.aclose)
            closing.push_async_callback(self._stop_sessions)
            if self._driver is not None:
                closing.push_async_callback(self._driver.aclose)

    async def _stop_sessions(self) -> None:
        self._is_closed = True
        opened = tuple(self._opened_sessions)
        for shared in opened:
            shared.stop(CLOSED)
        for shared in opened:
            await shared.stopped()

    def _close_logs(self) -> None:
        for log in tuple(self._logs.values()):
            log.close()

    async def __aenter__(self) -> LashCore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _tool_hooks(hooks: Sequence[ToolHook], projector: ToolResultProjector | None) -> ToolHookSet:
    from lash_cli.runtime.tool_hooks import tool_hook_set

    return tool_hook_set(hooks, projector)


def _standard_context() -> tuple[ContextPlugin, ...]:
    from lash_cli.plugins.rolling_history import RollingHistory

    return (RollingHistory(),)


def _over_recorded(spec: SessionSpec, base: SessionPolicy, recorded: PersistedSessionConfig) -> SessionPolicy:
    """The policy of an open of what somebody recorded: the host's, but the recorded provider stays (contract 01
    §2.1, §2.4)."""
    policy = spec.resolve_against(base, recorded)
    if spec.provider_id is msgspec.UNSET:
        policy = msgspec.structs.replace(policy, provider_id=recorded.provider_id)
    return policy


def _is_one_store(one: RuntimePersistence, other: RuntimePersistence) -> bool:
    """Whether two stores, the first of which is open, are over one file."""
    if one is other:
        return True
    try:
        return one.live.bell_name == other.live.bell_name
    except OSError:
        return False  # the file of one of them is gone


def _keeps_all(residency: Residency | None, store: RuntimePersistence | None) -> bool:
    if residency not in (None, *get_args(Residency)):
        known = " or ".join(get_args(Residency))
        raise ConfigError(f"the residency of a session is {known}, not {residency!r}", code="residency_unknown")
    if residency == "active_path_only" and store is None:
        raise ConfigError(
            "what is not held in memory has to be in a session store", code="durable_store_required:session_store"
        )
    return residency == "keep_all"


def _default_effect_host(
    store: RuntimePersistence | None, clock: Clock, ids: Ids, timings: LeaseTimings, crash_point: CrashPoint | None
) -> EffectHost:
    if store is None:
        from lash_cli.effects.inline import InlineEffectHost

        return InlineEffectHost(clock, ids)
    from lash_cli.effects.journal import JournalEffectHost

    return JournalEffectHost(store, clock, ids, timings, crash_point=crash_point)
