"""Which provider and model a session gets, and with which key (design D13, contract 08 §6.7)."""

from __future__ import annotations

import pytest

from lash_cli.core.policy import ReasoningDisabled, ReasoningEffort
from lash_cli.errors import ConfigError
from lash_cli.paths import resolve_paths
from lash_cli.settings import load_settings
from lash_cli.system import SystemClock, SystemIds
from lash_cli.wiring import ConfiguredProviders, host_policy, model_spec, provider_names


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
        '[models.quiet]\nid = "q"\nvariant = "off"\n'
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


def test_the_openai_key_is_not_sent_to_another_configured_server(load, tmp_path):
    settings = load('[providers.mine]\nbase_url = "http://127.0.0.1:9/v1"\n')
    providers = resolver(settings, tmp_path, OPENAI_API_KEY="for-openai-only")
    assert providers._key(settings.provider("mine")) is None
    assert providers._key(providers._entry("openai")) == "for-openai-only"
