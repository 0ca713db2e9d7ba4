"""Laws of attachments (contract 01 §9.7, 05 §1.5), for any backend.

A backend's test module subclasses `AttachmentLaws` and provides `open_store`,
which opens one more handle of the same storage, and `clock`.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from lash_cli.core.content import AttachmentItem, Stored, TurnInput
from lash_cli.core.ingress import ByInputId, InputDraft, NextTurn
from lash_cli.errors import NotFoundError, SessionDeleted, UsageError
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

SESSION = "s-attach"
OTHER = "s-other"
PNG = "image/png"


async def _is_unreachable(store: RuntimePersistence, session_id: str, attachment_ref: str) -> bool:
    try:
        await store.get_attachment(session_id, attachment_ref)
    except NotFoundError as error:
        return error.code == "attachment_not_found"
    return False


class AttachmentLaws(StoreLaws):
    """Write-ahead intents, content addresses, and a manifest per session."""

    async def test_bytes_come_back_under_the_digest_of_their_content(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        for data in (b"", b"x", bytes(range(256)) * 8192):
            reference = await store.put_attachment(SESSION, data, media_type=PNG, owner=None, now_ms=1)
            assert reference == f"sha256:{sha256(data).hexdigest()}"
            assert await self.open_store().get_attachment(SESSION, reference) == data

    async def test_a_session_reaches_only_what_its_own_manifest_names(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        await make.create(store, self.clock, OTHER)
        reference = await store.put_attachment(SESSION, b"secret", media_type=PNG, owner=None, now_ms=1)
        assert await _is_unreachable(store, OTHER, reference)
        assert await _is_unreachable(store, SESSION, "sha256:" + "0" * 64)
        await store.put_attachment(OTHER, b"secret", media_type=PNG, owner=None, now_ms=1)
        assert await store.get_attachment(OTHER, reference) == b"secret"

    async def test_the_manifest_tells_what_is_uncommitted_and_whose_it_is(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        reference = await store.put_attachment(
            SESSION, b"x", media_type="Image/PNG", owner=("turn", "t1"), now_ms=7, label="plot"
        )
        (row,) = await self.open_store().list_attachments(SESSION, uncommitted_only=True)
        assert row == {
            "attachment_ref": reference,
            "media_type": PNG,
            "byte_len": 1,
            "label": "plot",
            "intent_at_ms": 7,
            "committed_at_ms": None,
            "owner_kind": "turn",
            "owner_id": "t1",
        }

    async def test_the_same_bytes_put_again_are_one_intent_of_the_latest_owner(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        await store.put_attachment(SESSION, b"x", media_type=PNG, owner=("turn", "t1"), now_ms=7)
        await store.put_attachment(SESSION, b"x", media_type=PNG, owner=("turn", "t2"), now_ms=9)
        (row,) = await store.list_attachments(SESSION)
        assert (row["owner_id"], row["intent_at_ms"]) == ("t2", 9)

    async def test_only_aged_intents_are_forgotten(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        old = await store.put_attachment(SESSION, b"old", media_type=PNG, owner=None, now_ms=10)
        dead = await store.put_attachment(SESSION, b"dead", media_type=PNG, owner=("turn", "gone"), now_ms=10)
        unknown = await store.put_attachment(SESSION, b"proc", media_type=PNG, owner=("process", "p1"), now_ms=10)
        young = await store.put_attachment(SESSION, b"young", media_type=PNG, owner=None, now_ms=20)
        assert await store.forget_aged_uncommitted(20) == 2
        assert await store.forget_aged_uncommitted(20) == 0
        assert {row["attachment_ref"] for row in await store.list_attachments(SESSION)} == {unknown, young}
        assert await _is_unreachable(store, SESSION, old)
        assert await _is_unreachable(store, SESSION, dead)

    async def test_what_an_input_waits_with_is_kept_whoever_put_the_same_bytes_last(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        reference = await store.put_attachment(SESSION, b"x", media_type=PNG, owner=None, now_ms=7)
        picture = AttachmentItem(Stored(reference, PNG, 1))
        await store.enqueue_turn_input(InputDraft(SESSION, "i1", TurnInput((picture,)), NextTurn()))
        await store.put_attachment(SESSION, b"x", media_type=PNG, owner=("turn", "gone"), now_ms=9)
        assert await store.forget_aged_uncommitted(20) == 0
        assert await store.get_attachment(SESSION, reference) == b"x"
        cancelled_ms = self.clock.now_ms()
        await store.cancel_turn_inputs(SESSION, [ByInputId("i1")])
        # It may be put back, by an edit of the queue.
        assert await store.forget_aged_uncommitted(cancelled_ms) == 0
        assert await store.forget_aged_uncommitted(cancelled_ms + 1) == 1

    @pytest.mark.parametrize("media_type", ["", "png", "image/", "image/png; q=1", "a/b/c", "image /png"])
    async def test_a_malformed_media_type_is_refused_and_nothing_is_stored(self, media_type: str) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        with pytest.raises(UsageError) as caught:
            await store.put_attachment(SESSION, b"x", media_type=media_type, owner=None, now_ms=1)
        assert caught.value.code == "attachment_media_type_invalid"
        assert await store.list_attachments(SESSION) == ()

    async def test_an_unknown_and_a_deleted_session_are_told_apart(self) -> None:
        store = self.open_store()
        with pytest.raises(NotFoundError) as caught:
            await store.put_attachment(SESSION, b"x", media_type=PNG, owner=None, now_ms=1)
        assert caught.value.code == "session_not_found"
        await make.create(store, self.clock, SESSION)
        reference = await store.put_attachment(SESSION, b"x", media_type=PNG, owner=None, now_ms=1)
        await store.delete_session(SESSION, self.clock.now_ms())
        with pytest.raises(SessionDeleted):
            await store.get_attachment(SESSION, reference)
