"""What is said about a head that moved: document, text, and the command that moves it back (contract 08 §5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document
from lash_cli.cli.invocation import current
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.runtime.history import HeadMove
    from lash_cli.store.base import SessionMeta

# What stands for the place before everything that was said.
ROOT = "root"


def undo_command(move: HeadMove) -> str:
    """The exact command, for a shell, that moves the head back to where it stood."""
    return rewind_command(move.session_id, move.previous_leaf_node_id)


def rewind_command(session_id: str, node_id: str | None) -> str:
    """The exact command, for a shell, that moves the head of a session to a node; None is before everything."""
    return command_here("rewind", session_id, "--to", node_id or ROOT)


def command_here(*words: str) -> str:
    """The exact command, for a shell, that runs a verb on the home, database and profile of this invocation."""
    return current().commands_here(" ".join(["lash", *map(shell_word, words)]))


def rewind_document(move: HeadMove, meta: SessionMeta) -> Document:
    """The Rewind document."""
    return {
        "session": move.session_id,
        "session_name": meta.name,
        "moved": move.is_moved,
        "node": move.leaf_node_id,
        "previous_node": move.previous_leaf_node_id,
        "frame": move.frame_id,
        "previous_frame": move.previous_frame_id,
        "head_revision": move.head_revision,
        "undo": undo_command(move),
    }


def rewind_text(document: Document) -> str:
    """What people read."""
    node = document["node"] or "the beginning"
    if not document["moved"]:
        return f"the head of {document['session_name']} is {node} already"
    was = document["previous_node"] or "the beginning"
    return f"the head of {document['session_name']} is now {node}, and was {was}\nundo: {document['undo']}"
