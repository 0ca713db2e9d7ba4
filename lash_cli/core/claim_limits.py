"""How much one claim takes at most (contract 02 §1.5, §1.6).

Apart from the records of the queue, because whoever names a store names these
as defaults and may never touch its queue (design D16).
"""

from __future__ import annotations

MAX_CLAIMED_INPUTS = 64
MAX_CLAIMED_BATCHES = 64
