"""The system prompt of templates and layers (contract 06 §12)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.codec import decode, encode
from lash_cli.core.policy import (
    SLOT_ORDER,
    ModelSpec,
    PersistedSessionConfig,
    PromptBuiltinEntry,
    PromptContribution,
    PromptLayer,
    PromptSection,
    PromptSlotEntry,
    PromptTextEntry,
    SessionPolicy,
    SessionSpec,
    persisted_config,
    session_prompt,
)
from lash_cli.core.prompt import STANDARD_BUILTINS, PromptBuiltins, render_prompt

BASE = SessionPolicy(ModelSpec("m"), "p")
BUILTINS = PromptBuiltins("Who.", "How.", "Care.", "Ask first.")


def said(slot: str, text: str, title: str | None = None, priority: int = 0) -> PromptContribution:
    return PromptContribution(slot, text, priority, title)  # type: ignore[arg-type]


def test_the_default_template_has_its_sections_in_order_and_leaves_out_empty_ones() -> None:
    layer = PromptLayer()
    for slot in SLOT_ORDER:
        layer = layer.prompt_contribution(said(slot, f"<{slot}>"))
    assert render_prompt((layer,), builtins=BUILTINS) == "\n\n".join(
        [
            "Who.",
            "<intro>",
            "## Execution",
            "How.",
            "<execution>",
            "## Guidance",
            "Care.",
            "<project_instructions>",
            "<guidance>",
            "## Environment",
            "<runtime_context>",
            "<environment>",
        ]
    )
    assert render_prompt((session_prompt("only this"),)) == "only this"
    assert render_prompt((), builtins=PromptBuiltins(core_guidance="Care.")) == "## Guidance\n\nCare."


def test_the_line_about_asking_is_there_only_where_the_model_can_ask() -> None:
    assert "Ask first." not in render_prompt((), builtins=BUILTINS)
    asking = render_prompt((), builtins=BUILTINS, can_ask=True)
    assert "Care.\nAsk first." in asking and asking.count("Ask first.") == 1
    assert "Ask the user" not in render_prompt((), builtins=STANDARD_BUILTINS)


def test_the_last_template_wins_and_what_it_does_not_name_is_not_shown() -> None:
    mine = (
        PromptSection((PromptTextEntry(" Rules: "), PromptSlotEntry("guidance")), "House"),
        PromptSection((PromptBuiltinEntry("execution_instructions"),)),
    )
    core = PromptLayer().prompt_template((PromptSection((PromptTextEntry("core"),)),))
    session = PromptLayer().prompt_template(mine).prompt_contribution(said("guidance", "be kind", "Tone"))
    turn = PromptLayer().prompt_contribution(said("intro", "unseen"))
    assert render_prompt((core, session, turn), builtins=BUILTINS) == (
        "## House\n\nRules:\n\n### Tone\n\nbe kind\n\nHow."
    )
    assert render_prompt((core, session.prompt_template(None))) == "core"


def test_contributions_belong_to_the_slot_they_are_put_under() -> None:
    layer = PromptLayer().replace_prompt_slot("guidance", said("intro", "g"))
    assert layer.slots["guidance"].contributions[0].slot == "guidance"
    assert render_prompt((layer,)) == "## Guidance\n\ng"


def test_replacing_and_clearing_touch_one_slot_and_adding_keeps_what_is_inherited() -> None:
    outer = PromptLayer().prompt_contribution(said("intro", "outer")).prompt_contribution(said("guidance", "kept"))
    added = PromptLayer().prompt_contribution(said("intro", "inner"))
    assert render_prompt((outer, added)) == "inner\n\nouter\n\n## Guidance\n\nkept"
    assert render_prompt((outer, PromptLayer().clear_prompt_slot("intro"))) == "## Guidance\n\nkept"
    replaced = PromptLayer().replace_prompt_slot("intro", said("intro", "new")).prompt_contribution(said("intro", "x"))
    assert render_prompt((outer, replaced)) == "new\n\nx\n\n## Guidance\n\nkept"
    with pytest.raises(ValueError, match="unknown prompt slot"):
        PromptLayer().clear_prompt_slot("footer")  # type: ignore[arg-type]


_contributions = st.builds(
    PromptContribution,
    st.sampled_from(SLOT_ORDER),
    st.text(max_size=8),
    st.integers(-2, 2),
    st.one_of(st.none(), st.text(max_size=4)),
)


@given(st.lists(_contributions, max_size=8), st.randoms())
def test_neither_order_nor_repetition_changes_a_byte(parts: list[PromptContribution], random: object) -> None:
    shuffled = [*parts, *parts]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def rendered(contributions: list[PromptContribution]) -> str:
        layer = PromptLayer()
        for contribution in contributions:
            layer = layer.prompt_contribution(contribution)
        return render_prompt((layer,))

    assert rendered(parts) == rendered(shuffled)


def test_a_head_of_an_older_release_decodes_and_renders_as_it_did() -> None:
    old = (
        b'{"model":{"id":"m"},"prompt":{"slots":{"intro":{"contributions":[{"content":"be brief","slot":"intro"}],'
        b'"reset":true}}},"provider_id":"p"}'
    )
    config = decode(old, PersistedSessionConfig)
    assert config.prompt == session_prompt("be brief")
    assert json.loads(encode(config)) == json.loads(old)
    assert render_prompt((config.prompt,)) == "be brief"


@pytest.mark.parametrize("inherit", ["core", "stored"])
def test_a_host_that_leaves_the_prompt_out_keeps_the_stored_one(inherit: str) -> None:
    stored = PersistedSessionConfig("p", ModelSpec("m"), prompt=session_prompt("stored"))
    spec = SessionSpec(inherit=inherit)  # type: ignore[arg-type]
    assert spec.resolve_against(BASE, stored).prompt == session_prompt("stored")
    given_one = SessionSpec(inherit=inherit, prompt=session_prompt("given"))  # type: ignore[arg-type]
    assert given_one.resolve_against(BASE, stored).prompt == session_prompt("given")


def test_a_stored_empty_prompt_is_a_choice_and_a_missing_one_is_an_old_head() -> None:
    host = SessionPolicy(ModelSpec("m"), "p", prompt=session_prompt("host"))
    emptied = decode(encode(persisted_config(BASE)), PersistedSessionConfig)
    assert emptied.prompt == PromptLayer()
    assert SessionSpec().resolve_against(host, emptied).prompt == PromptLayer()
    old = PersistedSessionConfig("p", ModelSpec("m"))
    assert SessionSpec().resolve_against(host, old).prompt == session_prompt("host")


def test_a_spec_builds_the_sessions_layer_step_by_step() -> None:
    spec = SessionSpec().prompt_contribution(said("guidance", "a")).clear_prompt_slot("intro")
    assert render_prompt((session_prompt("core"), spec.resolve_against(BASE).prompt)) == "## Guidance\n\na"
