"""The limits, statuses, names and places that the guide and the decisions tell are those of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.guides import ROOT

from lash_cli import docs
from lash_cli.api import shared
from lash_cli.cli.attaching import MAX_TOTAL_BYTES
from lash_cli.cli.tail_crowd import MAX_WATCHED
from lash_cli.cli.work_command import DEFAULT_GRACE
from lash_cli.core import observation, queued_work, trace_limits
from lash_cli.core.attachments import MAX_ATTACHMENT_BYTES
from lash_cli.core.claim_limits import MAX_CLAIMED_INPUTS
from lash_cli.core.redaction import MAX_RAW_CHARS
from lash_cli.errors import LashError
from lash_cli.plugins import rolling_history
from lash_cli.providers.answer_reader import MAX_ANSWER_BYTES
from lash_cli.providers.catalog import KINDS, ProviderOptions
from lash_cli.providers.sse import MAX_EVENT_BYTES
from lash_cli.remote.rpc import MAX_RUNNING
from lash_cli.runtime import drivers, foreign, trace_documents
from lash_cli.settings.keys import KEY_COMMAND_TIMEOUT_SECONDS
from lash_cli.store.sqlite.process_forks import QUIET_WITHIN_S

PACKAGE = Path(docs.__file__).parent.parent
TEXTS = [ROOT / "README.md", *sorted((PACKAGE / "docs").rglob("*.md"))]
# What is written as code and is no name of ours.
FOREIGN = re.compile(r"LASH_CFG__\w+|OLLAMA_CONTEXT_LENGTH|LLAMA_KEY|POINTER|CITY")
MIB = 1024 * 1024
WORDS = ("no", "one", "two", "three", "four", "five", "six")


def spaced(number: int) -> str:
    """`number` as the guide writes large ones."""
    return f"{number:,}".replace(",", " ")


def loopback_waits_s() -> list[str]:
    """The waits between the attempts of the built-in provider."""
    options = ProviderOptions(**KINDS["loopback"].default_options)
    assert options.jitter == 0.0
    waits = [min(options.base_delay_ms << step, options.max_delay_ms) for step in range(options.max_attempts - 1)]
    return [f"{wait / 1000:g}" for wait in waits]


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("queue", f"up to {MAX_CLAIMED_INPUTS} inputs become one turn"),
        ("queue", f"`--grace` ({DEFAULT_GRACE.removesuffix('s')} s)"),
        ("queue", f"failed {WORDS[queued_work.MAX_ATTEMPTS]} times is `dead`"),
        ("answers", f"One file may have {MAX_ATTACHMENT_BYTES // MIB} MiB"),
        ("answers", f"all of them together {MAX_TOTAL_BYTES // MIB} MiB."),
        ("tail", f"the last {observation.MAX_EVENTS} events of {WORDS[observation.MAX_AGE_MS // 60_000]} minutes"),
        ("tail", f"No more than {MAX_WATCHED} are watched"),
        ("serve", f"at most {MAX_RUNNING} of them"),
        ("trace", f"a text to {spaced(trace_limits.MAX_TEXT_CHARS)} characters"),
        ("trace", f"a record to {spaced(trace_limits.MAX_RECORD_CHARS)} in all"),
        ("trace", f"a list or object to {trace_limits.MAX_ITEMS} items"),
        ("trace", f"to {trace_limits.MAX_DEPTH} levels"),
        ("trace", f"the newest {trace_documents.MAX_MESSAGES} messages stay"),
        ("trace", f"the body itself up to {spaced(trace_documents.MAX_BODY_BYTES)} bytes"),
        ("history", f"no more than {spaced(rolling_history.RESERVED_TOKENS)} tokens are left"),
        ("history", f"From {round(rolling_history.VIEW_FROM * 100)} % on"),
        ("history", f"from before the last {WORDS[rolling_history.VIEW_KEPT_TURNS]} turns"),
        ("embedding", f"in loops of other threads no longer than {shared.OWN_TURN_S:g} s"),
        ("embedding", f"up to {drivers.DEFAULT_CONCURRENCY} sessions at a time"),
        ("embedding", f"waits {round(foreign.CANCEL_GRACE_S * 1000)} ms for a hook"),
        ("embedding", f"takes longer than {QUIET_WITHIN_S:g} s the child"),
        ("embedding", f"without credentials and up to {MAX_RAW_CHARS} characters"),
        ("providers", f"it has {KEY_COMMAND_TIMEOUT_SECONDS:g} seconds"),
        ("providers", f"more than {MAX_ANSWER_BYTES // MIB} MiB on the wire"),
        ("providers", f"one event of more than {MAX_EVENT_BYTES // MIB} MiB"),
        ("loopback", "only shorter: {}, {} and {} seconds".format(*loopback_waits_s())),
    ],
)
def test_a_number_of_the_guide_is_that_of_the_program(topic: str, said: str) -> None:
    assert said in docs.read(topic)


def test_every_exit_status_of_an_error_stands_in_the_guide() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ", docs.read("scripting"), re.MULTILINE)
    told = {int(status) for row in rows for status in row.split(", ")}
    kinds: list[type[LashError]] = [LashError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_status for kind in kinds} <= told


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_every_name_and_every_file_that_is_told_is_one_of_the_program(text: Path, known: frozenset[str]) -> None:
    for code in re.findall(r"`([^`\n]+)`", text.read_text()):
        for name in re.findall(r"[A-Za-z_][A-Za-z_0-9]{3,}", re.sub(r'"[^"]*"', "", code)):
            is_name = "_" in name.strip("_") or name[0].isupper()
            assert not is_name or name in known or FOREIGN.fullmatch(name), code
        for place in re.findall(r"(?:[\w.]+/)+(?:\{[\w,]+\}|\w+)\.py", code):
            for name in re.sub(r".*\{|\}.*", "", place).split(",") if "{" in place else [place]:
                file = re.sub(r"\{.*\}", name, place) if "{" in place else place
                assert (PACKAGE / file).is_file(), file


@pytest.fixture(scope="module")
def known() -> frozenset[str]:
    """Every word of the program's own text."""
    return frozenset(word for file in PACKAGE.rglob("*.py") for word in re.findall(r"\w+", file.read_text()))
