"""A setting that is empty is refused where that could mean nothing, and kept where it says none (contract 08 §6.7)."""

from __future__ import annotations

from pathlib import Path

import pytest

# What names something: without a name it would silently be as if nobody had set it.
NAMING = (
    "defaults.model",
    "defaults.provider",
    "models.m.id",
    "models.m.variant",
    "models.m.prices.currency",
    "models.m.prices.looked_up",
    "models.m.reasoning.default_effort",
    "models.m.reasoning.disable",
    "providers.p.kind",
    "providers.p.base_url",
)
# What may say none: no prompt of one's own, no trace, a label without a value, no directory, no toolbar.
SAYING_NONE = (
    ("defaults.system", ""),
    ("trace.file", ""),
    ("labels.area", ""),
    ("tools.roots", []),
    ("repl.toolbar", []),
)


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("key", NAMING)
def test_a_name_that_is_empty_is_no_setting(lash, home, key: str, blank: str) -> None:
    done = lash("config", "set", key, blank, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
    assert "that is not empty" in done.error["message"]
    assert done.error["hint"] == f"to go without it: lash config unset {key}"
    assert not home.exists()
    given = lash("config", "show", "-c", f"{key}={blank}", "-o", "json")
    assert (given.code, given.out, given.error["code"]) == (5, "", "config_invalid")


def test_a_name_that_is_empty_in_a_file_is_a_mistake_with_its_line(lash, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[defaults]\noutput = "json"\nmodel = ""\n')
    for words in (("config", "show"), ("config", "validate")):
        done = lash(*words, "-o", "json")
        assert (done.code, done.error["code"]) == (5, "config_invalid")
        assert "config.toml:3: defaults.model: expected a text that is not empty, got ''" in done.error["message"]


@pytest.mark.parametrize(("key", "none"), SAYING_NONE)
def test_an_empty_value_that_says_none_is_kept_and_wins_over_what_it_is_set_over(lash, home, key, none) -> None:
    assert lash("config", "set", key, "queue").code == 0
    assert lash("config", "get", key, "-c", f"{key}=", "-o", "json").json["value"] == none
    assert lash("config", "set", key, "").code == 0
    assert lash("config", "get", key, "-o", "json").json["value"] == none


@pytest.mark.parametrize("key", ["tools.roots"])
def test_a_list_has_no_empty_place_in_it(lash, key: str) -> None:
    done = lash("config", "set", key, '["a", ""]', "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
    assert "a list of texts that are not empty" in done.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ("model", "default", ""),
        ("model", "alias", "", "gpt-6-luna"),
        ("model", "alias", "quick", ""),
        ("model", "alias", "quick", "gpt-6-luna", "--variant", ""),
        ("provider", "add", "", "--base-url", "http://127.0.0.1:9/v1"),
        ("provider", "add", "p", "--base-url", ""),
        ("provider", "add", "p", "--kind", ""),
        ("provider", "add", "openai", "--base-url", " ", "--stdin"),
        ("key", "set", "", "--stdin"),
    ],
    ids=" ".join,
)
def test_no_verb_writes_an_empty_name(lash, home: Path, words: tuple[str, ...]) -> None:
    done = lash(*words, "-o", "json", input="sk-test")
    assert (done.code, done.out) == (2, ""), done.err
    assert not home.exists()


def test_a_toolbar_of_a_slot_that_does_not_exist_is_refused_where_it_is_written_and_where_it_is_read(lash, home):
    refused = lash("config", "set", "repl.toolbar", '["model", "zz"]', "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "usage") and "model, ctx, queue" in refused.error["message"]
    assert not (home / "config.toml").exists()
    assert lash("config", "set", "repl.toolbar", "model,zz").code == 2
    assert lash("config", "set", "repl.toolbar", '["cost", "model"]').code == 0
    (home / "config.toml").write_text('[repl]\ntoolbar = ["zz"]\n')
    checked = lash("config", "validate")
    assert checked.code == 5 and "config.toml:2" in checked.err and "'zz'" in checked.err
