"""What a JSON shape is written as: a struct whose fields are its keys, in order, with their types (contract 08 §6.1).

A shape has no defaults, because a key is never missing: what is unknown is
null. Its docstring is the description people read. Records of the core stand in
for themselves where a document spells one out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lash_cli.core.codec import tag_of

# RFC 3339 in UTC with milliseconds.
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Object = dict[str, Any]


class Shape(msgspec.Struct, kw_only=True):
    """Base of every shape."""


def enveloped(record: type[msgspec.Struct], name: str, envelope: type[msgspec.Struct], fields: list[Any]) -> Any:
    """The shape `name` of a tagged record that travels inside an `envelope`: `fields` beside those of every one."""
    made: Any = msgspec.defstruct(
        name,
        fields,
        bases=(envelope,),
        kw_only=True,
        tag=tag_of(record),
        tag_field="type",
        namespace={"__doc__": record.__doc__},
    )
    return made
