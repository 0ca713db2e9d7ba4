"""What a hint offers for a word that nobody knows."""

from __future__ import annotations

from lash_cli.core.nearest import did_you_mean


def test_the_nearest_words_are_offered_as_they_are_typed_best_first():
    hint, nearest = did_you_mean("idel", ["running", "idle", "queued"], "see the help")
    assert (hint, nearest) == ("did you mean: idle", ["idle"])
    hint, nearest = did_you_mean("quue", ["enqueue", "queue", "usage"], "see the help", before="lash help ")
    assert (hint, nearest) == ("did you mean: lash help queue or lash help enqueue", ["queue", "enqueue"])


def test_case_counts_for_nothing_and_words_that_differ_in_it_alone_are_all_offered():
    assert did_you_mean("NOTES", ["notes"], "")[1] == ["notes"]
    assert did_you_mean("Sesion", ["Session", "session", "Usage"], "", most=1)[1] == ["Session", "session"]


def test_where_nothing_is_near_the_other_hint_stands():
    assert did_you_mean("xyz", ["idle"], "see the help") == ("see the help", [])
    assert did_you_mean("xyz", [], "see the help") == ("see the help", [])


def test_what_is_known_from_two_places_is_offered_once():
    assert did_you_mean("gpt-55", ["gpt-5", "other", "gpt-5"], "none") == ("did you mean: gpt-5", ["gpt-5"])
