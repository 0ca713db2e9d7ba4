"""Every wire script, played through the real provider of its kind (contract 06 §16, §17).

One file under `scripts/` is one behaviour of one provider as it was recorded or
documented. Whatever the chunking, and without streaming where the file has that
form too, the provider makes the same of it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.wire import Framing
from support.wire_playing import Played, play, play_over_network, play_whole
from support.wire_script import End, HttpError, ResponseStart, WireScript, load_script

SCRIPTS = Path(__file__).parent / "scripts"
PATHS = sorted(SCRIPTS.rglob("*.json"))
script_of = functools.cache(load_script)


def named(path: Path) -> str:
    return path.relative_to(SCRIPTS).with_suffix("").as_posix()


every_script = pytest.mark.parametrize("path", PATHS, ids=named)


def expect(script: WireScript, played: Played) -> None:
    """What was played is what the script expects, and what was shown is what was answered."""
    expected = script.expected_provider
    assert expected is not None
    assert played.error == expected.error
    assert played.response == expected.response
    if expected.response is not None:
        assert played.text_shown == expected.response.full_text
    else:
        assert (played.usage, played.evidence) == (expected.usage, expected.evidence)
        assert expected.position in (None, played.position)
    if expected.reasoning_shown is not None:
        assert played.reasoning_shown == expected.reasoning_shown


@every_script
def test_a_script_is_named_after_its_file_and_says_where_it_comes_from(path: Path) -> None:
    script = script_of(path)
    assert script.name == named(path)
    assert script.provenance.source.startswith("https://")
    assert script.provenance.kind != "captured_live" or "redaction reviewed" in (script.provenance.notes or "")
    assert script.expected_provider is not None


@every_script
async def test_a_provider_makes_of_a_script_what_it_expects(path: Path) -> None:
    expect(script_of(path), await play(script_of(path)))


# Few for each of many scripts; every single cut of an answer is tried in the tests of its wire.
@every_script
@settings(max_examples=12)
@given(data=st.data())
async def test_chunking_does_not_change_what_a_provider_makes_of_a_script(path: Path, data: st.DataObject) -> None:
    script = script_of(path)
    cuts = data.draw(st.lists(st.integers(1, max(1, len(script.body) - 1)), max_size=40))
    expect(script, await play(script, cuts=cuts))


@every_script
async def test_bytes_one_by_one_and_all_at_once_are_the_same_answer(path: Path) -> None:
    script = script_of(path)
    for cuts in (range(1, len(script.body)), ()):
        expect(script, await play(script, cuts=cuts))


ANSWERED = [path for path in PATHS if isinstance(script_of(path).timeline[0], ResponseStart | HttpError)]
every_answer = pytest.mark.parametrize("path", ANSWERED, ids=named)


def shortest_of_each_kind() -> list[Path]:
    """The shortest answer of each wire among those that begin and end alike: what is between the socket and the wire
    knows no more of an answer than that. What the wire makes of single bytes is shown above, of every script."""
    found: dict[tuple[str, type, type], Path] = {}
    for path in sorted(ANSWERED, key=lambda path: len(script_of(path).body)):
        script = script_of(path)
        found.setdefault((script.provider_kind, type(script.timeline[0]), type(script.timeline[-1])), path)
    return list(found.values())


@pytest.mark.parametrize("path", shortest_of_each_kind(), ids=named)
@pytest.mark.usefixtures("no_proxy")
async def test_over_a_socket_byte_by_byte_a_script_is_the_same_answer(path: Path) -> None:
    script = script_of(path)
    expect(script, await play_over_network(script, cuts=range(1, len(script.body))))


@every_answer
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.usefixtures("no_proxy")
async def test_over_a_socket_neither_chunking_nor_framing_changes_a_script(path: Path, data: st.DataObject) -> None:
    script = script_of(path)
    cuts = data.draw(st.lists(st.integers(1, max(1, len(script.body) - 1)), max_size=20))
    framing: Framing = "close" if isinstance(script.timeline[-1], End | HttpError) else "chunked"
    expect(script, await play_over_network(script, cuts=cuts, framing=framing))


WHOLE = [path for path in PATHS if (expected := script_of(path).expected_provider) and expected.whole is not None]


@pytest.mark.parametrize("path", WHOLE, ids=named)
async def test_the_same_answer_without_streaming_has_the_same_parts_usage_and_end(path: Path) -> None:
    def essence(response: Any) -> Any:
        evidence = response.evidence
        return (
            response.parts,
            response.usage,
            response.terminal_reason,
            evidence.provider_finish_reason,
            evidence.reasoning_output_tokens,
        )

    script = script_of(path)
    played = await play_whole(script)
    assert script.expected_provider is not None and played.error is None
    assert essence(played.response) == essence(script.expected_provider.response)
