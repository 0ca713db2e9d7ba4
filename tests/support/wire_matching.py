"""Whether a request is the one a wire script answers, and what may be told about it (contract 06 §16).

Nothing said about a request holds its text: only kinds and lengths, and headers
without credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType
from support.wire_script import BodyRule, HeaderRule, WireScript

from lash_cli.providers.http import HttpRequest

REDACTED = "[redacted]"
_SECRET_HEADER = re.compile("auth|key|token|cookie|secret")


def mismatches(script: WireScript, request: HttpRequest) -> Iterator[tuple[str, str]]:
    """Where `request` is not the one of `script`: field and problem; nothing when it fits."""
    if request.method != script.endpoint.method:
        yield "endpoint.method", f"expected {script.endpoint.method}, got {request.method}"
    path = path_of(request.url)
    if path != script.endpoint.path:
        yield "endpoint.path", f"expected {script.endpoint.path}, got {path}"
    for name, header_rule in script.request_match.headers.items():
        problem = _header_problem(header_rule, request.headers.get(name, UNSET))
        if problem:
            yield f"request_match.headers.{name}", problem
    body = json_of(request)
    if body is UNSET and script.request_match.body:
        yield "request_match.body", "is not JSON"
        return
    for pointer, rule in script.request_match.body.items():
        problem = _body_problem(rule, at_pointer(body, pointer))
        if problem:
            yield f"request_match.body.{pointer}", problem


def json_of(request: HttpRequest) -> Any:
    """The decoded body of a request, `UNSET` when it is none."""
    try:
        return msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return UNSET


def at_pointer(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer, `UNSET` where there is none."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return UNSET
    return document


def shape(value: Any) -> Any:
    """`value` with its texts and numbers replaced by what kind they are and how long."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case list():
            return [shape(member) for member in value]
        case str():
            return f"string({len(value)})"
        case bool() | None:
            return value
        case _:
            return "number"


def redacted_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers, lower case, without the value of any that looks like a credential."""
    return {
        name: REDACTED if _SECRET_HEADER.search(name) else value for name, value in sorted(lowered(headers).items())
    }


def _body_problem(rule: BodyRule, value: Any) -> str:
    if rule.present is not UNSET and rule.present != (value is not UNSET):
        return "must be present" if rule.present else "must be absent"
    checks = (rule.equals, rule.contains, rule.contains_role, rule.min_len)
    if value is UNSET:
        return "is absent" if any(check is not UNSET for check in checks) else ""
    if rule.equals is not UNSET and value != rule.equals:
        return f"must equal {rule.equals!r}, is {shape(value)}"
    if rule.contains is not UNSET and not _contains(value, rule.contains):
        return f"must contain {rule.contains!r}, is {shape(value)}"
    if rule.contains_role is not UNSET:
        roles = [member.get("role") for member in value if isinstance(member, dict)] if isinstance(value, list) else []
        if rule.contains_role not in roles:
            return f"must contain the role {rule.contains_role!r}, has {roles}"
    if rule.min_len is not UNSET and not (isinstance(value, str | list | dict) and len(value) >= rule.min_len):
        return f"must have at least {rule.min_len} members, is {shape(value)}"
    return ""


def _contains(value: Any, wanted: Any) -> bool:
    """A text contains another, a list a member, an object the members of another."""
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    if isinstance(value, list):
        return wanted in value
    if isinstance(value, dict) and isinstance(wanted, dict):
        return wanted.items() <= value.items()
    return False


def _header_problem(rule: HeaderRule, value: str | UnsetType) -> str:
    if rule.present is not UNSET and rule.present != (value is not UNSET):
        return "must be present" if rule.present else "must be absent"
    if isinstance(rule.equals, str) and value != rule.equals:
        return "has another value"
    if isinstance(rule.contains, str) and not (isinstance(value, str) and rule.contains in value):
        return f"must contain {rule.contains!r}"
    return ""


def path_of(url: str) -> str:
    """The path of an address with its query, as a request line has them."""
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers under lower-case names."""
    return {name.lower(): value for name, value in headers.items()}
