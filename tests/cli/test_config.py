"""`lash config`: precedence, strictness, editing and what a project may not do (contract 08 §6.6, §6.7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


def value_of(lash, key, *args, **options):
    result = lash("config", "show", "-o", "json", *args, **options)
    assert result.code == 0, result.err
    return next((item["value"], item["origin"]) for item in result.json["items"] if item["key"] == key)


def write_config(home: Path, text: str) -> Path:
    home.mkdir(mode=0o700, exist_ok=True)
    path = home / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_show_lists_built_in_values_and_creates_nothing(lash, home):
    assert value_of(lash, "defaults.output") == ("text", "built-in")
    assert value_of(lash, "input.stdin_wait")[0] == 5.0
    assert not home.exists()


def test_precedence_is_override_environment_project_profile_user_built_in(lash, home, tmp_path):
    path = write_config(home, '[defaults]\nmodel = "user"\n[profiles.p]\ndefaults.model = "profile"\n')
    project = tmp_path / "project"
    (project / ".lash").mkdir(parents=True)
    inside = project / "deep"
    inside.mkdir()

    key = "defaults.model"
    assert value_of(lash, key) == ("user", f"user {path}:2")
    assert value_of(lash, key, "--profile", "p") == ("profile", "profile p")
    (project / ".lash" / "config.toml").write_text('[defaults]\nmodel = "project"\n')
    assert value_of(lash, key, "--profile", "p", cwd=inside)[0] == "project"
    assert value_of(lash, key, cwd=inside, env={"LASH_MODEL": "env"}) == ("env", "env LASH_MODEL")
    env = {"LASH_MODEL": "env", "LASH_CFG__defaults__model": "cfg"}
    assert value_of(lash, key, cwd=inside, env=env) == ("cfg", "env LASH_CFG__defaults__model")
    assert value_of(lash, key, "-c", "defaults.model=flag", cwd=inside, env=env) == ("flag", "-c")


@pytest.mark.parametrize(
    ("text", "line", "nearest"),
    [
        ('[defaults]\noutput = "text"\nmodle = "x"\n', 3, "defaults.model"),
        ('[approval]\nwriet = "ask"\n', 2, "approval.write"),
        ('[providers.mine]\nbase_urll = "http://x"\n', 2, "providers.mine.base_url"),
        ('\n[default]\nmodel = "x"\n', 2, "defaults"),
    ],
)
def test_an_unknown_key_names_file_line_and_the_nearest_key(lash, home, text, line, nearest):
    path = write_config(home, text)
    result = lash("config", "show", "-o", "json")
    assert (result.code, result.out) == (5, "")
    assert result.error["code"] == "config_invalid"
    assert f"{path}:{line}: unknown key" in result.error["message"]
    assert f"did you mean {nearest}?" in result.error["message"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[lease]\nttl_ms = -1\n", 2),
        ('[lease]\nttl_ms = "many"\n', 2),
        ('[approval]\nread = "maybe"\n', 2),
        ('[defaults]\nmodel = "x\n', 2),
        ('# fine\n[tools]\n\nroots = "/"\n', 4),
    ],
)
def test_a_wrong_value_or_broken_toml_names_the_line(lash, home, text, line):
    path = write_config(home, text)
    result = lash("config", "show", "-o", "json")
    assert result.code == 5
    assert f"{path}:{line}:" in result.error["message"]


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "[" * 3000 + "1" + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000],
    ids=["number", "list", "table"],
)
def test_what_python_s_reader_of_toml_gives_up_on_is_a_mistake_with_its_line(lash, home, value):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(f"[defaults]\noutput = 'json'\nmax_steps = {value}\n[models]\n")
    for words in (["open", "s"], ["config", "validate"], ["config", "unset", "defaults.output"], ["turn", "s", "hi"]):
        result = lash(*words, "-o", "json")
        assert (result.code, result.out, result.error["code"]) == (5, "", "config_invalid"), result.err[-500:]
        assert "config.toml:3: " in result.error["message"]
    assert lash("ls").err.startswith("error: ")
    assert lash("doctor").code == 5
    (home / "config.toml").unlink()
    for words in (["config", "set", "models.m.pricing", value], ["open", "-c", f"defaults.max_steps={value}"]):
        result = lash(*words, "-o", "json")
        assert result.out == "" and result.error["code"] in ("config_invalid", "usage"), result.err[-500:]
    assert lash("ls").out == ""


def test_a_broken_file_does_not_stop_commands_that_need_none(lash, home):
    write_config(home, "nonsense = [")
    assert lash("config", "path", "-o", "json").code == 0
    assert lash("doctor", "-o", "json").code == 5


@pytest.mark.parametrize(
    "command",
    ["config path", "config schema", "help", "help quickstart", "version", "db path", "completion bash"],
)
def test_what_explains_or_mends_works_with_a_broken_file_without_o_too(lash, home, command):
    write_config(home, "nonsense = [")
    result = lash(*command.split())
    assert result.code == 0 and result.out


@pytest.mark.parametrize("content", [b"nonsense = [", b"[defaults]\nmodle = 1\n", b"\xff\xfe"])
def test_doctor_reports_a_broken_file_in_words_too_and_the_rest_with_it(lash, home, content):
    write_config(home, "")
    (home / "config.toml").write_bytes(content)
    result = lash("doctor")
    assert (result.code, result.err) == (5, "")
    assert "config.toml" in result.out and "database" in result.out


def test_a_key_itself_in_the_file_is_refused_and_not_repeated(lash, home):
    write_config(home, '[providers.x]\nkey = "sk-verysecretvalue"\n')
    result = lash("config", "show")
    assert result.code == 5
    assert "never the key itself" in result.err
    assert "verysecret" not in result.err


def test_a_project_file_cannot_redirect_a_key(lash, home, tmp_path):
    project = tmp_path / "cloned"
    (project / ".lash").mkdir(parents=True)
    (project / ".lash" / "config.toml").write_text(
        '[defaults]\nmodel = "m"\nprovider = "evil"\n[providers.evil]\nbase_url = "http://evil"\nkey = "cmd:steal"\n'
    )
    result = lash("config", "show", "--fields", "key,value", cwd=project)
    assert result.code == 0
    assert "evil" not in result.out
    assert "ignored defaults.provider, providers.evil.base_url, providers.evil.key" in result.err
    assert value_of(lash, "defaults.model", cwd=project)[0] == "m"


def project_of(tmp_path: Path, text: str, name: str = "cloned") -> Path:
    project = tmp_path / name
    (project / ".lash").mkdir(parents=True, exist_ok=True)
    (project / ".lash" / "config.toml").write_text(text)
    return project


REDIRECTING = '[defaults]\nmodel = "m"\n[providers.p]\nbase_url = "http://127.0.0.1:9/v1"\nkey = "cmd:pass show x"\n'


def test_a_project_may_set_everything_once_it_is_trusted_and_until_it_changes(lash, home, tmp_path):
    project = project_of(tmp_path, REDIRECTING)
    inside = project / "deep"
    inside.mkdir()
    asked = lash("config", "trust", str(project), "-o", "json")
    assert (asked.code, asked.out, asked.error["code"]) == (2, "", "confirmation_required")
    assert "providers.p.base_url, providers.p.key" in asked.error["message"]
    asked = lash("config", "trust", str(project))
    assert "providers.p.base_url = http://127.0.0.1:9/v1\nproviders.p.key = cmd:pass show x\n" in asked.err
    trusted = lash("config", "trust", "--yes", "-o", "json", cwd=inside)
    assert (trusted.code, trusted.json["trusted"]) == (0, True)
    assert trusted.json["keys"] == ["providers.p.base_url", "providers.p.key"]
    shown = lash("config", "get", "providers.p.key", "-o", "json", cwd=inside)
    assert (shown.json["value"], shown.err) == ("cmd:pass show x", "")
    assert shown.json["origin"] == f"project {project / '.lash' / 'config.toml'}:5"
    assert (home / "trusted.json").stat().st_mode & 0o777 == 0o600
    # A pull brings another address: nothing of it is believed.
    project_of(tmp_path, REDIRECTING.replace("127.0.0.1", "evil.example"))
    changed = lash("config", "get", "providers.p.base_url", "-o", "json", cwd=inside)
    assert changed.json["value"] is None and "it changed since you trusted it" in changed.err
    assert [item["state"] for item in lash("config", "trust", "--list", "-o", "json").json["items"]] == ["changed"]
    lash("config", "trust", str(project), "--yes")
    assert lash("config", "get", "providers.p.base_url", cwd=project).out == "http://evil.example:9/v1\n"
    assert lash("config", "trust", str(project), "--revoke", "-o", "json").json["trusted"] is False
    assert lash("config", "get", "providers.p.base_url", cwd=project).out == ""
    assert lash("config", "trust", "--list", "-o", "json").json["items"] == []


def test_trust_is_for_one_file_and_a_copy_of_it_elsewhere_is_not_trusted(lash, tmp_path):
    lash("config", "trust", str(project_of(tmp_path, REDIRECTING)), "--yes")
    other = project_of(tmp_path, REDIRECTING, "another")
    assert lash("config", "get", "providers.p.key", cwd=other).out == ""


def test_a_list_of_trust_that_others_can_write_is_not_believed(lash, home, tmp_path):
    project = project_of(tmp_path, REDIRECTING)
    lash("config", "trust", str(project), "--yes")
    (home / "trusted.json").chmod(0o666)
    done = lash("config", "get", "providers.p.key", "-o", "json", cwd=project)
    assert (done.code, done.out, done.error["code"]) == (5, "", "permissions_unsafe")


def test_what_is_no_project_or_no_toml_is_not_trusted(lash, tmp_path):
    (tmp_path / "empty").mkdir()
    for args in ((), (str(tmp_path / "empty"),)):
        done = lash("config", "trust", *args, "-o", "json", cwd=tmp_path / "empty")
        assert (done.code, done.out, done.error["code"]) == (3, "", "project_file_not_found")
    broken = project_of(tmp_path, "[providers\n")
    assert lash("config", "trust", str(broken), "--yes", "-o", "json").error["code"] == "config_invalid"


def test_a_typo_in_a_project_file_is_a_mistake_and_not_something_to_trust(lash, tmp_path):
    project = project_of(tmp_path, '[defaults]\nmodle = "m"\n')
    done = lash("config", "show", "-o", "json", cwd=project)
    assert (done.code, done.out) == (5, "")
    assert (
        f"{project / '.lash' / 'config.toml'}:2: unknown key defaults.modle; did you mean defaults.model?"
        in (done.error["message"])
    )


def test_profiles_of_a_project_are_ignored(lash, tmp_path):
    project = project_of(tmp_path, "[profiles.x]\ndefaults.model = 'm'\n")
    done = lash("config", "get", "defaults.model", cwd=project)
    assert (done.code, done.out) == (0, "") and "ignored profiles" in done.err


def test_get_shows_the_value_in_force_and_where_it_came_from(lash, home):
    path = write_config(home, '[providers.p]\noptions = { max_attempts = 3 }\n[tools]\nroots = ["/a"]\n')
    assert lash("config", "get", "defaults.output").out == "text\n"
    assert lash("config", "get", "tools.roots").out == '["/a"]\n'
    assert lash("config", "get", "lease.ttl_ms", "--origin", "-c", "lease.ttl_ms=9").out == "9  (-c)\n"
    document = lash("config", "get", "providers.p.options.max_attempts", "-o", "json").json
    assert (document["kind"], document["value"], document["origin"]) == ("ConfigEntry", 3, f"user {path}:2")
    unknown = lash("config", "get", "defaults.modle", "-o", "json")
    assert (unknown.code, unknown.out, unknown.error["hint"]) == (2, "", "did you mean: defaults.model")


@pytest.mark.parametrize(
    ("table", "inside"),
    [
        ("approval", "approval.write"),
        ("labels", "labels.KEY"),
        ("models", "models.NAME.id"),
        ("models.q", "models.q.id"),
    ],
)
def test_a_table_is_no_key_and_what_is_in_it_is_told(lash, home, table, inside):
    for arguments in (("get", table), ("set", table, "x")):
        done = lash("config", *arguments, "-o", "json")
        assert (done.code, done.out) == (2, "") and "is a table" in done.error["message"]
        assert inside in done.error["hint"].replace("in it are: ", "").split(", ")
    assert not home.exists()


def test_unset_takes_one_value_out_and_leaves_the_rest(lash, home):
    path = write_config(
        home,
        '# mine\n[defaults]\nmodel = "m"  # why\nprovider = "loopback"\n\n[tools]\nroots = [\n  "/a",\n]\n'
        '\n[models.q]\nid = "x"\nvariant = "low"\n',
    )
    assert lash("config", "unset", "defaults.model").code == 0
    assert lash("config", "unset", "tools.roots").code == 0
    assert lash("config", "unset", "models.q").code == 0
    assert path.read_text() == '# mine\n[defaults]\nprovider = "loopback"\n\n[tools]\n'
    assert path.stat().st_mode & 0o777 == 0o600
    absent = lash("config", "unset", "defaults.model", "-o", "json")
    assert (absent.code, absent.out, absent.error["code"]) == (3, "", "config_key_not_set")
    assert lash("config", "unset", "defaults.modle").code == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('tools = { roots = [\n"/a",\n], allow_outside = true }\n', "tools.allow_outside"),
        ('[providers.p]\noptions = { jitter = 1, omit_body = [\n"a",\n] }\n', "providers.p.options.jitter"),
    ],
)
def test_unset_does_not_touch_what_lines_cannot_be_taken_from(lash, home, text, key):
    path = write_config(home, text)
    done = lash("config", "unset", key, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "config_invalid")
    assert path.read_text() == text


def test_set_and_unset_reach_into_tables_in_braces(lash, home):
    path = write_config(home, 'defaults = { model = "m", provider = "loopback" }  # mine\n')
    assert lash("config", "set", "defaults.model", "n").code == 0
    assert lash("config", "unset", "defaults.provider").code == 0
    assert path.read_text() == 'defaults = { model = "n" }  # mine\n'
    assert lash("config", "unset", "defaults.model").code == 0
    assert path.read_text() == ""


def test_set_and_unset_reach_into_profiles(lash, home):
    assert lash("config", "set", "profiles.ci.defaults.output", "json").code == 0
    assert lash("config", "set", "profiles.ci.defaults.if_busy", "wait=60s").code == 0
    path = home / "config.toml"
    assert path.read_text() == '[profiles.ci]\ndefaults.output = "json"\ndefaults.if_busy = "wait=60s"\n'
    assert lash("config", "get", "defaults.if_busy", "--profile", "ci").json["value"] == "wait=60s"
    assert lash("config", "get", "defaults.if_busy", env={"LASH_PROFILE": "ci"}).json["value"] == "wait=60s"
    assert lash("config", "unset", "profiles.ci.defaults.if_busy").code == 0
    assert path.read_text() == '[profiles.ci]\ndefaults.output = "json"\n'
    assert lash("config", "unset", "profiles.ci").code == 0
    assert path.read_text() == ""
    write_config(home, "[profiles.ci.defaults]\nmodel = 'm'\n")
    assert lash("config", "set", "profiles.ci.defaults.output", "json").code == 0
    assert path.read_text() == "[profiles.ci.defaults]\nmodel = 'm'\noutput = \"json\"\n"


def test_validate_names_every_mistake_with_its_line_and_the_nearest_key(lash, home, tmp_path):
    assert lash("config", "validate", "-o", "json").json["files"][0]["exists"] is False
    path = write_config(
        home,
        '[defaults]\nmodle = "x"\nif_busy = "maybe"\n\n[profiles.ci]\ndefaults.outptu = "json"\n[lease]\nttl_ms = 1\n',
    )
    done = lash("config", "validate", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "config_invalid")
    assert [problem["line"] for problem in done.error["details"]["problems"]] == [2, 3, 6, 8]
    for said in (
        f"{path}:2: unknown key defaults.modle; did you mean defaults.model?",
        f"{path}:3: defaults.if_busy: expected fail, enqueue, wait or wait=DURATION",
        f"{path}:6: unknown key defaults.outptu; did you mean defaults.output?",
    ):
        assert said in done.error["message"] and said in lash("config", "validate").err
    other = tmp_path / "other.toml"
    other.write_text('[defaults]\nmodel = "x\n')
    named = lash("config", "validate", str(other), "-o", "json")
    assert named.code == 5 and f"{other}:2:" in named.error["message"]
    other.write_text('[defaults]\nmodel = "x"\n')
    assert lash("config", "validate", str(other), "-o", "json").json["files"][0]["role"] == "named"
    assert lash("config", "validate", str(tmp_path / "none"), "-o", "json").error["code"] == "config_file_not_found"
    other.write_text('[repl.keys]\nnewline = ["c-j"]\nqueue_nxt = ["tab"]\n[models.m]\nid = "m"\n')
    named = lash("config", "validate", str(other), "-o", "json")
    assert named.code == 5 and "no action 'queue_nxt'" in named.error["message"], "what is no action is an error"
    assert "did you mean: queue_next" in named.error["message"] and str(other) in named.error["message"]


def test_validate_makes_what_the_files_describe_without_a_call(lash, home):
    path = write_config(
        home,
        '[defaults]\nprovider = "nope"\n[providers.a]\nkind = "smoke"\n[providers.b]\nbase_url = "ftp://x"\n'
        'key = "cmd:touch called"\n[repl.keys]\nsubmitt = ["enter"]\n[retention]\nmax_age = "1h"\n',
    )
    done = lash("config", "validate", "-o", "json")
    assert done.code == 5
    found = {problem["key"]: problem["line"] for problem in done.error["details"]["problems"]}
    assert found == {
        "defaults.provider": 2,
        "providers.a": 4,
        "providers.b": 6,
        "repl.keys": 8,
        "retention.max_age": 11,
    }
    assert f"{path}:8: repl.keys: " in done.error["message"] and "submit" in done.error["message"]
    assert not (home.parent / "called").exists()


def test_the_schema_accepts_what_loading_accepts_and_refuses_a_typo(lash):
    import tomllib

    import jsonschema_rs

    schema = lash("config", "schema", "-o", "json").json
    jsonschema_rs.meta.validate(schema)
    check = jsonschema_rs.Draft202012Validator(schema).is_valid
    good = (
        '[defaults]\nmodel = "m"\nif_busy = "wait=60s"\n[providers.p]\nkey = "env:X"\noptions = { a = 1 }\n'
        '[models.q.prices]\ninput = 1.5\n[labels]\na = "b"\n[retention]\nmax_age = "never"\nmin_age = "1d"\n'
        '[profiles.ci]\ndefaults.output = "json"\n'
    )
    assert check(tomllib.loads(good))
    for bad in (
        '[defaults]\nmodle = "m"\n', '[profiles.ci]\ndefaults.modle = "m"\n', "[lease]\nttl_ms = 1\n",
        '[providers.p]\nkey = "sk-itself"\n', "[models.q.prices]\ninputt = 1\n", '[retention]\nmax_age = "soon"\n',
        '[tools]\nroots = [""]\n', '[defaults]\nmodel = " "\n',
    ):  # fmt: skip
        assert not check(tomllib.loads(bad)), bad


def test_what_two_write_at_once_is_all_there(lash, home, tmp_path):
    def all_of(*commands: tuple[str, ...], input: str | None = None) -> None:
        with ThreadPoolExecutor(len(commands)) as pool:
            done = list(pool.map(lambda words: lash(*words, input=input), commands))
        assert [one.code for one in done] == [0] * len(commands), [one.err for one in done]

    numbers = range(8)
    all_of(*(("config", "set", f"models.m{n}.id", "x") for n in numbers))
    all_of(*(("provider", "add", f"p{n}", "--base-url", "http://127.0.0.1:1/v1") for n in numbers))
    assert {f"models.m{n}.id" for n in numbers} <= set(lash("config", "show", "-q").out.split())
    assert {f"p{n}" for n in numbers} <= set(lash("provider", "ls", "-q").out.split())
    all_of(*(("key", "set", f"k{n}", "--stdin") for n in numbers), input="not-a-real-key-1234\n")
    assert set(lash("key", "ls", "-q").out.split()) == {f"k{n}" for n in numbers}
    projects = [tmp_path / f"project{n}" / ".lash" / "config.toml" for n in numbers]
    for file in projects:
        file.parent.mkdir(parents=True)
        file.write_text("[defaults]\nmodel = 'x'\n")
    all_of(*(("config", "trust", str(file.parent.parent), "--yes") for file in projects))
    assert len(lash("config", "trust", "--list", "-o", "json").json["items"]) == len(projects)
    all_of(*(("provider", "rm", f"p{n}", "--yes") for n in numbers))
    all_of(*(("key", "rm", f"k{n}", "--yes") for n in numbers))
    assert (lash("provider", "ls", "-q").out.split(), lash("key", "ls", "-q").out) == (["loopback"], "")


def test_a_refused_change_leaves_no_directory(lash, home):
    for words in (["config", "unset", "defaults.model"], ["key", "rm", "k"], ["provider", "rm", "p"]):
        assert lash(*words).code == 3
    assert lash("key", "set", "bad name", "--stdin", input="not-a-real-key-1234\n").code == 2
    assert not home.exists()


def test_set_writes_a_private_file_and_keeps_comments(lash, home):
    path = write_config(
        home, '# mine\n[defaults]\nmodel = "old"  # the model\n# end of defaults\n\n[lease]\nttl_ms = 9000\n'
    )
    assert lash("config", "set", "defaults.model", "new").code == 0
    assert lash("config", "set", "defaults.if_busy", "wait=60s").code == 0
    assert lash("config", "set", "approval.write", "auto").code == 0
    assert lash("config", "set", "tools.roots", "/a,/b").code == 0
    assert path.read_text() == (
        '# mine\n[defaults]\nmodel = "new"  # the model\nif_busy = "wait=60s"\n# end of defaults\n\n'
        '[lease]\nttl_ms = 9000\n\n[approval]\nwrite = "auto"\n\n[tools]\nroots = ["/a", "/b"]\n'
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in home.iterdir()] == ["config.toml"]


def test_set_makes_the_home_private(lash, home):
    assert lash("config", "set", "lease.ttl_ms", "9000").code == 0
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600
    assert value_of(lash, "lease.ttl_ms")[0] == 9000


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("defaults.modle", "x", "did you mean: defaults.model"),
        ("approval.read", "maybe", "one of: ask, auto, never"),
        ("lease.ttl_ms", "soon", "whole number"),
        ("providers.x.key", "sk-verysecretvalue", "lash key set"),
        ("providers.x.options.headers.Authorization", "Bearer verysecret", "lash config edit"),
        ("providers.x.options.extra_body.metadata.api_key", "verysecret", "lash config edit"),
        ("providers.x.base_url", "https://me:verysecret@example.org/v1", "lash key set"),
        ("profiles.p.providers.x.options.headers.X-Token", "verysecret", "lash config edit"),
        ("profiles.x.defaults.modle", "m", "did you mean: defaults.model"),
        ("profiles.x", "m", "unknown configuration key"),
    ],
)
def test_set_refuses_what_loading_would_refuse(lash, home, key, value, said):
    result = lash("config", "set", key, value)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "verysecret" not in result.err
    assert not home.exists()


def test_set_accepts_where_a_key_is_kept_and_options_of_a_provider(lash):
    assert lash("config", "set", "providers.mine.key", "env:MINE").code == 0
    assert lash("config", "set", "providers.mine.options.max_attempts", "2").code == 0
    assert value_of(lash, "providers.mine.key")[0] == "env:MINE"
    assert value_of(lash, "providers.mine.options")[0] == {"max_attempts": 2}


def test_a_credential_in_the_options_of_a_provider_is_no_argument_and_is_never_shown(lash, home):
    for name in ("headers.Authorization", "headers.x-api-key", "extra_body.user.access_token", "query.sig"):
        refused = lash("-c", f"providers.x.options.{name}=verysecret", "provider", "ls")
        assert (refused.code, refused.out) == (5, "") and "verysecret" not in refused.err
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        "[providers.x]\nkind = 'openai_chat'\nbase_url = 'http://127.0.0.1:9/v1'\n[providers.x.options]\n"
        "headers = {Authorization = 'Bearer verysecret', X-Team = 'verysecret'}\n"
        "extra_body = {max_tokens = 7, metadata = {api_key = 'verysecret', tags = ['blue']}}\n"
    )
    (home / "config.toml").chmod(0o600)
    shown = [
        lash("config", "show"),
        lash("config", "get", "providers.x.options"),
        lash("config", "get", "providers.x.options.extra_body.metadata.api_key"),
        lash("provider", "rm", "x", "-o", "json"),
    ]
    assert all(done.code == 0 and "verysecret" not in done.out + done.err for done in shown)
    assert "blue" in shown[0].out and '"max_tokens":7' in shown[0].out.replace(" ", "")


def test_set_leaves_a_broken_file_alone(lash, home):
    path = write_config(home, "[defaults\n")
    assert lash("config", "set", "defaults.model", "x").code == 5
    assert path.read_text() == "[defaults\n"


def test_an_unknown_profile_is_named(lash, home):
    write_config(home, "[profiles.ci]\ndefaults.output = 'json'\n")
    result = lash("config", "show", "--profile", "cii")
    assert result.code == 5
    assert "did you mean: --profile ci" in result.err


def test_the_home_must_be_writable(lash, home, tmp_path):
    blocker = tmp_path / "a-file"
    blocker.write_text("")
    result = lash("config", "set", "defaults.model", "x", "--home", str(blocker / "home"), "-o", "json")
    assert (result.code, result.out) == (5, "")
    assert result.error["code"] == "permissions_unsafe"
    assert str(blocker) in result.error["message"]


def test_path_shows_every_place_and_options_move_them(lash, home, tmp_path):
    document = lash("config", "path", "-o", "json").json
    assert document["config_file"] == str(home / "config.toml")
    assert document["database"] == str(home / "lash.db")
    moved = lash("config", "path", "-o", "json", "--db", str(tmp_path / "x.db"), "--home", str(tmp_path / "h")).json
    assert moved["database"] == str(tmp_path / "x.db")
    assert moved["keys_file"] == str(tmp_path / "h" / "keys.toml")
