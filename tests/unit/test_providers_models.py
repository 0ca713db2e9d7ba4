"""The shipped catalogue of models: complete in itself, found by exact id, and honest about what is not known."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lash_cli.core.policy import ModelSpec, ReasoningDisabled
from lash_cli.core.pricing import BucketPrices, Prices
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.models import CATALOGUE, described, find, micros
from lash_cli.providers.reasoning import Budget, Effort, ToggleOff, intent_of
from lash_cli.settings.providers import WELL_KNOWN

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("model_id", CATALOGUE)
def test_every_entry_says_where_and_when_it_was_read(model_id: str) -> None:
    entry = CATALOGUE[model_id]
    assert entry.id == model_id and not any(character.isspace() for character in model_id)
    assert entry.kind in ("openai_chat", "openai_responses", "anthropic", "google")
    assert entry.source is not None and entry.source.startswith("https://")
    for day in (entry.looked_up, entry.prices.looked_up):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)


@pytest.mark.parametrize("model_id", CATALOGUE)
def test_limits_prices_and_efforts_of_an_entry_agree_with_one_another(model_id: str) -> None:
    entry = CATALOGUE[model_id]
    assert 0 < entry.max_output_tokens < entry.context_window_tokens
    buckets = entry.prices.buckets
    assert buckets.cache_read < buckets.input < buckets.output
    assert buckets.cache_write is None or buckets.cache_write >= buckets.input
    longer = entry.prices.long_context
    assert longer is None or entry.prices.long_context_above_tokens is not None
    assert longer is None or (longer.input > buckets.input and longer.output > buckets.output)
    reasoning = entry.capability.reasoning
    assert reasoning.efforts
    assert reasoning.default_effort is None or reasoning.default_effort in reasoning.efforts
    assert not (reasoning.mandatory and reasoning.disable), "what cannot be turned off has no way to do it"


def test_the_models_chosen_for_nobody_in_particular_are_in_it_and_of_their_kind() -> None:
    for known in WELL_KNOWN.values():
        assert CATALOGUE[known.model].kind == known.kind


def test_only_the_exact_id_is_found() -> None:
    assert find("gpt-6-luna") is CATALOGUE["gpt-6-luna"]
    for other in ("gpt-6-luna ", "GPT-6-luna", "openai/gpt-6-luna", "gpt-6-luna-2026-09-22", "gpt-6"):
        assert find(other) is None
    assert described("unheard-of", {}).capability is None


@pytest.mark.parametrize(
    ("reasoning", "said"),
    [
        ({"disable": "never"}, "disable is native"),
        ({"disable": "effort()"}, "disable is native"),
        ({"disable": "budget(few)"}, "disable is native"),
        ({"efforts": ["low"], "aliases": {"quick": "fast"}}, "alias 'quick' stands for 'fast'"),
        ({"efforts": ["low", "high"], "encoding": "budget", "budgets": {"low": 9}}, "no tokens for effort 'high'"),
    ],
)
def test_abilities_that_could_never_be_asked_for_are_refused_where_they_are_written(
    reasoning: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        described("mine", {"reasoning": reasoning})


@pytest.mark.parametrize("way", ["native", "toggle_false", "omit", "effort(none)", "budget(0)"])
def test_every_way_to_turn_reasoning_off_can_be_written(way: str) -> None:
    known = described("mine", {"reasoning": {"disable": way}})
    assert known.capability is not None and known.capability.reasoning is not None
    assert intent_of(ModelSpec("mine", ReasoningDisabled(), capability=known.capability)) == {
        "omit": None,
        "effort(none)": Effort("none"),
        "budget(0)": Budget(0),
    }.get(way, ToggleOff())


def test_a_request_costs_what_its_buckets_cost() -> None:
    prices = Prices(BucketPrices(2_000_000, 100_000, 2_500_000, 10_000_000))
    usage = TokenUsage(1000, 100, 500, 200, reasoning_output_tokens=90)
    assert prices.cost_micros(usage) == 2000 + 50 + 500 + 1000
    assert prices.cost_micros(TokenUsage(input_tokens=1)) == 2
    assert prices.cost_micros(TokenUsage(cache_read_input_tokens=1)) == 1, "a part of a unit is rounded up"
    assert prices.cost_micros(TokenUsage()) == 0


def test_a_bucket_without_a_price_makes_the_cost_unknown_only_when_it_is_used() -> None:
    prices = Prices(BucketPrices(input=1_000_000, output=2_000_000))
    assert prices.cost_micros(TokenUsage(10, 10)) == 30
    assert prices.cost_micros(TokenUsage(10, 10, cache_write_input_tokens=1)) is None


def test_a_long_prompt_costs_the_long_price_for_all_of_it_or_nothing_is_said() -> None:
    short, long = BucketPrices(input=1_000_000, cache_read=0), BucketPrices(input=2_000_000, cache_read=0)
    prices = Prices(short, long_context_above_tokens=100, long_context=long)
    assert prices.cost_micros(TokenUsage(input_tokens=100)) == 100
    assert prices.cost_micros(TokenUsage(input_tokens=101)) == 202
    assert prices.cost_micros(TokenUsage(input_tokens=60, cache_read_input_tokens=50)) == 120
    assert Prices(short, long_context_above_tokens=100).cost_micros(TokenUsage(input_tokens=101)) is None


@pytest.mark.parametrize(("text", "units"), [("0.1", 100_000), (0.1, 100_000), (0.125, 125_000), (2, 2_000_000)])
def test_money_is_whole_micro_units(text: float | str, units: int) -> None:
    assert micros(text) == units


def test_a_listing_of_sessions_does_not_import_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from lash_cli.__main__ import main\n"
        "sys.argv = ['lash', 'ls', '-o', 'json']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'lash_cli.providers.models' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"LASH_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
