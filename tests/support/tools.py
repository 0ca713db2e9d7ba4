"""What tool tests share: a context to run in, a bench of the built-in tools, and a source of named tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from support.clock import ManualCancel, ManualClock

from lash_cli.core.tool_definition import ToolDefinition, ToolExecutionGrant
from lash_cli.core.tools import ToolCall, ToolCallOutput, ToolContract, ToolManifest, ToolResult, success
from lash_cli.core.wait import AwaitEventKey
from lash_cli.tools.builtin import builtin_tools
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.function import FunctionToolProvider
from lash_cli.tools.policy import FilePolicy

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class NamedTools:
    """A source offering tools by id and name; remembers which contracts were asked for."""

    def __init__(self, *tools: tuple[str, str] | ToolManifest) -> None:
        self.offered = [self._manifest(tool) for tool in tools]
        self.contracts_asked: list[str] = []

    @staticmethod
    def _manifest(tool: tuple[str, str] | ToolManifest) -> ToolManifest:
        return tool if isinstance(tool, ToolManifest) else ToolManifest(tool[0], tool[1], f"does {tool[1]}")

    def manifests(self) -> Sequence[ToolManifest]:
        return self.offered

    def contract(self, tool_id: str) -> ToolContract:
        self.contracts_asked.append(tool_id)
        return ToolContract()

    async def execute(self, call: ToolCall, context: Any) -> ToolCallOutput:
        return success(call.tool_id)

    async def aclose(self) -> None:
        return None


class ShyTools(NamedTools):
    """A source that has tools which it does not advertise."""

    def __init__(self, *tools: tuple[str, str] | ToolManifest, advertised: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(*advertised)
        self.more = [self._manifest(tool) for tool in tools]
        self.asked: list[str] = []

    def resolve_manifest(self, name: str) -> ToolManifest | None:
        self.asked.append(name)
        return next((tool for tool in self.more if tool.name == name), None)

    def resolve_manifest_by_id(self, tool_id: str) -> ToolManifest | None:
        return next((tool for tool in self.more if tool.id == tool_id), None)


class Workbench:
    """The built-in tools over a real directory, called by name like dispatch would."""

    def __init__(self, base: Path, *, denied: tuple[Path, ...] = ()) -> None:
        self.root = base / "project"
        self.root.mkdir()
        self.spill = base / "spill"
        self.clock = ManualClock()
        self.cancel = ManualCancel()
        self.shown: list[str] = []
        policy = FilePolicy((self.root,), denied=denied)
        self.provider: FunctionToolProvider = builtin_tools(policy, self.root, self.spill, self.clock)

    def context(self, **changes: Any) -> SimpleToolContext:
        values: dict[str, Any] = {"cancel": self.cancel, "on_progress": self.shown.append, **changes}
        return SimpleToolContext("s_1", "t_1", "call_1", **values)

    async def call(self, name: str, **arguments: Any) -> ToolCallOutput:
        return await self.provider.execute(
            ToolCall("call_1", f"builtin.{name}", name, arguments), self.context(tool_id=f"builtin.{name}")
        )

    def write(self, relative: str, content: str | bytes) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def failure_of(output: ToolCallOutput) -> Any:
    """The failure inside of an output that must be one."""
    assert output.status == "failure", output
    return output.outcome.failure  # type: ignore[union-attr]


def value_of(output: ToolCallOutput) -> Any:
    """The value of an output that must be a success."""
    assert output.status == "success", output
    return output.outcome.value  # type: ignore[union-attr]


class GrantedTools(NamedTools):
    """A source that runs tools which it does not offer, for who holds a grant; remembers what it was asked."""

    def __init__(self, *tools: tuple[str, str] | ToolManifest, source_id: str = "plugins") -> None:
        super().__init__(*tools)
        self.source_id = source_id
        self.prepared: list[ToolCall] = []
        self.ran: list[tuple[ToolExecutionGrant, ToolCall, Any]] = []
        self.cancelled: list[ToolCall] = []
        self.answer: Any = None

    def grant(self, name: str, **fields: Any) -> ToolExecutionGrant:
        """A grant of a tool of that name, which asks for a number `n`."""
        definition = ToolDefinition(f"deferred.{name}", name, f"does {name}", input_schema=NUMBER, **fields)
        return ToolExecutionGrant.of(definition, source_id=self.source_id, execution_binding={"route": name})

    async def prepare_granted_tool_call(self, grant: ToolExecutionGrant, call: ToolCall, context: Any) -> ToolCall:
        self.prepared.append(call)
        payload = [len(self.prepared), context.tool_execution_binding]
        return msgspec.structs.replace(call, prepared_payload=payload)

    async def execute_granted(self, grant: ToolExecutionGrant, call: ToolCall, context: Any) -> ToolResult:
        self.ran.append((grant, call, context))
        if self.answer is not None:
            answer: ToolResult = await self.answer(call, context)
            return answer
        return success([call.args["n"], call.prepared_payload, context.tool_execution_binding])

    async def cancel_external_work(self, call: ToolCall, key: AwaitEventKey) -> None:
        self.cancelled.append(call)
