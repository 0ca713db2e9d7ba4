"""What a model did before, as providers take it back (contract 06 §9).

Providers check the whole conversation with every call, and refuse it for one
name, one id or one argument text that is not of their form. A model may write
any of these, and what is committed stays; so whatever was said is sent in a
form that is always taken, the same in every call, and says no less to the model.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from lash_cli.core.codec import decode_written, encode
from lash_cli.core.content import CodePart

#: What Gemini takes in place of the signature of a call that it did not make itself.
SIGNATURE_PLACEHOLDER = "skip_thought_signature_validator"
MAX_NAME_CHARS = 64
_NAME = re.compile(f"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")
_NO_NAME = "unnamed"


def past_name(name: str) -> str:
    """The name of a past call: itself where it is one that a tool could have, else what is left of it."""
    if _NAME.fullmatch(name):
        return name
    return re.sub("[^A-Za-z0-9_-]", "_", name)[:MAX_NAME_CHARS] or _NO_NAME


def past_arguments(raw: str) -> str:
    """The arguments of a past call as text, which is always of a JSON object.

    vLLM and llama.cpp parse it for their templates. Arguments that are none
    are quoted in an object.
    """
    return raw if _is_object(raw) else encode(_quoted(raw)).decode("utf-8")


def past_object(raw: str) -> Any:
    """The arguments of a past call as an object, with the bytes the model wrote where it wrote one."""
    return msgspec.Raw(raw.encode()) if _is_object(raw) else _quoted(raw)


def fenced(part: CodePart) -> str:
    """A program as text of a message."""
    return f"```{part.language}\n{part.content}\n```"


def _is_object(raw: str) -> bool:
    try:
        return isinstance(decode_written(raw), dict)
    except msgspec.DecodeError:
        return False


def _quoted(raw: str) -> dict[str, str]:
    return {"invalid_arguments": raw}
