"""What must be true of one session's queue, worked out without asking the store (contract 02 §1–§6).

Rows are kept in the order they came. A pending row may be held by the turn that
runs or is to be driven again, or claimed by a host under one lease. The oracle
follows a drive from one model call to the next: it knows the rules, not the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Boundary = Literal["after_work", "before_completion"]
RowState = Literal["pending", "done", "cancelled"]
# How far a drive came: a model call waits, the process died, the turn committed, or the request was over.
Reached = Literal["call", "crashed", "committed", "over"]


@dataclass(eq=False)
class Row:
    """One input or one batch."""

    row_id: str
    text: str
    at_ms: int
    state: RowState = "pending"
    holder: Turn | None = None
    claim_id: str | None = None
    generation: int | None = None


@dataclass(eq=False)
class Input(Row):
    """One text. `turn_id` is the turn it is addressed to, None for the next one."""

    turn_id: str | None = None
    boundary: Boundary = "after_work"


@dataclass(eq=False)
class Work(Row):
    """One batch, exclusive: a wake that any checkpoint takes, one that waits for a commit, or a command."""

    kind: Literal["wake", "later", "refresh", "reset"] = "wake"

    @property
    def is_command(self) -> bool:
        return self.kind in ("refresh", "reset")


@dataclass(eq=False)
class Turn:
    """The turn that runs or was cut off: what its transcript would say, and where its drive stands.

    `checkpoint` is the one it still has to pass, None while a model call is
    under way. `claimed` are rows that checkpoint took already; with
    `is_recorded` the journal knows so. `passed_empty` says that the call under
    way came after an empty checkpoint that the journal cannot prove yet.
    """

    opening: list[str]
    founding: list[Row]
    tail: list[str] = field(default_factory=list)
    taken: list[Row] = field(default_factory=list)
    turn_id: str = ""
    is_fresh: bool = True
    checkpoint: Boundary | None = None
    claimed: list[Row] = field(default_factory=list)
    is_recorded: bool = False
    deliveries: int = 0
    passed_empty: bool = False
    is_cancelled: bool = False


@dataclass
class Goal:
    """What a drive was asked for: a text, a pass over the queue (of named batches), or with neither a re-drive."""

    text: str | None = None
    is_drain: bool = False
    named: tuple[Work, ...] = ()
    commands: int = 0
    idle: str | None = None
    is_started: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether finishing a crashed turn was not all it wanted."""
        return not self.is_started and (self.text is not None or bool(self.named))


class Oracle:
    """The queue, the transcript and the lane of one session."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.work: list[Work] = []
        self.transcript: list[str] = []
        self.turn: Turn | None = None
        self.is_held = False
        # Who holds the lane: a drive, or a host under this generation.
        self.is_driving = False
        self.host_generation: int | None = None

    @property
    def is_busy(self) -> bool:
        return self.is_driving or self.host_generation is not None

    def is_open(self, row: Row) -> bool:
        """Whether nobody holds a pending row."""
        is_claimed = row.generation is not None and row.generation == self.host_generation
        return row.state == "pending" and row.holder is None and not is_claimed

    def open_inputs(self) -> list[Input]:
        return [row for row in self.inputs if self.is_open(row)]

    def open_work(self) -> list[Work]:
        return [row for row in self.work if self.is_open(row)]

    def next_inputs(self) -> list[Input]:
        return [row for row in self.open_inputs() if row.turn_id is None]

    def head(self) -> Work | None:
        return next(iter(self.open_work()), None)

    def drive(self, goal: Goal, crash: str | None = None) -> Reached:
        """Follow a request from its start to its first model call, its crash or its end."""
        while True:
            if goal.is_drain and self.is_held:
                goal.idle = "held"
                return self._over()
            if self.turn is not None:
                self.is_driving = True
                reached = self.resume(crash)
                if reached != "committed":
                    return reached
                if not goal.goes_on:
                    return self._over()
            elif not self._enter(goal):
                return self._over()
            elif self.turn is not None:
                goal.is_started = True
                return "call"

    def _over(self) -> Reached:
        self.is_driving = False
        return "over"

    def _enter(self, goal: Goal) -> bool:
        """Start a turn or run the commands that come before it; False when there is nothing to do."""
        if goal.named:
            return self._enter_named(goal)
        if goal.text is None and not goal.is_drain:
            # A look for an unfinished turn takes the lane, and so repairs what was addressed to turns that are gone.
            self._defer_orphans()
            return False
        self._defer_orphans()
        inputs = self.next_inputs()
        head = self.head()
        is_command_due = head is not None and head.is_command and not self.is_held
        if goal.text is not None:
            if is_command_due:
                self._run_commands(goal)
            typed = Input("", goal.text, 0)
            self.inputs.append(typed)
            self._begin([goal.text], [typed])
        elif head is not None and is_command_due and (not inputs or head.at_ms < inputs[0].at_ms):
            self._run_commands(goal)
        elif inputs:
            self._begin(["\n".join(row.text for row in inputs)], inputs)
        elif head is not None:
            self._begin([head.text], [head])
        else:
            goal.idle = "commands_only" if goal.commands else "empty"
            return False
        return True

    def _enter_named(self, goal: Goal) -> bool:
        if all(row.state != "pending" for row in goal.named):
            goal.idle = "already_satisfied"
            return False
        head = self.head()
        if head is not None and head.is_command:
            self._run_commands(goal)
        elif len(goal.named) == 1 and self.is_open(goal.named[0]):
            self._defer_orphans()
            self._begin([goal.named[0].text], goal.named)
        else:
            goal.idle = "unclaimable_together"
            return False
        return True

    def _defer_orphans(self) -> None:
        """Text for turns that do not run goes to the next turn, at its place."""
        for row in self.open_inputs():
            row.turn_id = None

    def _run_commands(self, goal: Goal) -> None:
        """Apply every command at the head of the line."""
        while (head := self.head()) is not None and head.is_command:
            head.state = "done"
            goal.commands += 1
            if head.kind == "reset":
                self.transcript = []

    def _begin(self, opening: list[str], founding: Sequence[Row]) -> None:
        turn = Turn(opening, list(founding), list(opening))
        for row in founding:
            row.holder = turn
        self.turn = turn
        self.is_driving = True

    @property
    def running(self) -> Turn:
        assert self.turn is not None
        return self.turn

    def answer(self, words: str | None, crash: str | None) -> Reached:
        """The model answers with `words`, or calls a tool (None)."""
        turn = self.running
        turn.passed_empty = False
        if words is not None:
            turn.tail.append(words)
        turn.checkpoint = "after_work" if words is None else "before_completion"
        return self._pass_checkpoint(crash)

    def resume(self, crash: str | None) -> Reached:
        """An unfinished turn is driven again: what is recorded is read, and the drive goes on from there."""
        turn = self.running
        turn.is_fresh = False
        if turn.is_cancelled:
            if crash == "before:commit":
                return self._die()
            # Its transcript shows only how it began, so only that is used up.
            turn.tail, turn.taken = list(turn.opening), []
            return self.commit(crash)
        if turn.deliveries and crash == "after:checkpoint_recorded":
            return self._die()
        if turn.checkpoint is None and turn.passed_empty:
            turn.checkpoint = "after_work"
        return "call" if turn.checkpoint is None else self._pass_checkpoint(crash)

    def _pass_checkpoint(self, crash: str | None) -> Reached:
        turn = self.running
        boundary = turn.checkpoint
        assert boundary is not None
        if not turn.is_recorded:
            if crash == "before:checkpoint_claimed":
                return self._die()
            turn.claimed = turn.claimed or self._admissible(boundary)
            for row in turn.claimed:
                row.holder = turn
            if turn.claimed and crash == "after:checkpoint_claimed":
                return self._die()
            turn.is_recorded = bool(turn.claimed)
        if turn.claimed and crash == "after:checkpoint_recorded":
            return self._die()
        rows, turn.claimed, turn.is_recorded = turn.claimed, [], False
        if rows:
            turn.taken += rows
            turn.tail += [row.text for row in rows]
            turn.deliveries += 1
        elif boundary == "before_completion":
            return self._die() if crash == "before:commit" else self.commit(crash)
        # A call of a fresh drive leaves no row before its answer; a re-drive claims one first.
        turn.passed_empty = not rows and turn.is_fresh
        turn.checkpoint = None
        return "call"

    def _admissible(self, boundary: Boundary) -> list[Row]:
        """What a checkpoint may take now, inputs first."""
        if self.is_held:
            return []
        rows: list[Row] = [
            row
            for row in self.open_inputs()
            if row.turn_id == self.running.turn_id and (row.boundary == "after_work" or boundary == "before_completion")
        ]
        head = self.head()
        return [*rows, head] if head is not None and head.kind == "wake" else rows

    def _die(self) -> Reached:
        self.is_driving = False
        return "crashed"

    def commit(self, crash: str | None = None) -> Reached:
        """The turn ends: what its transcript shows is used up, everything else is given back or goes on to the next."""
        turn = self.running
        for row in (*self.inputs, *self.work):
            if row.holder is turn:
                if row in turn.founding or row in turn.taken:
                    row.state = "done"
                else:
                    row.holder = row.claim_id = row.generation = None
        self.transcript += turn.tail
        self.turn = None
        self.is_driving = False
        for row in self.inputs:
            if row.state == "pending" and row.turn_id == turn.turn_id:
                row.turn_id = None
        return "crashed" if crash == "after:commit" else "committed"

    def claimable(self, what: Literal["inputs", "work", "command"]) -> list[Row]:
        """What a host that holds the lane may claim."""
        if self.is_held:
            return []
        if what == "inputs":
            return list(self.next_inputs())
        head = self.head()
        return [head] if head is not None and head.is_command == (what == "command") else []

    def claim(self, rows: Iterable[Row], claim_id: str) -> None:
        for row in rows:
            row.claim_id, row.generation = claim_id, self.host_generation

    def owns(self, claim_id: str, rows: Iterable[Row]) -> bool:
        """Whether a claim still owns every row it was made of."""
        return all(row.state == "pending" and row.holder is None and row.claim_id == claim_id for row in rows)

    def cancel(self, row: Row) -> str:
        """Cancel an input; what the caller is told."""
        if row.state == "cancelled":
            return "already_cancelled"
        if row.state == "done":
            return "already_completed"
        if not self.is_open(row):
            return "already_claimed"
        row.state = "cancelled"
        return "cancelled"
