"""Random lives of a history: what one handle holds, what another process reads and what the store has are the same
after every change, and no change edits a node (contract 01 §8.2, §10)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.driving import S, said
from support.made_files import lay
from support.scripted import ScriptedCaller, text

from lash_cli import LashCore, LashSession, Message, OpenAgentFrameRequest, SqliteStore
from lash_cli.core.content import Role, TextPart
from lash_cli.core.graph import ConversationPayload, SessionNode
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import ConflictError
from lash_cli.system import SystemClock, SystemIds

Step = tuple[str, int]

steps = st.tuples(
    st.sampled_from(
        ["turn", "turn", "turn_elsewhere", "branch", "append", "record", "replace", "frame", "apply", "reset"]
    ),
    st.integers(0, 9),
)


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def user(words: str) -> Message:
    return Message("", Role.USER, (TextPart(words),))


class Life:
    """One session, a handle that keeps all of it, and another process."""

    def __init__(self, core: LashCore, other: LashCore, session: LashSession) -> None:
        self.core, self.other, self.session = core, other, session
        self.states: list[Any] = []
        self.known: dict[str, SessionNode] = {}
        self.count = 0

    async def step(self, verb: str, choice: int) -> None:
        """Do one thing; what the rules forbid changes nothing."""
        self.count += 1
        admin, word = self.session.admin(), f"w{self.count}"
        spoken = list(self.session.read_view().messages)
        match verb:
            case "turn":
                await self.session.turn(word).run()
            case "turn_elsewhere":
                async with await self.other.open_session(S) as stranger:
                    await stranger.turn(word).run()
                await self.session.refresh()
            case "branch" if self.known:
                try:
                    await admin.branch_to_node(list(self.known)[choice % len(self.known)])
                except ConflictError:
                    return
            case "append":
                await admin.append_messages([user(word)])
            case "record":
                await admin.append_plugin_body("notebook", self.count)
            case "replace":
                wanted = [*spoken[: choice % (len(spoken) + 1)], *map(user, [word][choice % 2 :])]
                await admin.replace_active_read_state(wanted)
                assert said(self.session.read_view().messages) == said(wanted)
            case "frame":
                first = (ConversationPayload(user(word)),) if choice % 2 else ()
                await admin.open_agent_frame(OpenAgentFrameRequest(word, "test", first))
            case "apply" if self.states:
                state = self.states[choice % len(self.states)]
                await admin.apply_persistence_state(state)
                self.known = {}
            case "reset":
                await self.session.commands().reset("test", word)
                await self.session.queued_turn().run()
                self.known = {}

    async def check(self) -> None:
        """What everybody sees is one history, and it holds what it held."""
        view = self.session.read_view()
        if view.head_revision is None:
            return
        graph = await self.core.session_graph(S)
        assert view.session_graph() == graph
        observed = await self.other.observe(S).read_view()
        assert view.active_events() == observed.active_events()
        assert view.chronological_projection() == observed.chronological_projection()
        assert tuple(view.messages) == tuple(observed.messages)
        async with await self.other.open_session(S) as stranger:
            assert tuple(stranger.read_view().messages) == tuple(view.messages)
        state = await self.session.admin().export_persistence_state()
        assert (state.nodes, state.frames, state.leaf_node_id) == (graph.nodes, view.frames, graph.leaf_node_id)
        self.states.append(state)
        now = {node.node_id: node for node in graph.nodes}
        assert now.items() >= self.known.items(), "no node is edited or lost"
        self.known = now


async def live(home: Path, script: list[Step]) -> None:
    """Let a script happen and look after every step."""

    def core(**options: Any) -> LashCore:
        store = SqliteStore.open(lay(home / "lash.db"), clock=SystemClock(), ids=SystemIds())
        return LashCore(provider=echo(), model=ModelSpec("m"), store=store, queue_driver="none", **options)

    async with core(residency="keep_all") as keeping, core() as other:
        life = Life(keeping, other, await keeping.open_session(S))
        for verb, choice in script:
            await life.step(verb, choice)
            await life.check()


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, min_size=2, max_size=9))
def test_every_view_of_a_history_is_the_same_and_no_node_is_edited(script: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(live(Path(home), script))
