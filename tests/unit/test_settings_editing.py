"""Writing one configuration value back: the rest of the file stays, and what is written is what is read."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.work import at_most

from lash_cli.errors import ConfigError
from lash_cli.paths import resolve_paths
from lash_cli.settings import editing
from lash_cli.settings.editing import edit, literal, remove_table, set_values, unset_value, without_table
from lash_cli.settings.loading import check_document, end_of_value, line_of, lines_of, problems_in
from lash_cli.settings.redact import redact
from lash_cli.settings.schema import SECTIONS, find_option, nearest_key, parse_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_any_text_survives_being_written_and_read(text):
    assert tomllib.loads(edit("", ("defaults", "model"), literal(text))) == {"defaults": {"model": text}}


@given(
    st.recursive(
        st.booleans() | st.integers(-(2**60), 2**60) | TEXT,
        lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3),
        max_leaves=5,
    )
)
def test_any_value_survives_being_written_and_read(value):
    assert tomllib.loads(f"v = {literal(value)}") == {"v": value}


@given(st.lists(st.sampled_from(["a", "b", "c.d", "c.e"]), min_size=1, max_size=12))
def test_repeated_edits_keep_every_other_value(names):
    text = "# head\n[x]  # here\nkeep = 1  # this\n"
    expected = {}
    for number, name in enumerate(names):
        text = edit(text, ("x", *name.split(".")), str(number))
        expected[name] = number
    table = tomllib.loads(text)["x"]
    assert table["keep"] == 1 and "# head" in text and "keep = 1  # this" in text
    for name, number in expected.items():
        outer, _, inner = name.partition(".")
        assert (table[outer][inner] if inner else table[outer]) == number


def test_a_value_over_several_lines_is_not_edited_but_may_be_followed():
    text = '[tools]\nroots = [\n  "/a",\n]\n'
    with pytest.raises(ConfigError):
        edit(text, ("tools", "roots"), "[]")
    assert tomllib.loads(edit(text, ("tools", "allow_outside"), "true")) == {
        "tools": {"roots": ["/a"], "allow_outside": True}
    }


def test_a_hash_inside_a_text_is_no_comment():
    text = '[defaults]\nsystem = "a # b"   # why\n'
    assert edit(text, ("defaults", "system"), '"new"') == '[defaults]\nsystem = "new"  # why\n'


def test_lines_are_found_in_sections_dotted_keys_and_inline_tables():
    text = 'a.b = 1\n[s]\nx = 1\n\n[s.t]\n"y" = { z = 1 }\n'
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("s", "x")) == 3
    assert line_of(text, ("s", "t", "y", "z")) == 6
    assert line_of(text, ("s", "t", "unknown")) == 5


def test_every_built_in_default_is_a_value_its_own_key_accepts():
    for section, options in SECTIONS.items():
        for name, option in options.items():
            assert find_option(f"{section}.{name}")[0] is option
            if isinstance(option.default, str):
                assert parse_text(option, option.default) == option.default


def test_the_nearest_key_keeps_the_users_own_name():
    assert nearest_key("providers.mine.keyy") == "providers.mine.key"
    assert nearest_key("models.fast.idd") == "models.fast.id"
    assert nearest_key("zzzzzzzz") is None


@given(TEXT)
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


TWO = """# mine
[defaults]
model = "m"

# the first
[providers.a]  # here
kind = "openai_chat"
# inside
base_url = "http://a/v1"

[providers.a.options]
max_attempts = 2

# the second
[providers.b]
kind = "loopback"
"""


def test_a_table_goes_with_what_is_in_it_and_the_rest_stays_word_for_word():
    assert without_table(TWO, ("providers", "a")) == (
        '# mine\n[defaults]\nmodel = "m"\n\n# the first\n\n# the second\n[providers.b]\nkind = "loopback"\n'
    )
    assert without_table(TWO, ("providers", "b")).endswith("max_attempts = 2\n\n# the second\n")
    assert without_table(TWO, ("providers", "none")) == TWO


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('[providers]\na = { kind = "loopback" }\nb.kind = "loopback"\n', {"b": {"kind": "loopback"}}),
        ('[providers]\na.kind = "loopback"\na.key = "env:A"\nb.kind = "x"\n', {"b": {"kind": "x"}}),
        ('[providers.a.options]\nheaders = {\n  x = "1" }\n[providers.b]\nkind = "x"\n', {"b": {"kind": "x"}}),
    ],
)
def test_a_table_written_in_another_way_goes_too(text, left):
    if "{\n" in text:  # TOML 1.0 has no line breaks in inline tables; a list has
        text = text.replace('{\n  x = "1" }', '[\n  "1",\n]')
    assert tomllib.loads(without_table(text, ("providers", "a")))["providers"] == left


IN_BRACES = """\
[providers.a]
options = { max_attempts = 1, headers = { X-Org = "1" } }  # ours
kind = "openai_chat"
[models]
b = { id = "b" }
"""


def test_a_key_inside_a_table_in_braces_is_set_there_and_the_rest_stays_word_for_word():
    text = edit(IN_BRACES, ("providers", "a", "options", "max_attempts"), "3")
    assert text == IN_BRACES.replace("max_attempts = 1", "max_attempts = 3")
    text = edit(IN_BRACES, ("providers", "a", "options", "headers", "X-Team"), '"blue"')
    assert text == IN_BRACES.replace('X-Org = "1" }', 'X-Org = "1", X-Team = "blue" }')
    text = edit(IN_BRACES, ("models", "b", "reasoning", "disable"), '"omit"')
    assert text == IN_BRACES.replace('{ id = "b" }', '{ id = "b", reasoning = { disable = "omit" } }')


@pytest.mark.parametrize(
    "text",
    [
        '[providers.a]\noptions = { headers = "none" }\n',
        "[providers.a]\noptions = { since = 2026-01-01 }\n",
    ],
)
def test_a_table_in_braces_that_cannot_be_written_again_is_not_edited(text):
    with pytest.raises(ConfigError) as caught:
        edit(text, ("providers", "a", "options", "headers", "X-Team"), '"blue"')
    assert "by hand" in caught.value.hint


def test_what_lines_cannot_be_taken_from_is_left_alone(tmp_path):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    text = 'providers = { a = { kind = "loopback" }, b = { kind = "loopback" } }\n'
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        remove_table(paths, "providers", "a")
    assert "by hand" in caught.value.hint
    assert (tmp_path / "config.toml").read_text() == text


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_what_stands_inside_of_a_text_is_neither_a_key_nor_a_table(tmp_path, quotes):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    spoken = f'[defaults]\nsystem = {quotes}\nmodel = "x"\n[work]\nconcurrency = 3\n{quotes}\n'
    (tmp_path / "config.toml").write_text(f'{spoken}model = "old"\n[work]\nconcurrency = 2\n')
    assert line_of(spoken + 'model = "old"\n', ("defaults", "model")) == 7
    set_values(paths, {"defaults.model": "new", "work.concurrency": 5})
    assert (tmp_path / "config.toml").read_text() == f'{spoken}model = "new"\n[work]\nconcurrency = 5\n'
    unset_value(paths, "defaults.model")
    unset_value(paths, "work.concurrency")
    assert (tmp_path / "config.toml").read_text() == f"{spoken}[work]\n"


@pytest.mark.parametrize(
    "value",
    [
        '"""\none \\"""\nmodel = 1 \\\n""\n"""""',
        "'''\none \\''''",
        '[ # why ]\n  "a]", \'b]\', # ]\n  """c\n]""",\n]',
        '{ "a}" = "#", b = [1, [2]] }',
        '"""a""" # """',
        '"a\\"#"',
        "'a\\' # '",
    ],
)
def test_a_value_ends_where_it_does_for_a_reader(value: str) -> None:
    text = f"before = 1\nvalue = {value}\nafter = 2\n"
    assert set(tomllib.loads(text)) == {"before", "value", "after"}
    lines = lines_of(text)
    assert end_of_value(lines, 2) == len(lines) - 1


def test_a_long_value_is_passed_over_once() -> None:
    spoken = "You are an assistant.\n" * 20_000
    names = ",\n".join(['  "model"'] * 20_000)
    labels = "".join(f'l{number} = "x"\n' for number in range(5_000))
    text = f'[defaults]\nsystem = """\n{spoken}"""\n[repl]\ntoolbar = [\n{names}\n]\n[labels]\n{labels}'
    with at_most(2_000_000):
        values = check_document(text, "config.toml")
    assert values["labels.l4999"].origin == f"user config.toml:{len(lines_of(text))}"


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    text = f'[defaults] # of{separator}model = "x"\nsystem = "be{separator}brief"\n'
    (tmp_path / "config.toml").write_text(text)
    set_values(paths, {"defaults.model": "new"})
    assert (tmp_path / "config.toml").read_text() == f'{text}model = "new"\n'
    assert line_of(text, ("defaults", "system")) == 2


def test_a_table_that_cannot_be_named_by_a_key_is_told_why():
    (problem,) = problems_in('[models."gpt-4.1"]\nid = "x"\n', "config.toml")
    assert str(problem).startswith("config.toml:1: models.gpt-4.1: the name of a table is letters, digits, - and _")


def test_an_edit_that_would_change_anything_else_is_not_made(tmp_path, monkeypatch):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    text = '[defaults]\nmodel = "old"\n'
    (tmp_path / "config.toml").write_text(text)
    monkeypatch.setattr(editing, "edit", lambda text, path, value: text + "max_steps = 5\n")
    with pytest.raises(ConfigError) as caught:
        set_values(paths, {"defaults.model": "new"})
    assert "by hand" in caught.value.hint
    assert (tmp_path / "config.toml").read_text() == text


def test_several_values_are_written_together_or_not_at_all(tmp_path):
    paths = resolve_paths({"LASH_HOME": str(tmp_path)})
    (tmp_path / "config.toml").write_text("# mine\n")
    set_values(paths, {"providers.a.kind": "loopback", "providers.a.options": {"max_attempts": 2}})
    text = (tmp_path / "config.toml").read_text()
    assert text.startswith("# mine\n")
    assert tomllib.loads(text)["providers"]["a"] == {"kind": "loopback", "options": {"max_attempts": 2}}
    with pytest.raises(ConfigError):
        set_values(paths, {"defaults.model": "m", "providers.b.key": "the-key-itself"})
    assert (tmp_path / "config.toml").read_text() == text
    assert (tmp_path / "config.toml").stat().st_mode & 0o777 == 0o600
    assert remove_table(paths, "providers", "a") is True
    assert remove_table(paths, "providers", "a") is False
    assert (tmp_path / "config.toml").read_text() == "# mine\n"


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4, unique=True), st.sampled_from("abc"))
def test_taking_one_of_several_tables_out_leaves_the_values_of_the_others(names, gone):
    text = "# head\n" + "".join(f"\n# about {name}\n[x.{name}]\nvalue = 1\nmore = [\n 2 ]\n" for name in names)
    left = tomllib.loads(without_table(text, ("x", gone))).get("x", {})
    assert left == {name: {"value": 1, "more": [2]} for name in names if name != gone}
    assert all(f"# about {name}" in without_table(text, ("x", gone)) for name in names)
