"""Policies, specs and the layered prompt (contract 01 §3, 06 §12)."""

import msgspec
import pytest

from lash_cli.core.codec import decode, encode
from lash_cli.core.policy import (
    ModelLimits,
    ModelSpec,
    PromptContribution,
    PromptLayer,
    PromptSlotLayer,
    SessionConfigPatch,
    SessionPolicy,
    SessionSpec,
    persisted_config,
    session_prompt,
)
from lash_cli.core.prompt import render_prompt

BASE = SessionPolicy(ModelSpec("host"), "openai", max_turns=5)
STORED = persisted_config(SessionPolicy(ModelSpec("stored"), "anthropic", max_turns=9))


def layer(slot: str, *contributions: PromptContribution, reset: bool = False) -> PromptLayer:
    return PromptLayer({slot: PromptSlotLayer(contributions, reset)})


def intro(text: str, priority: int = 0, title: str | None = None) -> PromptContribution:
    return PromptContribution("intro", text, priority, title)


@pytest.mark.parametrize("name", ["", " ", "gpt 5", "gpt\n5"])
def test_a_model_id_is_non_empty_and_free_of_white_space(name: str) -> None:
    with pytest.raises(ValueError, match="model id"):
        ModelSpec(name)


@pytest.mark.parametrize("field", ["context_window_tokens", "output_token_capacity"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_of_zero_and_below_are_refused_also_at_decode(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        ModelLimits(**{field: value})
    with pytest.raises(msgspec.ValidationError, match=field):
        decode(encode({field: value}), ModelLimits)


def test_decoding_a_policy_refuses_unknown_fields() -> None:
    with pytest.raises(msgspec.ValidationError, match="provider"):
        decode(b'{"model":{"id":"m"},"provider_id":"p","provider":{}}', SessionPolicy)


def test_an_unset_spec_takes_everything_from_the_host() -> None:
    assert SessionSpec().resolve_against(BASE, STORED) == BASE


def test_a_spec_that_inherits_from_the_store_takes_unset_fields_from_there() -> None:
    policy = SessionSpec(inherit="stored", model=ModelSpec("asked")).resolve_against(BASE, STORED)
    assert (policy.model.id, policy.provider_id, policy.max_turns) == ("asked", "anthropic", 9)


def test_inheriting_from_an_absent_store_falls_back_to_the_host() -> None:
    assert SessionSpec(inherit="stored").resolve_against(BASE, None) == BASE


def test_clearing_the_limit_differs_from_leaving_it() -> None:
    assert SessionSpec(max_turns=None).resolve_against(BASE).max_turns is None
    assert SessionSpec().resolve_against(BASE).max_turns == 5
    assert SessionConfigPatch(max_turns=None).apply(BASE).max_turns is None
    assert SessionConfigPatch().apply(BASE) == BASE


def test_the_provider_id_is_trimmed_at_open_and_by_configure() -> None:
    assert SessionSpec(provider_id=" google ").resolve_against(BASE).provider_id == "google"
    assert SessionConfigPatch(provider_id=" google ").apply(BASE).provider_id == "google"


def test_slots_come_in_their_order_and_contributions_by_priority_title_and_content() -> None:
    layers = (
        layer("environment", PromptContribution("environment", "last")),
        layer("intro", intro("b"), intro("a"), intro("early", -1), intro("told", 0, "Title")),
    )
    assert render_prompt(layers) == "early\n\na\n\nb\n\n### Title\n\ntold\n\n## Environment\n\nlast"


def test_blank_and_repeated_contributions_are_dropped() -> None:
    assert render_prompt((layer("intro", intro(" a "), intro("a"), intro(" \n")),)) == "a"
    assert render_prompt(()) == ""


def test_a_reset_discards_outer_layers_of_its_slot_only() -> None:
    outer = PromptLayer(
        {
            "intro": PromptSlotLayer((intro("outer"),)),
            "guidance": PromptSlotLayer((PromptContribution("guidance", "kept"),)),
        }
    )
    assert render_prompt((outer, layer("intro", intro("inner"), reset=True))) == "inner\n\n## Guidance\n\nkept"
    late = layer("intro", intro("late"))
    assert render_prompt((outer, session_prompt("mine"), late)) == "late\n\nmine\n\n## Guidance\n\nkept"


def test_an_unknown_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown prompt slot"):
        render_prompt((layer("footer", intro("x")),))


def test_an_empty_layer_has_no_opinion_and_takes_no_bytes() -> None:
    assert PromptLayer().is_empty
    assert not session_prompt("x").is_empty
    assert b"prompt" not in encode(BASE)
