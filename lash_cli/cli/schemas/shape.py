"""What a JSON shape is written as: a struct whose fields are its keys, in order, with their types (contract 08 §6.1).

A shape has no defaults, because a key is never missing: what is unknown is
null. Its docstring is the description people read. Records of the core stand in
for themselves where a document spells one out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

# RFC 3339 in UTC with milliseconds.
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Object = dict[str, Any]


class Shape(msgspec.Struct, kw_only=True):
    """Base of every shape."""
