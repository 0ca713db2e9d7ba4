"""Looking at the gate of a turn that begins: how often an error is met before it is told (contract 01 §6.6)."""

from __future__ import annotations

import pytest

from lash_cli.errors import StoreError, StoreLocked, StoreUnusable
from lash_cli.runtime import gate
from lash_cli.runtime.cancellation import CancelToken


class Store:
    """A store that cannot be read; it counts the attempts."""

    def __init__(self, error: StoreError) -> None:
        self.error = error
        self.asked = 0

    async def cancel_gate(self, session_id: str, turn_id: str) -> None:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(("error", "most"), [(StoreLocked("busy"), 3), (StoreUnusable("corrupt"), 1)])
async def test_an_error_that_stays_is_told_after_three_looks_and_one_that_must_after_one(
    monkeypatch, error: StoreError, most: int
) -> None:
    monkeypatch.setattr(gate, "GATE_BACKOFF_S", (0.0, 0.0))
    store, token = Store(error), CancelToken()
    with pytest.raises(type(error)):
        await gate.GateKeeper(store).look(("s", "t"), token)  # type: ignore[arg-type]
    assert (store.asked, token.is_set) == (most, False)
