"""Laws of session rows: ids used once, names, listing, lookup, flags (contract 01 §1.4, §9.1, §9.8, design D7)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lash_cli.core.codec import sha256_hex
from lash_cli.core.effect import CanonicalEnvelope, TurnScope, scope_key
from lash_cli.core.wait import CustomWait, ResolvedOk
from lash_cli.errors import ConflictError, LashError, NotFoundError, SessionDeleted, SessionExecutionBusy, UsageError
from lash_cli.store.base import JournalClaim, LaneBusy, ReadScope, SessionCreate
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION


class SessionLaws(StoreLaws):
    async def test_creation_is_idempotent_by_id_and_names_are_unique(self) -> None:
        store = self.open_store()
        first = await store.create_session(SessionCreate("a", make.CONFIG, 1, labels={"k": "v"}))
        again = await self.open_store().create_session(SessionCreate("a", make.CONFIG, 2, name="other"))
        assert again == first and first.labels == {"k": "v"}
        named = await store.create_session(SessionCreate("b", make.CONFIG, 1, name="mine"))
        assert named.name == "mine"
        with pytest.raises(ConflictError) as caught:
            await store.create_session(SessionCreate("c", make.CONFIG, 1, name="mine"))
        assert caught.value.code == "session_name_taken"
        others = [await store.create_session(SessionCreate(f"x{index}", make.CONFIG, 1)) for index in range(8)]
        assert len({meta.name for meta in others}) == 8

    async def test_a_deleted_id_is_gone_for_ever(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        with pytest.raises(SessionExecutionBusy) as refused:
            await store.delete_session(S, 1)
        holder = refused.value.details["holder"]
        assert (holder["owner_id"], holder["fencing_token"]) == (fence.owner_id, fence.fencing_token)
        assert {"pid", "label", "expires_at_ms", "turn_id"} <= set(holder)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=make.stamp(), release=True))
        assert await store.delete_session(S, 1)
        assert await store.delete_session(S, 1)
        assert not await store.delete_session("never", 1)
        assert await store.session_row("never") is None
        for attempt in (
            make.create(store, self.clock),
            store.session_row(S),
            store.load_session(S, ReadScope.FULL_GRAPH),
            store.open_lane(make.lane_request(self.clock)),
            store.try_claim_lease(S, make.owner(), ttl_ms=1, token="x"),
            store.request_turn_cancel(S, "t1", make.evidence(), 1),
            store.commit_runtime_state(make.commit(fence, make.append(["m1"]))),
        ):
            with pytest.raises(SessionDeleted):
                await attempt

    async def test_deletion_takes_the_journal_and_waits_of_that_session_only(self) -> None:
        store = self.open_store()
        scopes = [TurnScope(session_id, "t1") for session_id in ("s1", "s10", "s")]
        for scope in scopes:
            await make.create(store, self.clock, scope.session_id)
            claim = JournalClaim(
                scope_key=scope_key(scope),
                session_id=scope.session_id,
                replay_key="k",
                envelope=CanonicalEnvelope(b"{}", sha256_hex(b"{}")),
                owner="o",
                token="t",
                ttl_ms=make.TTL_MS,
                now_ms=self.clock.now_ms(),
            )
            assert (await store.journal_prepare(claim)).kind == "claimed"
        key = await store.wait_key(scopes[0], CustomWait("x"))
        await store.register_wait(key, None, self.clock.now_ms())
        assert await store.delete_session("s1", 1)
        assert [len(await store.journal_rows(scope_key(scope))) for scope in scopes] == [0, 1, 1]
        assert (await store.resolve_wait(key, ResolvedOk(1), self.clock.now_ms())).kind == "unknown_or_revoked"

    async def test_an_absent_session_is_not_found(self) -> None:
        store = self.open_store()
        for attempt in (store.head_position("no"), store.open_lane(make.lane_request(self.clock, session_id="no"))):
            with pytest.raises(NotFoundError) as caught:
                await attempt
            assert caught.value.code == "session_not_found"

    async def test_listing_pages_through_every_session_newest_activity_first(self) -> None:
        store = self.open_store()
        for index in range(7):
            await store.create_session(SessionCreate(f"s{index}", make.CONFIG, index // 2))
        await make.take(store, session_id="s3")
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, session_id="s1")))
        assert lane.lease is not None
        await store.commit_runtime_state(
            make.commit(make.fence_of_lane(lane), make.append(["m"], frame_id="s1:frame:initial"), now_ms=99)
        )
        seen: list[str] = []
        cursor = None
        while True:
            rows, cursor = await store.list_sessions(limit=3, cursor=cursor)
            seen += [row.meta.session_id for row in rows]
            if cursor is None:
                break
        assert seen == ["s1", "s6", "s5", "s4", "s3", "s2", "s0"]
        assert (await store.list_sessions(limit=7))[1] is None, "there is nothing behind the last one"
        rows, _ = await store.list_sessions(limit=1)
        assert (rows[0].running_turn_id, rows[0].head_revision, rows[0].pending_inputs) == ("t1", 1, 0)
        for cursor in ("nonsense", "1", "1.", f"{2**63}.1", f"1.{2**63}"):
            with pytest.raises(LashError) as caught:
                await store.list_sessions(limit=3, cursor=cursor)
            assert caught.value.code == "cursor_invalid"

    @pytest.mark.parametrize("changes", [{"name": "n\ud800"}, {"labels": {"team": "\udfff"}}, {"cwd": "/\ud83d"}])
    async def test_a_text_with_half_a_character_is_a_usage_error_and_changes_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        store = self.open_store()
        with pytest.raises(UsageError) as caught:
            await store.create_session(msgspec.structs.replace(SessionCreate("s1", make.CONFIG, 1), **changes))
        assert caught.value.code == "text_not_utf8"
        assert await store.session_row("s1") is None
        await store.create_session(SessionCreate("s1", make.CONFIG, 1))
        assert await store.session_row("s1") is not None
        for session_id, turn_id in (("s1", "\ud800"), ("\ud800", "t1")):
            with pytest.raises(UsageError) as caught:
                await store.cancel_gate(session_id, turn_id)
            assert caught.value.code == "text_not_utf8"

    async def test_a_number_beyond_64_bits_is_a_usage_error_and_changes_nothing(self) -> None:
        store = self.open_store()
        await store.create_session(SessionCreate("s1", make.CONFIG, 1))
        with pytest.raises(UsageError) as caught:
            await store.create_session(SessionCreate("s2", make.CONFIG, 2**63))
        assert caught.value.code == "number_out_of_range"
        with pytest.raises(UsageError):
            await store.turns("s1", limit=3, before=2**63)
        assert await store.session_row("s2") is None
        await store.create_session(SessionCreate("s2", make.CONFIG, 2))

    async def test_a_reference_finds_the_best_kind_only(self) -> None:
        store = self.open_store()
        for session_id, name in (("abc", "x"), ("abd", "ab"), ("ab", "y")):
            await store.create_session(SessionCreate(session_id, make.CONFIG, 1, name=name))
        found = {
            reference: [meta.session_id for meta in await store.find_sessions(reference)]
            for reference in ("ab", "x", "a", "zz")
        }
        assert found == {"ab": ["ab"], "x": ["abc"], "a": ["ab", "abc", "abd"], "zz": []}

    async def test_a_closed_session_offers_no_lane(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.set_session_flags(S, closed_at_ms=3, parked_at_ms=None)
        with pytest.raises(LashError) as caught:
            await store.open_lane(make.lane_request(self.clock))
        assert caught.value.code == "session_closed"
        await store.set_session_flags(S, closed_at_ms=None, parked_at_ms=None)
        assert not isinstance(await store.open_lane(make.lane_request(self.clock)), LaneBusy)
