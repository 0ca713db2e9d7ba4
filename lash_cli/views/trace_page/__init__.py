"""A trace as one HTML page that needs nothing else (contract 04 §9, HTML viewer).

JSON lines go in, the text of a page comes out: no clock, no file but the
page's own parts, no network. The records stand in the page as data that the
browser never reads as markup, and a content security policy that names our
style and our script by their hashes lets nothing else run or load. What the
page does with the records is in the `.js` files beside this module.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from lash_cli.errors import UsageError

SCRIPTS = ("model.js", "dom.js", "axis.js", "list.js", "rows.js", "detail.js", "app.js")
_SLOT = re.compile(r"\{\{(\w+)\}\}")
# Inside a JSON text these only occur in strings, where the escape means the same character.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_DANGEROUS = re.compile("[<>&\u2028\u2029]")


def trace_lines(data: bytes) -> list[str]:
    """The records of a trace file as JSON texts; blank lines are skipped, unknown kinds are kept.

    Raises `UsageError`: `trace_invalid` naming the line that is not JSON, or
    `trace_empty` when there is no record at all.
    """
    lines = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = raw.strip()
        if line:
            lines.append(_checked(line, number))
    if not lines:
        raise UsageError("the trace holds no record", code="trace_empty", hint="write one: lash turn … --trace FILE")
    return lines


def _checked(line: bytes, number: int) -> str:
    try:
        text = line.decode()
        json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _invalid(number, f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _invalid(number, "nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _invalid(number, f"{error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise _invalid(number, str(error)) from error
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # Python reads it, browsers do not


def _invalid(number: int, reason: str) -> UsageError:
    return UsageError(
        f"line {number} of the trace is not JSON: {reason}",
        code="trace_invalid",
        hint="a trace has one JSON object per line",
        details={"line": number},
    )


def trace_page(lines: Sequence[str], *, title: str, source: str) -> str:
    """The page over these records; `source` says where they came from."""
    style = _part("page.css")
    script = "(() => {\n'use strict';\n" + "\n".join(_part(name) for name in SCRIPTS) + "\n})();"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    values = {
        "title": escape(title),
        "source": escape(source),
        "policy": policy,
        "style": style,
        "script": script,
        "records": "[" + ",\n".join(_inert(line) for line in lines) + "]",
    }
    # One pass over the template alone: what a value holds is never taken for a slot.
    return _SLOT.sub(lambda slot: values[slot[1]], _part("page.html"))


def _inert(text: str) -> str:
    """A JSON text that means the same and that no HTML parser can leave its script block through."""
    return _DANGEROUS.sub(lambda found: _ESCAPES[found[0]], text)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8").rstrip("\n")
