"""Identifiers (contract 08 §4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.ids import is_session_id, readable_name, sortable_id

times = st.integers(0, (1 << 48) - 1)
random_bytes = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("good", ["a", "0", "calm-otter", "A.b_c:d-e", "x" * 128])
def test_well_formed_session_ids_are_accepted(good: str) -> None:
    assert is_session_id(good)


@pytest.mark.parametrize("bad", ["", "-a", ".a", "_a", "a b", "a/b", "a\n", "é", "x" * 129, "a\x00"])
def test_malformed_session_ids_are_refused(bad: str) -> None:
    assert not is_session_id(bad)


@given(times, random_bytes)
def test_a_generated_id_is_a_prefix_and_26_digits_and_a_valid_session_id(now: int, randomness: bytes) -> None:
    made = sortable_id("t", now, randomness)
    assert len(made) == len("t_") + 26 and made.startswith("t_")
    assert is_session_id(made)


@given(times, random_bytes, times, random_bytes)
def test_ids_sort_by_age_and_then_by_chance(t1: int, r1: bytes, t2: int, r2: bytes) -> None:
    first, second = sortable_id("t", t1, r1), sortable_id("t", t2, r2)
    chances = [[byte & 0x1F for byte in drawn] for drawn in (r1, r2)]
    assert (first < second) is ((t1, chances[0]) < (t2, chances[1]))
    assert (first == second) is ((t1, chances[0]) == (t2, chances[1]))


@given(times, random_bytes)
def test_an_id_is_the_crockford_digits_of_its_48_bits_of_time_and_80_of_chance(now: int, randomness: bytes) -> None:
    number = now
    for byte in randomness:
        number = number << 5 | byte & 0x1F
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    digits = "".join(alphabet[number >> 5 * at & 31] for at in range(25, -1, -1))
    assert sortable_id("t", now, randomness) == f"t_{digits}"


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 9))
def test_a_readable_name_is_a_valid_session_id_and_a_function_of_its_bits(randomness: int, attempt: int) -> None:
    name = readable_name(randomness, attempt)
    assert is_session_id(name) and name == readable_name(randomness, attempt)
    assert name.count("-") == (1 if attempt < 2 else 2)


def test_later_attempts_leave_the_names_of_earlier_ones() -> None:
    randomness = 4096 * 42
    assert readable_name(randomness, 2) == readable_name(randomness) + "-42"
