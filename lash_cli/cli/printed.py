"""What every command prints, and what `--fields` and `--format` may therefore ask of it (contract 08 §6.1).

A command that only reads finds a field that does not exist when it prints, and
nothing was lost. One that changes something, runs a turn or waits must know
before it begins: an exit status of 2 says that nothing was done. The shapes are
loaded only when one of the two options is given to such a command, and for an
empty list, which has nothing to find a field in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from lash_cli.cli.invocation import current
from lash_cli.cli.output import template_keys, write_lines
from lash_cli.errors import UsageError

# What a command that only reads prints.
READS = {
    "ls": "SessionList", "show": "Session", "usage": "SessionUsage", "log": "Transcript", "tree": "Tree",
    "search": "SearchHitList", "version": "Version", "schema": "SchemaList", "completion": "CompletionInstalled",
    "tool ls": "ToolList", "help": "TopicList", "queue ls": "QueueList", "queue show": "QueueItem",
    "queue batches": "BatchList", "config show": "ConfigList", "config get": "ConfigEntry", "config path": "Paths",
    "config validate": "ConfigCheck", "provider ls": "ProviderList", "model ls": "ModelList", "model show": "Model",
    "key ls": "KeyList", "key test": "KeyTest", "key path": "KeyPath", "db path": "DatabasePath",
    "db info": "DatabaseInfo", "db check": "DatabaseCheck", "db scan": "SecretList",
}  # fmt: skip
# What any other prints, the usual kind first.
CHANGES: dict[str, tuple[str, ...]] = {
    "open": ("Session",), "fork": ("Session",), "rewind": ("Rewind", "TurnResult"), "compact": ("Compaction",),
    "export": ("Exported",), "import": ("Imported",), "set": ("SessionSettings",), "rename": ("SessionSettings",),
    "label": ("SessionSettings",), "park": ("Parked",), "resume": ("Session", "TurnResult", "PendingInput"),
    "close": ("Closed",), "rm": ("Deleted",), "turn": ("TurnResult", "PendingInput"), "cancel": ("CancelReceipt",),
    "enqueue": ("PendingInput",), "work": ("WorkReport",), "wait": ("Wait",), "cancel-suffix": ("CancelOutcomeList",),
    "gc": ("Collection",), "doctor": ("Doctor",), "queue add": ("PendingInput",),
    "queue cancel": ("CancelOutcomeList",), "queue cancel-suffix": ("CancelOutcomeList",),
    "queue edit": ("QueueEdit", "QueueEditList"), "queue hold": ("QueueHold",), "queue release": ("QueueHold",),
    "queue cancel-batch": ("BatchCancel",), "queue wait-batch": ("Batch",), "queue abandon": ("ClaimAbandoned",),
    "queue revoke-waits": ("WaitsRevoked",), "tool on": ("ToolList",), "tool off": ("ToolList",),
    "config set": ("ConfigValue",), "config unset": ("ConfigRemoved",),
    "config edit": ("ConfigEdit",), "config trust": ("ProjectTrust", "TrustList"), "provider add": ("Provider",),
    "provider test": ("ProviderTest",), "provider rm": ("Provider",), "model default": ("ModelDefault",),
    "model alias": ("ModelAlias",), "key set": ("Key",), "key rm": ("Key",), "trace html": ("TracePage",),
    "db backup": ("DatabaseBackup",), "db restore": ("DatabaseRestore",), "db vacuum": ("DatabaseVacuum",),
    "db migrate": ("DatabaseMigration",), "db scrub": ("DatabaseScrub",), "db purge": ("DatabasePurge",),
}  # fmt: skip
# Other names of the commands above; the command table would know them, and import the parser to say it.
ALIASES = {"run": "turn", "ask": "turn"}


def lists_fields(tokens: Sequence[str]) -> bool:
    """See that the command that `tokens` name can print what `--fields` and `--format` ask for; nothing is done yet.

    Returns whether the fields themselves were asked for: they have been listed then, and that is all there is to do.
    Raises `UsageError` for a field that the command never prints.
    """
    options = current().options
    kinds = _kinds(tokens)
    if not kinds:
        return False
    known = require_fields(kinds, "; nothing was done")
    if options.fields == ():
        write_lines(known)
        return True
    options.fields_are_known = True
    return False


def require_fields(kinds: Sequence[str], what_was_done: str = "") -> list[str]:
    """Every field of these kinds. Raises `UsageError`, which also says `what_was_done`, when `--fields` or `--format`
    ask for one that none of them has."""
    options = current().options
    shapes = [_shape(kind) for kind in kinds]
    known = list(dict.fromkeys(path for shape in shapes for path in _paths(shape)))
    asked = (*(options.fields or ()), *(template_keys(options.template) if options.template is not None else ()))
    for path in asked:
        if not any(_has(shape, path.split(".")) for shape in shapes):
            raise UsageError(f"no field {path!r}{what_was_done}", hint=f"fields: {', '.join(known)}")
    return known


def may_have(kind: str, path: str) -> bool:
    """Whether a thing of this kind may have a field that the one at hand has not."""
    return _has(_shape(kind), path.split("."))


@cache
def _shape(kind: str) -> Any:
    from lash_cli.cli.schemas import KINDS

    return _fields_of(KINDS[kind].shape)


def _kinds(tokens: Sequence[str]) -> tuple[str, ...]:
    """The kinds that a changing command prints; empty for one that only reads, for help and for what is no command."""
    words = tokens[: tokens.index("--")] if "--" in tokens else tokens
    if not words or "-h" in words or "--help" in words:
        return ()
    verb = ALIASES.get(words[0], words[0])
    return CHANGES.get(verb) or CHANGES.get(" ".join(words[:2]), ())


def _fields_of(shape: Any) -> Any:
    import msgspec

    return msgspec.inspect.type_info(shape)


def _children(info: Any) -> dict[str, Any] | None:
    """The fields of a record or of a union of records; None for what has no fields, or none that are known."""
    import msgspec.inspect as inspecting

    if isinstance(info, inspecting.UnionType):
        parts = [children for part in info.types if (children := _children(part)) is not None]
        return {name: child for part in parts for name, child in part.items()} if parts else None
    if not isinstance(info, inspecting.StructType):
        return None
    tag = {info.tag_field: inspecting.StrType()} if info.tag_field else {}
    return tag | {field.encode_name: field.type for field in info.fields}


def _paths(info: Any, prefix: str = "") -> Iterator[str]:
    for name, child in (_children(info) or {}).items():
        yield prefix + name
        yield from _paths(child, f"{prefix}{name}.")


def _has(info: Any, path: Sequence[str]) -> bool:
    """Whether a value of this type may have something at `path`; what is in an object of any keys is not known."""
    if not path:
        return True
    children = _children(info)
    if children is not None:
        return path[0] in children and _has(children[path[0]], path[1:])
    return _is_open(info)


def _is_open(info: Any) -> bool:
    import msgspec.inspect as inspecting

    if isinstance(info, inspecting.UnionType):
        return any(_is_open(part) for part in info.types)
    return isinstance(info, inspecting.DictType | inspecting.AnyType)
