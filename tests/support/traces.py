"""Trace records written by hand, for tests of what reads them."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


class TraceText:
    """Collects lines; `at` is milliseconds after the start of the trace."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._ids = itertools.count(1)

    def raw(self, line: str) -> None:
        self.lines.append(line)

    def add(self, kind: str, at: float, context: dict[str, Any] | None = None, **fields: Any) -> None:
        moment = (START + timedelta(milliseconds=at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"schema_version": 2, "id": f"r{next(self._ids)}", "timestamp": moment, "type": kind}
        self.raw(json.dumps({**record, "context": context or {}, **fields}))

    def session(self, at: float = 0) -> None:
        self.add("session_started", at, {"session_id": "s", "graph_node_id": "session:s"}, metadata={"name": "demo"})

    def turn(
        self, number: int, start: float, end: float | None, *, status: str = "completed", reason: str = "x"
    ) -> None:
        context = {**self._turn(number), "graph_node_id": f"turn:s:t{number}", "parent_graph_node_id": "session:s"}
        self.add("turn_started", start, context)
        if end is not None:
            self.add("turn_completed", end, context, status=status, done_reason=reason)

    def call(
        self,
        number: int,
        iteration: int,
        start: float,
        end: float,
        *,
        prompt: str = "hi",
        usage: tuple[int, int] = (10, 5),
    ) -> None:
        call_id = f"s:t{number}:llm:{iteration}"
        context = {
            **self._turn(number),
            "protocol_iteration": iteration,
            "llm_call_id": call_id,
            "graph_node_id": f"llm:{call_id}",
            "parent_graph_node_id": f"turn:s:t{number}",
        }
        messages = [{"role": "user", "parts": [{"kind": "text", "content": prompt}]}]
        request = {"model": "model-1", "messages": messages, "tool_choice": "auto", "stream": True}
        self.add("llm_call_started", start, context, request=request)
        counts = {"input_tokens": usage[0], "output_tokens": usage[1]}
        response = {"text": f"answer to {prompt}", "duration_ms": round(end - start), "terminal_reason": "stop"}
        self.add("llm_call_completed", end, context, response=response, usage=counts)

    def usage(self, number: int, iteration: int, at: float, counts: tuple[int, int]) -> None:
        context = {**self._turn(number), "protocol_iteration": iteration, "parent_graph_node_id": f"turn:s:t{number}"}
        self.add("token_usage", at, context, usage={"input_tokens": counts[0], "output_tokens": counts[1]})

    def tool(
        self, number: int, call_id: str, start: float, end: float | None, *, name: str = "grep", payload: Any = "found",
        status: str = "success",
    ) -> None:  # fmt: skip
        context = {
            **self._turn(number),
            "graph_node_id": f"tool:{call_id}",
            "parent_graph_node_id": f"turn:s:t{number}",
        }
        self.add("tool_call_started", start, context, call_id=call_id, name=name, args={"n": call_id})
        if end is not None:
            output = {"outcome": {"status": status, "payload": payload}}
            fields = {"call_id": call_id, "name": name, "args": {"n": call_id}, "output": output}
            self.add("tool_call_completed", end, context, **fields, duration_ms=round(end - start))

    @staticmethod
    def _turn(number: int) -> dict[str, Any]:
        return {"session_id": "s", "turn_id": f"t{number}", "turn_index": number}

    def write(self, path: Path) -> Path:
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return path
