"""Shapes of what moves in a session's history and of its tree (contract 08 §5.1 `rewind`, `tree`)."""

from __future__ import annotations

from lash_cli.cli.schemas.sessions import Frame, Usage
from lash_cli.cli.schemas.shape import Count, Shape, Time


class Rewind(Shape):
    """Where the head of a session stands now and where it stood; `undo` is the command that moves it back. `moved` is
    false when it stood there already; a null node is before everything that was said."""

    session: str
    session_name: str
    moved: bool
    node: str | None
    previous_node: str | None
    frame: str
    previous_frame: str
    head_revision: Count
    undo: str


class Compaction(Shape):
    """What `lash compact` did. `frame` is the frame it opened, null when it opened none: `reason` says why. `usage` is
    what the summary cost; `undo` is the command that moves the head back into the frame before, null without one."""

    session: str
    session_name: str
    compacted: bool
    reason: str | None
    frame: str | None
    previous_frame: str
    previous_node: str | None
    messages_before: Count
    messages_after: Count
    summary: str | None
    usage: Usage
    head_revision: int | None
    undo: str | None


class TreeItem(Shape):
    """One message. `parent` is the message above it, `branch` counts the places above it where history went more than
    one way, `children` the messages below; `active` is on the path of the head, `head` is the last message of it."""

    id: str
    parent: str | None
    frame: str
    role: str
    at: Time
    preview: str
    branch: Count
    children: Count
    active: bool
    head: bool


class Tree(Shape):
    """Every message of a session, depth first, siblings by age; `hidden` counts those that `--depth` left out.
    `cut_off` are those that lead to no root, because one above them is missing: nothing goes on from there. The topmost
    of them have no `parent`."""

    session: str
    session_name: str
    head_revision: int | None
    head_node: str | None
    frames: list[Frame]
    hidden: Count
    items: list[TreeItem]
    cut_off: list[TreeItem]
