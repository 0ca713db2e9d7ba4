"""What is said of nodes that lead to no root, because one above them is gone (contract 01 §8.2, §10).

They are shown or kept apart from the session, never as a part of it and never
left out in silence; `lash db check` names the way on. No head is moved to one
and no fork begins there: the next turn could not read what was said before it.
"""

from __future__ import annotations

from pathlib import Path

from lash_cli.cli.head_moves import command_here
from lash_cli.cli.invocation import current
from lash_cli.cli.output import warn
from lash_cli.errors import ConflictError

# The rule of a check that they break, and the code of the warning.
CUT_OFF = "node_cut_off"


def warn_of_cut_off(session_name: str, count: int, what_becomes_of_them: str) -> None:
    """Say on stderr that so many nodes of a session are cut off; nothing where there are none."""
    if count:
        are = "node is" if count == 1 else "nodes are"
        warn(
            f"{session_name}: {count} {are} cut off, because what they hang below is missing: {what_becomes_of_them};"
            f" see {command_here('db', 'check')}",
            CUT_OFF,
        )


def refuse_cut_off(session_id: str, node_id: str) -> None:
    """Raise `ConflictError` (`node_cut_off`) for a node of the session that is cut off; nothing for any other name.

    The store moves a head by looking at its neighbours only, whatever was said
    above them. Who names a node by hand waits for the look at all of them.
    """
    from lash_cli.store.sqlite.inspection import looking
    from lash_cli.store.sqlite.invariants import is_cut_off

    with looking(Path(current().paths.database)) as connection:
        if not is_cut_off(connection, session_id, node_id):
            return
    raise ConflictError(
        f"node {node_id} is cut off: a message above it is missing, and nothing goes on from there",
        code=CUT_OFF,
        hint=f"see where the session goes on: {command_here('db', 'check')}",
        details={"session": session_id, "node": node_id},
    )
