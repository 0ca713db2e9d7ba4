"""Answers in which anything may be missing, doubled, moved or of another type (contract 06 §17).

Every script of the corpus is mangled in ways drawn from a seed. Whatever comes
of it is an answer or a failure with a code of its own: no document makes a
provider crash, no answer holds two calls of one id, and what is recorded can
be written.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.sent import BASE, request, user
from support.wire import JSON_HEADERS, Reply, ScriptedTransport, sse
from support.wire_script import WireScript, load_script

from lash_cli.core.codec import encode
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.sse import SseDecoder

SCRIPTS = sorted((Path(__file__).parent / "scripts").rglob("*.json"))
TIMES = 40
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", "x", "\0", "null",
    [], {}, [None], [[]], [{}], {"type": "x"}, {"a": None},
)  # fmt: skip


def mangled(value: Any, draw: random.Random) -> Any:
    """`value` with a few of its parts lost, doubled, moved or replaced by something else."""
    if draw.random() < 0.06:
        return draw.choice(JUNK)
    if isinstance(value, dict):
        return {name: mangled(member, draw) for name, member in value.items() if draw.random() > 0.03}
    if isinstance(value, list):
        members = [mangled(member, draw) for member in value]
        if members and draw.random() < 0.1:
            members.append(draw.choice(members))
        if draw.random() < 0.05:
            draw.shuffle(members)
        return members
    return value


def mangled_reply(script: WireScript, draw: random.Random) -> Reply:
    """The script's answer, mangled: a stream as a stream, a document as a document of some status."""
    decoder = SseDecoder()
    events = decoder.feed(script.body) + decoder.flush()
    if not events:
        status = draw.choice((200, 200, 400, 429, 500))
        try:
            document = json.loads(script.body)
        except ValueError:
            return Reply((script.body,), status, dict(JSON_HEADERS))
        return Reply((json.dumps(mangled(document, draw)).encode(),), status, dict(JSON_HEADERS))
    documents = [event if event == "[DONE]" else mangled(_loaded(event), draw) for event in events]
    if draw.random() < 0.3:
        draw.shuffle(documents)
    return Reply((sse(*documents, done=draw.random() < 0.5),))


def _loaded(event: str) -> Any:
    try:
        return json.loads(event)
    except ValueError:
        return event


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_mangled_answer_is_an_answer_or_a_failure_with_a_name(path: Path) -> None:
    script = load_script(path)
    for seed in range(TIMES):
        draw = random.Random(f"{script.name}:{seed}")
        transport = ScriptedTransport(mangled_reply(script, draw))
        options = {
            "max_attempts": 1,
            "retry_after_output": "reset",
            "throttle_wait_budget_ms": 0,
            "expose_thinking": True,
            "response_metadata": ["body:/id", "body:/usage"],
        }
        settings = ProviderSettings("p", script.provider_kind, BASE, None, options)
        caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)

        async def sink(event: Any) -> None:
            encode(event)

        result = await caller.call(request(user("hi")), sink=sink, cancel=ManualCancel())
        encode(result)
        if result.response is None:
            assert result.error is not None and result.error.code != "provider_panicked", (seed, result.error.message)
            continue
        ids = [call.tool_call_id for call in result.response.tool_calls]
        usage = result.response.usage
        assert len(set(ids)) == len(ids), seed
        assert usage.reasoning_output_tokens <= usage.output_tokens, seed
