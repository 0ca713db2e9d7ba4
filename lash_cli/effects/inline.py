"""The host of sessions without a store: it runs effects and remembers none (contract 03 §2.5).

Promises live in memory, tier `inline`; two inline hosts never share state. It
passes the same conformance laws as a durable host except those that need a
memory beyond this process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from lash_cli.core.effect import (
    EffectEnvelope,
    EffectOutcome,
    ExecutionScope,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    validate_envelope,
    validate_scope,
)
from lash_cli.core.lease import LeaseFence
from lash_cli.core.protocols import Clock, EffectContext, EffectExecutor, Ids
from lash_cli.effects.host import due_at_ms, require_outcome_kind
from lash_cli.effects.resolver import InlineResolver


class InlineEffectHost(InlineResolver):
    """Runs every effect when asked, every time."""

    def __init__(self, clock: Clock, ids: Ids, *, allow_process_lifetime_completion_keys: bool = False) -> None:
        """`ids` gives the secret that signs the keys of this instance."""
        super().__init__(
            clock,
            ids.token().encode(),
            allow_process_lifetime_completion_keys=allow_process_lifetime_completion_keys,
        )

    def scoped(
        self, scope: ExecutionScope, *, fence: LeaseFence | None = None, fresh: bool = False
    ) -> InlineScopedEffects:
        """Effects of one scope; `fence` and `fresh` matter only to a host with a journal."""
        validate_scope(scope)
        return InlineScopedEffects(scope, self._clock)


class InlineScopedEffects:
    """Effects of one scope, run and forgotten."""

    durability_tier: Literal["inline", "durable"] = "inline"
    supports_concurrent_effects: bool = True

    def __init__(self, scope: ExecutionScope, clock: Clock) -> None:
        self.scope = scope
        self._clock = clock

    async def execute(self, envelope: EffectEnvelope, run: EffectExecutor) -> EffectOutcome:
        """See `ScopedEffects`; there is nothing to replay."""
        validate_envelope(envelope, self.scope)
        outcome = await run(EffectContext(due_at_ms=due_at_ms(envelope, self._clock.now_ms())))
        require_outcome_kind(envelope.command, outcome)
        return outcome

    async def is_known(self, replay_key: str) -> bool:
        """Always False: nothing is journalled."""
        return False

    async def recorded(self, replay_key: str) -> tuple[EffectEnvelope, EffectOutcome] | None:
        """Always None: nothing is journalled."""
        return None

    async def asked(self, replay_key: str) -> EffectEnvelope | None:
        """Always None: nothing is journalled."""
        return None

    async def left_pending(self) -> tuple[tuple[str, ToolAttemptCommand, ToolAttemptOutcome], ...]:
        """Always empty: there are no earlier drives."""
        return ()

    async def has_any(self, key_prefix: str) -> bool:
        """Always False: nothing is journalled."""
        return False

    async def settle(self) -> None:
        """Nothing is ever outstanding."""

    def superseded(self) -> AbstractContextManager[None]:
        """Nothing is ever recorded."""
        return nullcontext()
