"""Framing laws of contract 06 §9.5."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.errors import LlmTransportError
from lash_cli.providers.sse import SseDecoder

LF = 'data: {"a":"é\u2028𝄞"}\n\n: note\n\ndata: one\ndata:two\nid: 7\nevent: x\n\ndata: last'
STREAM = ("\ufeff" + LF).encode()
EVENTS = ['{"a":"é\u2028𝄞"}', "one\ntwo", "last"]
VARIANTS = [STREAM.replace(b"\n", end) for end in (b"\n", b"\r\n", b"\r")]


def decode(*chunks: bytes) -> list[str]:
    decoder = SseDecoder()
    return [event for piece in chunks for event in decoder.feed(piece)] + decoder.flush()


@pytest.mark.parametrize("stream", VARIANTS, ids=["lf", "crlf", "cr"])
def test_every_split_position_gives_the_same_events(stream: bytes) -> None:
    for position in range(len(stream) + 1):
        assert decode(stream[:position], stream[position:]) == EVENTS, position


@pytest.mark.parametrize("stream", VARIANTS, ids=["lf", "crlf", "cr"])
def test_bytes_one_by_one_give_the_same_events(stream: bytes) -> None:
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == EVENTS


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b"data", b"data:", b":c", b"\xef\xbb\xbf", b"y"])),
    st.data(),
)
def test_cutting_any_stream_anywhere_changes_nothing(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    assert decode(*(stream[a:b] for a, b in itertools.pairwise(edges))) == decode(stream)


def test_an_event_is_delivered_as_soon_as_its_blank_line_is() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: now\r\n\r") == ["now"]
    assert decoder.feed(b"\ndata: next\r\n\r\n") == ["next"]


def test_comments_and_other_fields_make_no_event() -> None:
    assert decode(b": ping\n\nevent: x\nid: 1\nretry: 5\n\n\n\n") == []


def test_only_a_leading_byte_order_mark_is_dropped() -> None:
    assert decode("\ufeffdata: a\n\ndata: \ufeffb\n\n".encode()) == ["a", "\ufeffb"]


def test_a_field_without_a_colon_is_an_empty_line_of_data() -> None:
    assert decode(b"data: a\ndata\ndata: b\n\n") == ["a\n\nb"]


def test_flush_delivers_the_open_event_once() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: tail\n") == []
    assert decoder.flush() == ["tail"]
    assert decoder.flush() == []


@pytest.mark.parametrize("size", [1, 3, 64])
def test_an_event_beyond_the_cap_is_a_stream_failure_however_it_arrives(size: int) -> None:
    stream = b"data: " + b"x" * 100 + b"\n\n"
    decoder = SseDecoder(max_event_bytes=50)
    with pytest.raises(LlmTransportError) as caught:
        for start in range(0, len(stream), size):
            decoder.feed(stream[start : start + size])
    assert (caught.value.kind, caught.value.code) == ("stream", "sse_event_too_large")


def test_the_cap_counts_all_lines_of_one_event_and_restarts_with_the_next() -> None:
    decoder = SseDecoder(max_event_bytes=50)
    for _ in range(10):
        assert len(decoder.feed(b"data: " + b"x" * 40 + b"\n\n")) == 1
    for _ in range(10):
        assert decoder.feed(b": still there, still there\n\n") == []
    with pytest.raises(LlmTransportError):
        decoder.feed(b"data: aaaaaaaaaa\n" * 4)
