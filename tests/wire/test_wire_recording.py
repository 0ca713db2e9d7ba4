"""What a recording keeps of an exchange, and what it never does (contract 06 §16)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clock import ManualClock
from support.wire import Reply, ScriptedTransport, chunk, error_reply, sse, stream_reply, text_reply
from support.wire_playing import play
from support.wire_recording import REVIEW, RecordingRefused, RecordingTransport
from support.wire_script import WireScript, load_script

from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest

KEY = "canary-0123456789/ab+cd"
NAME = "Zoë O'Brien"
URL = "https://api.test/v1/chat/completions"
PROMPT = "the prompt of the user"


class Recorder:
    """A transport over one reply, and the files it wrote."""

    def __init__(self, folder: Path, *replies: Reply | LlmTransportError, **options: Any) -> None:
        self.folder = folder
        self.clock = ManualClock()
        known = {"provider_kind": "openai_chat", "source": "https://api.test", "captured_at": "2026-11-26"}
        self.transport = RecordingTransport(
            ScriptedTransport(*replies),
            folder / "made",
            clock=self.clock,
            user_markers=(NAME,),
            **known | options,
        )

    async def exchange(self, *, headers: dict[str, str] | None = None, url: str = URL, most: int = 10_000) -> bytes:
        """Send one request and read at most `most` chunks."""
        sent = headers or {"authorization": f"Bearer {KEY}", "x-trace": "1", "user-agent": "lash"}
        request = HttpRequest("POST", url, sent, json.dumps({"messages": [PROMPT]}).encode())
        response = await self.transport.send(request, start_timeout=None)
        read: list[bytes] = []
        try:
            async for piece in response.body:
                read.append(piece)
                self.clock.tick(0.01)
                if len(read) >= most:
                    break
        finally:
            await response.aclose()
        return b"".join(read)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def script(self, number: int = 1) -> WireScript:
        return load_script(self.folder / f"made.{number:03}.json")


def kept(folder: Path) -> str:
    """Everything that was written, also as the bytes base64 and JSON escapes stand for."""
    texts = [path.read_text() for path in folder.glob("*.json")]
    return "\n".join([*texts, *(load_script(path).body.decode() for path in folder.glob("*.json"))])


async def test_the_reader_gets_every_byte_and_the_file_only_what_may_be_kept(tmp_path: Path) -> None:
    reply = stream_reply(chunk({"content": f"your key is {KEY}, {NAME}"}), chunk(finish_reason="stop"))
    recorder = Recorder(tmp_path, reply)
    assert await recorder.exchange() == reply.body
    assert recorder.script().body.decode() == reply.body.decode().replace(KEY, "[redacted]").replace(
        json.dumps(NAME)[1:-1], "[redacted]"
    )
    assert KEY not in kept(tmp_path)
    assert "Brien" not in kept(tmp_path)


async def test_a_request_is_kept_as_its_address_and_the_names_of_its_headers(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, text_reply("hi"))
    await recorder.exchange(url=f"{URL}?alt=sse&key={KEY}")
    script = recorder.script()
    assert (script.endpoint.method, script.endpoint.path) == ("POST", "/v1/chat/completions?alt=sse&key=[redacted]")
    assert set(script.request_match.headers) == {"authorization", "x-trace"}
    assert all(rule.present is True for rule in script.request_match.headers.values())
    assert PROMPT not in kept(tmp_path)


ECHO = Reply((sse(chunk({"content": f"é {KEY} 𝄞 {NAME} {KEY}"}), chunk(finish_reason="stop")),))


async def test_a_secret_is_found_wherever_a_chunk_border_cuts_it(tmp_path: Path) -> None:
    expected: bytes | None = None
    for position in range(1, len(ECHO.body)):
        folder = tmp_path / str(position)
        recorder = Recorder(folder, ECHO.split_at(position))
        assert await recorder.exchange() == ECHO.body
        body = recorder.script().body
        expected = expected or body
        assert body == expected
        assert KEY not in kept(folder)
    assert expected is not None and expected.count(b"[redacted]") == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cuts=st.lists(st.integers(1, len(ECHO.body) - 1), max_size=60, unique=True))
async def test_any_number_of_borders_hides_nothing_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("recorded")
    recorder = Recorder(folder, ECHO.split_at(*sorted(cuts)))
    await recorder.exchange()
    assert KEY not in kept(folder)
    whole = Recorder(folder / "whole", ECHO)
    await whole.exchange()
    assert recorder.script().body == whole.script().body


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        KEY.upper(),
        KEY.replace("/", "\\/"),
        "canary-0123456789%2Fab%2Bcd",
        "canary-0123456789/ab%2Bcd",
    ],
)
async def test_a_credential_is_found_in_every_way_it_may_be_written(tmp_path: Path, written: str) -> None:
    recorder = Recorder(tmp_path, Reply((f'data: {{"message": "no: {written}!"}}\n\n'.encode(),)))
    await recorder.exchange()
    assert b'"no: [redacted]!"' in recorder.script().body


@pytest.mark.parametrize(
    "member",
    [
        '"api_key": "abc"',
        '"refresh_token":"abc"',
        '"email": "someone\\"s@example.org"',
        '"client_secret" : "abc"',
        '"session_id": "abc"',
    ],
)
async def test_members_whose_name_says_so_lose_their_text(tmp_path: Path, member: str) -> None:
    recorder = Recorder(tmp_path, Reply((f'data: {{"a": 1, {member}, "completion_tokens": 7}}\n\n'.encode(),)))
    await recorder.exchange()
    (event,) = [json.loads(line[6:]) for line in recorder.script().body.decode().splitlines() if line]
    assert sorted(map(str, event.values())) == ["1", "7", "[redacted]"]


async def test_what_is_shaped_like_a_key_is_never_kept(tmp_path: Path) -> None:
    shaped = ("sk-proj-abcdefghijkl", "AIza" + "x" * 30, "Bearer abcdefghijkl")
    recorder = Recorder(tmp_path, *(stream_reply(chunk({"content": f"a {key} b"})) for key in shaped))
    for key in shaped:
        await recorder.exchange()
        assert key.split()[-1] not in kept(tmp_path)


async def test_headers_of_the_answer_lose_their_credentials(tmp_path: Path) -> None:
    headers = {"Set-Cookie": "a=b", "x-request-id": "req_1", "x-echo": KEY, "content-type": "text/event-stream"}
    recorder = Recorder(tmp_path, Reply((sse(),), headers=headers))
    await recorder.exchange()
    start = recorder.script().timeline[0]
    assert start.headers == {
        "content-type": "text/event-stream",
        "set-cookie": "[redacted]",
        "x-echo": "[redacted]",
        "x-request-id": "req_1",
    }


@pytest.mark.parametrize("secret", [NAME, KEY, "sk-proj-abcdefghijkl"])
async def test_a_secret_spelt_out_over_several_events_is_refused_and_nothing_is_written(
    tmp_path: Path, secret: str
) -> None:
    recorder = Recorder(tmp_path, stream_reply(*(chunk({"content": letter}) for letter in secret)))
    with pytest.raises(RecordingRefused, match="/choices/0/delta/content"):
        await recorder.exchange()
    assert recorder.files == []


async def test_a_body_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Reply((b"\xff\xfe",)))
    with pytest.raises(RecordingRefused, match="UTF-8"):
        await recorder.exchange()
    assert recorder.files == []


@pytest.mark.parametrize("secret", ["", "abc"])
def test_a_secret_too_short_to_be_told_from_text_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ValueError, match="cannot be redacted"):
        Recorder(tmp_path, secrets=(secret,))


async def test_exchanges_are_numbered_and_wait_for_a_review(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, text_reply("one"), text_reply("two"))
    await recorder.exchange()
    await recorder.exchange()
    assert [path.name for path in recorder.files] == ["made.001.json", "made.002.json"]
    provenance = recorder.script(2).provenance
    assert (provenance.kind, provenance.notes, provenance.captured_at) == ("captured_live", REVIEW, "2026-11-26")


async def test_a_chunk_keeps_its_moment_and_its_border(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Reply(("é".encode()[:1], "é".encode()[1:] + b"x"), headers={}))
    await recorder.exchange()
    start, first, second, end = recorder.script().timeline
    assert (first.raw, second.raw) == (b"\xc3", b"\xa9x")
    assert [event.at for event in (start, first, second, end)] == [0, 0, 10, 20]


@pytest.mark.parametrize(
    ("reply", "last"),
    [
        (stream_reply(chunk({"content": "x"}), done=False, ending="reset"), "Disconnect"),
        (stream_reply(chunk({"content": "x"})), "End"),
    ],
)
async def test_how_an_exchange_ended_is_part_of_it(tmp_path: Path, reply: Reply, last: str) -> None:
    recorder = Recorder(tmp_path, reply)
    try:
        await recorder.exchange()
    except LlmTransportError:
        pass
    assert type(recorder.script().timeline[-1]).__name__ == last


async def test_a_reader_that_stops_early_leaves_what_it_read(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, text_reply("one two three"))
    read = await recorder.exchange(most=2)
    assert recorder.script().body == read


@pytest.mark.parametrize(("kind", "event"), [("transport", "TransportError"), ("timeout", "TimedOut")])
async def test_a_request_that_failed_is_recorded_without_its_key(tmp_path: Path, kind: str, event: str) -> None:
    recorder = Recorder(tmp_path, LlmTransportError(f"cannot reach {KEY}", kind=kind, retryable=True))
    with pytest.raises(LlmTransportError):
        await recorder.exchange()
    (only,) = recorder.script().timeline
    assert (type(only).__name__, only.message) == (event, "cannot reach [redacted]")


async def test_a_refusal_is_recorded_whole(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, error_reply(401, {"error": {"message": f"Incorrect API key: {KEY}"}}))
    await recorder.exchange()
    (refused,) = recorder.script().timeline
    assert (refused.status, json.loads(refused.body)) == (401, {"error": {"message": "Incorrect API key: [redacted]"}})


async def test_what_was_recorded_plays_like_what_was_heard(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, text_reply("zoë says hi"))
    await recorder.exchange(headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"})
    played = await play(recorder.script())
    assert played.text_shown == "zoë says hi"
    assert played.response is not None and played.response.usage.total == 15
