"""Tails of `lash serve --stdio`: sessions followed for a peer, each by one request (contract 08 §8, 04 §5).

Each is a `lash tail -o jsonl` whose lines go to the peer. The next item is read
when the peer has the one before, so a slow peer loses nothing and costs no memory.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document
from lash_cli.cli.following import Stoppable
from lash_cli.cli.tail_cursor import parse_from
from lash_cli.cli.tail_plan import TailPlan
from lash_cli.cli.tail_run import Tail
from lash_cli.cli.tail_stream import EVENT_TYPES
from lash_cli.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from lash_cli.cli.serving_parameters import TailParameters
    from lash_cli.remote.rpc import Call


class _Peer(Stoppable):
    """Who asked for a tail."""

    stopped_by = "stopped"

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    async def write(self, text: str) -> None:
        """Return when the peer has `text`."""
        for line in text.splitlines():
            self._call.event(line)
        await self._call.flush()


class Tails:
    """The tails of one server."""

    def __init__(self) -> None:
        self._peers: dict[str | int, _Peer] = {}
        self._endless: set[str | int] = set()
        self._may_be_endless = True
        self._may_begin = True

    def stop_endless(self) -> None:
        """Let those end that have no end of their own; from now on such a tail tells what is there, and is over."""
        self._may_be_endless = False
        for request_id in self._endless:
            self._peers[request_id].stop()

    def stop_all(self) -> None:
        """Let every tail end, and from now on each is over when it begins."""
        self._may_begin = self._may_be_endless = False
        for peer in self._peers.values():
            peer.stop()

    async def follow(self, asked: TailParameters, reference: str | None, call: Call) -> Document:
        """Follow a session to the end that was asked for, or stop another tail; the RpcTail document."""
        if asked.stop is not None:
            return self._stop(asked.stop)
        _check_types(asked.types)
        is_endless = asked.follow and asked.until is None and asked.timeout_ms is None
        plan = TailPlan(
            references=(reference,),
            is_all=False,
            begin=parse_from(asked.begin),
            until=asked.until,
            seconds=None if asked.timeout_ms is None else asked.timeout_ms / 1000,
            types=asked.types,
            is_strict=asked.strict_gap,
            follows=asked.follow and (self._may_be_endless or not is_endless),
        )
        peer = self._peers[call.id] = _Peer(call)
        if is_endless:
            self._endless.add(call.id)
        if not self._may_begin:
            peer.stop()
        tail = Tail(plan, is_json=True, reader=lambda: nullcontext(peer))
        try:
            await tail.run()
        finally:
            del self._peers[call.id]
            self._endless.discard(call.id)
        (session,) = tail.begun
        return {"session": session.session_id, "reason": tail.reason, "cursor": str(session.cursor)}

    def _stop(self, request_id: str | int) -> Document:
        peer = self._peers.get(request_id)
        if peer is None:
            raise NotFoundError(
                f"no tail {request_id!r} is under way", code="request_not_found", details={"request": request_id}
            )
        peer.stop()
        return {"session": None, "reason": "stopping", "cursor": None}


def _check_types(types: list[str] | None) -> None:
    for word in types or ():
        if word not in EVENT_TYPES:
            hint = f"there are: {', '.join(EVENT_TYPES)}"
            raise UsageError(f"no event type {word!r}", code="invalid_params", hint=hint)
