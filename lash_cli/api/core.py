"""`LashCore`: the wiring that sessions are opened from (contract 01 §1).

It owns no session. Everything is validated when it is built, before any I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from lash_cli.api.session import LashSession, _Shared
from lash_cli.core.ids import is_session_id
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseTimings
from lash_cli.core.outcome import (
    CancelRequested,
    TerminalCommitted,
    TurnAddress,
    TurnCancellationEvidence,
    TurnCancelReceipt,
    TurnTerminal,
)
from lash_cli.core.policy import ModelSpec, PromptLayer, SessionPolicy, SessionSpec, persisted_config
from lash_cli.core.protocols import ApprovalPolicy, Clock, EffectHost, Ids, ModelCaller, ToolProvider
from lash_cli.errors import ConfigError, ConflictError, LashRuntimeError, NotFoundError, UsageError, WaitTimeout
from lash_cli.runtime.bells import BellRinger
from lash_cli.runtime.host import CrashPoint, ProviderResolver, RuntimeHost, SingleProvider
from lash_cli.runtime.lane import free_dead_lane
from lash_cli.runtime.results import replayed_outcome
from lash_cli.runtime.session import ResidentSession, RuntimeSessionState
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionCreate, SessionMeta
from lash_cli.system import SystemClock, SystemIds, this_process
from lash_cli.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from lash_cli.api.observable import ObservableSession

TERMINAL_POLL_FIRST_S = 0.025
TERMINAL_POLL_MAX_S = 0.25

OpenMode = Literal["load", "fresh"]


@dataclass(frozen=True, slots=True)
class SessionDeleteReport:
    """What a deletion did; `existed` is False for an id that was never used."""

    session_id: str
    existed: bool


@dataclass(frozen=True, slots=True)
class ParkedSession:
    """A quiesced session: enough to resume it, and under 2 KiB."""

    session_id: str
    store: RuntimePersistence = field(repr=False)
    policy: SessionPolicy = field(repr=False)


class LashCore:
    """Immutable wiring. One core serves any number of sessions of one store."""

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
        effect_host: EffectHost | None = None,
        lease_timings: LeaseTimings | None = None,
        max_turns: int | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        owner_label: str = "",
        crash_point: CrashPoint | None = None,
    ) -> None:
        """Wire a core from keyword arguments.

        Give either `provider` or `providers`, and either `model` or a whole
        `policy`. `store` None keeps sessions in memory. Without `effect_host`
        the store's journal is used, or the inline host when there is no store.
        Raises `ConfigError` with codes `missing_model_spec`,
        `missing_provider` or `durable_store_required:session_store`.
        """
        resolver = providers if providers is not None else SingleProvider(provider) if provider is not None else None
        if resolver is None:
            raise ConfigError("a core needs a provider", code="missing_provider")
        if policy is None:
            if model is None:
                raise ConfigError("a core needs a model", code="missing_model_spec")
            policy = SessionPolicy(model, resolver.default_id, max_turns=max_turns)
        clock = clock or SystemClock()
        ids = ids or SystemIds()
        timings = lease_timings or LeaseTimings()
        if effect_host is None:
            effect_host = _default_effect_host(store, clock, ids, timings, crash_point)
        elif effect_host.durability_tier == "durable" and store is None:
            raise ConfigError(
                "a durable effect host needs a durable session store", code="durable_store_required:session_store"
            )
        self.policy = policy
        self.host = RuntimeHost(store, effect_host, resolver, clock, ids, timings, approval, crash_point)
        self._ringer: BellRinger | None = None
        if store is not None:
            # Whatever this core commits wakes those who watch, in any process (contract 04 §10.4).
            self._ringer = BellRinger(store.live.bell_name)
            store.live.ring_with(self._ringer)
        self._tools = tuple(tools)
        self._owner_label = owner_label

    @property
    def store(self) -> RuntimePersistence:
        """The store; raises `LashRuntimeError` for a core without one."""
        if self.host.store is None:
            raise LashRuntimeError("missing_session_store_factory", "this core keeps its sessions in memory only")
        return self.host.store

    # --- watching -----------------------------------------------------------------------------

    def observe(self, session_id: str) -> ObservableSession:
        """A read-only handle on any session, opened or not, existing or not (yet). Raises `UsageError` for an id of
        the wrong shape and `LashRuntimeError` for a core without a store."""
        _require_session_id(session_id)
        return self._observable(session_id, msgspec.structs.replace(self.policy, session_id=session_id))

    def _observable(self, session_id: str, policy: SessionPolicy) -> ObservableSession:
        from lash_cli.api.observable import ObservableSession

        return ObservableSession(self.store, session_id, policy)

    # --- opening ------------------------------------------------------------------------------

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
    ) -> LashSession:
        """Open a session; the head is not written (contract 01 §2).

        `mode="fresh"` ignores what is stored and replaces it with the first
        commit. `state` adopts a caller's state in the same way. Raises
        `UsageError` for an id of the wrong shape, `NotFoundError` when it is
        absent and `create` is off, `ConflictError` (`session_exists`) when it
        had to be new and is not, `SessionDeleted`, and `StoreSessionMismatch`
        when `state` belongs to another session.
        """
        _require_session_id(session_id)
        spec = spec or SessionSpec()
        base = msgspec.structs.replace(self.policy, session_id=session_id, prompt=PromptLayer())
        policy = spec.resolve_against(base)
        store = self.host.store
        meta: SessionMeta | None = None
        if store is not None:
            meta = await self._meta(
                store,
                session_id,
                create,
                SessionCreate(
                    session_id=session_id,
                    config=persisted_config(policy),
                    now_ms=self.host.clock.now_ms(),
                    name=name,
                    cwd=cwd,
                    parent_session_id=parent,
                    labels=labels or {},
                    must_be_new=must_be_new,
                ),
            )
        resident = ResidentSession(session_id, policy, self.policy, self._registry(), store, self.host.clock.now_ms())
        resident.is_policy_explicit = _is_explicit(spec)
        if state is not None:
            resident.adopt_state(state)
        elif mode == "fresh":
            resident.replaces_graph = True
        elif store is not None:
            await self._load(resident, store, spec, base)
        shared = _Shared(resident, owner or self._new_owner())
        return LashSession(
            self,
            shared,
            parent_session_id=meta.parent_session_id if meta is not None else parent,
            name=meta.name if meta is not None else name,
        )

    async def open_fresh(self, session_id: str, *, spec: SessionSpec | None = None) -> LashSession:
        """Open with an empty transcript; the first commit replaces what is stored."""
        return await self.open_session(session_id, spec=spec, mode="fresh")

    async def open_with_state(
        self, session_id: str, state: RuntimeSessionState, *, spec: SessionSpec | None = None
    ) -> LashSession:
        """Open with a state the caller supplies; its id must match."""
        return await self.open_session(session_id, spec=spec, state=state)

    async def resume(self, parked: ParkedSession, *, spec: SessionSpec | None = None) -> LashSession:
        """Rebuild a parked session: the same path as opening it (contract 01 §4.5)."""
        return await self.open_session(parked.session_id, spec=spec or SessionSpec(inherit="stored"), create=False)

    async def _meta(
        self, store: RuntimePersistence, session_id: str, create: bool, request: SessionCreate
    ) -> SessionMeta:
        if create:
            return await store.create_session(request)
        row = await store.session_row(session_id)
        if row is None:
            raise NotFoundError(f"there is no session {session_id!r}", hint="list them with: lash ls")
        return row.meta

    async def _load(
        self, resident: ResidentSession, store: RuntimePersistence, spec: SessionSpec, base: SessionPolicy
    ) -> None:
        """Adopt the stored head: host policy over the current frame, but the recorded provider stays."""
        read = await store.load_session(resident.session_id, ReadScope.ACTIVE_PATH)
        if read is None:
            if spec.inherit == "stored":
                row = await store.session_row(resident.session_id)
                if row is not None:
                    resident.set_policy(spec.resolve_against(base, row.config))
            return
        policy = spec.resolve_against(base, read.config)
        if spec.provider_id is msgspec.UNSET:
            policy = msgspec.structs.replace(policy, provider_id=read.config.provider_id)
        resident.policy = policy
        await resident.adopt_read(read, keep_policy=True)

    def _registry(self) -> ToolRegistry:
        registry = ToolRegistry()
        for index, provider in enumerate(self._tools):
            registry.upsert_source("plugins" if index == 0 else f"plugins:{index}", provider)
        return registry

    def _new_owner(self) -> LeaseOwnerIdentity:
        token = self.host.ids.token()
        return LeaseOwnerIdentity(token, token, this_process(), self._owner_label)

    # --- across processes ---------------------------------------------------------------------

    async def request_turn_cancel(
        self,
        session_id: str,
        *,
        turn_id: str | None = None,
        request_id: str | None = None,
        origin: str | None = None,
        reason: str | None = None,
    ) -> TurnCancelReceipt:
        """Ask a turn to stop, in whatever process it runs (contract 01 §6.6).

        Without `turn_id` the running turn is meant. Raises `ConflictError`
        (`no_active_turn`) when none runs, `UsageError` for a blank request id.
        """
        if request_id is not None and not request_id.strip():
            raise UsageError("a cancel request id must not be blank", code="invalid_turn_cancel_request")
        store = self.store
        if turn_id is None:
            unfinished = await store.unfinished_turns(session_id)
            if not unfinished:
                raise ConflictError(
                    f"no turn of session {session_id} is running",
                    code="no_active_turn",
                    hint=f"see what it did last: lash show {session_id}",
                )
            turn_id = unfinished[-1].turn_id
        evidence = TurnCancellationEvidence(request_id or self.host.ids.new("c"), origin, reason)
        stands = await store.request_turn_cancel(session_id, turn_id, evidence, self.host.clock.now_ms())
        address = TurnAddress(session_id, turn_id)
        match stands:
            case None:
                return TurnCancelReceipt(address, "requested", "durable", evidence)
            case CancelRequested(cancellation=first):
                return TurnCancelReceipt(address, "already_requested", "durable", first)
            case _:
                return TurnCancelReceipt(address, "completion_won", "durable")

    async def await_terminal(self, address: TurnAddress, *, timeout_ms: int | None = None) -> TurnTerminal:
        """Wait until a turn has ended, wherever it runs. Raises `WaitTimeout`, and `NotFoundError` (`turn_unknown`)."""
        deadline = None if timeout_ms is None else self.host.clock.monotonic() + timeout_ms / 1000
        delay = TERMINAL_POLL_FIRST_S
        while True:
            turn = await self.store.turn(address.session_id, address.turn_id)
            if turn is None:
                raise NotFoundError(f"there is no turn {address.turn_id!r}", code="turn_unknown")
            if turn.state == "committed" and turn.summary is not None:
                outcome = replayed_outcome(turn.summary, None)
                return TerminalCommitted(outcome, turn.summary.cancellation, turn.head_revision)
            if deadline is not None and self.host.clock.monotonic() >= deadline:
                raise WaitTimeout(
                    f"turn {address.turn_id} did not end in time",
                    code="wait_timeout",
                    details={"turn": address.turn_id},
                )
            await self.host.clock.sleep(delay)
            delay = min(delay * 2, TERMINAL_POLL_MAX_S)

    async def delete_session(self, session_id: str) -> SessionDeleteReport:
        """Delete a session for ever (contract 01 §1.4). Its waits are revoked and its id is never used again.

        Raises `SessionExecutionBusy` while somebody holds the lane; a holder
        that provably runs no more does not count.
        """
        row = await self.store.session_row(session_id)
        if row is not None:
            await free_dead_lane(
                self.store, self.host.clock, self.host.ids, self.host.timings, self._new_owner(), session_id, row.lease
            )
        existed = await self.store.delete_session(session_id, self.host.clock.now_ms())
        if existed:
            await self.host.effects.revoke_await_events_for_session(session_id)
        return SessionDeleteReport(session_id, existed)

    async def aclose(self) -> None:
        """End what tools still run, release provider connections and close the store."""
        for provider in self._tools:
            await provider.aclose()
        await self.host.providers.aclose()
        if self.host.store is not None:
            await self.host.store.aclose()
        if self._ringer is not None:
            self._ringer.close()

    async def __aenter__(self) -> LashCore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.aclose())


def _require_session_id(session_id: str) -> None:
    if not is_session_id(session_id):
        raise UsageError(
            f"{session_id!r} is not a session id",
            hint="use 1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit",
        )


def _is_explicit(spec: SessionSpec) -> bool:
    return any(getattr(spec, name) is not msgspec.UNSET for name in ("provider_id", "model", "max_turns", "prompt"))


def _default_effect_host(
    store: RuntimePersistence | None, clock: Clock, ids: Ids, timings: LeaseTimings, crash_point: CrashPoint | None
) -> EffectHost:
    if store is None:
        from lash_cli.effects.inline import InlineEffectHost

        return InlineEffectHost(clock, ids)
    from lash_cli.effects.journal import JournalEffectHost

    return JournalEffectHost(store, clock, ids, timings, crash_point=crash_point)
