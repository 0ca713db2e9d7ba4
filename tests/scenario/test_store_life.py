"""Whatever is done to the sessions of a store, in whatever order and whoever dies in the middle of it, what was
committed stands and nothing is lost, doubled or left behind (contract 01 §0, §9, 02 §0)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.store_life import StoreLife

STEPS_OF_ONE_LIFE = 120


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_doubled_or_left_behind_in_any_life_of_a_store(tmp_path: Path, seed: int) -> None:
    life = StoreLife(tmp_path, seed)
    await life.begin()
    try:
        for _ in range(STEPS_OF_ONE_LIFE):
            await life.step()
            await life.witness.look()
        life.witness.look_at_the_file()
    except BaseException:
        print("\n".join(life.log[-40:]))
        raise
    finally:
        await life.end()
