"""Which provider and model a session gets, and with which key (design D13, contract 08 §6.7)."""

from __future__ import annotations

import pytest

from lash_cli.core.policy import ReasoningDisabled, ReasoningEffort
from lash_cli.errors import ConfigError
from lash_cli.paths import resolve_paths
from lash_cli.settings import load_settings
from lash_cli.settings.loading import find_project_file
from lash_cli.settings.providers import available_provider, default_provider, provider_names
from lash_cli.system import SystemClock, SystemIds
from lash_cli.wiring import DEFAULT_OUTPUT_TOKENS, ConfiguredProviders, host_policy, known_model, model_spec


@pytest.fixture
def load(tmp_path):
    def loaded(text="", **environment):
        (tmp_path / "config.toml").write_text(text)
        paths = resolve_paths({"LASH_HOME": str(tmp_path)})
        return load_settings(paths, environment=environment, cwd=str(tmp_path))

    return loaded


def test_without_configuration_it_is_loopback(load):
    policy = host_policy(load(), {}, needs_model=True)
    assert (policy.provider_id, policy.model.id) == ("loopback", "loopback")


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_BASE_URL"])
def test_the_environment_makes_it_openai(load, variable):
    assert host_policy(load(), {variable: "x"}, needs_model=True).provider_id == "openai"
    assert host_policy(load(), {variable: "x", "OPENAI_MODEL": "m"}, needs_model=True).model.id == "m"


def test_configuration_wins_over_the_environment_and_an_option_over_both(load):
    text = '[defaults]\nprovider = "mine"\nmodel = "m1"\n[providers.mine]\nbase_url = "http://127.0.0.1:9/v1"\n'
    settings = load(text)
    environment = {"OPENAI_API_KEY": "x"}
    assert host_policy(settings, environment).provider_id == "mine"
    assert host_policy(settings, environment, provider="loopback").provider_id == "loopback"
    assert host_policy(settings, environment, model="m2").model.id == "m2"
    assert provider_names(settings, environment) == ["loopback", "mine", "openai"]


def test_an_unconfigured_provider_names_the_nearest(load):
    with pytest.raises(ConfigError) as caught:
        host_policy(load(), {}, provider="lopback")
    assert caught.value.code == "provider_unconfigured"
    assert "loopback" in caught.value.hint


def test_a_new_session_of_a_configured_provider_needs_a_model(load):
    settings = load('[defaults]\nprovider = "mine"\n[providers.mine]\nbase_url = "http://127.0.0.1:9/v1"\n')
    with pytest.raises(ConfigError) as caught:
        host_policy(settings, {}, needs_model=True)
    assert "--model" in caught.value.hint
    assert host_policy(settings, {}).provider_id == "mine"


def test_an_alias_brings_id_variant_and_limits(load):
    settings = load(
        '[models.big]\nid = "big-1"\nvariant = "high"\nmax_output_tokens = 5\ncontext_window_tokens = 9\n'
        '[models.quiet]\nid = "q"\nvariant = "off"\nreasoning.disable = "native"\n'
    )
    spec = model_spec(settings, "big")
    assert (spec.id, spec.variant) == ("big-1", ReasoningEffort("high"))
    assert (spec.limits.output_token_capacity, spec.limits.context_window_tokens) == (5, 9)
    assert spec.capability.reasoning.efforts == ("high",)
    assert model_spec(settings, "quiet").variant == ReasoningDisabled()
    assert model_spec(settings, "not-an-alias").id == "not-an-alias"
    with pytest.raises(ConfigError):
        model_spec(settings, "two words")


def test_a_default_system_prompt_reaches_the_policy(load):
    policy = host_policy(load('[defaults]\nsystem = "Be brief."\nmax_steps = 3\n'), {})
    assert policy.max_turns == 3
    assert policy.prompt.slots["intro"].contributions[0].content == "Be brief."


def resolver(settings, tmp_path, **environment):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    return ConfiguredProviders(
        settings, paths, environment, default_id="loopback", clock=SystemClock(), ids=SystemIds()
    )


async def test_a_key_is_fetched_only_when_its_provider_is_resolved(load, tmp_path):
    settings = load('[providers.mine]\nbase_url = "http://127.0.0.1:9/v1"\nkey = "env:ABSENT"\n')
    providers = resolver(settings, tmp_path)
    assert providers.resolve("loopback").provider_id == "loopback"
    with pytest.raises(ConfigError) as caught:
        providers.resolve("mine")
    assert caught.value.code == "key_missing"
    await providers.aclose()


async def test_a_provider_is_built_once(load, tmp_path):
    providers = resolver(load(), tmp_path, OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert providers.resolve("openai") is providers.resolve("openai")
    await providers.aclose()


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic", "google"])
def test_a_key_of_the_environment_is_not_sent_to_another_configured_server(load, kind):
    settings = load(f'[providers.mine]\nkind = "{kind}"\nbase_url = "http://127.0.0.1:9/v1"\n')
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "for-its-own-server-only")
    assert available_provider(settings, keys, "mine").key is None
    assert available_provider(settings, keys, "openai").key == "env:OPENAI_API_KEY"


def test_a_name_does_not_bring_the_key_of_another_kind(load):
    settings = load('[providers.anthropic]\nkind = "openai_chat"\nbase_url = "http://127.0.0.1:9/v1"\n')
    assert available_provider(settings, {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "y"}, "anthropic").key is None


def test_a_second_provider_of_the_same_server_uses_its_key(load):
    settings = load('[providers.responses]\nkind = "openai_responses"\n')
    assert available_provider(settings, {"OPENAI_API_KEY": "x"}, "responses").key == "env:OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("variable", "name", "kind"),
    [
        ("OPENAI_API_KEY", "openai", "openai_chat"),
        ("OPENAI_BASE_URL", "openai", "openai_chat"),
        ("ANTHROPIC_API_KEY", "anthropic", "anthropic"),
        ("GEMINI_API_KEY", "google", "google"),
    ],
)
def test_a_variable_makes_its_provider_available_and_the_default(load, variable, name, kind):
    settings, environment = load(), {variable: "http://127.0.0.1:9/v1"}
    assert provider_names(settings, environment) == sorted(["loopback", name])
    assert default_provider(settings, environment) == name
    provider = available_provider(settings, environment, name)
    assert (provider.kind, provider.origin) == (kind, f"env {variable}")
    assert host_policy(settings, environment, needs_model=True).model.limits.context_window_tokens is not None


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"])
async def test_a_provider_of_the_environment_can_be_built(load, tmp_path, variable):
    providers = resolver(load(), tmp_path, **{variable: "sk-not-sent-anywhere"})
    name = default_provider(load(), {variable: "x"})
    assert providers.resolve(name).provider_id == name
    await providers.aclose()


def test_of_several_keys_openai_comes_first_then_anthropic(load):
    keys = {"GEMINI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}
    assert default_provider(load(), keys) == "anthropic"
    assert default_provider(load(), {**keys, "OPENAI_API_KEY": "x"}) == "openai"


def test_a_table_of_a_well_known_name_has_its_kind_and_says_where_it_stands(load, tmp_path):
    settings = load('[providers.google]\nkey = "env:MINE"\n')
    provider = available_provider(settings, {}, "google")
    assert (provider.kind, provider.key, provider.origin) == (
        "google", "env:MINE", f"user {tmp_path / 'config.toml'}:2",
    )  # fmt: skip


def test_a_well_known_provider_that_is_not_there_is_explained(load):
    with pytest.raises(ConfigError) as caught:
        host_policy(load(), {}, provider="anthropic")
    assert "ANTHROPIC_API_KEY" in caught.value.hint


def test_a_model_of_the_catalogue_brings_its_limits_and_abilities(load):
    spec = model_spec(load(), "claude-haiku-5-5")
    assert spec.limits.context_window_tokens == 1_000_000
    assert spec.limits.output_token_capacity == DEFAULT_OUTPUT_TOKENS
    assert spec.capability.cache_control == "anthropic"
    assert "high" in spec.capability.reasoning.efforts


def test_a_renamed_model_gets_nothing_guessed(load):
    for name in ("claude-haiku-5-5-copy", "anthropic/claude-haiku-5-5", "CLAUDE-HAIKU-5-5"):
        spec = model_spec(load(f'[models.mine]\nid = "{name}"\n'), "mine")
        assert spec.capability is None
        assert spec.limits.context_window_tokens is spec.limits.output_token_capacity is None


@pytest.mark.parametrize(
    "lines",
    ['id = "unheard-of"', 'id = "claude-sonnet-5-5"', 'id = "unheard-of"\nreasoning.efforts = ["low"]'],
)
def test_off_is_refused_where_no_way_to_it_is_known(load, lines):
    text = f'[models.x]\n{lines}\nvariant = "off"\n'
    with pytest.raises(ConfigError) as caught:
        model_spec(load(text), "x")
    assert caught.value.code == "effort_required"
    assert "models.x.reasoning.disable" in caught.value.hint
    known = text + 'reasoning.disable = "native"\nreasoning.mandatory = false\n'
    assert model_spec(load(known), "x").variant == ReasoningDisabled()


def test_every_field_of_a_model_can_be_overridden(load):
    settings = load(
        "[models.mine]\n"
        'id = "claude-haiku-5-5"\n'
        'variant = "deep"\n'
        "max_output_tokens = 100000\n"
        "context_window_tokens = 5000\n"
        'prices = { input = 0.25, currency = "EUR" }\n'
        'reasoning = { efforts = ["deep"], encoding = "budget", budgets = { deep = 2048 }, disable = "budget(0)" }\n'
        'cache_control = "none"\n'
        'stream_termination = "tolerate_eof"\n'
    )
    spec, known = model_spec(settings, "mine"), known_model(settings, "mine")
    assert (spec.limits.context_window_tokens, spec.limits.output_token_capacity) == (5000, 100_000)
    reasoning = spec.capability.reasoning
    assert (reasoning.efforts, reasoning.encoding, reasoning.budgets) == (("deep",), "budget", {"deep": 2048})
    assert reasoning.default_effort == "medium", "what is not named stays as it is known"
    assert (spec.capability.cache_control, spec.capability.stream_termination) == (None, "tolerate_eof")
    assert (known.prices.buckets.input, known.prices.currency) == (250_000, "EUR")
    assert known.prices.buckets.output == 500_000
    assert known.prices.long_context_above_tokens is None, "the provider's tiers end with the user's prices"


def test_whether_a_model_demands_signatures_is_data_of_the_catalogue_and_of_the_user(load):
    def demand(line: str, model_id: str) -> str | None:
        capability = model_spec(load(f'[models.x]\nid = "{model_id}"\n{line}\n'), "x").capability
        return capability and capability.thought_signatures

    assert demand("", "gemini-3.8-flash") == "required"
    assert demand('thought_signatures = "optional"', "gemini-3.8-flash") is None
    assert demand("", "gemini-3-of-my-own") is None
    assert demand('thought_signatures = "required"', "gemini-3-of-my-own") == "required"


def test_an_effort_the_catalogue_does_not_have_is_refused_with_the_way_out(load):
    text = '[models.x]\nid = "gemini-3.8-flash"\nvariant = "max"\n'
    with pytest.raises(ConfigError) as caught:
        model_spec(load(text), "x")
    assert caught.value.code == "unsupported_effort"
    assert "low, medium, high" in caught.value.message
    assert "models.x.reasoning.efforts" in caught.value.hint
    assert model_spec(load(text + 'reasoning.efforts = ["max"]\n'), "x").variant == ReasoningEffort("max")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prices = { inptu = 1 }", "unknown field 'inptu'"),
        ("prices = { input = -1 }", "prices: input: expected a number of at least 0"),
        ("prices.input = inf", "a number of at least 0"),
        ("prices = 3", "expected a table"),
        ('reasoning = { encoding = "loud" }', "encoding: expected one of: effort, budget"),
        ('reasoning.mandatory = "yes"', "mandatory: expected true or false"),
        ('cache_control = "openai"', "one of: anthropic, gemini, none"),
        ('stream_termination = "maybe"', "one of: require, tolerate_eof"),
        ('thought_signatures = "yes"', "one of: required, optional"),
    ],
)
def test_a_wrong_field_of_a_model_is_refused_by_name(load, line, said):
    with pytest.raises(ConfigError) as caught:
        load(f"[models.x]\n{line}\n")
    assert caught.value.code == "config_invalid"
    assert ":2: models.x." in caught.value.message
    assert said in caught.value.message


def test_a_table_of_the_wrong_types_is_refused_when_the_model_is_used(load):
    settings = load('[models.x]\nreasoning.budgets = { high = "many" }\n')
    with pytest.raises(ConfigError) as caught:
        known_model(settings, "x")
    assert "reasoning" in caught.value.message


def test_a_field_of_a_model_from_the_environment_is_checked_too(load):
    settings = load(LASH_CFG__models__x__prices__input="2.5")
    assert known_model(settings, "x").prices.buckets.input == 2_500_000
    with pytest.raises(ConfigError) as caught:
        load(LASH_CFG__models__x__prices__input="free")
    assert "LASH_CFG__models__x__prices__input" in caught.value.message
    with pytest.raises(ConfigError) as caught:
        load(LASH_CFG__models__x__prices__inptu="1")
    assert "did you mean models.x.prices.input?" in caught.value.message


def test_an_option_within_tables_is_laid_over_those_that_stand(load):
    file = '[providers.a]\nkind = "openai_chat"\noptions = { headers = { X-Org = "1" }, max_attempts = 2 }\n'
    settings = load(file, LASH_CFG__providers__a__options__headers__X_Team="blue")
    assert settings.provider("a").options == {"headers": {"X-Org": "1", "X_Team": "blue"}, "max_attempts": 2}


def test_a_project_above_the_home_of_the_user_is_nobodys(tmp_path, monkeypatch):
    above, home = tmp_path / "above", tmp_path / "above" / "home"
    (home / "work").mkdir(parents=True)
    (above / ".lash").mkdir()
    (above / ".lash" / "config.toml").write_text("")
    monkeypatch.setenv("HOME", str(home))
    assert find_project_file(str(home / "work")) is None
    monkeypatch.setenv("HOME", str(above))
    assert find_project_file(str(home / "work")) == str(above / ".lash" / "config.toml")
