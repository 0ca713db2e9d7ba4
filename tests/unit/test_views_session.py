"""A Session document as text: everything that matters is said, nothing can steer the terminal."""

from __future__ import annotations

from typing import Any

from lash_cli.cli.documents import policy_document, session_document, usage_report_document
from lash_cli.cli.turn_documents import turn_document
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow, LocalProcess
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig, SessionPolicy, session_prompt
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage, usage_report
from lash_cli.store.base import SessionMeta, SessionRow, TurnRecord
from lash_cli.views.safe_text import safe_text
from lash_cli.views.session import lease_text, policy_text, session_text, tools_text, usage_text
from lash_cli.views.turns import turn_text

NOW = 1_700_000_000_000
HELD = LeaseRow(3, "t", LeaseOwnerIdentity("o", "i", LocalProcess("h", "b", 42, "7"), "turn"), NOW, NOW + 24_000)


def document(*, lease: LeaseRow | None = None, name: str = "quiet-fjord", is_dead: bool = False) -> dict[str, Any]:
    meta = SessionMeta("s_1", name, NOW, cwd="/work", labels={"team": "a"})
    row = SessionRow(meta, PersistedSessionConfig("p", ModelSpec("m")), lease or LeaseRow(), running_turn_id="t_1")
    ledger = (
        TokenLedgerEntry("turn", "m", TokenUsage(10, 4, 3)),
        TokenLedgerEntry("compaction", "m", TokenUsage(1, 1)),
    )
    return {
        **session_document(row, NOW, lambda process: is_dead),
        "policy": policy_document(SessionPolicy(ModelSpec("m"), "p", prompt=session_prompt("be brief"))),
        "head": {"revision": None, "leaf_node": None, "frame": None},
        "frames": [],
        "usage": usage_report_document(usage_report(ledger)),
        "queue": [],
        "unfinished_turn": None,
        "warnings": ["turn t_1 was interrupted"],
        "tools": None,
    }


def test_the_text_tells_status_lease_usage_and_warnings() -> None:
    shown = session_text(document(lease=HELD), clean=safe_text, here=str)
    assert shown.startswith("quiet-fjord  s_1  running")
    for words in (
        "nothing committed yet",
        "pid 42 (turn) until 2023-11-14T22:13:44.000Z (24.0s)",
        "in 11 (cache read 3) out 5",
        "turn / m: in 10 (cache read 3) out 4",
        "team=a",
        "/work",
        "warning: turn t_1 was interrupted",
    ):
        assert words in shown


def test_a_holder_that_is_gone_is_told_apart_from_a_live_one() -> None:
    gone = document(lease=HELD, is_dead=True)
    assert gone["status"] == "stuck"
    assert lease_text(gone["lease"], clean=safe_text) == "left by pid 42 (turn), which is gone"
    assert lease_text(None, clean=safe_text) == "free"


def test_names_cannot_steer_the_terminal() -> None:
    shown = session_text(document(name="evil\x1b[2J"), clean=safe_text, here=str)
    assert "\x1b" not in shown and "\\x1b[2J" in shown


def test_policy_tools_and_usage_have_their_own_texts() -> None:
    assert "be brief" in policy_text(document()["policy"], clean=safe_text)
    tool = {"name": "run", "approval": "execute", "description": "Runs\nthings"}
    assert tools_text([tool], clean=safe_text) == "run  execute  Runs things"
    assert tools_text([], clean=safe_text) == "no tools"
    zero = dict.fromkeys(("input_tokens", "output_tokens"), 0)
    rest = dict.fromkeys(("cache_read_input_tokens", "cache_write_input_tokens", "reasoning_output_tokens"), 0)
    assert usage_text(zero | rest) == "in 0 out 0"


def test_a_running_turn_has_no_outcome_yet() -> None:
    shown = turn_text(turn_document(TurnRecord("s", "t_1", "running", 3, NOW), None), clean=safe_text)
    assert shown.startswith("t_1  turn 3  running")
