"""An independent model of the durable queue of one session, written from the contract (02 §1–§6, design D20).

Lists and plain loops, no index, no SQL, none of the project's rules: what the
store answers is held against what this says. A pending row is held by the
unfinished turn that took it or by a claim of the generation that holds the
lane. A failed call of the model changes nothing, as a failed call of the store
must not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

State = Literal["pending", "cancelled", "completed", "dead"]
BACK_OFF_MS = (1_000, 2_000, 4_000, 8_000)


class Refusal(Exception):
    """The error a call must end with, by the name of its class."""


@dataclass
class Row:
    """What inputs and batches have in common. `claim` is id, token and generation, `place` the place in it."""

    id: str
    seq: int
    at_ms: int
    key: str | None
    state: State = "pending"
    turn: str | None = None
    claim: tuple[str, str, int] | None = None
    place: int = 0
    claims_made: int = 0

    def free(self) -> None:
        self.turn = self.claim = None


@dataclass
class Text(Row):
    """An input; `target` and `boundary` are those of an active-turn input still waiting for its turn."""

    text: str = ""
    submitted: tuple[str | None, str | None] = (None, None)
    target: str | None = None
    boundary: str | None = None


@dataclass
class Work(Row):
    """A batch; `group` is what it joins, None for an exclusive one."""

    is_command: bool = False
    waits_for_commit: bool = False
    group: str | None = None
    available_at_ms: int = 0
    attempts: int = 0
    wake: tuple[str, int] | None = None


@dataclass
class Turn:
    """A turn row; `founding` are the ids of the claims it was started from."""

    id: str
    is_committed: bool = False
    founding: set[str] = field(default_factory=set)


@dataclass
class Passed:
    """What a pass or a lane gives: one of busy, held, idle, redrive, commands, inputs, work, draft, replayed."""

    kind: str
    ids: list[str] = field(default_factory=list)
    work_ids: list[str] = field(default_factory=list)
    turn: str | None = None
    reason: str | None = None
    available_at_ms: int | None = None


class QueueOracle:
    """The whole state of one session."""

    def __init__(self, ttl_ms: int, limit: int) -> None:
        self.ttl_ms, self.limit = ttl_ms, limit
        self.now_ms = 0
        self.holder: str | None = None
        self.expires_at_ms = 0
        self.generation = 0
        self.head: int | None = None
        self.is_on_hold = False
        self.texts: list[Text] = []
        self.works: list[Work] = []
        self.turns: dict[str, Turn] = {}
        self.wake_marks: dict[str, int] = {}
        # Every settlement that ever happened, in order, for the laws.
        self.used: list[str] = []
        self.cut: list[str] = []

    def is_live(self) -> bool:
        return self.holder is not None and self.now_ms < self.expires_at_ms

    def live_generation(self) -> int | None:
        return self.generation if self.is_live() else None

    def take(self, name: str, observed: int | None = None) -> bool:
        """Whether the lane is granted or extended; `observed` is the generation of a holder proved dead."""
        if self.is_live() and self.holder == name:
            self.expires_at_ms = max(self.expires_at_ms, self.now_ms + self.ttl_ms)
            return True
        if self.is_live() and observed != self.generation:
            return False
        self.generation += 1
        self.holder, self.expires_at_ms = name, self.now_ms + self.ttl_ms
        return True

    def release(self, generation: int) -> bool:
        if self.holder is None or generation != self.generation:
            return False
        self.holder = None
        return True

    def require_fence(self, generation: int) -> None:
        if not self.is_live() or generation != self.generation:
            raise Refusal("SessionExecutionLeaseExpired")

    def is_held(self, row: Row) -> bool:
        if row.turn is not None:
            return True
        return row.claim is not None and row.claim[2] == self.live_generation()

    def free_texts(self) -> list[Text]:
        return [row for row in self.texts if row.state == "pending" and not self.is_held(row)]

    def free_works(self) -> list[Work]:
        return [row for row in self.works if row.state == "pending" and not self.is_held(row)]

    def running(self) -> Turn | None:
        return next((turn for turn in self.turns.values() if not turn.is_committed), None)

    def _ready(self, generation: int | None) -> list[Work]:
        """The line as a claim of `generation` sees it."""
        return [
            row
            for row in self.works
            if row.state == "pending"
            and row.turn is None
            and row.available_at_ms <= self.now_ms
            and (row.claim is None or row.claim[2] != generation)
        ]

    def _waiting_texts(self, generation: int | None) -> list[Text]:
        return [
            row
            for row in self.texts
            if row.state == "pending"
            and row.turn is None
            and row.target is None
            and (row.claim is None or row.claim[2] != generation)
        ]

    def first_later(self) -> int | None:
        times = [
            row.available_at_ms
            for row in self.works
            if row.state == "pending" and row.turn is None and row.available_at_ms > self.now_ms
        ]
        return min(times, default=None)

    def has_claimable(self) -> bool:
        running = self.running()
        orphans = [
            row
            for row in self.texts
            if row.state == "pending"
            and row.turn is None
            and row.target is not None
            and (running is None or row.target != running.id)
        ]
        generation = self.live_generation()
        return bool(orphans or self._waiting_texts(generation) or self._ready(generation))

    def enqueue(self, row: Text) -> Text:
        standing = next((one for one in self.texts if row.key is not None and one.key == row.key), None)
        if standing is not None:
            if (standing.text, standing.submitted) != (row.text, row.submitted):
                raise Refusal("PendingTurnInputSourceKeyConflict")
            return standing
        self.texts.append(row)
        return row

    def enqueue_work(self, row: Work) -> tuple[str | None, bool]:
        """The id of the batch that stands (None when the store makes one) and whether it was settled before."""
        standing = next((one for one in self.works if row.key is not None and one.key == row.key), None)
        if standing is not None:
            return standing.id, standing.state in ("completed", "cancelled")
        if row.wake is not None and row.wake[1] <= self.wake_marks.get(row.wake[0], 0):
            return None, True
        self.works.append(row)
        return row.id, False

    def cancel(self, row: Text | None) -> str:
        if row is None:
            return "InputNotFound"
        if row.state == "completed":
            return "AlreadyCompleted"
        if row.state == "cancelled":
            return "AlreadyCancelled"
        if self.is_held(row):
            return "AlreadyClaimed"
        row.state = "cancelled"
        row.free()
        self.cut.append(row.id)
        return "Cancelled"

    def cancel_work(self, batch_id: str) -> bool:
        row = next((one for one in self.works if one.id == batch_id), None)
        if row is None or row.state not in ("pending", "dead") or self.is_held(row):
            return False
        row.state = "cancelled"
        row.free()
        self.cut.append(row.id)
        self._mark(row)
        return True

    def _mark(self, row: Work) -> None:
        """A settled wake is not delivered again, nor one before it."""
        if row.wake is not None:
            process, sequence = row.wake
            self.wake_marks[process] = max(sequence, self.wake_marks.get(process, 0))

    def _group(self, line: Sequence[Work], *, at_checkpoint: bool) -> list[Work]:
        if not line or line[0].is_command or (at_checkpoint and line[0].waits_for_commit):
            return []
        head = line[0]
        if head.group is None:
            return [head]
        alike = []
        for row in line:
            is_alike = (row.group, row.waits_for_commit, row.is_command) == (head.group, head.waits_for_commit, False)
            if not is_alike or len(alike) == self.limit:
                break
            alike.append(row)
        return alike

    def _named(self, ids: Sequence[str], generation: int | None) -> list[Work]:
        rows = [next((row for row in self._ready(generation) if row.id == batch_id), None) for batch_id in ids]
        found = [row for row in rows if row is not None]
        is_whole = len(found) == len(ids) == len(set(ids)) and not any(row.is_command for row in found)
        if is_whole and len(found) > 1:
            alike = {(row.group, row.waits_for_commit) for row in found}
            is_whole = len(alike) == 1 and found[0].group is not None
        return found if is_whole else []

    def _claim(self, rows: Iterable[Row], claim_id: str, token: str, turn: str | None) -> None:
        for place, row in enumerate(rows):
            row.claim = (claim_id, token, self.generation)
            row.place = place
            row.turn = turn
            row.claims_made += 1

    @staticmethod
    def claim_id(prefix: str, rows: Sequence[Row]) -> str:
        """The id the next claim of these rows gets: the first row's number and how often it was claimed then."""
        return f"{prefix}:{rows[0].seq}:{rows[0].claims_made + 1}"

    def claim_inputs(self, generation: int, token: str) -> list[Text]:
        self.require_fence(generation)
        rows = [] if self.is_on_hold else self._waiting_texts(generation)[: self.limit]
        if rows:
            self._claim(rows, self.claim_id("tic", rows), token, None)
        return rows

    def claim_work(self, generation: int, token: str, *, at_checkpoint: bool) -> list[Work]:
        self.require_fence(generation)
        rows = [] if self.is_on_hold else self._group(self._ready(generation), at_checkpoint=at_checkpoint)
        if rows:
            self._claim(rows, self.claim_id("qwc", rows), token, None)
        return rows

    def claim_command(self, generation: int, token: str) -> list[Work]:
        self.require_fence(generation)
        line = [] if self.is_on_hold else self._ready(generation)
        rows = line[:1] if line and line[0].is_command else []
        if rows:
            self._claim(rows, self.claim_id("qwc", rows), token, None)
        return rows

    def checkpoint(
        self, generation: int, turn: str, claim_id: str, token: str, *, is_last: bool
    ) -> tuple[list[Text], list[Work]]:
        self.require_fence(generation)
        taken_texts = [row for row in self.texts if row.state == "pending" and row.claim and row.claim[0] == claim_id]
        taken_works = [row for row in self.works if row.state == "pending" and row.claim and row.claim[0] == claim_id]
        if taken_texts or taken_works:
            return taken_texts, taken_works
        running = self.running()
        if self.is_on_hold or running is None or running.id != turn:
            return [], []
        texts = [
            row
            for row in self.texts
            if row.state == "pending"
            and row.turn is None
            and row.target == turn
            and (is_last or row.boundary == "after_work")
        ][: self.limit]
        works = self._group(self._ready(generation), at_checkpoint=True)
        self._claim(texts, claim_id, token, turn)
        self._claim(works, claim_id, token, turn)
        return texts, works

    def _redrive(self, token: str) -> Passed | None:
        turn = self.running()
        if turn is None:
            return None
        founding: list[Row] = []
        for row in (*self.texts, *self.works):
            if row.state != "pending" or row.turn != turn.id or row.claim is None:
                continue
            is_founding = row.claim[0] in turn.founding
            row.claim = (row.claim[0], token if is_founding else row.claim[1], self.generation)
            if is_founding:
                founding.append(row)
        return Passed("redrive", [row.id for row in sorted(founding, key=lambda row: row.place)], turn=turn.id)

    def _repair(self, except_turn: str) -> None:
        for row in self.texts:
            if row.state == "pending" and row.turn is None and row.target not in (None, except_turn):
                row.target = row.boundary = None
                row.claim = None

    def open_draft(self, name: str, token: str, turn: str, row: Text, observed: int | None) -> Passed:
        """A foreground turn: an unfinished one first, then commands that lead the line, then its own text."""
        standing = next((one for one in self.texts if row.key is not None and one.key == row.key), None)
        if standing is not None:
            if (standing.text, standing.submitted) != (row.text, row.submitted):
                raise Refusal("PendingTurnInputSourceKeyConflict")
            if standing.state == "cancelled":
                raise Refusal("ConflictError")
            if standing.state == "completed":
                # A commit outside of turns may have used it: then there is no answer to give again.
                if (used_by := self.turns.get(standing.turn or "")) is None or not used_by.is_committed:
                    raise Refusal("ConflictError")
                return Passed("replayed")
        if not self._can_take(name, observed):
            return Passed("busy")
        own = self.generation if self.is_live() and self.holder == name else None
        if self.running() is None:
            line = self._ready(own)
            if not self.is_on_hold and line and line[0].is_command:
                self.take(name, observed)
                self._repair(turn)
                return Passed("commands")
            if standing is not None and own is not None and standing.claim is not None and standing.claim[2] == own:
                raise Refusal("ConflictError")
        self.take(name, observed)
        redriven = self._redrive(token)
        if redriven is not None:
            return redriven
        self._repair(turn)
        if standing is None:
            self.texts.append(row)
            standing = row
        claim_id = f"tic:s1/{turn}:{self.generation}"
        self._claim([standing], claim_id, token, turn)
        self.turns[turn] = Turn(turn, founding={claim_id})
        return Passed("draft", [standing.id], turn=turn)

    def _can_take(self, name: str, observed: int | None) -> bool:
        return not self.is_live() or self.holder == name or observed == self.generation

    def drain(self, name: str, token: str, turn: str, named: Sequence[str], observed: int | None) -> Passed:
        """One pass. Nothing but due work and orphans changes when it is idle."""
        if self.is_on_hold:
            return Passed("idle", reason="held")
        if not self._can_take(name, observed):
            return Passed("busy")
        if self.running() is not None:
            self.take(name, observed)
            redriven = self._redrive(token)
            assert redriven is not None
            return redriven
        own = self.generation if self.is_live() and self.holder == name else None
        line = self._ready(own)
        if named:
            return self._drain_named(name, token, turn, named, observed, own)
        orphans = [row for row in self.texts if row.state == "pending" and row.turn is None and row.target is not None]
        waiting = sorted([*self._waiting_texts(own), *orphans], key=lambda row: row.seq)
        if line and line[0].is_command and (not waiting or line[0].at_ms < waiting[0].at_ms):
            self._repair(turn)
            self.take(name, observed)
            return Passed("commands")
        if waiting:
            self._repair(turn)
            self.take(name, observed)
            texts = waiting[: self.limit]
            claim_id = self.claim_id("tic", texts)
            self._claim(texts, claim_id, token, turn)
            self.turns[turn] = Turn(turn, founding={claim_id})
            return Passed("inputs", [row.id for row in texts], turn=turn)
        group = self._group(line, at_checkpoint=False)
        if not group:
            later = self.first_later()
            return Passed("idle", reason="empty" if later is None else "not_yet_available", available_at_ms=later)
        return self._start_work(name, token, turn, group, observed)

    def _start_work(self, name: str, token: str, turn: str, rows: list[Work], observed: int | None) -> Passed:
        self.take(name, observed)
        claim_id = self.claim_id("qwc", rows)
        self._claim(rows, claim_id, token, turn)
        self.turns[turn] = Turn(turn, founding={claim_id})
        return Passed("work", work_ids=[row.id for row in rows], turn=turn)

    def _drain_named(
        self, name: str, token: str, turn: str, named: Sequence[str], observed: int | None, own: int | None
    ) -> Passed:
        rows = [next((row for row in self.works if row.id == batch_id), None) for batch_id in named]
        if all(row is not None and row.state in ("completed", "cancelled") for row in rows):
            return Passed("idle", reason="already_satisfied")
        line = self._ready(own)
        if line and line[0].is_command:
            self.take(name, observed)
            return Passed("commands")
        group = self._named(named, own)
        if group:
            self._repair(turn)
            return self._start_work(name, token, turn, group, observed)
        later = [
            row.available_at_ms
            for row in rows
            if row is not None
            and row.state == "pending"
            and row.turn is None
            and (row.claim is None or row.claim[2] != own)
            and row.available_at_ms > self.now_ms
        ]
        if later:
            return Passed("idle", reason="not_yet_available", available_at_ms=max(later))
        return Passed("idle", reason="unclaimable_together")

    def _owned(self, claim_id: str, token: str, family: Sequence[Row]) -> list[Row]:
        return [row for row in family if row.state == "pending" and row.claim and row.claim[:2] == (claim_id, token)]

    def _drop(self, turn_id: str | None) -> list[str]:
        turn = self.turns.get(turn_id) if turn_id is not None else None
        if turn is None or turn.is_committed:
            return []
        del self.turns[turn.id]
        return self._give_back(turn.id)

    def _give_back(self, turn_id: str) -> list[str]:
        taken: list[Row] = [row for row in (*self.texts, *self.works) if row.state == "pending" and row.turn == turn_id]
        for row in taken:
            row.free()
        return [row.id for row in taken]

    def abandon(
        self, family: Sequence[Row], claim_id: str, token: str, generation: int, turn_id: str | None
    ) -> list[str]:
        """Rows go back to the line; a turn that took them goes with all it took."""
        rows = [
            row for row in self._owned(claim_id, token, family) if row.claim is not None and row.claim[2] == generation
        ]
        for row in rows:
            row.free()
        return [row.id for row in rows] + (self._drop(turn_id) if rows else [])

    def fail(self, generation: int, claim_id: str, token: str, turn_id: str | None) -> list[str]:
        self.require_fence(generation)
        rows = self._owned(claim_id, token, self.works)
        parked = []
        for row in rows:
            assert isinstance(row, Work)
            row.free()
            row.attempts += 1
            if row.attempts > len(BACK_OFF_MS):
                row.state = "dead"
                parked.append(row.id)
            else:
                row.available_at_ms = self.now_ms + BACK_OFF_MS[row.attempts - 1]
        if rows:
            self._drop(turn_id)
        return parked

    def commit(
        self,
        generation: int,
        expected: int | None,
        turn: str | None,
        texts: Sequence[tuple[str, str, frozenset[str]]],
        works: Sequence[tuple[str, str, frozenset[str]]],
        *,
        release: bool,
    ) -> bool:
        """Apply a commit; claims are id, token and row ids. True when the turn was committed before."""
        stamped = self.turns.get(turn) if turn is not None else None
        if stamped is not None and stamped.is_committed:
            if release:
                self.release(generation)
            return True
        self.require_fence(generation)
        if expected != self.head:
            raise Refusal("HeadRevisionConflict")
        settled: list[Row] = []
        families: tuple[tuple[str, Sequence[Row], Sequence[tuple[str, str, frozenset[str]]]], ...] = (
            ("TurnInputClaimSuperseded", self.texts, texts),
            ("QueuedWorkClaimSuperseded", self.works, works),
        )
        for error, family, claims in families:
            for claim_id, token, ids in claims:
                rows = self._owned(claim_id, token, family)
                if {row.id for row in rows} != ids:
                    raise Refusal(error)
                settled += rows
        self.head = (self.head or 0) + 1
        for row in settled:
            row.state = "completed"
            row.claim = None
            self.used.append(row.id)
            if isinstance(row, Work):
                self._mark(row)
        if turn is not None:
            self._give_back(turn)
            self.turns[turn] = Turn(turn, is_committed=True)
            for row in self.texts:
                if row.state == "pending" and row.turn is None and row.target == turn:
                    row.target = row.boundary = None
                    row.claim = None
        if release:
            self.release(generation)
        return False

    def has_waiting(self) -> bool:
        """Whether anything waits for whoever comes next, ready or not."""
        return bool(self.free_texts() or self.free_works())

    def vacuum(self) -> tuple[int, int]:
        texts, works = len(self.texts), len(self.works)
        self.texts = [row for row in self.texts if row.state == "pending"]
        self.works = [row for row in self.works if row.state in ("pending", "dead")]
        return texts - len(self.texts), works - len(self.works)
