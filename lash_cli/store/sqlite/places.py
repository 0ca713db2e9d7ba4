"""Where the rows of a session stand in a table that one integer clusters: its key above 40 bits of position (D23).

A row of such a table stays on its page up to four thousand bytes, where a table
`WITHOUT ROWID` moves what is above one thousand to a page of its own, which it
fills with nothing else; and a row that comes last is appended without moving
others. Answers of a model are mostly that long, and always come last.
"""

from __future__ import annotations

from typing import Final

POSITION_BITS: Final = 40
LAST_POSITION: Final = (1 << POSITION_BITS) - 1


def place_at(session_key: int, position: int) -> int:
    """The place of one row of a session."""
    return (session_key << POSITION_BITS) + position


def places(session_key: int) -> tuple[int, int]:
    """The first and the last place of a session's rows."""
    first = session_key << POSITION_BITS
    return first, first + LAST_POSITION


def sql_place(session_key: str, position: str) -> str:
    """The place of a row in an SQL statement, out of two expressions."""
    return f"({session_key} << {POSITION_BITS}) + {position}"


def sql_places(session_key: str) -> str:
    """The operator and the bounds that a place of the session is tested with in an SQL statement."""
    return f"BETWEEN ({session_key} << {POSITION_BITS}) AND ({session_key} << {POSITION_BITS}) + {LAST_POSITION}"
