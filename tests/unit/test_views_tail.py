"""The picture and the lines of a tail: what is retracted is gone, nothing is wider than asked (contract 08 §8)."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from lash_cli.cli.documents import Document
from lash_cli.cli.tail_stream import EVENT_TYPES, observed_document
from lash_cli.core.activity import TurnActivity, TurnEvent
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.views.safe_text import safe_text
from lash_cli.views.tables import display_width
from lash_cli.views.tail_picture import ASCII_GLYPHS, Glyphs, QueueStanding, SessionStanding, TailPicture
from lash_cli.views.tail_region import Region
from lash_cli.views.tail_text import Row, event_row, row_line

AT = 1_700_000_000_000
RUNNING = SessionStanding(
    "quiet-fjord", "s_01", "sonnet", "running", "t_8", AT, "pid 4711 (turn)", False, 24_000,
    QueueStanding(0, (("in_43", "then write the changelog"), ("in_44", "open the PR"))),
)  # fmt: skip
DEAD = RUNNING._replace(status="stuck", is_holder_dead=True)


def picture(glyphs: Glyphs | None = None) -> TailPicture:
    return TailPicture(safe_text, glyphs or Glyphs())


def say(shown: TailPicture, key: str, text: str, kind: str = "text_delta") -> None:
    shown.fold(kind, {"correlation_id": key, "text": text}, "t_8", AT, key)


def drawn(shown: TailPicture, standing: SessionStanding = RUNNING, width: int = 100, height: int = 24) -> str:
    return "\n".join(line.text for line in shown.lines(standing, AT + 21_000, width=width, height=height))


def reset(shown: TailPicture, *ids: str) -> None:
    shown.fold("attempt_reset", {"text_ids": list(ids), "reasoning_ids": []}, "t_8", AT, "reset")


def tool(kind: str, **more: object) -> Document:
    return {"call_id": "c1", "name": "read_file", "args": {"path": "a"}, "parent_call_id": None, **more}


def test_a_retraction_removes_the_named_text_and_nothing_else() -> None:
    shown = picture()
    shown.fold("tool_started", tool("tool_started"), "t_8", AT, "x")
    say(shown, "p1", "a false start")
    say(shown, "p2", "kept words")
    reset(shown, "p1")
    assert "a false start" not in drawn(shown)
    assert "kept words" in drawn(shown) and "read_file" in drawn(shown)


def test_a_picture_keeps_no_blank_row_and_not_more_than_can_be_looked_at() -> None:
    shown = picture()
    say(shown, "p0", " \n ")
    assert drawn(shown) == drawn(picture())
    say(shown, "p0", "words")
    assert "words" in drawn(shown)
    for number in range(200):
        shown.fold(
            "tool_started", {**tool("tool_started"), "call_id": f"c{number}", "name": f"n{number}."}, "t", AT, ""
        )
    shown.is_expanded = True
    seen = drawn(shown, height=1_000)
    assert "n199." in seen and "n168." in seen and "n167." not in seen and "words" not in seen


def test_a_commit_empties_the_picture() -> None:
    shown = picture()
    say(shown, "p1", "previewed")
    shown.note_gap("trimmed", 57)
    shown.settle()
    assert "previewed" not in drawn(shown) and "gap" not in drawn(shown)


def test_a_tool_is_one_row_from_start_to_end() -> None:
    shown = picture()
    shown.fold("tool_started", tool("tool_started"), "t_8", AT, "x")
    done = tool("tool_completed", status="ok", output={}, duration_ms=8)
    shown.fold("tool_completed", done, "t_8", AT + 8, "x")
    assert drawn(shown).count("read_file") == 1 and "ok 8ms" in drawn(shown)


def test_the_header_names_the_holder_and_how_long_the_turn_runs() -> None:
    head = drawn(picture()).splitlines()[0]
    assert head == "quiet-fjord  s_01  sonnet  running  turn t_8  00:21  holder pid 4711 (turn)  lease 24s"


def test_a_dead_writer_is_shown_as_dead_and_not_as_thinking() -> None:
    shown = picture()
    say(shown, "p1", "half a sent")
    assert "▌" in drawn(shown)
    dead = drawn(shown, DEAD)
    assert "dead: pid 4711 (turn)" in dead and "lease" not in dead and "▌" not in dead
    assert "dead: pid 4711 (turn)" in drawn(shown, DEAD, width=39)


@pytest.mark.parametrize("width", [0, 20, 39, 40, 80, 200])
@pytest.mark.parametrize("height", [0, 3, 5, 24])
def test_no_picture_is_wider_than_its_terminal_nor_higher_than_ten_lines(width: int, height: int) -> None:
    shown = picture()
    for number in range(40):
        say(shown, f"p{number}", f"wide 漢字 {number} " * 40 + "\nsecond line")
    shown.note_gap("trimmed", 57)
    lines = shown.lines(RUNNING, AT, width=width, height=height)
    assert len(lines) <= min(10, max(2, height - 1))
    assert all(display_width(line.text) <= max(20, width) for line in lines)
    assert "quiet-fjord" in lines[0].text


def test_growing_text_shows_its_end() -> None:
    shown = picture()
    say(shown, "p1", "word " * 400 + "the very end")
    assert "the very end▌" in drawn(shown, width=60)


def test_the_gap_stands_in_the_picture() -> None:
    shown = picture()
    shown.note_gap("trimmed", 57)
    assert "!! gap (trimmed) → resynced at revision 57" in drawn(shown)


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    shown = picture()
    say(shown, "p1", "\x1b]0;owned\x07 and \u202e")
    shown.fold("tool_started", tool("x", name="\x1b[2J"), "t_8", AT, "k")
    text = Region(color=False).drawn(shown.lines(RUNNING, AT, width=90, height=24))
    assert "\x1b]" not in text and "\x1b[2J" not in text and "\u202e" not in text


def test_ascii_glyphs_leave_only_ascii() -> None:
    shown = picture(ASCII_GLYPHS)
    say(shown, "p1", "growing")
    shown.note_gap("trimmed", 1)
    assert drawn(shown, RUNNING._replace(queue=QueueStanding(1, (("in_1", "x"),)))).isascii()


def test_a_region_takes_back_exactly_what_it_drew() -> None:
    region = Region(color=False)
    assert region.take_back() == ""
    region.drawn(picture().lines(RUNNING, AT, width=80, height=24))
    height = len(picture().lines(RUNNING, AT, width=80, height=24))
    assert region.take_back() == f"\r\x1b[{height - 1}A\x1b[J"
    assert region.take_back() == ""


def test_every_line_of_a_row_carries_the_prefix() -> None:
    lines = row_line(AT, Row("user", "one\ntwo"), "notes  ").splitlines()
    assert len(lines) == 2 and all(line.startswith("notes  ") for line in lines)
    assert lines[1].endswith("two")


def events() -> list[SessionObservationEvent]:
    cursor = SessionCursor("e", 1, 1, "s")
    payloads = [
        StateCommitted(), ResidentChanged(), AgentFrameSwitched("f"), QueueChanged("enqueued", ("in_1",)),
        ProcessChanged("started", ("p_1",)),
    ]  # fmt: skip
    payloads += [ActivityObserved(TurnActivity("s", "t_1", "c", made(kind))) for kind in get_args(TurnEvent)]
    return [SessionObservationEvent("s", 1, cursor, payload, "t_1", AT) for payload in payloads]


def made(kind: type) -> TurnEvent:
    """An event of a class, with something in every field."""
    from lash_cli.core.activity import PluginStatus
    from lash_cli.core.outcome import Stopped, TurnIssue
    from lash_cli.core.tools import ToolCallOutput, ToolSuccess
    from lash_cli.core.usage import TokenUsage

    known = {
        "output": ToolCallOutput(ToolSuccess("done")) if "Tool" in kind.__name__ else "done",
        "usage": TokenUsage(1, 1), "cumulative": TokenUsage(1, 1), "event": PluginStatus("k", "label"),
        "issue": TurnIssue("provider", "went wrong"), "outcome": Stopped("max_turns"), "checkpoint": "after_work",
        "boundary": "idle", "origin": "prompt", "input_ids": ("in_1",), "batch_ids": ("b",), "args": {},
    }  # fmt: skip
    plain = {"int": 1, "bool": True, "str": "text", "str | None": "text", "Any": 1}
    values = {}
    for name, annotation in kind.__annotations__.items():
        values[name] = known[name] if name in known else plain.get(annotation, ())
    return kind(**values)


def test_every_event_of_the_log_has_a_type_that_can_be_asked_for_and_a_line() -> None:
    seen = set()
    for event in events():
        kind, document = observed_document(event)
        assert kind in EVENT_TYPES, kind
        assert event_row(kind, document, event.turn_id, safe_text).text
        seen.add(kind)
    assert seen == set(EVENT_TYPES)


HOSTILE = "\x1b]0;gone\x07\x1b[2J\r\u202e\x85"


def test_no_id_and_no_text_of_an_event_steers_the_terminal() -> None:
    for event in events():
        kind, document = observed_document(event)
        row = event_row(kind, spoilt(document), f"t_1{HOSTILE}", safe_text)
        assert row_line(AT, row).replace("\n", "").isprintable(), kind


def spoilt(value: Any) -> Any:
    """A document whose every text ends in what a terminal obeys."""
    match value:
        case str():
            return value + HOSTILE
        case dict():
            return {key: item if key in CLOSED else spoilt(item) for key, item in value.items()}
        case list() | tuple():
            return [spoilt(item) for item in value]
    return value


# Words of a closed set: nobody can make one up.
CLOSED = ("kind", "origin", "outcome", "status")
