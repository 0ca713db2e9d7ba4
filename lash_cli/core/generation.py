"""How a turn's own options say that its answers are to be drawn (contract 06 §4).

The intent is stored with the input (`ProtocolTurnOptions`), so a turn that is
driven again draws as it did; it lies over that of the session's policy.
"""

from __future__ import annotations

from typing import Final

import msgspec

from lash_cli.core.codec import from_builtins, to_builtins
from lash_cli.core.content import ProtocolTurnOptions
from lash_cli.core.policy import NO_GENERATION, Generation

GENERATION_OPTION: Final = "generation"


def with_generation(options: ProtocolTurnOptions | None, generation: Generation) -> ProtocolTurnOptions:
    """`options` with `generation` laid over what they say about it; raises `ValueError` when that cannot be read."""
    whole = generation_of(options).overlaid_by(generation)
    options = options or ProtocolTurnOptions()
    return msgspec.structs.replace(options, payload={**options.payload, GENERATION_OPTION: to_builtins(whole)})


def generation_of(options: ProtocolTurnOptions | None) -> Generation:
    """What `options` ask for, a null for nothing; raises `ValueError` when that cannot be read."""
    asked = None if options is None else options.payload.get(GENERATION_OPTION)
    if asked is None:
        return NO_GENERATION
    try:
        wanted: Generation = from_builtins(asked, Generation)
    except msgspec.ValidationError as error:
        raise ValueError(f"the turn's generation option cannot be read: {error}") from error
    return wanted
