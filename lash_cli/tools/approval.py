"""Who may run what: one mode per approval class, and a person asked where a mode says so (contract 05 §3.1).

`auto` allows, `never` refuses, `ask` asks; without anybody to ask it refuses
and says how to allow it. One `StandardApproval` serves one session: an
"always" answer is remembered until the object is dropped and is never stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

from lash_cli.core.tools import ApprovalClass, ToolCall, ToolManifest


class ApprovalMode(StrEnum):
    """What happens to a call of one approval class."""

    ASK = "ask"
    AUTO = "auto"
    NEVER = "never"


DEFAULT_MODES: Mapping[ApprovalClass, ApprovalMode] = {
    "read": ApprovalMode.AUTO,
    "write": ApprovalMode.ASK,
    "execute": ApprovalMode.ASK,
    "network": ApprovalMode.ASK,
}

Asker = Callable[[ToolManifest, ToolCall], Awaitable[str]]
"""Asks a person. Answers `once`, `always`, `no`, or any other text as the reason of a refusal."""


def how_to_allow(approval: ApprovalClass) -> str:
    """The two ways to allow a class without being asked."""
    return f'use --approve {approval}=auto, or set [approval] {approval} = "auto" in the configuration'


class StandardApproval:
    """Implements `core.protocols.ApprovalPolicy` for one session."""

    def __init__(
        self,
        modes: Mapping[ApprovalClass, ApprovalMode] | None = None,
        asker: Asker | None = None,
    ) -> None:
        """`modes` overrides the defaults class by class; `asker` is None where nobody can be asked."""
        self._modes: dict[ApprovalClass, ApprovalMode] = {**DEFAULT_MODES, **(modes or {})}
        self._asker = asker
        self._always: set[str] = set()
        self._asking = asyncio.Lock()

    async def decide(self, manifest: ToolManifest, call: ToolCall) -> str | None:
        """None to allow, else the reason of the refusal."""
        match self._modes[manifest.approval]:
            case ApprovalMode.AUTO:
                return None
            case ApprovalMode.NEVER:
                return f"{manifest.name} is not allowed: tools of class {manifest.approval} are switched off"
            case ApprovalMode.ASK:
                return await self._ask(manifest, call)

    async def _ask(self, manifest: ToolManifest, call: ToolCall) -> str | None:
        if self._asker is None:
            return (
                f"{manifest.name} needs approval and there is nobody to ask; to allow tools of class"
                f" {manifest.approval}, {how_to_allow(manifest.approval)}"
            )
        # One question at a time, so that an "always" answers the calls of the same batch behind it.
        async with self._asking:
            if manifest.id in self._always:
                return None
            answer = await self._asker(manifest, call)
            match answer.strip():
                case "once":
                    return None
                case "always":
                    self._always.add(manifest.id)
                    return None
                case "no" | "":
                    return f"the user refused this call of {manifest.name}"
                case reason:
                    return f"the user refused this call of {manifest.name}: {reason}"
