"""What is said of nodes that lead to no root, because one above them is gone (contract 01 §8.2, §10).

They are shown or kept apart from the session, never as a part of it and never
left out in silence; `lash db check` names the way on. `lash rewind` and `lash
fork` refuse one: the next turn could not read what was said before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.cli.head_moves import command_here
from lash_cli.cli.output import warn
from lash_cli.errors import ConflictError

if TYPE_CHECKING:
    from lash_cli.store.base import RuntimePersistence

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


async def refuse_cut_off(store: RuntimePersistence, session_id: str, node_id: str) -> None:
    """As `runtime.history.require_rooted`; the refusal names the check of the home this command works on.

    Moving a head looks at the neighbours of a node only, whatever was said above
    them. Who names a node by hand waits for the look at all of them.
    """
    from lash_cli.runtime.history import require_rooted  # listings say what is cut off and move nothing

    try:
        await require_rooted(store, session_id, node_id)
    except ConflictError as error:
        error.hint = f"see where the session goes on: {command_here('db', 'check')}"
        raise
