"""How a turn's own options say that its answers are to be drawn (contract 06 §4).

The intent is stored with the input (`ProtocolTurnOptions`), so a turn that is
driven again draws as it did; it lies over that of the session's policy.
"""

from __future__ import annotations

from typing import Final

from lash_cli.core.content import ProtocolTurnOptions, option_of, with_option
from lash_cli.core.policy import NO_GENERATION, Generation

GENERATION_OPTION: Final = "generation"


def with_generation(options: ProtocolTurnOptions | None, generation: Generation) -> ProtocolTurnOptions:
    """`options` with `generation` laid over what they say about it; raises `ValueError` when that cannot be read."""
    return with_option(options, GENERATION_OPTION, generation_of(options).overlaid_by(generation))


def generation_of(options: ProtocolTurnOptions | None) -> Generation:
    """What `options` ask for, a null for nothing; raises `ValueError` when that cannot be read."""
    wanted: Generation | None = option_of(options, GENERATION_OPTION, Generation)
    return wanted or NO_GENERATION
