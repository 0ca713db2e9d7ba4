"""Cache marks on the Anthropic wire: where they stand, and that the bytes before them stay (contract 06 §6)."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.content import (
    AttachmentPart,
    Inline,
    Message,
    Part,
    PluginOrigin,
    ProsePart,
    ReasoningPart,
    ReasoningReplay,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmRequest, LlmScope, LlmToolSpec, MessageSequence
from lash_cli.core.policy import ModelCapability, ModelSpec
from lash_cli.providers.anthropic_request import AnthropicEncoder
from lash_cli.providers.caching import CacheRetention, continuation_key, prompt_cache_fields

BASE = "http://test.invalid"
ROUTE = f"{BASE}/v1/messages"
SCOPE = LlmScope("s", "s:turn:t:llm:0", "f1")
TOOLS = (
    LlmToolSpec("cat", "shows", {"type": "object", "properties": {}}),
    LlmToolSpec("ls", "lists", {"type": "object", "properties": {}}),
)
SHORT = {"type": "ephemeral"}
LONG = {"type": "ephemeral", "ttl": "1h"}
MARK = re.compile(rb',"cache_control":\{[^}]*\}')


def user(*parts: Part | str) -> Message:
    return Message("u", Role.USER, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Message:
    return Message("a", Role.ASSISTANT, tuple(ProsePart(part) if isinstance(part, str) else part for part in parts))


def call(identity: str) -> ToolCallPart:
    return ToolCallPart(identity, "ls", "{}")


def result(identity: str, content: str = "x") -> ToolResultPart:
    return ToolResultPart(identity, "ls", content)


def request(messages: Any, **fields: Any) -> LlmRequest:
    known = {"model": ModelSpec("m"), "messages": messages, "scope": SCOPE, "system": "sys", "tools": TOOLS}
    return LlmRequest(**known | fields)


def encoder(retention: CacheRetention = "short") -> AnthropicEncoder:
    return AnthropicEncoder(BASE, cache_retention=retention)


def body(*messages: Message, retention: CacheRetention = "short", **fields: Any) -> dict[str, Any]:
    return json.loads(encoder(retention).body(request(messages, **fields)), object_pairs_hook=once)


def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose members is said twice."""
    built = dict(members)
    assert len(built) == len(members), members
    return built


def marked(sent: dict[str, Any]) -> list[Any]:
    """What carries a mark: tool names, texts, and otherwise the types of blocks, in wire order."""
    blocks = [*sent["tools"], *sent["system"], *(block for message in sent["messages"] for block in message["content"])]
    return [block.get("name") or block.get("text") or block["type"] for block in blocks if "cache_control" in block]


def test_without_retention_there_are_no_marks() -> None:
    assert b"cache_control" not in encoder("none").body(request((user("hi"),)))


@pytest.mark.parametrize(("retention", "mark"), [("short", SHORT), ("long", LONG)])
def test_the_last_tool_the_system_prompt_and_the_last_text_are_marked(retention: CacheRetention, mark: Any) -> None:
    sent = body(user("one"), assistant("two"), user("three", "four"), retention=retention)
    assert marked(sent) == ["ls", "sys", "four"]
    assert sent["system"][0]["cache_control"] == mark
    assert sent["tools"][1]["cache_control"] == mark
    assert sent["messages"][-1]["content"][-1]["cache_control"] == mark


def test_only_the_last_of_several_system_texts_is_marked() -> None:
    assert marked(body(Message("s", Role.SYSTEM, (TextPart("more"),)), user("hi"))) == ["ls", "more", "hi"]


def test_results_behind_the_last_text_are_marked_too() -> None:
    sent = body(user("go"), assistant(call("1"), call("2")), user(result("1"), result("2")))
    assert marked(sent) == ["ls", "sys", "go", "tool_result"]
    assert "cache_control" not in sent["messages"][2]["content"][0]


def test_an_attachment_at_the_end_is_marked() -> None:
    picture = AttachmentPart(Inline("image/png", b"x"))
    assert marked(body(user("see", picture))) == ["ls", "sys", "see", "image"]
    assert marked(body(user(picture))) == ["ls", "sys", "image"]


def test_thinking_is_never_marked() -> None:
    thought = ReasoningPart("hm", ReasoningReplay(provider=ROUTE, signature="s"))
    assert marked(body(user("go"), assistant(thought, call("1")))) == ["ls", "sys", "go", "ls"]


def test_the_breakpoint_of_a_request_bounds_what_is_marked() -> None:
    messages = (user("one"), assistant("two"), user("volatile"))
    assert marked(body(*messages, cache_breakpoint=2)) == ["ls", "sys", "two"]
    assert marked(body(*messages, cache_breakpoint=0)) == ["ls", "sys"]
    assert marked(body(*messages, cache_breakpoint=9)) == ["ls", "sys", "volatile"]


@pytest.mark.parametrize("committed", [0, 1])
def test_what_is_transient_stands_behind_the_marks(committed: int) -> None:
    shared = [user("one"), assistant("two")][:committed]
    reminder = Message("p", Role.USER, (TextPart("remember"),), PluginOrigin("p", transient=True))
    view = MessageSequence(shared, len(shared), (user("three"), reminder, user("four")))
    assert marked(json.loads(encoder().body(request(view)))) == ["ls", "sys", "three"]


def test_a_model_that_reads_the_other_dialect_gets_one_mark() -> None:
    model = ModelSpec("m", capability=ModelCapability(cache_control="gemini"))
    for retention in ("short", "long"):
        sent = body(user("one"), assistant(call("1")), user(result("1")), model=model, retention=retention)
        assert marked(sent) == ["one"]
        assert sent["messages"][0]["content"][0]["cache_control"] == SHORT


def test_no_internal_flag_reaches_the_wire() -> None:
    sent = encoder().body(request((user("one"),), cache_breakpoint=1))
    assert b"breakpoint" not in sent


TURNS = [
    (user("question"), [assistant(call("1"), call("2")), user(result("1"), result("2", "y"))], assistant("answer")),
    (user("and now", "this"), [assistant("let me see", call("3")), user(result("3"))], assistant("done")),
    (user("thanks"), [], assistant("welcome")),
]


def calls_of_a_session(retention: CacheRetention = "short") -> list[bytes]:
    """The request bodies of three turns with tools, as one process sends them."""
    keeping, shared, bodies = encoder(retention), [], []
    for question, steps, answer in TURNS:
        tail: list[Message] = [question]
        bodies.append(keeping.body(request(MessageSequence(shared, len(shared), tuple(tail)))))
        for step in range(0, len(steps), 2):
            tail += steps[step : step + 2]
            bodies.append(keeping.body(request(MessageSequence(shared, len(shared), tuple(tail)))))
        shared += [*tail, answer]
    return bodies


@pytest.mark.parametrize("retention", ["short", "long"])
def test_the_prefix_up_to_the_breakpoint_is_the_same_in_the_next_call(retention: CacheRetention) -> None:
    bodies = calls_of_a_session(retention)
    assert len(bodies) == 5
    for one, following in itertools.pairwise(bodies):
        marks = list(MARK.finditer(one, one.index(b'"messages"')))
        assert following.startswith(one[: marks[0].start()])
        whole = MARK.sub(b"", one[: marks[-1].start()])
        assert MARK.sub(b"", following).startswith(whole)
        assert len(whole) > 0.8 * len(MARK.sub(b"", one[: one.index(b'],"max_tokens"')]))


def test_another_process_sends_the_same_bytes() -> None:
    shared = [message for question, steps, answer in TURNS for message in (question, *steps, answer)]
    last = (user("once more"),)
    kept = encoder()
    for length in range(len(shared)):
        kept.body(request(MessageSequence(shared, length, tuple(shared[length : length + 1]))))
    assert kept.body(request(MessageSequence(shared, len(shared), last))) == encoder().body(request((*shared, *last)))


parts = st.one_of(
    st.sampled_from(["", " ", "text", "é\u2028"]).map(TextPart),
    st.sampled_from(["1", "2"]).map(call),
    st.sampled_from(["1", "2"]).map(result),
    st.builds(
        ReasoningPart, st.sampled_from(["", "hm"]), st.sampled_from([None, ReasoningReplay(ROUTE, signature="s")])
    ),
)
conversations = st.lists(
    st.builds(Message, st.just("m"), st.sampled_from(Role), st.lists(parts, max_size=3).map(tuple)), max_size=8
)


@given(messages=conversations, data=st.data())
def test_every_view_of_a_conversation_is_cut_and_marked_exactly(messages: list[Message], data: st.DataObject) -> None:
    kept = encoder()
    for _ in range(4):
        length = data.draw(st.integers(0, len(messages)))
        until = data.draw(st.integers(length, len(messages)))
        reach = data.draw(st.none() | st.integers(0, len(messages)))
        view = MessageSequence(messages, length, (*messages[length:until], user("end")))
        sent = kept.body(request(view, cache_breakpoint=reach))
        assert sent == encoder().body(request(tuple(view), cache_breakpoint=reach))
        document = json.loads(sent)
        roles = [message["role"] for message in document["messages"]]
        assert all(one != following for one, following in itertools.pairwise(roles))
        assert all(message["content"] for message in document["messages"])
        assert len(marked(document)) <= 4
        assert MARK.sub(b"", sent) == encoder("none").body(request(view))


def test_the_keyed_cache_is_asked_by_session_and_frame() -> None:
    asked = request((user("x"),))
    assert continuation_key(SCOPE) == "s::f1"
    assert prompt_cache_fields(asked, "none") == {}
    assert prompt_cache_fields(asked, "short") == {"prompt_cache_key": "s::f1"}
    assert prompt_cache_fields(asked, "long") == {"prompt_cache_key": "s::f1", "prompt_cache_retention": "24h"}
