"""The one JSON codec: canonical bytes for hashing, storage and the wire (design D2).

Every persisted or transmitted record goes through `encode` and `decode`, so
equal records have equal bytes: object keys are sorted, there is no white
space, text is UTF-8, and NaN or infinity is null (`has_non_number`). Unknown fields and
unknown enum values raise at decode instead of turning into defaults.
"""

from __future__ import annotations

import math

# Of the module that `threading` is made of, nothing but its lock, which no thread is needed for (decision 0017).
from _thread import RLock
from functools import cache
from typing import Any, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every record: immutable, holding tuples, outside the cyclic garbage collector."""


def tag_of(record: msgspec.Struct | type[msgspec.Struct]) -> str:
    """What tells a record from the others of its union: the name of its kind, as stored and on the wire."""
    return str(record.__struct_config__.tag)


# What a `decoder` raises for bytes that are no record. `decode` raises the first of them for both.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError)
MAX_WRITTEN_DEPTH = 128
# What a program hands in may be as deep. It is wrapped in records and gone through wherever the stack happens to be,
# which ends at about a thousand calls: somebody must still be able to read it who stands deeper than who took it.
MAX_KEPT_DEPTH = 256
# What an exception may say: who reads it needs to know what it is and not all that it has.
MAX_ERROR_CHARS = 16_384

_encoder = msgspec.json.Encoder(order="deterministic")
encode = _encoder.encode
_plain_decoder = msgspec.json.Decoder()
# msgspec notes what it knows of a record in its class before it has gone through the fields, and Python code runs on
# the way: a second thread that comes for the same record then decodes by half of it, which kills the process. So only
# one at a time learns about records, and whoever decodes has a decoder that was made from the whole.
_learning = RLock()


@cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The decoder behind `decode`, for a loop over many values of one kind."""
    with _learning:
        return msgspec.json.Decoder(kind)


def decode(data: bytes | str, kind: type[T]) -> T:
    """Decode canonical JSON into `kind`.

    Raises `msgspec.DecodeError` for everything that cannot be read: what is no
    JSON or no UTF-8, nested deeper than we follow, or holds half of a surrogate
    pair; and of these `msgspec.ValidationError` for a wrong shape, an unknown
    field or an unknown enum value.
    """
    result: T = decode_any(data, kind)
    return result


def decode_any(data: bytes | str, kind: Any) -> Any:
    """Like `decode` for types a `type[T]` cannot express, such as tagged unions and tuples."""
    try:
        return decoder(kind).decode(data)
    except (RecursionError, UnicodeError) as error:
        raise msgspec.DecodeError(str(error)) from error


def decode_json(data: bytes | str) -> Any:
    """JSON that somebody else wrote, as plain types; raises `msgspec.DecodeError` as `decode`."""
    try:
        return _plain_decoder.decode(data)
    except (RecursionError, UnicodeError) as error:
        raise msgspec.DecodeError(str(error)) from error


def decode_written(data: bytes | str) -> Any:
    """JSON that a model wrote, as plain types; raises `msgspec.DecodeError` as `decode_json`, and for what is nested
    deeper than `MAX_WRITTEN_DEPTH`. It goes into records and documents, which are deeper still and are gone through
    level by level, wherever the stack happens to be."""
    value = decode_json(data)
    if is_deeper(value, MAX_WRITTEN_DEPTH):
        raise msgspec.DecodeError(f"it is nested deeper than {MAX_WRITTEN_DEPTH} levels")
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether `value` has more than `depth` levels of objects and lists."""
    level = [value]
    for _ in range(depth):
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def is_nested_deeper(data: bytes, depth: int) -> bool:
    """Whether the JSON in `data`, which was written by `encode`, has more than `depth` levels of objects and lists."""
    if data.count(b"{") + data.count(b"[") <= depth:
        return False
    try:
        return is_deeper(decode_json(data), depth)
    except msgspec.DecodeError:  # it was written just now, so it can only be nested deeper than we follow
        return True


def has_non_number(value: Any) -> bool:
    """Whether a float somewhere in `value` is no finite number, which `encode` writes as null; `value` is not nested
    deeper than `MAX_KEPT_DEPTH`."""
    return _has_non_number(to_builtins(value))


def _has_non_number(plain: Any) -> bool:
    match plain:
        case float():
            return not math.isfinite(plain)
        case dict():
            return any(map(_has_non_number, plain.values()))
        case list() | tuple():
            return any(map(_has_non_number, plain))
        case _:
            return False


def reread(value: Any, kind: Any, depth: int = MAX_KEPT_DEPTH) -> Any:
    """`value` as it is when it was stored and read again as a `kind`.

    A program that is not type-checked may hand in anything, such as a model by its name: stored, that would be a
    session nobody can open any more. Raises `ValueError` for what cannot be stored or would not be read again, and for
    what is nested deeper than `depth`.
    """
    try:
        data = encode(value)
        if is_nested_deeper(data, depth):
            raise ValueError(f"it is nested deeper than {depth} levels")
        return decode_any(data, kind)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from error


def storable(text: str) -> str:
    """`text` with its lone surrogates, which no UTF-8 can hold, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def described(error: BaseException, limit: int = MAX_ERROR_CHARS) -> str:
    """What kind of exception foreign code raised and the first `limit` characters of what it says, as text that can be
    stored: a file name in it may be no UTF-8, and one may not even be able to say what it is. A group, as a task group
    raises, only counts what it holds; the first of that says why."""
    kind = type(error).__name__
    try:
        text = str(error)
        if isinstance(error, BaseExceptionGroup):
            text = f"{text}: {described(error.exceptions[0], limit)}"
    except Exception as fault:  # noqa: BLE001 - it is the exception that cannot say what it is
        text = f"its text cannot be read ({type(fault).__name__})"
    if len(text) > limit:
        text = text[:limit] + "…"
    return storable(f"{kind}: {text}" if text else kind)


def to_builtins(value: Any) -> Any:
    """`value` as plain JSON types, for documents assembled by the faces."""
    return msgspec.to_builtins(value)


def from_builtins(value: Any, kind: type[T]) -> T:
    """Validate plain JSON types into `kind`; raises `msgspec.ValidationError`."""
    result: T = from_builtins_any(value, kind)
    return result


def from_builtins_any(value: Any, kind: Any) -> Any:
    """Like `from_builtins` for types a `type[T]` cannot express, such as unions."""
    # Then msgspec knows the whole of it. Converting may run code of the records, which is to wait for nobody.
    decoder(kind)
    return msgspec.convert(value, kind)


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    import hashlib  # loads a cryptographic library; who only reads hashes nothing (design D16)

    return hashlib.sha256(data).hexdigest()


def canonical_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    return sha256_hex(encode(value))
