"""Previews are put down off the turn's path: in order, bounded, and never failing anything (contract 04 §3, §4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelRequestStarted,
    ReasoningShown,
    TurnActivity,
)
from lash_cli.errors import HeadRevisionConflict, StoreError, StoreLocked
from lash_cli.runtime.previews import JOINED_CHARS, MAX_WAITING, PreviewPublisher, joined


class FakeLive:
    """Takes previews when the test says so, or fails."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], Sequence[TurnActivity]]] = []
        self.on_failed: list[Callable[[BaseException], None]] = []
        self.appended: list[TurnActivity] = []
        self.lost: list[str] = []
        self.is_scheduled = asyncio.Event()
        self.refusal: StoreError | None = None

    def append_previews(self, session_id, take, *, generation, on_failed):
        if self.refusal is not None:
            raise self.refusal
        self.scheduled.append(take)
        self.is_scheduled.set()
        self.on_failed.append(on_failed)

    def lose_previews(self, session_id):
        self.lost.append(session_id)

    async def retract_attempt(self, session_id, turn_id, *, generation, activity_id):
        raise StoreLocked("busy")

    def write(self) -> None:
        for take in self.scheduled:
            self.appended.extend(take())
        self.scheduled.clear()


def said(text: str, row: str = "row", turn_id: str = "t") -> TurnActivity:
    return TurnActivity("s", turn_id, row, AssistantProseDelta(text), 1, f"a-{text}")


def publisher(live: FakeLive) -> PreviewPublisher:
    return PreviewPublisher(live, "s", 1)  # type: ignore[arg-type]


async def test_what_gathers_is_appended_at_once_after_a_moment():
    live = FakeLive()
    target = publisher(live)
    target.publish(TurnActivity("s", "t", "1", ModelRequestStarted(0)))
    target.publish(said("a"))
    assert live.scheduled == []
    await asyncio.wait_for(live.is_scheduled.wait(), 30)
    target.publish(said("b", row="other"))
    live.write()
    assert [type(activity.event) for activity in live.appended] == [
        ModelRequestStarted,
        AssistantProseDelta,
        AssistantProseDelta,
    ]
    target.flush()


async def test_a_flush_appends_everything_and_is_nothing_when_all_is_written():
    live = FakeLive()
    target = publisher(live)
    target.flush()
    target.publish(said("a"))
    target.flush()
    target.flush()
    assert len(live.scheduled) == 1
    live.write()
    assert [activity.event.text for activity in live.appended] == ["a"]


async def test_a_commit_takes_along_what_waits_and_nothing_of_it_is_appended_again():
    live = FakeLive()
    target = publisher(live)
    target.publish(said("a"))
    with target.taken_along() as shown:
        assert [activity.event.text for activity in shown] == ["a"]
    target.flush()
    assert live.scheduled == [] and live.lost == []


async def test_what_a_refused_commit_took_along_waits_again_in_front_of_what_came_since():
    live = FakeLive()
    target = publisher(live)
    target.publish(said("a"))
    with pytest.raises(HeadRevisionConflict), target.taken_along():
        target.publish(said("b", row="other"))
        raise HeadRevisionConflict(1, 2)
    await asyncio.wait_for(live.is_scheduled.wait(), 30)
    live.write()
    assert [activity.event.text for activity in live.appended] == ["a", "b"] and live.lost == []


@pytest.mark.parametrize("error", [StoreError("disk"), asyncio.CancelledError()])
async def test_what_went_with_a_commit_of_unknown_outcome_is_known_as_lost_and_never_shown_twice(error):
    live = FakeLive()
    target = publisher(live)
    target.publish(said("a"))
    with pytest.raises(type(error)), target.taken_along():
        raise error
    target.flush()
    assert live.scheduled == [] and live.lost == ["s"]


rows = st.sampled_from(["p1", "p2"])
pieces = st.tuples(rows, st.sampled_from([AssistantProseDelta, ReasoningShown]), st.text(min_size=1, max_size=3))


@given(st.lists(st.one_of(pieces, st.none()), max_size=40))
def test_joining_changes_no_text_of_any_row_and_no_order(steps):
    asyncio.run(join(steps))


async def join(steps):
    live = FakeLive()
    target = publisher(live)
    expected: list[tuple[str, type, str]] = []
    for step in steps:
        if step is None:
            target.flush()
            live.write()
            continue
        row, kind, text = step
        target.publish(TurnActivity("s", "t", row, kind(text)))
        if expected and expected[-1][:2] == (row, kind):
            expected[-1] = (row, kind, expected[-1][2] + text)
        else:
            expected.append((row, kind, text))
    target.flush()
    live.write()
    folded: list[tuple[str, type, str]] = []
    for activity in live.appended:
        row, kind, text = activity.correlation_id, type(activity.event), activity.event.text
        if folded and folded[-1][:2] == (row, kind):
            folded[-1] = (row, kind, folded[-1][2] + text)
        else:
            folded.append((row, kind, text))
    assert folded == expected


async def test_what_gathers_without_end_is_dropped_and_known_as_lost():
    live = FakeLive()
    target = publisher(live)
    for number in range(MAX_WAITING + 1):
        target.publish(said(str(number), row=str(number)))
    assert live.lost == ["s"]
    target.flush()
    live.write()
    assert len(live.appended) == 1


async def test_a_store_that_refuses_or_fails_never_reaches_the_turn():
    live = FakeLive()
    target = publisher(live)
    live.refusal = StoreError("closed", code="store_closed")
    target.publish(said("a"))
    target.flush()
    assert live.lost == ["s"]
    live.refusal = None
    target.publish(said("b"))
    target.flush()
    live.on_failed[0](StoreLocked("busy"))
    target.publish(said("c"))
    target.flush()
    live.write()
    assert [activity.event.text for activity in live.appended] == ["c"]


async def test_a_take_over_that_cannot_retract_leaves_a_hole_instead():
    live = FakeLive()
    await publisher(live).take_over("t", "a1")
    assert live.lost == ["s"]


@pytest.mark.parametrize("kind", [AssistantProseDelta, ReasoningShown])
def test_text_of_one_row_is_joined_into_pieces_and_not_into_a_book(kind):
    def piece(text: str, row: str = "row") -> TurnActivity:
        return TurnActivity("s", "t", row, kind(text), 1, "a")

    whole = joined(piece("a"), piece("b"))
    assert whole is not None and whole.event == kind("ab")
    assert joined(piece("a" * JOINED_CHARS), piece("b")) is None
    assert joined(piece("a"), piece("b", row="other")) is None
