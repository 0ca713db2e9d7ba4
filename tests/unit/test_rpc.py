"""Requests and responses without a process: every request gets one answer, whatever its method does (remote/rpc.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from lash_cli.errors import ConflictError, LashError, UsageError
from lash_cli.remote.rpc import MAX_RUNNING, Call, Method, RpcServer


class Number(msgspec.Struct, forbid_unknown_fields=True):
    number: int = 0


class World:
    """A server whose peer writes all at once, and what it answered."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.order: list[int] = []
        self.gate = asyncio.Event()
        methods = {
            "quick": Method(Number, self._quick),
            "long": Method(Number, self._long, is_quick=False),
            "fails": Method(Number, self._fails),
            "breaks": Method(Number, self._breaks, is_quick=False),
        }
        self.server = RpcServer(
            methods, write=lambda line: self.written.append(json.loads(line)), flush=self._flush, describe=describe
        )

    async def _flush(self) -> None:
        await asyncio.sleep(0)

    async def _quick(self, asked: Number, _: Call) -> dict[str, Any]:
        await asyncio.sleep(0.02 if asked.number % 2 else 0)
        self.order.append(asked.number)
        return {"number": asked.number}

    async def _long(self, asked: Number, call: Call) -> dict[str, Any]:
        call.event(f'{{"begun":{asked.number}}}\n')
        await self.gate.wait()
        return {"number": asked.number}

    async def _fails(self, _: Number, __: Call) -> dict[str, Any]:
        raise ConflictError("no", code="session_exists")

    async def _breaks(self, _: Number, __: Call) -> dict[str, Any]:
        raise ZeroDivisionError("a bug")

    async def serve(self, *requests: dict[str, Any] | bytes | LashError) -> None:
        async def lines() -> AsyncIterator[bytes | LashError]:
            for request in requests:
                yield json.dumps(request).encode() if isinstance(request, dict) else request

        await self.server.serve(lines())

    def responses(self) -> list[tuple[Any, bool, Any]]:
        return [
            (line["id"], line["ok"], line["result"] or line["error"]["code"])
            for line in self.written
            if line["type"] == "response"
        ]


def describe(error: Exception) -> dict[str, Any]:
    return {"code": error.code if isinstance(error, LashError) else "internal"}


def request(request_id: Any, method: str, number: int = 0) -> dict[str, Any]:
    return {"id": request_id, "method": method, "params": {"number": number}}


async def test_quick_requests_are_answered_in_their_order_however_long_each_takes() -> None:
    world = World()
    await world.serve(*(request(number, "quick", number) for number in range(9)))
    assert world.order == list(range(9))
    assert world.responses() == [(number, True, {"number": number}) for number in range(9)]


async def test_whatever_a_method_does_its_request_gets_one_response() -> None:
    world = World()
    too_long = UsageError("too long", code="request_too_large")
    await world.serve(request("a", "fails"), request("b", "breaks"), too_long, request("c", "quick"), b"", b" \r")
    assert await world.server.finish(30)
    assert sorted(world.responses(), key=str) == sorted(
        [("a", False, "session_exists"), ("b", False, "internal"), (None, False, "request_too_large"),
         ("c", True, {"number": 0})], key=str,
    )  # fmt: skip


async def test_what_is_no_request_is_answered_and_changes_nothing() -> None:
    world = World()
    half = b'{"id":"h","method":"quick","params":{"number":1},"more":"\\ud83d"}'
    bytes_of_half = half.replace(b"\\ud83d", b"\xed\xa0\xbd")
    not_json = (b"{", b"[" * 100_000, half, bytes_of_half, half.decode("ascii").encode("utf-16-le"))
    no_request = (b"[1]", *(request(odd, "quick") for odd in (True, None, 1.5, [])))
    await world.serve(*not_json, *no_request)
    codes = ["invalid_json"] * len(not_json) + ["invalid_request"] * len(no_request)
    assert world.responses() == [(None, False, code) for code in codes]
    assert world.order == []


async def test_long_requests_stop_nobody_and_too_many_are_told_to_come_again() -> None:
    world = World()
    long = [request(number, "long", number) for number in range(MAX_RUNNING)]
    await world.serve(*long, request("more", "long"), request("same", "quick", 7), request(3, "long"))
    assert world.responses() == [
        ("more", False, "too_many_requests"), ("same", True, {"number": 7}), (3, False, "id_in_use"),
    ]  # fmt: skip
    assert not await world.server.finish(0.01)
    world.gate.set()
    assert await world.server.finish(30)
    answered = world.responses()[3:]
    assert sorted(number for number, ok, _ in answered if ok) == list(range(MAX_RUNNING))
    begun = [line["event"]["begun"] for line in world.written if line["type"] == "event" and line["id"] == 5]
    assert begun == [5]
    await world.serve(request(3, "quick", 1))
    assert world.responses()[-1] == (3, True, {"number": 1}), "an id that was answered is free again"
