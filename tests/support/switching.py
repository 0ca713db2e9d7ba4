"""A tool that hands a turn on to another agent frame, and the model's call of it."""

from __future__ import annotations

from typing import Any

import msgspec
from support.scripted import calls

from lash_cli.core.codec import to_builtins
from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.tools import (
    SwitchAgentFrameControl,
    ToolCall,
    ToolCallOutput,
    ToolContract,
    ToolManifest,
    ToolSuccess,
)

SUMMARY = to_builtins(ConversationPayload(Message("any", Role.USER, (TextPart("what happened so far"),))))


class Switching:
    """A tool that switches to the frame its call names, with a task and first nodes."""

    def __init__(self, initial_nodes: tuple[Any, ...] = ()) -> None:
        self.initial_nodes = initial_nodes

    def manifests(self):
        return [ToolManifest("switch", "switch", "go on elsewhere")]

    def contract(self, tool_id: str) -> ToolContract:
        return ToolContract()

    async def execute(self, call: ToolCall, context: Any) -> ToolCallOutput:
        control = SwitchAgentFrameControl(call.args["frame"], call.args["task"], self.initial_nodes)
        return ToolCallOutput(ToolSuccess("switching"), control)

    async def aclose(self) -> None:
        return None


def switch(frame: str, task: str, call_id: str = "a"):
    return calls((call_id, "switch", msgspec.json.encode({"frame": frame, "task": task}).decode()))
