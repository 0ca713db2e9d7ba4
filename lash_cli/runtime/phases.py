"""Which phase a turn is in, told to a probe: timings, and the place where tests inject faults (contract 04 §7).

Phases nest and always balance: a phase that began has ended when the turn goes
on, whatever happened inside. A probe is called synchronously on the turn's
path; what it raises ends the turn as if the phase itself had failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import StrEnum
from typing import Final, Protocol


class TurnPhase(StrEnum):
    """The phases of one turn (contract 03 §8). `persist_turn` contains `final_commit` and `post_persist_hooks`."""

    CONTEXT_TRANSFORM = "context_transform"
    BEFORE_TURN_HOOKS = "before_turn_hooks"
    PROMPT_BUILD = "prompt_build"
    EFFECT_LOOP = "effect_loop"
    FINALIZE_TURN = "finalize_turn"
    PERSIST_TURN = "persist_turn"
    FINAL_COMMIT = "final_commit"
    POST_PERSIST_HOOKS = "post_persist_hooks"


# A named part: the look for a cancel request that came before the turn began (contract 03 §8).
START_GATE: Final = "turn_cancel.start_gate"


class TurnPhaseProbe(Protocol):
    """Is told when phases begin and end (contract 03 §8)."""

    def begin(self, phase: TurnPhase) -> None:
        """`phase` begins."""
        ...

    def end(self, phase: TurnPhase) -> None:
        """`phase` ended, well or not."""
        ...

    def begin_named(self, name: str) -> None:
        """A part of a phase or of a turn's start begins, such as `turn_cancel.start_gate`."""

    def end_named(self, name: str) -> None:
        """That part ended."""


_UNWATCHED: Final = nullcontext()


def in_phase(probe: TurnPhaseProbe | None, *phases: TurnPhase) -> AbstractContextManager[None]:
    """Run the block as `phases`, the first one outermost. Without a probe it costs next to nothing."""
    return _UNWATCHED if probe is None else _probed(probe, phases)


@contextmanager
def _probed(probe: TurnPhaseProbe, phases: tuple[TurnPhase, ...]) -> Iterator[None]:
    with ExitStack() as begun:
        for phase in phases:
            probe.begin(phase)
            begun.callback(probe.end, phase)
        yield


def in_named(probe: TurnPhaseProbe | None, name: str) -> AbstractContextManager[None]:
    """Run the block as the part `name`. Without a probe it costs next to nothing."""
    return _UNWATCHED if probe is None else _named(probe, name)


@contextmanager
def _named(probe: TurnPhaseProbe, name: str) -> Iterator[None]:
    probe.begin_named(name)
    try:
        yield
    finally:
        probe.end_named(name)
