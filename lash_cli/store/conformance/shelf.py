"""Laws of names, labels and costs over sessions (contract 08 §5.1 `rename`, `label`, `usage`, 01 §12)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import ConflictError, NotFoundError, SessionDeleted
from lash_cli.store.base import SessionCreate
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
_DAY_MS = 86_400_000


class ShelfLaws(StoreLaws):
    async def test_names_and_labels_change_while_somebody_holds_the_lane(self) -> None:
        store = self.open_store()
        await store.create_session(SessionCreate(S, make.CONFIG, 1, name="old", labels={"a": "1", "b": "2"}))
        fence = await make.fence_of(store)
        meta = await store.change_meta(S, name="new", labels={"a": "9", "b": None, "c": "3", "d": None}, now_ms=5)
        assert (meta.name, meta.labels) == ("new", {"a": "9", "c": "3"})
        row = await self.open_store().session_row(S)
        assert row is not None and row.meta == meta
        assert [found.session_id for found in await store.find_sessions("new")] == [S]
        assert await store.find_sessions("old") == ()
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
        assert (await store.change_meta(S, now_ms=6)) == meta

    async def test_a_name_of_another_session_is_refused_and_changes_nothing(self) -> None:
        store = self.open_store()
        await store.create_session(SessionCreate("one", make.CONFIG, 1, name="first"))
        await store.create_session(SessionCreate("two", make.CONFIG, 1, name="second"))
        with pytest.raises(ConflictError) as caught:
            await store.change_meta("two", name="first", labels={"a": "b"}, now_ms=5)
        assert caught.value.code == "session_name_taken"
        row = await store.session_row("two")
        assert row is not None and (row.meta.name, row.meta.labels) == ("second", {})
        assert (await store.change_meta("two", name="second", now_ms=5)).name == "second"
        with pytest.raises(ConflictError):
            await store.change_meta("two", name="one", now_ms=5)
        assert (await store.change_meta("two", name="two", now_ms=5)).name == "two", "its own id is nobody else's"
        with pytest.raises(NotFoundError):
            await store.change_meta("absent", name="x", now_ms=5)
        await store.delete_session("two", 1)
        with pytest.raises(SessionDeleted):
            await store.change_meta("two", name="x", now_ms=5)

    async def test_costs_are_summed_by_day_session_source_and_model(self) -> None:
        store = self.open_store()
        for session_id in ("one", "two"):
            await make.create(store, self.clock, session_id)
            fence = await make.fence_of(store, session_id=session_id)
            for number, day in enumerate((0, 0, 3)):
                spent = (make.usage(10 * (number + 1)), TokenLedgerEntry("child", "other", TokenUsage(1, 1, 4, 2)))
                delta = make.append([f"{session_id}-{number}"], frame_id=make.frames(session_id)[0].frame_id)
                commit = make.commit(fence, delta, expected=number or None, usage_deltas=spent)
                await store.commit_runtime_state(msgspec.structs.replace(commit, now_ms=day * _DAY_MS + 5))
        totals = await store.usage_totals()
        assert [(t.day, t.session_id, t.source, t.model) for t in totals] == [
            (day, session_id, source, model)
            for day in (0, 3)
            for session_id in ("one", "two")
            for source, model in (("child", "other"), ("turn", make.MODEL.id))
        ]
        assert totals[0].usage == TokenUsage(2, 2, 8, 4) and totals[0].largest_prompt == 7
        assert totals[1].usage == TokenUsage(30, 2) and totals[1].largest_prompt == 20
        assert {t.session_id for t in await store.usage_totals(session_id="two")} == {"two"}
        assert {t.day for t in await store.usage_totals(since_ms=3 * _DAY_MS)} == {3}
        with pytest.raises(NotFoundError):
            await store.usage_totals(session_id="absent")
