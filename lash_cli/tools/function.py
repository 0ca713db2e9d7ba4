"""Tools from plain functions: schema from annotations, one provider for many (contract 05 §1.9).

A tool function takes a `msgspec.Struct` of arguments and a `ToolContext`. It
may be a coroutine function, or a plain function that then runs in a thread and
has to poll `context.cancel` itself. What it returns is the value the model
reads, unless it returns an attachment, a whole `ToolCallOutput` or a `PendingCompletion`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, get_type_hints

import msgspec

from lash_cli.core.codec import from_builtins, to_builtins
from lash_cli.core.content import AttachmentSource
from lash_cli.core.protocols import ToolContext
from lash_cli.core.schemas import without_layout
from lash_cli.core.tool_definition import ToolDefinition, ToolExecutionGrant
from lash_cli.core.tools import (
    ApprovalClass,
    FailureClass,
    NeverRetry,
    PendingCompletion,
    ToolCall,
    ToolCallOutput,
    ToolContract,
    ToolManifest,
    ToolResult,
    ToolRetryPolicy,
    ToolSuccess,
    failure,
    readable_manifest,
    success,
)
from lash_cli.core.wait import AwaitEventKey
from lash_cli.errors import PluginRegistrationError
from lash_cli.tools.faults import ToolFault

ToolFunction = Callable[[Any, ToolContext], Any]


class FunctionTool(msgspec.Struct, frozen=True):
    """One function with its manifest, its contract and the type of its arguments."""

    manifest: ToolManifest
    contract: ToolContract
    arguments: type[msgspec.Struct]
    function: ToolFunction
    prepare: ToolFunction | None = None

    def definition(self) -> ToolDefinition:
        """The whole tool as one value, as for a grant of it."""
        return ToolDefinition.of(self.manifest, self.contract)

    async def prepare_call(self, call: ToolCall, context: ToolContext) -> ToolCall | ToolCallOutput:
        """The call with what `prepare` minted for it, or the result that it has instead; raises what it raises, but a
        `ToolFault`, which becomes its output."""
        if self.prepare is None:
            return call
        try:
            payload = await _called(self.prepare, _converted(call.args, self.arguments), context)
        except msgspec.ValidationError as error:
            return failure(FailureClass.INVALID_REQUEST, "invalid_tool_args", str(error))
        except ToolFault as fault:
            return fault.to_output()
        if isinstance(payload, ToolCallOutput):
            return payload
        return msgspec.structs.replace(call, prepared_payload=to_builtins(payload))

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run the function once; a `ToolFault` becomes its output, other exceptions pass to dispatch."""
        try:
            arguments = _converted(call.args, self.arguments)
        except msgspec.ValidationError as error:
            return failure(FailureClass.INVALID_REQUEST, "invalid_tool_args", str(error))
        try:
            result = await _called(self.function, arguments, context)
        except ToolFault as fault:
            return fault.to_output()
        if isinstance(result, ToolCallOutput | PendingCompletion):
            return result
        if isinstance(result, AttachmentSource):
            # Bytes that the model is to see, and not to read as base64.
            return ToolCallOutput(ToolSuccess("attached", attachments=(result,)))
        return success(to_builtins(result))


async def _called(function: ToolFunction, arguments: Any, context: ToolContext) -> Any:
    """What the function answers; a plain one runs in a thread, and what that answers is waited for if it can be: a
    wrapper of a coroutine function is a plain one."""
    if inspect.iscoroutinefunction(function):
        return await function(arguments, context)
    answer = await asyncio.to_thread(_called_in_thread, function, arguments, context)
    return await answer if inspect.isawaitable(answer) else answer


def _called_in_thread(function: ToolFunction, arguments: Any, context: ToolContext) -> Any:
    """What the function answers. A `StopIteration` becomes what a coroutine makes of it: no future can hold one, and
    who waits for it would do so for ever."""
    try:
        return function(arguments, context)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _converted(args: dict[str, Any], kind: type[msgspec.Struct]) -> Any:
    """The arguments as `kind`; raises `msgspec.ValidationError`. To JSON Schema 1.0 is an integer, to msgspec it is
    none."""
    try:
        return from_builtins(args, kind)
    except msgspec.ValidationError:
        return from_builtins(_with_whole_numbers(args), kind)


def _with_whole_numbers(value: Any) -> Any:
    """`value` with 1 for 1.0."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_whole_numbers(item) for name, item in value.items()}
        case list():
            return [_with_whole_numbers(item) for item in value]
        case _:
            return value


def arguments_schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of an argument struct: a top-level object, with local references where structs nest."""
    schema = without_layout(msgspec.json.schema(arguments))
    definitions: dict[str, Any] = schema.pop("$defs", {})
    reference = schema.get("$ref", "")
    name = reference.rpartition("/")[2]
    root: dict[str, Any] = dict(definitions.get(name, schema))
    root.pop("title", None)
    # The root stays among the definitions only when a recursive type points back at it.
    rest = {key: value for key, value in definitions.items() if key != name or _mentions(definitions, reference)}
    return {**root, "$defs": rest} if rest else root


def _mentions(node: Any, reference: str) -> bool:
    if isinstance(node, dict):
        return node.get("$ref") == reference or any(_mentions(child, reference) for child in node.values())
    return isinstance(node, list) and any(_mentions(child, reference) for child in node)


def _milliseconds(timeout_s: float) -> int:
    """The time limit of a tool; raises `ValueError` unless some time is left within it."""
    if not timeout_s > 0:
        raise ValueError(f"its time limit has to be more than nothing, not {timeout_s} s")
    return max(1, round(timeout_s * 1000))


def _object_schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """`arguments_schema`; raises `ValueError` for a struct that is written as an array, which no model may give."""
    schema = arguments_schema(arguments)
    if schema.get("type") != "object":
        raise ValueError(f"{arguments.__name__} is written as an array, and arguments are an object")
    return schema


def _check_answers(function: ToolFunction) -> None:
    """Raise `TypeError` for a function that yields: it answers nothing."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("it has to return its result and not to yield it")


def _arguments_type(function: ToolFunction, name: str) -> type[msgspec.Struct]:
    """The struct that the first parameter is annotated with; what else is annotated is nobody's business here, and may
    name what is only imported for type checkers."""
    try:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        arguments = parameters[0].annotation if len(parameters) == 2 else None
        if isinstance(arguments, str):
            named = types.SimpleNamespace(__annotations__={"arguments": arguments})
            arguments = get_type_hints(named, _globals_of(function))["arguments"]
    except (NameError, TypeError, ValueError) as error:
        raise PluginRegistrationError(
            f"the arguments of tool {name} cannot be read: {error}",
            hint="a struct that is named in an annotation has to stand in the module of the function",
        ) from error
    if not (isinstance(arguments, type) and issubclass(arguments, msgspec.Struct)):
        raise PluginRegistrationError(
            f"tool {name} must take (arguments, context), the first annotated with a msgspec.Struct"
        )
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise PluginRegistrationError(f"tool {name} must take (arguments, context) by position: {error}") from error
    return arguments


def _globals_of(function: ToolFunction) -> dict[str, Any]:
    """Where the names in the annotations of `function` are looked up."""
    while isinstance(function, functools.partial):
        function = function.func
    written: Any = inspect.unwrap(function)
    if not hasattr(written, "__globals__"):  # an object that can be called
        written = inspect.unwrap(type(written).__call__)
    names: dict[str, Any] = getattr(written, "__globals__", {})
    return names


def tool(
    *,
    name: str,
    tool_id: str | None = None,
    description: str | None = None,
    retry: ToolRetryPolicy | None = None,
    approval: ApprovalClass = "read",
    timeout_s: float | None = None,
    exclusive_group: str | None = None,
    prepare: ToolFunction | None = None,
) -> Callable[[ToolFunction], FunctionTool]:
    """Decorator that makes a `FunctionTool` of `function(arguments, context)` (contract 05 §1).

    `arguments` is annotated with a `msgspec.Struct`, whose fields are the schema the model is given; `context` is a
    `ToolContext`. What is returned is JSON or what msgspec makes JSON of, a whole `ToolCallOutput`, or a
    `PendingCompletion` when the result comes from outside. A coroutine runs in the loop, also one that a plain function
    answers, which itself runs in a thread. To fail so that the model reads why, raise `ToolFault`; any other exception
    is a failure (`tool_panicked`) of which the model reads the type and the text.

    `name` is what the model calls: every provider takes up to 64 of `A-Za-z0-9_-`, and one such as OpenAI refuses any
    turn that offers `a.b`. `tool_id`, the name unless given, is what a session remembers. `description` is the
    first paragraph of the docstring unless given. `retry` says whether a further attempt is made when one fails with
    `RetryHint("safe")`, or was cut off by a crash: `NeverRetry()` (the default), `SafeRetry(attempts)` or
    `IdempotentRetry(attempts)`. `approval` is the class that the core's approval policy judges. `timeout_s` limits one
    attempt, in seconds; one that takes longer is made again only for `IdempotentRetry`. Calls of tools of one
    `exclusive_group` run one after another. `prepare` is a function of the same two, called once when a call was
    allowed and before its first attempt: what it returns, which is JSON, every attempt has as
    `context.prepared_payload`, also behind a crash; a `ToolCallOutput` or a `ToolFault` is the result of the call
    instead. Raises `PluginRegistrationError` for a function of another
    shape, arguments without a JSON schema, and an option that no tool can have, such as a blank name.
    """

    def decorate(function: ToolFunction) -> FunctionTool:
        arguments = _arguments_type(function, name)
        try:
            manifest = ToolManifest(
                id=tool_id or name,
                name=name,
                description=description or inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0],
                retry_policy=retry or NeverRetry(),
                approval=approval,
                timeout_ms=None if timeout_s is None else _milliseconds(timeout_s),
                exclusive_group=exclusive_group,
            )
            contract = ToolContract(input_schema=_object_schema(arguments))
            readable_manifest(manifest)
            _check_answers(function)
            if prepare is not None:
                inspect.signature(prepare).bind(None, None)
                _check_answers(prepare)
        except (AttributeError, NameError, TypeError, ValueError, OverflowError) as error:
            raise PluginRegistrationError(f"tool {name!r} cannot be made: {error}") from error
        return FunctionTool(manifest, contract, arguments, function, prepare)

    return decorate


class FunctionToolProvider:
    """Implements `core.protocols.ToolProvider` for a fixed set of function tools (contract 05 §1.6)."""

    def __init__(
        self,
        tools: Iterable[FunctionTool],
        *,
        deferred: Iterable[FunctionTool] = (),
        on_close: Callable[[], Awaitable[None]] | None = None,
        on_cancel: Callable[[ToolCall, AwaitEventKey], Awaitable[None]] | None = None,
    ) -> None:
        """`deferred` are tools that are not offered, and run for who holds a grant of them (`RunsGrantedCalls`).
        `on_close` ends whatever the tools share, such as running processes; `on_cancel` ends outside what a tool
        left pending (`PendingCompletion`) when the call is cancelled. Raises `PluginRegistrationError` on equal ids and
        for what is no `FunctionTool`."""
        self._tools: dict[str, FunctionTool] = {}
        self._deferred: dict[str, FunctionTool] = {}
        for known, given in ((self._tools, tools), (self._deferred, deferred)):
            if not isinstance(given, Iterable):
                raise PluginRegistrationError(f"the tools of a source are a list, not one {type(given).__name__}")
            for entry in given:
                if not isinstance(entry, FunctionTool):
                    raise PluginRegistrationError(f"{entry!r} is no tool yet: decorate a function by @tool(name=…)")
                tool_id = entry.manifest.id
                if known.setdefault(tool_id, entry) is not entry or (
                    known is self._deferred and tool_id in self._tools
                ):
                    raise PluginRegistrationError(f"two tools have the id {tool_id}")
        self._on_close = on_close
        self._on_cancel = on_cancel

    def manifests(self) -> Sequence[ToolManifest]:
        """The manifests in the order the tools were given."""
        return tuple(entry.manifest for entry in self._tools.values())

    def contract(self, tool_id: str) -> ToolContract:
        """The contract of one tool; raises `KeyError` when unknown."""
        return self._tools[tool_id].contract

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run one attempt of the tool the call names by id."""
        entry = self._tools.get(call.tool_id)
        if entry is None:
            return failure(FailureClass.UNAVAILABLE, "tool_unavailable", f"Unknown tool id {call.tool_id}")
        return await entry.execute(call, context)

    async def prepare_tool_call(self, call: ToolCall, context: ToolContext) -> ToolCall | ToolCallOutput:
        """See `PreparesCalls`."""
        entry = self._tools.get(call.tool_id)
        return call if entry is None else await entry.prepare_call(call, context)

    async def prepare_granted_tool_call(
        self, grant: ToolExecutionGrant, call: ToolCall, context: ToolContext
    ) -> ToolCall | ToolCallOutput:
        """See `RunsGrantedCalls`."""
        entry = self._deferred.get(call.tool_id)
        return call if entry is None else await entry.prepare_call(call, context)

    async def execute_granted(self, grant: ToolExecutionGrant, call: ToolCall, context: ToolContext) -> ToolResult:
        """See `RunsGrantedCalls`; of what is offered nothing is run so."""
        entry = self._deferred.get(call.tool_id)
        if entry is None:
            return failure(FailureClass.UNAVAILABLE, "tool_unavailable", f"Tool id {call.tool_id} is not to be granted")
        return await entry.execute(call, context)

    async def cancel_external_work(self, call: ToolCall, key: AwaitEventKey) -> None:
        """See `CancelsExternalWork`."""
        if self._on_cancel is not None:
            await self._on_cancel(call, key)

    async def aclose(self) -> None:
        """End what the tools share; safe to call again."""
        if self._on_close is not None:
            await self._on_close()
