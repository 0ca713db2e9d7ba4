"""Identifiers (contract 08 §4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.ids import is_session_id, readable_name, sortable_id

times = st.integers(0, (1 << 48) - 1)
bits = st.integers(0, (1 << 80) - 1)


@pytest.mark.parametrize("good", ["a", "0", "calm-otter", "A.b_c:d-e", "x" * 128])
def test_well_formed_session_ids_are_accepted(good: str) -> None:
    assert is_session_id(good)


@pytest.mark.parametrize("bad", ["", "-a", ".a", "_a", "a b", "a/b", "a\n", "é", "x" * 129, "a\x00"])
def test_malformed_session_ids_are_refused(bad: str) -> None:
    assert not is_session_id(bad)


@given(times, bits)
def test_a_generated_id_is_a_prefix_and_26_digits_and_a_valid_session_id(now: int, randomness: int) -> None:
    made = sortable_id("t", now, randomness)
    assert len(made) == len("t_") + 26 and made.startswith("t_")
    assert is_session_id(made)


@given(times, bits, times, bits)
def test_ids_sort_by_age_and_then_by_chance(t1: int, r1: int, t2: int, r2: int) -> None:
    first, second = sortable_id("t", t1, r1), sortable_id("t", t2, r2)
    assert (first < second) is ((t1, r1) < (t2, r2))
    assert (first == second) is ((t1, r1) == (t2, r2))


def test_surplus_random_bits_do_not_spill_into_the_time() -> None:
    assert sortable_id("t", 5, (1 << 90) | 7) == sortable_id("t", 5, 7)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 9))
def test_a_readable_name_is_a_valid_session_id_and_a_function_of_its_bits(randomness: int, attempt: int) -> None:
    name = readable_name(randomness, attempt)
    assert is_session_id(name) and name == readable_name(randomness, attempt)
    assert name.count("-") == (1 if attempt < 2 else 2)


def test_later_attempts_leave_the_names_of_earlier_ones() -> None:
    randomness = 4096 * 42
    assert readable_name(randomness, 2) == readable_name(randomness) + "-42"
