"""The model is resolved once, at open: everything that asks for it gets the same answer (contract 01 §0.9, §3)."""

from __future__ import annotations

from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import DirectRequest, ModelLimits, ModelSpec, OpenAgentFrameRequest, TurnInput
from lash_cli.core.content import user_message
from lash_cli.plugins.rolling_history import RollingHistory

FIRST = ModelSpec("model-1", limits=ModelLimits(context_window_tokens=50_000))
SECOND = ModelSpec("model-2", limits=ModelLimits(context_window_tokens=80_000))


class Noting(RollingHistory):
    """Remembers the window that its decisions were made for."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[int | None] = []

    def prepare_turn(self, messages, moment):
        self.windows.append(moment.limits.context_window_tokens)
        return super().prepare_turn(messages, moment)

    async def compact(self, context):
        self.windows.append(context.moment.limits.context_window_tokens)
        return await super().compact(context)


async def test_after_an_open_with_another_model_all_that_ask_for_it_agree_and_old_frames_keep_theirs(make_core) -> None:
    async with await make_core(ScriptedCaller([text("ok")], repeat=True), model=FIRST).open_session(S) as session:
        await session.turn("one").run()
        await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
        await session.turn("two").run()
        await session.turn("three").run()
    caller, noting = ScriptedCaller([text("ok")], repeat=True), Noting()
    core = make_core(caller, model=SECOND, context=[noting])
    session = await core.open_session(S)
    assert session.policy_snapshot.model == SECOND
    await session.turn("four").run()
    await session.admin().compact_context()
    await session.direct_completion(DirectRequest((user_message("m", TurnInput.text("aside")),)))
    asked = [(request.scope.session_id, request.model) for request in caller.requests]
    assert asked == [(S, SECOND), (f"{S}-compaction", SECOND), (S, SECOND)]
    assert set(noting.windows) == {80_000}
    assert (await core.observe(S).policy_snapshot()).model == SECOND
    booked = {(entry.source, entry.model) for entry in session.usage_report().by_source_model}
    assert booked == {("turn", "model-1"), ("turn", "model-2"), ("compaction", "model-2"), ("direct", "model-2")}
    models = [frame.assignment.policy.model.id for frame in session.read_view().frames]
    assert models == ["model-1", "model-2", "model-2"]
    assert (await core.store.session_row(S)).config.model == SECOND
