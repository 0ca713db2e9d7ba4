"""Laws of search: everything committed is found, once, and nothing that is gone (contract 08 §5.1 `search`)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.commit import Append, ReplaceFull, Unchanged
from lash_cli.core.content import Message, ProsePart, ReasoningPart, Role, ToolResultPart
from lash_cli.core.frames import initial_frame_id
from lash_cli.core.graph import chain
from lash_cli.core.search import parse_query
from lash_cli.errors import UsageError
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionCreate, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, StoreLaws
from lash_cli.store.conformance.forks import fork
from lash_cli.store.shelf_records import FoundMessage, SearchPage, SearchRequest

S = make.SESSION


async def say(
    store: RuntimePersistence,
    clock: MovableClock,
    *texts: str,
    session_id: str = S,
    role: Role = Role.USER,
    at_ms: int = 1,
    prefix: str = "m",
) -> list[str]:
    """Append messages to a session, which is made if it is new; their node ids."""
    row = await store.session_row(session_id)
    if row is None:
        await store.create_session(SessionCreate(session_id, make.CONFIG, clock.now_ms()))
        row = await store.session_row(session_id)
    assert row is not None
    head = await store.load_session(session_id, ReadScope.FULL_GRAPH)
    start = 0 if head is None else len(head.nodes)
    frame_id = initial_frame_id(session_id) if head is None else head.frames[-1].frame_id
    messages = [make.message(f"{session_id}-{prefix}{start + index}", text, role) for index, text in enumerate(texts)]
    nodes = chain(messages, parent_node_id=row.leaf_node_id, agent_frame_id=frame_id, at_ms=at_ms)
    fence = await make.fence_of(store, session_id=session_id)
    delta = Append(nodes, nodes[-1].node_id)
    await store.commit_runtime_state(make.commit(fence, delta, expected=row.head_revision, release=True))
    return [node.node_id for node in nodes]


async def search(store: RuntimePersistence, query: str, **more: object) -> SearchPage:
    """One page of what matches."""
    request: dict[str, object] = {"limit": 100, **more}
    return await store.search_messages(SearchRequest(parse_query(query), **request))  # type: ignore[arg-type]


async def found(store: RuntimePersistence, query: str, **more: object) -> list[str]:
    """Node ids of what matches."""
    return [hit.node_id for hit in (await search(store, query, **more)).found]


def marked(hit: FoundMessage) -> list[str]:
    """The words of a snippet that matched."""
    return [hit.snippet[start:end] for start, end in hit.marks]


class SearchLaws(StoreLaws):
    @pytest.mark.parametrize(
        ("text", "query", "other"),
        [
            ("今日は天気がいいですね", "天気", "気天"),
            ("我们明天去北京开会", "北京", "京北"),
            ("학교에서 만나요", "학교", "교학"),
            ("ฉันรักประเทศไทยมาก", "ประเทศ", "เทศประ"),
        ],
    )
    async def test_a_word_is_found_inside_a_sentence_that_has_no_spaces(
        self, text: str, query: str, other: str
    ) -> None:
        store = self.open_store()
        mixed, _ = await say(store, self.clock, f"see path.py: {text} (ok)", "something else")
        (hit,) = (await search(store, query)).found
        assert hit.node_id == mixed and text in hit.snippet and marked(hit) == [query]
        assert await found(store, text) == await found(store, f"path.py {query}") == [mixed]
        assert await found(store, other) == await found(store, f"path.py -{query}") == []
        assert await found(store, f"{query}*") == [mixed]

    async def test_words_phrases_beginnings_and_exclusions(self) -> None:
        store = self.open_store()
        one, two, three = await say(
            store, self.clock, "The separator in src/paths.py", "A path of séparateurs", "nothing here: AND OR NEAR( *"
        )
        assert await found(store, "separator") == [one]
        assert await found(store, "SEPARATEURS") == [two]
        assert await found(store, "separ*") == [two, one]
        assert await found(store, "sep*ar") == []
        assert await found(store, "separ* -path") == [one]
        assert await found(store, '"separator in"') == [one]
        assert await found(store, '"in separator"') == []
        assert await found(store, "src/paths.py") == [one]
        assert await found(store, "AND") == [three]
        assert await found(store, 'near" or') == [three]
        for nothing in ("a:b", "tags:roleuser", "{tags}", "^none", "a + b", "x\0y", "NOT", "roleuser"):
            assert await found(store, nothing) == [], nothing
        assert await found(store, "separ* " + " ".join(["-x"] * 330)) == [two, one]
        assert await found(store, " ".join("a" * 500)) == [two]
        for empty in ("", '"', "( )", "-path", "*", "a" * 1001):
            with pytest.raises(UsageError):
                parse_query(empty)

    async def test_a_hit_tells_the_session_the_place_and_what_stands_around(self) -> None:
        store = self.open_store()
        ids = await say(store, self.clock, "first", "second", "the needle in hay", "fourth", "fifth", at_ms=77)
        page = await search(store, "needle", context=1)
        (hit,) = page.found
        assert (hit.session_id, hit.node_id, hit.role, hit.at_ms) == (S, ids[2], Role.USER, 77)
        assert (hit.snippet, marked(hit), hit.is_on_path) == ("the needle in hay", ["needle"], True)
        assert [near.text for near in hit.earlier] == ["second"] and [near.text for near in hit.later] == ["fourth"]
        wide = (await search(store, "needle", context=9)).found[0]
        assert [near.node_id for near in wide.earlier] == ids[:2] and [near.node_id for near in wide.later] == ids[3:]

    async def test_only_what_was_said_is_searched(self) -> None:
        store = self.open_store()
        await say(store, self.clock, "hello")
        message = Message(
            "m-parts",
            Role.ASSISTANT,
            (ReasoningPart("secretly"), ProsePart("openly"), ToolResultPart("c", "t", "returned")),
        )
        nodes = chain([message], parent_node_id="s1-m0", agent_frame_id=initial_frame_id(S), at_ms=1)
        fence = await make.fence_of(store)
        await store.commit_runtime_state(make.commit(fence, Append(nodes, "m-parts"), expected=1))
        assert await found(store, "openly") == ["m-parts"]
        assert await found(store, "secretly") == await found(store, "returned") == []

    async def test_filters_and_pages(self) -> None:
        store = self.open_store()
        await store.create_session(SessionCreate("here", make.CONFIG, 1, cwd="/here"))
        await store.create_session(SessionCreate("there", make.CONFIG, 1, cwd="/there"))
        old = await say(store, self.clock, "word one", "word two", session_id="here", at_ms=1_000)
        new = await say(store, self.clock, "word three", session_id="there", role=Role.ASSISTANT, at_ms=2_000)
        assert await found(store, "word") == [*new, *reversed(old)]
        assert await found(store, "word", cwd="/here") == old[::-1]
        assert await found(store, "word", cwd="/nowhere") == []
        assert await found(store, "word", roles=(Role.ASSISTANT,)) == new
        assert await found(store, "word", roles=(Role.SYSTEM, Role.EVENT)) == []
        assert await found(store, "word", since_ms=1_001) == new
        assert await found(store, "word", since_ms=1_000) == [*new, *reversed(old)]
        seen: list[str] = []
        before = None
        while True:
            page = await search(store, "word", limit=1, before=before)
            seen += [hit.node_id for hit in page.found]
            before = page.next_before
            if before is None:
                break
        assert seen == [*new, *reversed(old)]

    async def test_what_is_committed_later_is_found_by_every_handle(self) -> None:
        store, other = self.open_store(), self.open_store()
        first = await say(store, self.clock, "needle")
        assert await store.index_messages() == 1
        assert await store.index_messages() == 0
        second = await say(other, self.clock, "another needle")
        assert await found(store, "needle") == await found(other, "needle") == [*second, *first]

    async def test_more_than_one_batch_is_indexed_once(self) -> None:
        store, other = self.open_store(), self.open_store()
        for part in range(3):
            await say(store, self.clock, *(f"needle {part} {index}" for index in range(300)))
        assert sum(await asyncio.gather(store.index_messages(), other.index_messages())) == 900
        assert await store.index_messages() == await other.index_messages() == 0
        ids = await found(store, "needle", limit=2000)
        assert len(ids) == len(set(ids)) == 900

    async def test_messages_of_times_that_cannot_be_are_found_in_their_order(self) -> None:
        store = self.open_store()
        ids = []
        # Of a self.clock that was wrong by centuries, or of an archive whose times are in other units.
        for at_ms in (-9, -5, 0, 7, 1 << 43, (1 << 43) + 5, (1 << 60)):
            ids += await say(store, self.clock, f"needle at {at_ms}", at_ms=at_ms)
        assert await found(store, "needle") == ids[::-1]
        ids += await say(store, self.clock, "needle again", at_ms=(1 << 43) + 1)
        assert await found(store, "needle") == ids[::-1]

    async def test_a_deleted_session_is_not_found_any_more(self) -> None:
        store = self.open_store()
        await say(store, self.clock, "needle")
        assert len(await found(store, "needle")) == 1
        await store.delete_session(S, 9)
        assert await found(store, "needle") == []

    async def test_what_is_hidden_is_not_found_and_what_was_left_behind_says_so(self) -> None:
        store = self.open_store()
        await say(store, self.clock, "needle one", "needle two")
        fence = await make.fence_of(store)
        await store.commit_runtime_state(make.commit(fence, Unchanged("s1-m0"), expected=1, release=True))
        page = await search(store, "needle")
        assert [(hit.node_id, hit.is_on_path) for hit in page.found] == [("s1-m1", False), ("s1-m0", True)]
        await store.tombstone_nodes(S, ["s1-m1"])
        assert await found(store, "needle") == ["s1-m0"]
        await store.vacuum(S)
        assert await found(store, "needle") == ["s1-m0"]
        replacing = chain(
            [make.message("fresh", "needle again")], parent_node_id=None, agent_frame_id=initial_frame_id(S), at_ms=2
        )
        fence = await make.fence_of(store)
        await store.commit_runtime_state(
            make.commit(fence, ReplaceFull(replacing, "fresh"), with_frames=make.frames(), release=True)
        )
        assert await found(store, "needle") == ["fresh"]

    async def test_what_forks_share_is_found_once_and_outlives_its_session(self) -> None:
        store = self.open_store()
        await say(store, self.clock, "needle shared", "needle own")
        await store.fork_session(SessionFork(S, "fork", self.clock.now_ms(), "s1-m0"))
        await say(store, self.clock, "needle of fork", session_id="fork", prefix="f")
        page = await search(store, "needle", context=1)
        told = {hit.snippet: hit.session_id for hit in page.found}
        assert told == {"needle shared": S, "needle own": S, "needle of fork": "fork"} and len(page.found) == 3
        of_fork = next(hit for hit in page.found if hit.session_id == "fork")
        assert [near.text for near in of_fork.earlier] == ["needle shared"]
        await store.delete_session(S, 9)
        told = {hit.snippet: hit.session_id for hit in (await search(store, "needle")).found}
        assert told == {"needle shared": "fork", "needle of fork": "fork"}

    async def test_what_is_hidden_and_beside_the_path_of_a_fork_is_found_for_nobody(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock)
        assert set(await found(store, "text")) == {"m1", "m2", "m3", "b2"}
        await store.tombstone_nodes(S, ["m2"])
        assert set(await found(store, "text")) == {"m1", "b2"}

    async def test_what_only_forks_show_is_found_when_nobody_searched_before(self) -> None:
        store = self.open_store()
        await say(store, self.clock, "needle shared")
        await store.fork_session(SessionFork(S, "fork", self.clock.now_ms()))
        await store.delete_session(S, 9)
        assert [hit.session_id for hit in (await search(store, "needle")).found] == ["fork"]
