"""Calls beside those of the model: made by a running tool, or under a grant (contract 05 §1.6, §1.8, §3.2).

Calls that a tool makes belong to its attempt. They have no journal of their own, so they are made only where nothing is
journalled, and none of them outlives the attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

import msgspec

from lash_cli.core.codec import encode
from lash_cli.core.content import ToolCallPart
from lash_cli.core.effect import child_replay_key
from lash_cli.core.protocols import NestedCall
from lash_cli.core.tool_definition import ToolExecutionGrant, tool_batch_id
from lash_cli.core.tools import FailureClass, ToolCall, ToolCallRecord, ToolCatalogEntry, ToolManifest
from lash_cli.runtime.foreign import CANCEL_GRACE_S
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ToolRegistry


class RequestedCall(msgspec.Struct, frozen=True):
    """A call to be dispatched: as a model wrote it, or somebody in its place, and what else is known of it."""

    part: ToolCallPart
    grant: ToolExecutionGrant | None = None
    parent_call_id: str | None = None


RunCalls = Callable[[str, Sequence[RequestedCall]], Awaitable[tuple[ToolCallRecord, ...]]]


class NestedCalls:
    """Implements `core.protocols.ToolDispatch` for one attempt."""

    def __init__(
        self, run: RunCalls, registry: ToolRegistry, call: ToolCall, attempt: int, key: str, *, is_journalled: bool
    ) -> None:
        """`key` is the replay key of the attempt."""
        self._run = run
        self._registry = registry
        self._call = call
        self._attempt = attempt
        self._key = key
        self._is_journalled = is_journalled
        self._is_over = False
        self._numbers = count(1)
        self._waiting: set[asyncio.Task[Any]] = set()

    def manifest(self, name: str) -> ToolManifest | None:
        """See `ToolDispatch`. It looks at what is known and asks no source."""
        resolved = self._registry.resolve(name)
        return None if resolved is None else resolved.manifest

    def catalog(self) -> tuple[ToolCatalogEntry, ...]:
        """See `ToolDispatch`."""
        return self._registry.catalog()

    async def batch(self, calls: Sequence[NestedCall]) -> tuple[ToolCallRecord, ...]:
        """See `ToolDispatch`."""
        name = self._call.tool_name
        if self._is_journalled:
            text = f"{name} cannot call other tools: its attempts are journalled, and theirs would not be."
            raise ToolFault(FailureClass.UNAVAILABLE, "nested_tool_batch_refused", text)
        if self._is_over:
            text = f"{name} cannot call other tools any more: its attempt is over."
            raise ToolFault(FailureClass.UNAVAILABLE, "nested_tool_batch_refused", text)
        requested = [self._requested(call) for call in calls]
        key = child_replay_key(self._key, tool_batch_id(self._identity(call) for call in calls))
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._waiting.add(task)
        try:
            return await self._run(key, requested)
        finally:
            self._waiting.discard(task)

    async def aclose(self) -> None:
        """End what the attempt has left running beside it."""
        self._is_over = True
        if self._waiting:
            for task in self._waiting:
                task.cancel()
            await asyncio.wait(self._waiting, timeout=CANCEL_GRACE_S)

    def _requested(self, call: NestedCall) -> RequestedCall:
        grant = None if isinstance(call.tool, str) else call.tool
        name = call.tool if isinstance(call.tool, str) else call.tool.manifest.name
        # A later attempt of the tool makes calls of its own: each is told of once.
        call_id = f"{self._call.call_id}.{self._attempt}.{next(self._numbers)}"
        return RequestedCall(ToolCallPart(call_id, name, encode(call.args).decode()), grant, self._call.call_id)

    def _identity(self, call: NestedCall) -> tuple[str, Any, ToolExecutionGrant | None]:
        if not isinstance(call.tool, str):
            return call.tool.manifest.id, call.args, call.tool
        manifest = self.manifest(call.tool)
        return (call.tool if manifest is None else manifest.id), call.args, None
