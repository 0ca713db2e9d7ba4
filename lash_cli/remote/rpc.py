"""Requests of a program as JSON lines, answered one by one: `lash.rpc.v1` (contract 08 §1.1, §6.5).

What is here knows lines, requests and their order, and nothing of sessions: a
method is a function that is given. The first line is `ready`. Every request that
has an id gets exactly one `response` with it; before that come its `event`
lines, and of several requests they may be mixed. Quick methods are answered in
the order in which they arrive, long ones beside everything else. A request that
cannot be understood is answered and changes nothing, and the next line is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from lash_cli.core.codec import from_builtins
from lash_cli.errors import BusyError, LashError, UsageError
from lash_cli.version import __version__

PROTOCOL: Final = "lash.rpc.v1"
PROTOCOL_VERSION: Final = 1
# Requests that are answered beside each other; more are told to come again.
MAX_RUNNING: Final = 64

Document = dict[str, Any]
RequestId = str | int
Parameters = TypeVar("Parameters", bound=msgspec.Struct)


class Call:
    """One request that is being answered."""

    def __init__(
        self, request_id: RequestId, write: Callable[[str], None], flush: Callable[[], Awaitable[None]]
    ) -> None:
        self.id = request_id
        self._head = f'{{"type":"event","id":{_json(request_id)},"event":'
        self._write = write
        self.flush = flush  # returns when the peer has what was written

    def event(self, line: str) -> None:
        """Send one event, a JSON object as text, with or without its line feed."""
        self._write(f"{self._head}{line.rstrip()}}}\n")


class Method(NamedTuple):
    """What answers to one name. `parameters` is what it takes; a key that is not in it is refused.

    A quick one is awaited before the next request is read.
    """

    parameters: type[msgspec.Struct]
    run: Callable[[Any, Call], Awaitable[Document]]
    is_quick: bool = True


class RpcServer:
    """Answers the requests of one peer."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        write: Callable[[str], None],
        flush: Callable[[], Awaitable[None]],
        describe: Callable[[Exception], Document],
    ) -> None:
        """`write` takes whole lines and never blocks; `describe` makes the error object of an exception."""
        self._methods = methods
        self._write = write
        self._flush = flush
        self._describe = describe
        self._running: dict[RequestId, asyncio.Task[None]] = {}

    def ready(self) -> None:
        """Write the first line."""
        self._line(
            {
                "type": "ready",
                "protocol": PROTOCOL,
                "protocol_version": PROTOCOL_VERSION,
                "methods": list(self._methods),
                "version": __version__,
            }
        )

    async def serve(self, lines: AsyncIterator[bytes | LashError]) -> None:
        """Answer every line until there are no more; what still runs then is left to `finish`.

        An item that is an error stands for a line that could not be read whole.
        """
        async for line in lines:
            if isinstance(line, LashError):
                self._refuse(None, line)
            elif line.strip():
                await self._receive(line)

    async def finish(self, seconds: float) -> bool:
        """Wait until every request has its response, at most `seconds`; whether it has."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)
        return not self._running

    async def _receive(self, line: bytes) -> None:
        request_id: RequestId | None = None
        try:
            request = _decoded(line)
            request_id = _id_of(request)
            method, parameters = self._method_of(request)
            if request_id in self._running:
                raise UsageError(f"a request with the id {request_id!r} is not answered yet", code="id_in_use")
            if not method.is_quick and len(self._running) >= MAX_RUNNING:
                raise BusyError(f"{MAX_RUNNING} requests are being answered", code="too_many_requests")
        except LashError as error:
            self._refuse(request_id, error)
            return
        call = Call(request_id, self._write, self._flush)
        if method.is_quick:
            await self._answer(method, parameters, call)
            return
        task = asyncio.ensure_future(self._answer(method, parameters, call))
        self._running[request_id] = task
        task.add_done_callback(lambda _: self._running.pop(call.id, None))

    def _method_of(self, request: Document) -> tuple[Method, msgspec.Struct]:
        name = request.get("method")
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None:
            known = ", ".join(self._methods)
            raise UsageError(f"there is no method {name!r}", code="unknown_method", hint=f"there are: {known}")
        return method, parameters_of(method.parameters, request.get("params"))

    async def _answer(self, method: Method, parameters: msgspec.Struct, call: Call) -> None:
        try:
            result = await method.run(parameters, call)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: everything becomes its response
            self._refuse(call.id, error)
            return
        self._line({"type": "response", "id": call.id, "ok": True, "result": result, "error": None})

    def _refuse(self, request_id: RequestId | None, error: Exception) -> None:
        document = self._describe(error)
        self._line({"type": "response", "id": request_id, "ok": False, "result": None, "error": document})

    def _line(self, document: Document) -> None:
        self._write(_json(document) + "\n")


def _decoded(line: bytes) -> Document:
    try:
        request = json.loads(line.decode("utf-8-sig"))  # of bytes it would guess the encoding, and take halves
        if b"\\u" in line:
            # JSON can name half of a character, which no store and no provider takes.
            json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the line is not JSON: {error}", code="invalid_json") from error
    if not isinstance(request, dict):
        raise UsageError(
            "a request is an object", code="invalid_request", hint='{"id": 1, "method": "ping", "params": {}}'
        )
    return request


def _id_of(request: Document) -> RequestId:
    request_id = request.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int):
        raise UsageError("a request needs an id, a text or a whole number", code="invalid_request")
    return request_id


def parameters_of(shape: type[Parameters], given: object) -> Parameters:
    """The parameters of a request; raises `UsageError` (`invalid_params`) naming what is wrong with them."""
    try:
        return from_builtins({} if given is None else given, shape)
    except msgspec.ValidationError as error:
        fields = [field.encode_name for field in msgspec.structs.fields(shape)]
        hint = f"it takes: {', '.join(fields)}" if fields else "it takes none"
        raise UsageError(f"params: {error}", code="invalid_params", hint=hint) from error


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))
