"""The lease table, row by row (contract 01 §13)."""

import msgspec
import pytest

from lash_cli.core.lease import (
    ClaimVerdict,
    LeaseOwnerIdentity,
    LeaseRow,
    LeaseTimings,
    LocalProcess,
    SessionExecutionLease,
    granted_lease,
    is_fence_live,
    is_row_live,
    judge_claim,
)

ME = LeaseOwnerIdentity("me", "i1")
MY_NEXT_LIFE = LeaseOwnerIdentity("me", "i2")
OTHER = LeaseOwnerIdentity("other", "i1")
HERE, THERE = (LeaseOwnerIdentity("me", "i1", LocalProcess("host", "boot", pid, "1")) for pid in (7, 8))
FREE = LeaseRow(fencing_token=4)
HELD = LeaseRow(4, "tok", ME, claimed_at_ms=0, expires_at_ms=100)


@pytest.mark.parametrize(
    ("row", "owner", "now", "verdict"),
    [
        (LeaseRow(), ME, 0, ClaimVerdict.GRANT),
        (FREE, OTHER, 0, ClaimVerdict.GRANT),
        (HELD, OTHER, 100, ClaimVerdict.GRANT),
        (HELD, ME, 100, ClaimVerdict.GRANT),
        (HELD, ME, 99, ClaimVerdict.EXTEND),
        (HELD, OTHER, 99, ClaimVerdict.BUSY),
        (HELD, MY_NEXT_LIFE, 99, ClaimVerdict.BUSY),
        (msgspec.structs.replace(HELD, owner=HERE), HERE, 99, ClaimVerdict.EXTEND),
        (msgspec.structs.replace(HELD, owner=HERE), THERE, 99, ClaimVerdict.BUSY),
    ],
)
def test_a_claim_is_judged_by_the_row_alone(
    row: LeaseRow, owner: LeaseOwnerIdentity, now: int, verdict: ClaimVerdict
) -> None:
    assert judge_claim(row, owner, now) is verdict


@pytest.mark.parametrize(
    ("row", "owner", "observed", "now", "verdict"),
    [
        (HELD, OTHER, 4, 99, ClaimVerdict.GRANT),
        (HELD, OTHER, 3, 99, ClaimVerdict.BUSY),
        (HELD, OTHER, 3, 100, ClaimVerdict.GRANT),
        (HELD, ME, 4, 99, ClaimVerdict.EXTEND),
        (FREE, OTHER, 4, 0, ClaimVerdict.GRANT),
    ],
)
def test_a_reclaim_takes_only_from_the_dead_holder_it_observed(
    row: LeaseRow, owner: LeaseOwnerIdentity, observed: int, now: int, verdict: ClaimVerdict
) -> None:
    assert judge_claim(row, owner, now, observed) is verdict


def test_at_the_millisecond_of_expiry_nobody_holds_the_lane() -> None:
    assert is_row_live(HELD, 99)
    assert not is_row_live(HELD, 100)


def test_a_grant_is_a_new_generation_with_a_new_expiry() -> None:
    lease = granted_lease("s", HELD, OTHER, "new", now_ms=200, ttl_ms=50)
    assert lease == SessionExecutionLease("s", OTHER, "new", 5, 200, 250)


def test_a_fence_is_alive_only_while_every_part_of_it_is_the_rows() -> None:
    fence = SessionExecutionLease("s", ME, "tok", 4, 0, 100).fence()
    assert is_fence_live(HELD, fence, 99)
    assert not is_fence_live(HELD, fence, 100)
    assert not is_fence_live(FREE, fence, 0)
    for name, value in {"owner_id": "x", "incarnation_id": "x", "lease_token": "x", "fencing_token": 5}.items():
        assert not is_fence_live(HELD, msgspec.structs.replace(fence, **{name: value}), 99), name


@pytest.mark.parametrize(
    ("ttl", "renew", "fault"),
    [(0, 1, "TtlTooSmall"), (10, 0, "RenewIntervalTooSmall"), (29, 10, "TtlRenewRatioTooSmall")],
)
def test_timings_must_survive_two_missed_renewals(ttl: int, renew: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        LeaseTimings(ttl, renew)


def test_timings_from_a_ttl_renew_three_times() -> None:
    assert LeaseTimings.from_ttl(30_000) == LeaseTimings() == LeaseTimings(30_000, 10_000)
    assert LeaseTimings.from_ttl(3) == LeaseTimings(3, 1)
