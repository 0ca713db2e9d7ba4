"""Who may write: the session execution lease and its fence (contract 01 §13, 02 §4).

Pure judgement over one row. The fence decides, never the holder's belief: a
store applies `judge_claim` and `is_fence_live` inside the same transaction as
the write they guard. Fencing tokens only ever grow.
"""

from __future__ import annotations

from enum import StrEnum

from lash_cli.core.codec import Record
from lash_cli.errors import SessionExecutionLeaseExpired

DEFAULT_TTL_MS = 30_000
DEFAULT_RENEW_MS = 10_000
_MISSED_RENEWALS_TO_SURVIVE = 3


class LeaseTimings(Record):
    """How long a lease lives and how often it is renewed, in milliseconds (contract 03 §2.7).

    Valid iff both are at least 1 and `ttl_ms >= 3 * renew_interval_ms`, so two
    missed renewals are survived. Raises `ValueError` named TtlTooSmall,
    RenewIntervalTooSmall or TtlRenewRatioTooSmall.
    """

    ttl_ms: int = DEFAULT_TTL_MS
    renew_interval_ms: int = DEFAULT_RENEW_MS

    def __post_init__(self) -> None:
        if self.ttl_ms < 1:
            raise ValueError(f"TtlTooSmall: {self.ttl_ms} ms")
        if self.renew_interval_ms < 1:
            raise ValueError(f"RenewIntervalTooSmall: {self.renew_interval_ms} ms")
        if self.ttl_ms < _MISSED_RENEWALS_TO_SURVIVE * self.renew_interval_ms:
            raise ValueError(f"TtlRenewRatioTooSmall: {self.ttl_ms} ms / {self.renew_interval_ms} ms")

    @staticmethod
    def from_ttl(ttl_ms: int) -> LeaseTimings:
        """Timings that renew three times per ttl."""
        return LeaseTimings(ttl_ms, max(1, ttl_ms // _MISSED_RENEWALS_TO_SURVIVE))


class Opaque(Record, tag="opaque", tag_field="kind"):
    """Nothing is known about whether the owner lives; only expiry frees its lease."""


class LocalProcess(Record, tag="local_process", tag_field="kind"):
    """An owner that is one process of one boot of one PID namespace."""

    host_id: str
    boot_id: str
    pid: int
    process_start: str


Liveness = Opaque | LocalProcess


class LeaseOwnerIdentity(Record):
    """Who holds a lane (contract 01 §13): a logical owner, one incarnation of it, and how to tell whether it lives.

    `label` says what the owner is doing, for people (`turn`, `chat`, `work`).
    """

    owner_id: str
    incarnation_id: str
    liveness: Liveness = Opaque()
    label: str = ""


class LeaseRow(Record):
    """The stored lease. Released means `token` is None; the fencing token stays."""

    fencing_token: int = 0
    token: str | None = None
    owner: LeaseOwnerIdentity | None = None
    claimed_at_ms: int = 0
    expires_at_ms: int = 0


class SessionExecutionLease(Record):
    """A lease as its holder knows it."""

    session_id: str
    owner: LeaseOwnerIdentity
    lease_token: str
    fencing_token: int
    claimed_at_ms: int
    expires_at_ms: int

    def fence(self) -> LeaseFence:
        """The proof of ownership every guarded write carries."""
        return LeaseFence(
            self.session_id, self.owner.owner_id, self.owner.incarnation_id, self.lease_token, self.fencing_token
        )


class LeaseFence(Record):
    """What a write presents to prove that its lane is still its own (contract 02 §4)."""

    session_id: str
    owner_id: str
    incarnation_id: str
    lease_token: str
    fencing_token: int


class ClaimVerdict(StrEnum):
    """What a claim may do with the row."""

    GRANT = "grant"
    EXTEND = "extend"
    BUSY = "busy"


def is_row_live(row: LeaseRow, now_ms: int) -> bool:
    """Whether somebody holds the lane now; at the very millisecond of expiry nobody does."""
    return row.token is not None and now_ms < row.expires_at_ms


def judge_claim(
    row: LeaseRow, owner: LeaseOwnerIdentity, now_ms: int, dead_fencing_token: int | None = None
) -> ClaimVerdict:
    """The `try_claim` rule: grant when free, extend for the same owner and incarnation, else busy. One of another
    process is another, whatever it is called: forked workers may draw the same ids.

    With `dead_fencing_token` the `reclaim` rule too: grant what the holder that was observed under it, and is provably
    dead, still holds.
    """
    if not is_row_live(row, now_ms):
        return ClaimVerdict.GRANT
    holder = row.owner
    if (
        holder is not None
        and (holder.owner_id, holder.incarnation_id) == (owner.owner_id, owner.incarnation_id)
        and holder.liveness == owner.liveness
    ):
        return ClaimVerdict.EXTEND
    return ClaimVerdict.GRANT if row.fencing_token == dead_fencing_token else ClaimVerdict.BUSY


def granted_lease(
    session_id: str, row: LeaseRow, owner: LeaseOwnerIdentity, token: str, now_ms: int, ttl_ms: int
) -> SessionExecutionLease:
    """The lease that a grant makes of the row: a new token and the next generation."""
    return SessionExecutionLease(session_id, owner, token, row.fencing_token + 1, now_ms, now_ms + ttl_ms)


def is_fence_live(row: LeaseRow, fence: LeaseFence, now_ms: int) -> bool:
    """Whether `fence` still proves ownership of the lane."""
    holder = row.owner
    return (
        holder is not None
        and is_row_live(row, now_ms)
        and (holder.owner_id, holder.incarnation_id, row.token, row.fencing_token)
        == (fence.owner_id, fence.incarnation_id, fence.lease_token, fence.fencing_token)
    )


def lane_lost(session_id: str) -> SessionExecutionLeaseExpired:
    """What a turn raises that notices that its lane is not its own any more."""
    return SessionExecutionLeaseExpired(f"the lane of session {session_id} was lost", details={"session": session_id})
