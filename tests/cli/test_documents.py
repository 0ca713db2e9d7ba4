"""Status words and documents as pure functions of rows."""

from __future__ import annotations

import json

import msgspec
import pytest

from lash_cli.cli.documents import message_document, session_document, session_status, spelled_out
from lash_cli.cli.durations import duration_ms
from lash_cli.cli.exit_status import interrupted_error, turn_error
from lash_cli.cli.turn_documents import outcome_document, turn_result_document
from lash_cli.core.content import AttachmentPart, Inline, Message, ReasoningPart, ReasoningReplay, Role, ToolCallPart
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow, LocalProcess
from lash_cli.core.outcome import (
    AgentFrameSwitch,
    AssistantMessage,
    AssistantOutput,
    ExecutionSummary,
    Finished,
    Stopped,
    ToolValue,
    TurnCancellationEvidence,
    TurnIssue,
    TurnResult,
)
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.errors import UsageError
from lash_cli.store.base import SessionMeta, SessionRow

NOW = 1_700_000_000_123
HOLDER = LeaseOwnerIdentity("o", "i", LocalProcess("host", "boot", 42, "7"), "turn")
HELD = LeaseRow(3, "token", HOLDER, NOW - 10, NOW + 5_000)
META = SessionMeta("s", "quiet-fjord", NOW - 1_000)
ROW = SessionRow(META, PersistedSessionConfig("loopback", ModelSpec("m")), LeaseRow())


def row(**changes) -> SessionRow:
    return msgspec.structs.replace(ROW, **changes)


def result(outcome, **changes) -> TurnResult:
    base = TurnResult("s", "t", outcome, AssistantOutput("", "", "usable"), ExecutionSummary(False, False, NOW, 5))
    return msgspec.structs.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "dead", "expected"),
    [
        ({}, False, "idle"),
        ({"lease": HELD, "running_turn_id": "t"}, False, "running"),
        ({"lease": HELD, "running_turn_id": "t"}, True, "stuck"),
        ({"lease": HELD, "running_turn_id": "t", "is_waiting": True}, False, "waiting"),
        ({"lease": HELD, "running_turn_id": "t", "is_waiting": True}, True, "stuck"),
        ({"lease": LeaseRow(3, "token", HOLDER, 0, NOW), "running_turn_id": "t"}, False, "stuck"),
        ({"lease": LeaseRow(3), "running_turn_id": "t"}, False, "stuck"),
        ({"pending_inputs": 2}, False, "queued"),
        ({"pending_batches": 1}, False, "queued"),
        ({"meta": msgspec.structs.replace(META, parked_at_ms=NOW)}, False, "parked"),
        ({"meta": msgspec.structs.replace(META, parked_at_ms=NOW), "pending_inputs": 1}, False, "queued"),
        ({"meta": msgspec.structs.replace(META, closed_at_ms=NOW), "pending_inputs": 1}, False, "closed"),
    ],
)
def test_status_words_follow_from_rows(changes, dead, expected) -> None:
    assert session_status(row(**changes), NOW, lambda process: dead) == expected


def test_session_documents_are_json_with_utc_times_and_the_holder() -> None:
    document = session_document(row(lease=HELD), NOW, lambda process: False)
    assert json.loads(json.dumps(document)) == document
    assert document["created_at"] == "2023-11-14T22:13:19.123Z"
    assert document["last_activity_at"] == document["created_at"]
    assert document["lease"]["holder"]["pid"] == 42
    assert (document["lease"]["expires_in_ms"], document["lease"]["live"]) == (5_000, True)


def test_defaults_that_storage_omits_are_spelled_out() -> None:
    assert spelled_out(Inline("image/png", b"\x00")) == {
        "source": "inline",
        "media_type": "image/png",
        "data": "AA==",
        "label": None,
    }
    assert spelled_out(TurnIssue("k", "m"))["blocking"] is True


def test_messages_carry_no_provider_secrets_and_no_attachment_bytes() -> None:
    message = Message(
        "m1",
        Role.ASSISTANT,
        (
            ReasoningPart("thinking", ReasoningReplay(encrypted_content="opaque")),
            ToolCallPart("c1", "read_file", '{"path":"a"}'),
            AttachmentPart(Inline("image/png", b"bytes")),
        ),
    )
    document = message_document(message, at_ms=NOW, turn_id="t")
    assert "opaque" not in json.dumps(document) and "data" not in document["parts"][2]["attachment"]
    assert document["parts"][1] == {
        "kind": "tool_call",
        "tool_call_id": "c1",
        "tool_name": "read_file",
        "input_json": '{"path":"a"}',
    }


@pytest.mark.parametrize(
    ("outcome", "kind", "detail"),
    [
        (Finished(AssistantMessage("hi")), "finished", "assistant_message"),
        (Finished(ToolValue("submit", {"a": 1})), "finished", "tool_value"),
        (AgentFrameSwitch("f", "task"), "agent_frame_switch", None),
        (Stopped("max_turns"), "stopped", None),
    ],
)
def test_outcome_documents_always_have_the_same_keys(outcome, kind, detail) -> None:
    document = outcome_document(outcome)
    assert (document["type"], document["finish"]) == (kind, detail)
    assert set(document) == {"type", "finish", "reason", "value", "tool_name", "frame_id"}


@pytest.mark.parametrize(
    ("issue", "code", "status"),
    [
        ({"provider_failure_kind": "quota", "retryable": True}, "provider_rate_limited", 75),
        ({"provider_failure_kind": "quota", "retryable": False}, "turn_stopped:provider_error", 6),
        ({"provider_failure_kind": "auth"}, "key_rejected", 5),
        ({"provider_failure_kind": "transport", "retryable": True}, "provider_unavailable", 75),
        ({"provider_failure_kind": "timeout", "retryable": True}, "provider_unavailable", 75),
        ({"provider_failure_kind": "http", "retryable": True}, "provider_unavailable", 75),
        ({"provider_failure_kind": "http", "retryable": False}, "turn_stopped:provider_error", 6),
        ({"provider_failure_kind": "validation"}, "turn_stopped:provider_error", 6),
    ],
)
def test_provider_failures_map_to_their_own_exit_statuses(issue, code, status) -> None:
    stopped = result(Stopped("provider_error"), errors=(TurnIssue("llm", "no", **issue),))
    error = turn_error(stopped, {"turn": {}})
    assert error is not None and (error.code, error.exit_status) == (code, status)
    assert error.retryable == (status == 75) and error.details == {"turn": {}}


@pytest.mark.parametrize(
    ("issue", "hint"),
    [
        ({"terminal_reason": "context_overflow"}, "lash compact "),
        ({"terminal_reason": "output_limit"}, "let it go on"),
        ({"code": "model_not_found"}, "--model ID"),
        ({"code": "unexpected_html"}, "lash provider test mine"),
        ({"code": "unexpected_redirect"}, "lash provider test mine"),
        ({"code": "network_setup_invalid"}, "unset it"),
        ({"code": "conversation_refused"}, "lash config set providers.mine.options.conversation_dialect mistral"),
        (
            {"provider_failure_kind": "validation", "code": "invalid_encrypted_content"},
            "lash config set providers.mine.options.replay_reasoning false",
        ),
        ({"provider_failure_kind": "validation", "code": "invalid_image"}, "lash rewind "),
        ({"provider_failure_kind": "validation", "code": "unsupported_effort"}, "lash show "),
        ({"code": "whatever"}, "lash show "),
        ({"provider_failure_kind": "quota"}, "--provider NAME"),
    ],
)
def test_a_failure_that_says_what_helps_gets_the_next_step_as_its_hint(issue, hint) -> None:
    stopped = result(Stopped("provider_error"), errors=(TurnIssue("llm", "no", **issue),))
    error = turn_error(stopped, {}, provider="mine")
    assert error is not None and hint in (error.hint or "")


@pytest.mark.parametrize(
    ("issue", "hint"),
    [
        ({"terminal_reason": "context_overflow"}, "make it shorter, or ask a model with a larger window: "),
        ({"terminal_reason": "output_limit"}, "allow a longer answer"),
        ({"code": "model_not_found"}, "lash turn --ephemeral '…' --model ID"),
        ({"provider_failure_kind": "validation", "code": "invalid_image"}, None),
        ({"code": "whatever"}, None),
        ({"provider_failure_kind": "quota"}, "lash turn --ephemeral '…' --provider NAME"),
        ({"provider_failure_kind": "quota", "retryable": True}, "lash turn --ephemeral '…'"),
        ({"provider_failure_kind": "timeout"}, "lash turn --ephemeral '…'"),
        ({"code": "unsafe_retry_after_output_started"}, "lash turn --ephemeral '…'"),
    ],
)
def test_a_hint_never_names_the_session_of_an_ephemeral_turn_which_is_gone(issue, hint) -> None:
    stopped = result(Stopped("provider_error"), errors=(TurnIssue("llm", "no", **issue),))
    error = turn_error(stopped, {}, provider="mine", is_kept=False)
    assert error is not None and stopped.session_id not in (error.hint or "").split()
    assert hint in (error.hint or "") if hint is not None else error.hint is None


def test_where_the_text_of_a_turn_was_found_is_not_why_it_stopped() -> None:
    note = TurnIssue("runtime", "the answer's text was taken from the transcript", code="recovered", blocking=False)
    error = turn_error(result(Stopped("max_turns"), errors=(note,)), {})
    assert error is not None and error.message == "the turn stopped (max_turns)"


@pytest.mark.parametrize(("reason", "option"), [("max_turns", "--max-steps"), ("max_cost", "--max-cost")])
def test_a_turn_that_was_stopped_at_a_limit_can_go_on_with_a_higher_one(reason, option) -> None:
    error = turn_error(result(Stopped(reason)), {})
    assert error is not None and error.hint is not None
    assert "lash turn s '…'" in error.hint and option in error.hint


def test_only_stopped_turns_are_errors_and_a_cancelled_one_is_7() -> None:
    assert turn_error(result(Finished(AssistantMessage("hi"))), {}) is None
    assert turn_error(result(AgentFrameSwitch("f", "x")), {}) is None
    evidence = TurnCancellationEvidence("c1", "cli", "enough")
    cancelled = turn_error(result(Stopped("cancelled"), cancellation=evidence), {})
    assert cancelled is not None and (cancelled.code, cancelled.exit_status) == ("turn_cancelled", 7)
    assert "enough" in cancelled.message
    stopped = turn_error(result(Stopped("max_turns")), {})
    assert stopped is not None and (stopped.code, stopped.exit_status) == ("turn_stopped:max_turns", 6)


def test_a_signal_exits_with_128_plus_its_number() -> None:
    assert [interrupted_error(number, {}).exit_status for number in (1, 2, 15)] == [129, 130, 143]


def test_result_documents_hold_the_answer_and_what_it_cost() -> None:
    document = turn_result_document(result(Finished(AssistantMessage("hi"))), name="quiet-fjord")
    assert (document["ok"], document["text"], document["session_name"]) == (True, "hi", "quiet-fjord")
    assert document["total_usage"]["total_tokens"] == 0
    assert json.loads(json.dumps(document)) == document


def test_durations_have_units_and_nothing_else_is_one() -> None:
    assert [duration_ms(text) for text in ("500ms", "30s", "2m", "1.5h", "7d", "3")] == [
        500,
        30_000,
        120_000,
        5_400_000,
        604_800_000,
        3_000,
    ]
    for text in ("", "soon", "-1s", "1y"):
        with pytest.raises(UsageError):
            duration_ms(text)


def test_a_duration_longer_than_any_clock_is_the_longest_there_is() -> None:
    longest = duration_ms("9" * 30 + "d")
    assert duration_ms("9" * 400) == longest == duration_ms("3652000000d")
    assert longest < 2**63 - NOW
