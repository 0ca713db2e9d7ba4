"""What every head says of the turns before it (contract 01 §9.2).

Apart from `commit`, because a look at a session reads it and knows nothing of
what a commit contains (design D16).
"""

from __future__ import annotations

from lash_cli.core.codec import Record
from lash_cli.core.content import ProtocolTurnOptions
from lash_cli.core.usage import PromptUsage, TokenUsage


class TurnState(Record):
    """The small part of the checkpoint that changes with every turn; stored with the head."""

    turn_index: int = 0
    token_usage: TokenUsage = TokenUsage()
    last_prompt_usage: PromptUsage | None = None
    protocol_turn_options: ProtocolTurnOptions = ProtocolTurnOptions()

    def elsewhere(self) -> TurnState:
        """The state with the head in another place, such as a new frame: how full the context is there is unknown until
        the next model call."""
        return TurnState(self.turn_index, protocol_turn_options=self.protocol_turn_options)
