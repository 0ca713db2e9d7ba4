"""Shapes of sessions, turns and what verbs answer: what `documents` makes of their records (contract 08 §5.1, §6.1)."""

from __future__ import annotations

from typing import Any

from lash_cli.cli.schemas.queue import Batch, PendingItem
from lash_cli.cli.schemas.shape import Count, Shape, Time
from lash_cli.core.llm import GenerationReceipt, NormalizedError, RetryDecision
from lash_cli.core.outcome import TurnCancellationEvidence, TurnIssue
from lash_cli.core.policy import Generation, ModelSpec
from lash_cli.core.tools import ToolCancelled, ToolFailed, ToolSuccess


class Usage(Shape):
    """Token counts. `input_tokens` excludes cached ones; reasoning is part of output; `total_tokens` is billable."""

    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count
    cache_write_input_tokens: Count
    reasoning_output_tokens: Count
    total_tokens: Count


class LedgerEntry(Usage):
    """The tokens of one source with one model."""

    source: str
    model: str


class UsageReport(Usage):
    """What a session cost, summed in several ways."""

    by_source: dict[str, Usage]
    by_model: dict[str, Usage]
    by_source_model: list[LedgerEntry]


class Holder(Shape):
    """Who holds a session's lane, as far as it said so."""

    owner_id: str
    label: str | None
    pid: int | None
    host: str | None


class Lease(Shape):
    """The lane of a session. `live` is false when its holder is gone."""

    holder: Holder | None
    generation: int
    claimed_at: Time | None
    expires_at: Time | None
    expires_in_ms: Count | None
    live: bool


class SessionItem(Shape):
    """A session as listings show it. `status`: waiting, stuck, running, queued, idle, parked or closed."""

    id: str
    name: str
    status: str
    provider: str
    model: str
    turns: Count
    pending_inputs: Count
    pending_batches: Count
    running_turn: str | None
    head_revision: int | None
    created_at: Time
    last_activity_at: Time
    closed_at: Time | None
    parked_at: Time | None
    held_at: Time | None
    hold_reason: str | None
    cwd: str | None
    parent: str | None
    labels: dict[str, str]
    context_tokens: Count | None
    lease: Lease | None


class Policy(Shape):
    """What a session's turns run under. `system` is its rendered prompt, `generation` how its answers are drawn, where
    a null is left to the provider."""

    provider: str
    model: ModelSpec
    max_steps: int | None
    autonomous: bool
    system: str | None
    generation: Generation


class Head(Shape):
    """Where the committed history ends."""

    revision: int | None
    leaf_node: str | None
    frame: str | None


class Frame(Shape):
    """A stretch of history that the model sees as a whole."""

    id: str
    status: str
    reason: str
    previous: str | None
    created_at: Time


class Tool(Shape):
    """A tool the session may call."""

    id: str
    name: str
    description: str
    approval: str
    retry: str
    timeout_ms: Count | None


class ToolItem(Tool):
    """A tool of a session. `state`: on, off, or gone when what offered it is not there any more."""

    state: str


class Outcome(Shape):
    """How a turn ended. `type`: finished, agent_frame_switch or stopped; `finish`: assistant_message, final_value or
    tool_value; `reason` says why it stopped."""

    type: str
    finish: str | None
    reason: str | None
    value: Any
    tool_name: str | None
    frame_id: str | None


class Attempt(Shape):
    """One attempt of a model call. `outcome`: completed, failed, aborted (cancelled) or interrupted (cut on purpose);
    `protocol_position`: no_response, response_observed, output_started or terminal_observed. What the provider did not
    say about itself is null; `response_metadata` has what the provider's `response_metadata` option names. `generation`
    tells of each option that was asked for whether it was applied, clamped or omitted; it is null where none was, and
    of an attempt without an answer."""

    ordinal: int
    outcome: str
    protocol_position: str
    started_at: Time
    duration_ms: Count
    error: NormalizedError | None
    retry: RetryDecision | None
    retry_budget_consumed: bool
    served_model: str | None
    response_id: str | None
    request_id: str | None
    finish_reason: str | None
    reasoning_tokens: int | None
    usage: Usage
    response_metadata: dict[str, Any]
    generation: GenerationReceipt | None


class ModelCall(Shape):
    """A model call with all of its attempts."""

    call_id: str
    label: str | None
    usage: Usage
    attempts: list[Attempt]


class Turn(Shape):
    """A stored turn (`lash show S --turn T`). `state`: running or committed."""

    id: str
    session: str
    state: str
    index: int
    origin: str
    started_at: Time
    duration_ms: Count | None
    head_revision: int | None
    first_node: str | None
    last_node: str | None
    outcome: Outcome | None
    text: str | None
    usage: Usage | None
    cancellation: TurnCancellationEvidence | None
    errors: list[TurnIssue]
    input_ids: list[str]
    tool_call_count: Count
    model_calls: list[ModelCall]


class Session(SessionItem):
    """A session in full (`lash show`); after `open` and `resume` the keys from `policy` on are null, and `tools` is
    null unless asked for."""

    policy: Policy | None
    head: Head | None
    frames: list[Frame] | None
    usage: UsageReport | None
    queue: list[PendingItem] | None
    batches: list[Batch] | None
    unfinished_turn: Turn | None
    warnings: list[str] | None
    tools: list[Tool] | None


class ToolCall(Shape):
    """A finished call of a turn. `status`: success, failure or cancelled."""

    call_id: str
    name: str
    args: Any
    status: str
    output: ToolSuccess | ToolFailed | ToolCancelled
    duration_ms: Count


class Finished(Shape):
    """Everything a caller learns about a turn that ended."""

    turn_id: str
    ok: bool
    replayed: bool
    outcome: Outcome
    text: str | None
    partial_text: str | None
    usage: Usage
    children_usage: list[LedgerEntry]
    total_usage: Usage
    tool_calls: list[ToolCall]
    errors: list[TurnIssue]
    model_calls: list[ModelCall]
    cancellation: TurnCancellationEvidence | None
    head_revision: int | None
    input_ids: list[str]
    started_at: Time
    duration_ms: Count


class TurnResult(Finished):
    """A turn that was run (`lash turn -o json`, and `details.turn` of an error)."""

    session: str
    session_name: str | None


class TurnUsage(Shape):
    """What a turn cost (`lash turn --usage-file`)."""

    session: str
    turn_id: str
    usage: Usage
    children_usage: list[LedgerEntry]
    total_usage: Usage
    model_calls: list[ModelCall]


class ServedModel(Usage):
    """What one model served, by its own name; null stands for attempts that never said."""

    model: str | None
    attempts: Count


class AttemptReport(Shape):
    """What happened for what was paid. `unanswered_usage`, the cost of attempts without an answer, is part of that."""

    calls: Count
    attempts: Count
    completed: Count
    failed: Count
    aborted: Count
    interrupted: Count
    retry_wait_ms: Count
    unanswered_usage: Usage
    served: list[ServedModel]


class SessionUsage(UsageReport):
    """What a session cost (`lash usage`): tokens by source and by the model asked for, failed attempts included.
    `cost_micros` is null where a price is not known; it is an estimate where a request may have had the price of long
    contexts."""

    session: str
    session_name: str
    turns: Count
    cost_micros: Count | None
    currency: str | None
    cost_is_estimate: bool
    attempts: AttemptReport


class CancelReceipt(Shape):
    """The answer to a cancel request. `outcome`: requested, already_requested, completion_won or unknown;
    `terminal` is how the turn ended, known after `--wait`."""

    session: str
    turn_id: str
    outcome: str
    durability_tier: str
    evidence: TurnCancellationEvidence | None
    terminal: Outcome | None


class Parked(Shape):
    """A session that was written down and released."""

    id: str
    name: str
    parked_at: Time
    head_revision: int | None
    turns: Count
    pending_inputs: Count
    unfinished_turn: str | None


class BulkItem(Shape):
    """What became of one session; `code` is that of its error."""

    id: str
    name: str
    outcome: str
    code: str | None


class ImportItem(Shape):
    """One session of an export; in a dry run it has no name when its own is taken, and would get a free one."""

    id: str
    name: str | None
    outcome: str
    code: str | None


class Met(Shape):
    """One condition of `lash wait` and what is known about its subject."""

    condition: str
    met: bool
    state: str | None
    turn_id: str | None
    outcome: Outcome | None


class Wait(Shape):
    """The conditions of `lash wait`, all of which hold."""

    id: str
    session_name: str
    conditions: list[Met]
    waited_ms: int


class WorkReport(Shape):
    """What a worker did. `errors` counts passes without a commit, `held` are queues that wait for a person."""

    turns: Count
    failed: Count
    errors: Count
    sessions: list[str]
    held: list[str]
    stopped_by: str
