"""`lash show` through the real entry point: a session, its parts, one of its turns."""

from __future__ import annotations

import pytest
from support.error_world import told


@pytest.fixture
def session(lash) -> str:
    lash("open", "s", "--name", "work", "--system", "be brief")
    lash("turn", "s", "!usage 7 3\n!text one", "--turn-id", "t_1", "-q")
    lash("turn", "s", "!usage 5 2\n!text two", "--turn-id", "t_2", "-q")
    return "s"


def test_the_document_sums_usage_and_tells_head_and_policy(lash, session) -> None:
    document = lash("show", "work", "-o", "json").json
    assert (document["kind"], document["id"], document["turns"]) == ("Session", "s", 2)
    assert (document["usage"]["input_tokens"], document["usage"]["output_tokens"]) == (12, 5)
    assert document["usage"]["by_source"]["turn"]["total_tokens"] == 17
    assert document["head"]["revision"] == 2 and document["head"]["leaf_node"]
    assert document["policy"]["system"] == "be brief" and document["policy"]["model"]["id"] == "loopback"
    assert [frame["status"] for frame in document["frames"]] == ["active"]
    assert (document["lease"], document["unfinished_turn"], document["warnings"]) == (None, None, [])


def test_text_says_what_the_document_says(lash, session) -> None:
    shown = lash("show", "s").out
    for words in ("work  s  idle", "revision 2", "in 12 out 5", "free", "0 waiting"):
        assert words in shown


def test_policy_tools_and_lease_can_be_shown_alone(lash, session) -> None:
    assert "be brief" in lash("show", "s", "--policy").out
    assert "free" in lash("show", "s", "--lease").out
    assert "read_file" in lash("show", "s", "--tools").out
    document = lash("show", "s", "--tools", "-o", "json").json
    assert {"read_file", "exec_command"} <= {tool["name"] for tool in document["tools"]}
    assert lash("show", "s", "-o", "json").json["tools"] is None


def test_a_turn_is_shown_with_its_answer_outcome_and_cost(lash, session) -> None:
    document = lash("show", "s", "--turn", "t_1", "-o", "json").json
    assert (document["kind"], document["id"], document["state"], document["index"]) == ("Turn", "t_1", "committed", 1)
    assert (document["text"], document["outcome"]["type"]) == ("one", "finished")
    assert document["usage"]["total_tokens"] == 10
    text = lash("show", "s", "--turn", "t_1").out
    assert "t_1" in text and "one" in text


def test_a_stopped_turn_tells_why(lash, session) -> None:
    lash("turn", "s", "!sleep 30", "--timeout", "100ms", "--turn-id", "t_3")
    document = lash("show", "s", "--turn", "t_3", "-o", "json").json
    assert document["outcome"]["reason"] == "cancelled"
    assert document["cancellation"]["reason"] == "timeout"
    assert document["text"] is None


def test_showing_changes_nothing(lash, session) -> None:
    before = lash("show", "s", "-o", "json").json
    assert lash("show", "s", "-o", "json").json == before


def test_a_look_into_an_empty_home_is_not_found_and_creates_no_file(lash, home) -> None:
    done = lash("show", "s", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "session_not_found")
    assert not home.exists()


def test_the_default_session_comes_from_the_environment_and_is_announced(lash, session) -> None:
    done = lash("show", env={"LASH_SESSION": "work"})
    assert done.code == 0 and "session work (s) from LASH_SESSION" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("nope",), 3, "session_not_found"),
        (("s", "--turn", "t_nope"), 3, "turn_unknown"),
        ((), 2, "usage"),
    ],
)
def test_errors_leave_stdout_empty(lash, session, arguments, status, code) -> None:
    done = lash("show", *arguments, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (status, "", code)


def test_an_ambiguous_prefix_names_the_candidates(lash) -> None:
    lash("open", "project-a")
    lash("open", "project-b")
    done = lash("show", "proj", "-o", "json")
    assert (done.code, done.error["code"]) == (2, "session_ambiguous")
    assert {candidate["id"] for candidate in done.error["details"]["candidates"]} == {"project-a", "project-b"}


@pytest.mark.parametrize("named", [{}, {"LASH_SESSION": "other"}], ids=["alone", "beside LASH_SESSION"])
@pytest.mark.parametrize("verb", [("show",), ("log",), ("turn", "hi"), ("queue", "ls")], ids=" ".join)
def test_an_empty_reference_names_no_session_where_there_is_no_database_either(
    lash, home, verb: tuple[str, ...], named: dict[str, str]
) -> None:
    place = 2 if verb[0] == "queue" else 1
    done = lash(*verb[:place], "", *verb[place:], "-o", "json", env=named)
    assert told(done, 3, "session_not_found")["message"] == "no session ''"
    assert not home.exists()
