"""The pure parts of a chat: what keys mean, where text is, what a line means (contract 08 §7)."""

from __future__ import annotations

import re
import resource
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lash_cli.core.lease import LocalProcess
from lash_cli.errors import ConfigError, LashError, StoreReadOnly, UsageError
from lash_cli.repl import drafts, keys, rules, slash
from lash_cli.repl.drafts import Draft
from lash_cli.repl.keymap import Action, key_table, keys_text
from lash_cli.repl.memory import ReplMemory
from lash_cli.repl.panels import GUARD_SECONDS, Guard
from lash_cli.repl.pastes import expanded, is_folded, normalised, placeholder
from lash_cli.repl.rules import Do, Moment

MOMENTS = [
    Moment(draft, popup, panel, turn, cancelling, interrupts, since, waiting, own, aside)
    for draft, popup, panel, turn, cancelling, interrupts, since, waiting, own, aside in product(
        (False, True), (False, True), (False, True), ("none", "own", "foreign", "stuck"), (False, True),
        (0, 1, 2), (0.5, 10.0), (0, 2), (0, 1), (False, True),
    )
]  # fmt: skip
DESTROYING = {Do.CANCEL, Do.INSIST, Do.ABANDON, Do.QUIT}


def test_ctrl_c_with_a_draft_never_cancels_and_never_quits() -> None:
    for moment in MOMENTS:
        if moment.has_draft:
            assert rules.on_interrupt(moment) not in DESTROYING, moment


def test_ctrl_c_may_be_configured_to_take_the_turn_first_but_not_to_drop_the_draft() -> None:
    busy = Moment(has_draft=True, turn="own")
    assert rules.on_interrupt(busy, "turn-first") is Do.CANCEL
    assert rules.on_interrupt(busy._replace(is_cancelling=True), "turn-first") is Do.STASH
    assert rules.on_interrupt(busy._replace(turn="none"), "turn-first") is Do.STASH


def test_three_ctrl_c_cancel_insist_and_leave() -> None:
    moment = Moment(turn="own")
    assert rules.on_interrupt(moment) is Do.CANCEL
    moment = moment._replace(is_cancelling=True, interrupts=1, since_interrupt_s=0.5)
    assert rules.on_interrupt(moment) is Do.INSIST
    assert rules.on_interrupt(moment._replace(interrupts=2)) is Do.ABANDON
    # Slow ones are requests of their own.
    assert rules.on_interrupt(moment._replace(since_interrupt_s=3.0)) is Do.CANCEL


def test_ctrl_c_stops_what_runs_beside_the_chat_when_nothing_else_is_to_be_stopped() -> None:
    for moment in MOMENTS:
        is_first = moment.has_draft or moment.has_popup or moment.has_panel or moment.is_running
        stops = moment.has_aside and not is_first
        assert (rules.on_interrupt(moment) is Do.STOP_ASIDE) is stops, moment


def test_esc_never_touches_a_draft_and_never_quits() -> None:
    for moment in MOMENTS:
        assert rules.on_escape(moment) in (Do.CLOSE_POPUP, Do.CLOSE_PANEL, Do.CANCEL, Do.NOTHING), moment
        if not moment.is_running and not moment.has_popup and not moment.has_panel:
            assert rules.on_escape(moment) is Do.NOTHING


def test_enter_and_tab_never_cancel_and_send_only_a_draft() -> None:
    sending = {Do.SEND, Do.INJECT, Do.OFFER, Do.QUEUE_NEXT}
    for moment in MOMENTS:
        assert rules.on_submit(moment) not in DESTROYING and rules.on_queue_next(moment) not in DESTROYING
        if not moment.has_draft:
            assert rules.on_submit(moment) not in sending and rules.on_queue_next(moment) not in sending
    assert rules.on_submit(Moment(has_draft=True, turn="own")) is Do.INJECT
    assert rules.on_queue_next(Moment(has_draft=True, turn="own")) is Do.QUEUE_NEXT


def test_ctrl_d_quits_only_without_a_draft_and_asks_while_a_turn_of_ours_runs() -> None:
    for moment in MOMENTS:
        if moment.has_draft:
            assert rules.on_leave(moment) is Do.DELETE
        else:
            assert rules.on_leave(moment) is (Do.ASK_LEAVE if moment.turn == "own" else Do.QUIT)


@pytest.mark.parametrize("after", ["hold", "continue"])
def test_a_failed_turn_holds_what_waits_whatever_is_configured(after) -> None:
    assert rules.after_turn("failed", waiting=1, after_interrupt=after) == "hold"
    assert rules.after_turn("finished", waiting=1, after_interrupt=after) == "drain"
    assert rules.after_turn("failed", waiting=0, after_interrupt=after) == "nothing"
    wanted = "hold" if after == "hold" else "drain"
    assert rules.after_turn("cancelled", waiting=1, after_interrupt=after) == wanted


STEP = st.sampled_from(["type", "type", "stash", "unstash", "send", "send", "arrive", "refuse", "pull", "pulled"])
STEPS = st.lists(st.tuples(STEP, st.integers(0, 9)), min_size=12, max_size=40)


@settings(max_examples=130)
@given(STEPS, st.data())
def test_no_step_loses_or_doubles_a_text_whenever_the_process_dies(steps, data) -> None:
    draft = Draft()
    known: set[str] = set()  # everything a person typed
    stored: set[str] = set()  # what the store acknowledged and holds
    for number, (step, choice) in enumerate(steps):
        if step == "type" and not draft.text:
            known.add(f"text {number}")
            draft = drafts.typed(draft, f"text {number}")
        elif step == "stash":
            draft = drafts.stashed(draft)
        elif step == "unstash":
            draft = drafts.unstashed(draft)
        elif step == "send" and draft.text:
            draft = drafts.sending(draft, f"key {number}", draft.text)
        elif step == "arrive" and draft.leaving:
            sent = draft.leaving[choice % len(draft.leaving)]
            stored.update(sent.text.split("\n"))
            draft = drafts.arrived(draft, sent.key, f"in {sent.key}")
        elif step == "refuse" and draft.leaving:
            draft = drafts.refused(draft, draft.leaving[choice % len(draft.leaving)].key)
        elif step == "pull" and stored:
            text = sorted(stored)[choice % len(stored)]
            if all(text != pull.text for pull in draft.pulling):
                draft = drafts.pulling(draft, f"in {text}", text)
        elif step == "pulled" and draft.pulling:
            pull = draft.pulling[choice % len(draft.pulling)]
            is_cancelled = data.draw(st.booleans())
            draft = drafts.pulled(draft, pull.input_id, is_cancelled=is_cancelled)
            if is_cancelled:
                stored.discard(pull.text)
    # The process dies here: some of what was on its way had got through.
    through = {leaving.key for leaving in draft.leaving if data.draw(st.booleans())}
    back = {pull.input_id for pull in draft.pulling if data.draw(st.booleans())}
    for leaving in draft.leaving:
        if leaving.key in through:
            stored.update(leaving.text.split("\n"))
    for pull in draft.pulling:
        if pull.input_id in back:
            stored.discard(pull.text)
    after = drafts.recovered([draft], stored_keys=through, cancelled_ids=back)
    kept = [line for text in (after.text, *after.stash) for line in text.split("\n") if line]
    assert known <= stored | set(kept)
    assert not after.leaving and not after.pulling


def test_what_the_history_brought_back_is_not_brought_back_twice() -> None:
    assert drafts.unstashed(Draft("aside", ("older", "aside"))) == Draft("aside", ("older",))
    assert drafts.unstashed(Draft("typed", ("aside",))) == Draft("aside\ntyped")


def test_the_rows_of_ended_chats_are_taken_over_and_those_of_living_ones_are_not(tmp_path) -> None:
    dead: set[int] = set()

    def is_dead(process: LocalProcess) -> bool:
        return process.pid in dead

    directory = str(tmp_path / "state")
    one = ReplMemory(directory, "s", is_dead=is_dead)
    one.take_over(one.left_behind(), Draft("kept"))
    two = ReplMemory(directory, "s", is_dead=is_dead)
    assert two.left_behind().drafts == ()
    one.leave(Draft("kept", ("aside",)))
    adopted = two.left_behind()
    assert adopted.drafts == (Draft("kept", ("aside",)),)
    two.take_over(adopted, adopted.drafts[0])
    three = ReplMemory(directory, "s", is_dead=lambda process: True)
    assert [draft.text for draft in three.left_behind().drafts] == ["kept"]
    for text in ("old", "middle", "new", "old"):
        three.remember(text, "/x", 3)
    assert three.lines(10) == ["old", "new", "middle"]
    for memory in (one, two, three):
        memory.close()


def test_the_history_keeps_no_paste_of_a_file_and_not_more_than_a_chat_reads_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("lash_cli.repl.memory.MAX_LINE_CHARS", 10)
    monkeypatch.setattr("lash_cli.repl.memory.MAX_HISTORY_CHARS", 25)
    kept = ReplMemory(str(tmp_path), "s_1")
    kept.remember("x" * 11, "/x", 100)
    assert kept.lines(100) == []
    # What was never sent is nowhere else.
    kept.remember("unsent" * 5, "/x", 100, is_sent=False)
    assert kept.lines(100) == ["unsent" * 5]
    sent = [str(number) * 10 for number in range(4)]
    for line in sent:
        kept.remember(line, "/x", 100)
    assert kept.lines(100) == sent[:0:-1]
    # A file of a chat that kept everything is read no further either, and is cut with the next line.
    monkeypatch.setattr("lash_cli.repl.memory.MAX_HISTORY_CHARS", 15)
    assert kept.lines(100) == sent[:1:-1]
    kept.remember("4", "/x", 100)
    monkeypatch.setattr("lash_cli.repl.memory.MAX_HISTORY_CHARS", 1_000)
    assert kept.lines(100) == ["4", sent[3], sent[2]]
    kept.close()


def test_a_draft_that_cannot_be_taken_over_stays_where_it_was(tmp_path) -> None:
    one, two = (ReplMemory(str(tmp_path), "s") for _ in range(2))
    one.take_over(one.left_behind(), Draft("kept"))
    one.leave(Draft("kept"))
    two._database.execute("CREATE TRIGGER full BEFORE INSERT ON drafts BEGIN SELECT raise(ABORT, 'full'); END")
    with pytest.raises(StoreReadOnly):
        two.take_over(two.left_behind(), Draft("kept"))
    assert [draft.text for draft in one.left_behind().drafts] == ["kept"]
    for memory in (one, two):
        memory.close()


def test_drafts_that_a_full_disk_does_not_take_are_not_to_be_moved_away(tmp_path) -> None:
    ReplMemory(str(tmp_path), "s").close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(LashError) as refused:
            ReplMemory(str(tmp_path), "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "output_not_written" and "mv" not in (refused.value.hint or "")


def test_a_draft_that_is_not_saved_as_its_chat_ends_is_not_said_to_go_on(tmp_path) -> None:
    memory = ReplMemory(str(tmp_path), "s")
    memory.take_over(memory.left_behind(), Draft("kept"))
    memory._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreReadOnly, match="database or disk is full") as told:
        memory.leave(Draft("more " * 10_000))
    assert "goes on" not in (told.value.hint or "")
    memory.close()


@pytest.mark.parametrize(
    ("rest", "verb"),
    [
        ("", ("queue", "ls", slash.SESSION)),
        ("hold", ("queue", "hold", slash.SESSION)),
        ("edit", ("queue", "edit", "in_1")),
        ("cut in_2", ("cancel-suffix", slash.SESSION, "in_2")),
        ("cancel in_2", ("queue", "cancel", "in_2")),
        ("cancel", None),
        ("turn", None),
    ],
)
def test_a_word_about_the_queue_is_a_verb_of_the_shell_or_refused(rest, verb) -> None:
    if verb is None:
        with pytest.raises(UsageError):
            slash.queue_verb(rest, "in_1")
    else:
        assert slash.queue_verb(rest, "in_1") == (verb, rest == "edit")


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", slash.Words("hello")),
        (" /etc is a directory", slash.Words("/etc is a directory")),
        ("//server", slash.Words("/server")),
        (" !text x", slash.Words("!text x")),
        ("!ls -l", slash.Shell("ls -l")),
        ("!!", slash.Shell(None)),
    ],
)
def test_a_line_means_words_a_command_or_a_shell_line(line, meaning) -> None:
    assert slash.read_line(line) == meaning


def test_every_command_that_is_shown_can_be_given_by_each_of_its_names_and_no_name_is_taken_twice() -> None:
    names = [name for command in slash.COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    for name in names:
        call = slash.read_line(f"/{name} rest of it")
        assert isinstance(call, slash.Call) and name in (call.command.name, *call.command.aliases)
        assert call.rest == "rest of it" and f"/{name}" in slash.help_text()
    with pytest.raises(UsageError) as unknown:
        slash.read_line("/hlep")
    assert "/help" in str(unknown.value.hint)


@given(st.text(), st.text())
def test_a_folded_paste_expands_to_itself_and_an_edited_placeholder_is_text(around, pasted) -> None:
    mark = placeholder(1, pasted)
    assert expanded(f"{mark}{mark}", {1: pasted}) == pasted + pasted
    assert expanded(mark.replace("#1", "#2"), {1: pasted}) == mark.replace("#1", "#2")
    assert is_folded("x\n" * 21) and is_folded("x" * 2_049) and not is_folded("x\n" * 20)
    assert "\r" not in normalised(around)


def test_keys_are_changed_by_name_and_an_unknown_action_is_an_error() -> None:
    table = key_table({"queue_next": ["c-t", "m-q"], "suspend": []})
    assert table[Action.QUEUE_NEXT] == (("c-t",), ("escape", "q")) and table[Action.SUSPEND] == ()
    assert table[Action.EDITOR] == (("c-x", "c-e"), ("c-g",))
    assert "c-t, m-q" in keys_text({"queue_next": ["c-t", "m-q"]})
    for wrong in ({"quit_all": ["q"]}, {"submit": "enter"}, {"submit": [1]}):
        with pytest.raises(ConfigError):
            key_table(wrong)


def test_a_letter_answers_only_after_a_quiet_moment() -> None:
    guard = Guard()
    guard.disturbed(10.0)
    assert not guard.is_open(10.0 + GUARD_SECONDS / 2) and guard.is_open(10.0 + GUARD_SECONDS)
    guard.disturbed(10.2)
    assert not guard.is_open(10.0 + GUARD_SECONDS)


def test_the_guide_names_only_commands_and_actions_that_exist() -> None:
    from lash_cli import docs

    guide = docs.read("chat")
    named = set(re.findall(r"`/([a-z]+)", guide))
    assert named and all(slash.find(name) is not None for name in named), named
    waiting = re.search(r"those that change the session \((.*?)\)", guide)
    looking = re.search(r"Those that only look \((.*?)\)", guide)
    assert waiting is not None and looking is not None
    for match, any_time in ((waiting, False), (looking, True)):
        for name in re.findall(r"/([a-z]+)", match[1]):
            command = slash.find(name)
            assert command is not None and command.any_time is any_time, name


def test_a_bare_esc_waits_for_a_longer_sequence_less_than_a_fifth_of_a_second() -> None:
    """The library's own waits add up to one and a half seconds; no other part of a key's way waits at all."""
    assert 0 < keys.SEQUENCE_SECONDS + keys.CHORD_SECONDS < 0.2
