"""A transcript is read page by page, and what is said meanwhile moves none of them (contract 04 §8)."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, ModelSpec, ObservableSession, OpenAgentFrameRequest, TranscriptPage
from lash_cli.core.content import message_text
from lash_cli.errors import LiveReplayClosed, NotFoundError, UsageError


def said(page: TranscriptPage) -> list[str]:
    return [message_text(message) for message in page.messages]


async def turns(session: Any, *prompts: str) -> None:
    for prompt in prompts:
        await session.turn(prompt).run()


async def all_of(watched: ObservableSession, limit: int) -> list[list[str]]:
    page = await watched.page(limit=limit)
    pages = [said(page)]
    while page.before is not None:
        page = await watched.page(page.before, limit=limit)
        pages.append(said(page))
    return pages


@pytest.fixture(params=["stored", "resident"])
def core(request: pytest.FixtureRequest, make_core) -> LashCore:
    caller = ScriptedCaller([text("ok")], repeat=True)
    if request.param == "stored":
        stored: LashCore = make_core(caller)
        return stored
    return LashCore(provider=caller, model=ModelSpec("model-1"))


async def test_the_pages_together_are_the_transcript_newest_first(core: LashCore) -> None:
    async with await core.open_session("s1") as session:
        watched = session.observe()
        assert await watched.page() == TranscriptPage(())
        await turns(session, "one", "two", "three")
        whole = [message_text(message) for message in session.read_view().messages][::-1]
        assert whole[:2] == ["ok", "three"]
        for limit in range(1, 8):
            pages = await all_of(watched, limit)
            assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
            assert pages[-1] and [message for page in pages for message in page] == whole
        assert (await watched.page()).before is None


async def test_what_is_said_meanwhile_moves_no_page(core: LashCore) -> None:
    async with await core.open_session("s1") as session:
        watched = session.observe()
        await turns(session, "one", "two")
        newest = await watched.page(limit=2)
        await turns(session, "three")
        assert newest.before is not None
        assert said(await watched.page(newest.before, limit=2)) == ["ok", "one"]
        assert said(await watched.page(limit=2)) == ["ok", "three"]


async def test_a_page_stays_in_the_frame_it_began_in(core: LashCore) -> None:
    async with await core.open_session("s1") as session:
        watched = session.observe()
        await turns(session, "one", "two")
        old = await watched.page(limit=2)
        await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "continue_as"))
        assert await watched.page() == TranscriptPage(())
        await turns(session, "three")
        assert said(await watched.page()) == ["ok", "three"]
        assert said(await watched.page(old.before)) == ["ok", "one"]


async def test_what_is_no_node_and_what_is_no_page_is_refused(core: LashCore) -> None:
    async with await core.open_session("s1") as session:
        watched = session.observe()
        await turns(session, "one")
        with pytest.raises(NotFoundError) as unknown:
            await watched.page("nobody")
        assert unknown.value.code == "node_not_found"
        with pytest.raises(UsageError):
            await watched.page(limit=0)


async def test_a_page_of_a_long_transcript_reads_no_more_than_itself(make_core, monkeypatch) -> None:
    core = make_core(ScriptedCaller([text("ok")], repeat=True))
    async with await core.open_session("s1") as session:
        await turns(session, *map(str, range(12)))
    read: list[str] = []
    load_node = core.store.load_node

    async def counted(session_id: str, node_id: str) -> Any:
        read.append(node_id)
        return await load_node(session_id, node_id)

    monkeypatch.setattr(core.store, "load_node", counted)
    page = await core.observe("s1").page(limit=4)
    assert len(page.messages) == 4 and 4 <= len(read) <= 6


async def test_a_deleted_session_has_no_pages(make_core) -> None:
    core = make_core(ScriptedCaller([text("ok")], repeat=True))
    async with await core.open_session("s1") as session:
        await turns(session, "one")
    watched = core.observe("s1")
    await core.delete_session("s1")
    with pytest.raises(LiveReplayClosed):
        await watched.page()
