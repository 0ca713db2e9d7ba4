"""Cursors are opaque and exact, and a gap is declared exactly when continuity is unproven (contract 04 §1, §3, §4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    LiveReplayGapReason,
    LogBounds,
    SessionCursor,
    judge_position,
    judge_revision,
)
from lash_cli.errors import SessionCursorError, SessionCursorMalformed, SessionCursorWrongSession

TRIMMED, UNAVAILABLE = LiveReplayGapReason.TRIMMED, LiveReplayGapReason.UNAVAILABLE
NOW_MS = 10_000_000


@given(
    st.text("0123456789abcdef", min_size=1, max_size=16),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, (1 << 63) - 1),
    st.text(min_size=1),
)
def test_a_printed_cursor_is_read_back_whole(epoch, revision, position, session_id):
    cursor = SessionCursor(epoch, revision, position, session_id)
    again = SessionCursor.from_store_token(str(cursor))
    assert again == cursor and hash(again) == hash(cursor)
    assert (again.epoch, again.revision, again.position, again.session_id) == (epoch, revision, position, session_id)


def test_a_session_id_may_hold_colons():
    cursor = SessionCursor("e", 3, 7, "team:a:1")
    assert str(cursor) == "lashsc2:e:3:7:team:a:1"
    assert SessionCursor.from_store_token(str(cursor)).session_id == "team:a:1"


def test_the_debug_form_tells_nothing_and_cursors_have_no_order():
    early, late = SessionCursor("secret", 1, 1, "s"), SessionCursor("secret", 1, 2, "s")
    assert repr(early) == repr(late) == "SessionCursor(<opaque>)"
    assert early != late and early != "lashsc2:secret:1:1:s"
    with pytest.raises(TypeError):
        early < late  # type: ignore[operator]  # noqa: B015


@pytest.mark.parametrize(
    ("token", "part"),
    [
        ("", "lashsc2"),
        ("lashsc1:1:2:s", "lashsc2"),
        ("lashsc2:e:1:2", "session id"),
        ("lashsc2::1:2:s", "epoch"),
        ("lashsc2:e:x:2:s", "revision"),
        ("lashsc2:e:-1:2:s", "revision"),
        ("lashsc2:e:1::s", "position"),
        ("lashsc2:e:1:+2:s", "position"),
        ("lashsc2:e:1:٢:s", "position"),
        ("lashsc2:e:1:9223372036854775808:s", "position"),
        ("lashsc2:e:1:2:", "session id"),
    ],
)
def test_a_malformed_cursor_is_refused_and_the_wrong_part_named(token, part):
    with pytest.raises(SessionCursorMalformed, match=part) as caught:
        SessionCursor.from_store_token(token)
    assert (caught.value.code, caught.value.exit_status) == ("cursor_invalid", 2)


def test_another_sessions_cursor_is_refused_and_both_are_named():
    with pytest.raises(SessionCursorWrongSession, match=r"'theirs'.*'ours'") as caught:
        SessionCursor("e", 0, 0, "theirs").require_session("ours")
    assert isinstance(caught.value, SessionCursorError) and caught.value.code == "cursor_invalid"
    assert (caught.value.expected_session_id, caught.value.actual_session_id) == ("ours", "theirs")


def oracle(epoch, position, log, expired):
    """The table of contract 04 §3 over an explicit list of what is retained."""
    if log is None:
        return UNAVAILABLE if (epoch, position) != (GENESIS, 0) else None
    if epoch != log.epoch and not (epoch == GENESIS and position == 0 and log.is_first_epoch):
        return UNAVAILABLE
    if position > log.tail:
        return UNAVAILABLE
    if log.hole and position <= log.hole:
        return UNAVAILABLE
    retained = [at for at in range(1, log.tail + 1) if at > log.floor and at > log.tail - MAX_EVENTS and at > expired]
    if not retained:
        return TRIMMED if position < log.tail else None
    if position + 1 < retained[0]:
        return TRIMMED
    return None


@st.composite
def logs(draw):
    tail = draw(st.one_of(st.integers(0, 12), st.integers(MAX_EVENTS - 3, MAX_EVENTS + 9)))
    floor = draw(st.integers(0, tail))
    hole = draw(st.one_of(st.just(0), st.integers(0, max(0, tail - 1))))
    return LogBounds(draw(st.sampled_from("ab")), tail, floor, hole, draw(st.booleans()))


@given(st.one_of(st.none(), logs()), st.sampled_from(["a", "b", GENESIS]), st.data())
def test_the_gap_table_agrees_with_an_explicit_list_of_events(log, epoch, data):
    tail = 0 if log is None else log.tail
    position = data.draw(st.one_of(st.integers(0, tail + 2), st.sampled_from([0, tail, tail + 1])))
    expired = data.draw(st.integers(0, tail))
    age = MAX_AGE_MS + (1 if position + 1 <= expired else 0)
    next_at_ms = None if position >= tail else NOW_MS - age
    assert judge_position(epoch, position, log, next_at_ms, NOW_MS) == oracle(epoch, position, log, expired)


def test_an_event_is_too_old_only_when_strictly_older_than_the_age():
    log = LogBounds("e", 1)
    assert judge_position("e", 0, log, NOW_MS - MAX_AGE_MS, NOW_MS) is None
    assert judge_position("e", 0, log, NOW_MS - MAX_AGE_MS - 1, NOW_MS) is TRIMMED


@pytest.mark.parametrize(
    ("log", "position", "gap"),
    [
        (LogBounds("e", 9, hole=4), 4, UNAVAILABLE),
        (LogBounds("e", 9, hole=4), 5, None),
        (LogBounds("e", 9, floor=3), 2, TRIMMED),
        (LogBounds("e", 9, floor=3), 3, None),
        (LogBounds("e", MAX_EVENTS + 5), 4, TRIMMED),
        (LogBounds("e", MAX_EVENTS + 5), 5, None),
        (LogBounds("e", 9), 9, None),
        (LogBounds("e", 9), 10, UNAVAILABLE),
    ],
)
def test_each_bound_ends_at_its_own_position(log, position, gap):
    assert judge_position("e", position, log, NOW_MS, NOW_MS) is gap


def test_a_row_that_should_be_there_and_is_not_is_never_an_empty_answer():
    assert judge_position("e", 3, LogBounds("e", 9), None, NOW_MS) is TRIMMED


@pytest.mark.parametrize(
    ("cursor", "head", "committed", "reason"),
    [
        (4, 4, None, None),
        (4, 5, 5, None),
        (4, 5, 6, None),
        (4, 6, 5, UNAVAILABLE),
        (4, 5, None, UNAVAILABLE),
        (6, 5, 6, UNAVAILABLE),
    ],
)
def test_a_commit_between_cursor_and_head_must_be_among_the_events(cursor, head, committed, reason):
    assert judge_revision(cursor, head, committed) is reason
