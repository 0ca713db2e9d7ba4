"""Tools from functions: derived schema, dispatch by id, coroutine and thread (contract 05 §1.9)."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.clock import ManualCancel

from lash_cli.core.content import Inline, Stored
from lash_cli.core.protocols import ToolContext
from lash_cli.core.tools import (
    FailureClass,
    FinishControl,
    RetryHint,
    SafeRetry,
    ToolCall,
    ToolCallOutput,
    ToolSuccess,
    project_output,
    success,
    tool_error,
)
from lash_cli.errors import ConfigError
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.faults import invalid
from lash_cli.tools.function import FunctionTool, FunctionToolProvider, arguments_schema, tool
from lash_cli.tools.schema import check_schema, validate_value


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: int = 0


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    points: tuple[Point, ...]
    inner: Shape | None = None


@tool(name="add", retry=SafeRetry(2), approval="network", timeout_s=1.5)
async def add(arguments: Point, context: ToolContext) -> Any:
    """Add two numbers.

    Not shown.
    """
    return {"sum": arguments.x + arguments.y, "call": context.call_id}


def context() -> SimpleToolContext:
    return SimpleToolContext("s", "t", "c", ManualCancel(), tool_id="add")


async def run(entry: FunctionTool, **arguments: Any) -> ToolCallOutput:
    call = ToolCall("c", entry.manifest.id, entry.manifest.name, arguments)
    return await FunctionToolProvider([entry]).execute(call, context())


def test_manifest_and_schema_come_from_the_function() -> None:
    provider = FunctionToolProvider([add])
    (manifest,) = provider.manifests()
    assert (manifest.id, manifest.name, manifest.description) == ("add", "add", "Add two numbers.")
    assert (manifest.approval, manifest.timeout_ms) == ("network", 1500)
    schema = provider.contract("add").input_schema
    assert schema["type"] == "object"
    assert schema["required"] == ["x"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("source", [Inline("image/png", b"\x89PNG"), Stored("sha256:1", "image/png", 4)])
async def test_an_attachment_that_a_function_returns_is_shown_and_not_read_as_json(source: Any) -> None:
    @tool(name="draw")
    async def draw(arguments: Point, context: ToolContext) -> Any:
        return source

    output = await run(draw, x=1)
    assert (output.status, output.attachments) == ("success", (source,))
    assert "data" not in str(output.outcome.value) and "sha256" not in str(output.outcome.value)


def test_nested_and_recursive_arguments_keep_local_references() -> None:
    schema = arguments_schema(Shape)
    assert schema["type"] == "object"
    assert set(schema["$defs"]) == {"Point", "Shape"}
    check_schema(schema)


async def test_a_coroutine_function_answers_with_its_value() -> None:
    assert await run(add, x=2, y=3) == ToolCallOutput(ToolSuccess({"sum": 5, "call": "c"}))


async def test_a_plain_function_runs_beside_the_event_loop() -> None:
    @tool(name="where")
    def where(arguments: Point, context: ToolContext) -> Any:
        return threading.current_thread() is threading.main_thread()

    assert (await run(where, x=1)).outcome == ToolSuccess(False)


async def test_arguments_of_the_wrong_type_are_a_failure_not_a_call() -> None:
    output = await run(add, x="two")
    assert output.status == "failure"
    assert output.outcome.failure.failure_class is FailureClass.INVALID_REQUEST  # type: ignore[union-attr]


async def test_an_integer_written_as_the_schema_allows_is_one() -> None:
    validate_value({"x": 2.0, "y": 1}, add.contract.input_schema)
    output = await run(add, x=2.0, y=1)
    assert output == success({"sum": 3, "call": "c"})
    assert type(output.outcome.value["sum"]) is int  # type: ignore[union-attr]
    assert (await run(add, x=2.5)).status == "failure"


async def test_a_whole_output_passes_and_a_fault_becomes_one() -> None:
    done = ToolCallOutput(ToolSuccess("v"), control=FinishControl("v"))

    @tool(name="whole")
    async def whole(arguments: Point, context: ToolContext) -> ToolCallOutput:
        if arguments.x:
            raise invalid("bad_x", "x must be 0")
        return done

    assert await run(whole, x=0) is done
    assert (await run(whole, x=1)).outcome.failure.code == "bad_x"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "said"), [("no such city", "no such city"), ({"b": 1, "a": [None]}, '{"a":[null],"b":1}')]
)
def test_the_short_error_says_what_it_is_given_and_keeps_it_for_programs(value: Any, said: str) -> None:
    output = tool_error(value)
    reason = output.outcome.failure  # type: ignore[union-attr]
    assert (reason.failure_class, reason.code, reason.source) == (FailureClass.EXECUTION, "tool_error", "tool")
    assert (reason.retry, reason.raw, reason.message) == (RetryHint(), value, said)
    assert project_output(output) == f"[Tool execution failed]\n{said}"


async def test_another_exception_is_left_to_dispatch() -> None:
    @tool(name="broken")
    async def broken(arguments: Point, context: ToolContext) -> Any:
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        await run(broken, x=1)


@pytest.mark.parametrize("is_prepare", [False, True])
async def test_a_plain_function_that_asks_an_empty_iterator_fails_instead_of_never_ending(is_prepare: bool) -> None:
    """`StopIteration` is the one exception that no future can hold."""

    def first(arguments: Point, context: ToolContext) -> Any:
        return next(iter(()))

    entry = tool(name="first", prepare=first)(first) if is_prepare else tool(name="first")(first)
    call = ToolCall("c", "first", "first", {"x": 1})
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await (entry.prepare_call if is_prepare else entry.execute)(call, context())


def _through(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def passed_on(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return passed_on


class Adder:
    async def __call__(self, arguments: Point, context: ToolContext) -> int:
        return arguments.x + arguments.y


@_through
async def added(arguments: Point, context: ToolContext) -> int:
    return arguments.x + arguments.y


@pytest.mark.parametrize("function", [Adder(), added])
async def test_what_answers_with_a_coroutine_is_waited_for(function: Callable[..., Any]) -> None:
    output = await run(tool(name="sum")(function), x=1, y=2)
    assert output == success(3)
    prepared = await tool(name="sum", prepare=function)(Adder()).prepare_call(
        ToolCall("c", "sum", "sum", {"x": 1, "y": 2}), context()
    )
    assert isinstance(prepared, ToolCall) and prepared.prepared_payload == 3


async def test_an_unknown_id_is_unavailable() -> None:
    output = await FunctionToolProvider([add]).execute(ToolCall("c", "nope", "add", {}), context())
    assert output.outcome.failure.code == "tool_unavailable"  # type: ignore[union-attr]


def test_equal_ids_and_unannotated_functions_are_refused() -> None:
    with pytest.raises(ConfigError):
        FunctionToolProvider([add, FunctionTool(add.manifest, add.contract, Point, add.function)])
    with pytest.raises(ConfigError, match="msgspec"):

        @tool(name="untyped")
        async def untyped(arguments: Any, context: Any) -> Any: ...


class Imaginary(msgspec.Struct):
    value: complex


class Dangling(msgspec.Struct):
    value: TypeOfCheckers  # noqa: F821


def test_only_the_arguments_of_a_function_are_read() -> None:
    """What else it names may be imported for type checkers only, as linters ask for."""

    async def later(arguments: Point, context: ToolContextOfCheckers) -> ResultOfCheckers: ...  # noqa: F821

    assert tool(name="later")(later).arguments is Point


def test_a_function_that_is_no_tool_is_refused_by_name() -> None:
    class Local(msgspec.Struct):
        value: int

    async def local(arguments: Local, context: Any) -> Any: ...
    async def imaginary(arguments: Imaginary, context: Any) -> Any: ...
    async def dangling(arguments: Dangling, context: Any) -> Any: ...
    async def sound(arguments: Point, context: Any) -> Any: ...

    refusals = (
        ("local", local),
        ("imaginary", imaginary),
        ("TypeOfCheckers", dangling),
        (" ", sound),
        ("no function", 5),
    )
    for name, function in refusals:
        with pytest.raises(ConfigError, match=name) as refused:
            tool(name=name)(function)
        assert refused.value.code == "plugin_registration"


class Row(msgspec.Struct, array_like=True):
    value: int


def _by_name(arguments: Point, *, context: Any) -> Any: ...
def _options(arguments: Point, **context: Any) -> Any: ...
def _of_a_row(arguments: Row, context: Any) -> Any: ...
def _one_by_one(arguments: Point, context: Any) -> Any:
    yield arguments


async def _one_after_another(arguments: Point, context: Any) -> Any:
    yield arguments


@pytest.mark.parametrize("function", [_by_name, _options, _of_a_row, _one_by_one, _one_after_another])
def test_a_function_that_no_call_could_use_is_refused_as_it_is_declared(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        tool(name="useless")(function)
    assert refused.value.code == "plugin_registration"
    assert "useless" in refused.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"name": None},
        {"name": "a\ud800"},
        {"description": 5},
        {"approval": "reading"},
        {"retry": "safe"},
        {"retry": SafeRetry("two")},  # type: ignore[arg-type]
        {"timeout_s": 0},
        {"timeout_s": -1.5},
        {"timeout_s": float("nan")},
        {"timeout_s": "5"},
        {"exclusive_group": 7},
        {"prepare": 5},
        {"prepare": lambda arguments: None},
    ],
)
def test_an_option_that_no_tool_can_have_is_refused_as_the_tool_is_declared(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        tool(**{"name": "sound", **options})(Adder())
    assert refused.value.code == "plugin_registration"


def test_the_context_names_the_call_and_hands_children_only_session_and_turn() -> None:
    shown: list[str] = []
    made = SimpleToolContext("s", "t", "c", ManualCancel(), tool_id="add", attempt=2, on_progress=shown.append)
    assert made.replay_key == SimpleToolContext("s", "t", "c", ManualCancel(), tool_id="add").replay_key
    assert made.replay_key == "lash-tool:s:t.c:add"
    assert dict(made.environment) == {"LASH_SESSION": "s", "LASH_TURN": "t"}
    made.progress("half")
    assert shown == ["half"]
