"""The session graph: paths, branches, appends (contract 01 §8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.content import Message, PluginOrigin, Role, TextPart
from lash_cli.core.graph import (
    ConversationPayload,
    PluginPayload,
    SessionNode,
    active_path,
    chain,
    common_beginning,
    messages_on,
    orphaned_node_ids,
)


def message(message_id: str, *, transient: bool = False) -> Message:
    origin = PluginOrigin("p", transient=True) if transient else None
    return Message(message_id, Role.USER, (TextPart(message_id),), origin)


def node(node_id: str, parent: str | None, frame: str = "f") -> SessionNode:
    return SessionNode(node_id, parent, frame, 0, ConversationPayload(message(node_id)))


TREE = (node("a", None), node("b", "a"), node("c", "b"), node("d", "a"))


def test_the_active_path_runs_from_the_root_to_the_leaf() -> None:
    assert [n.node_id for n in active_path(TREE, "c")] == ["a", "b", "c"]
    assert [n.node_id for n in active_path(TREE, "d")] == ["a", "d"]
    assert active_path(TREE, None) == ()


def test_a_message_that_stands_in_two_nodes_was_said_once() -> None:
    again = SessionNode("again", "a", "f", 0, ConversationPayload(message("a")))
    assert [said.id for said in messages_on((node("a", None), again, node("b", "again")))] == ["a", "b"]


@pytest.mark.parametrize(
    ("nodes", "leaf"),
    [
        (TREE, "missing"),
        ((node("b", "gone"),), "b"),
        ((node("a", "b"), node("b", "a")), "a"),
        ((node("a", "a"),), "a"),
    ],
)
def test_a_missing_parent_or_a_cycle_is_never_read_silently(nodes: tuple[SessionNode, ...], leaf: str) -> None:
    with pytest.raises(ValueError, match="missing or repeats"):
        active_path(nodes, leaf)


def test_orphans_are_what_the_active_path_leaves_out() -> None:
    assert orphaned_node_ids(TREE, "d") == ("b", "c")
    assert orphaned_node_ids(TREE, None) == ("a", "b", "c", "d")


@given(st.lists(st.booleans(), max_size=8))
def test_an_append_hangs_below_the_leaf_and_leaves_transient_messages_out(flags: list[bool]) -> None:
    messages = [message(f"m{i}", transient=flag) for i, flag in enumerate(flags)]
    added = chain(messages, parent_node_id="c", agent_frame_id="f", at_ms=7)
    leaf = added[-1].node_id if added else "c"
    path = active_path((*TREE, *added), leaf)
    assert messages_on(path)[3:] == [m for m in messages if not m.is_transient]
    assert {n.at_ms for n in added} <= {7}


def test_a_repeated_append_produces_the_same_nodes() -> None:
    first, again = (
        chain([message("x"), message("y")], parent_node_id="c", agent_frame_id="f", at_ms=1) for _ in range(2)
    )
    assert first == again
    assert [n.node_id for n in first] == ["x", "y"]


def test_messages_of_a_path_are_scoped_to_a_frame_and_free_of_other_records() -> None:
    path = (
        node("a", None, "f1"),
        SessionNode("p", "a", "f2", 0, PluginPayload("note")),
        node("b", "p", "f2"),
    )
    assert [m.id for m in messages_on(path)] == ["a", "b"]
    assert [m.id for m in messages_on(path, "f2")] == ["b"]


@given(st.lists(st.sampled_from("xyp"), max_size=6), st.lists(st.sampled_from("xy"), max_size=6))
def test_what_is_said_differently_hangs_where_the_common_beginning_ends(words: list[str], wanted: list[str]) -> None:
    """`p` is a record of a plugin; messages say the same under any id."""
    parent: str | None = "root"
    path: list[SessionNode] = []
    for place, word in enumerate(words):
        said = Message(f"n{place}", Role.USER, (TextPart(word),))
        payload = PluginPayload("note") if word == "p" else ConversationPayload(said)
        path.append(SessionNode(f"n{place}", parent, "f", 0, payload))
        parent = f"n{place}"
    messages = [Message("", Role.USER, (TextPart(word),)) for word in wanted]
    kept, end = common_beginning(path, messages, parent)
    stays = path[: next((at + 1 for at, node in enumerate(path) if node.node_id == end), 0)]
    assert [m.parts for m in messages_on(stays)] == [m.parts for m in messages[:kept]]
    following = messages_on(path[len(stays) :])
    assert not following or kept == len(messages) or following[0].parts != messages[kept].parts
    assert len(stays) == len(path) or isinstance(path[len(stays)].payload, ConversationPayload)
