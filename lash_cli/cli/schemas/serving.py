"""Shapes of `lash serve --stdio`: its lines, and the results that no other verb prints."""

from __future__ import annotations

from lash_cli.cli.schemas.shape import Count, Object, Shape, Time


class RpcReady(Shape):
    """The first line of `lash serve --stdio`. `type`: ready."""

    type: str
    protocol: str
    protocol_version: Count
    methods: list[str]
    version: str


class RpcEvent(Shape):
    """Something that happened while a request is answered. `type`: event; `event` is a line of a stream."""

    type: str
    id: str | int
    event: Object


class RpcResponse(Shape):
    """The answer to a request, once for each. `type`: response; `id` is null when the request was not understood;
    with `ok` the `result` is a document, else `error` says why not."""

    type: str
    id: str | int | None
    ok: bool
    result: Object | None
    error: Object | None


class RpcPong(Shape):
    """The answer to ping."""

    now: Time


class RpcShutdown(Shape):
    """The server ends; with `drain` it lets what runs end by itself."""

    drain: bool


class RpcTail(Shape):
    """A tail ended. `reason`: idle, turn, timeout, stopped, or stopping for the request that stopped another;
    `cursor` is where it got to."""

    session: str | None
    reason: str
    cursor: str | None
