"""Shapes of everything around sessions: configuration, keys, paths, the doctor, errors (contract 08 §6.2, §6.7)."""

from __future__ import annotations

from typing import Any

from lash_cli.cli.schemas.shape import Count, Object, Shape, Time


class Error(Shape):
    """Why a command failed: one line on stderr, and the `error` of a `stream_end`. `code` is the contract, `message`
    is not; `exit` is the exit status. `ambiguous` means: look before you retry."""

    code: str
    message: str
    exit: int
    retryable: bool
    ambiguous: bool
    hint: str | None
    details: Object
    request_id: str


class Warning(Shape):
    """Something a person should know: one line on stderr."""

    code: str
    message: str


class ConfigItem(Shape):
    """One configuration key, the value in force and where it came from."""

    id: str
    key: str
    value: Any
    origin: str


class ConfigValue(Shape):
    """A value that was written."""

    id: str
    key: str
    value: Any
    file: str


class ConfigRemoved(Shape):
    """A key or a table that was taken out of the user's file."""

    id: str
    key: str
    file: str


class ConfigEdit(Shape):
    """The user's file after the editor ended."""

    id: str
    file: str
    changed: bool


class ConfigFile(Shape):
    """A configuration file. `role`: user, project or named."""

    path: str
    role: str
    exists: bool


class ConfigCheck(Shape):
    """The files that were checked. One with a mistake is an error instead, with every mistake in its details."""

    id: str
    valid: bool
    files: list[ConfigFile]


class ProjectTrust(Shape):
    """Whether a project is trusted now, and which keys it may set because of that."""

    id: str
    directory: str
    file: str
    trusted: bool
    keys: list[str]


class TrustItem(Shape):
    """A project that was trusted. `state`: trusted, changed (it says something else since) or absent."""

    id: str
    directory: str
    file: str
    state: str


class Paths(Shape):
    """Where lash keeps its files, whether they exist or not."""

    id: str
    home: str | None
    config_file: str
    keys_file: str
    database: str
    data_dir: str
    state_dir: str
    log_file: str
    runtime_dir: str | None


class Key(Shape):
    """A key that was stored (`replaced` says whether there was one) or removed."""

    id: str
    name: str
    source: str
    replaced: bool | None
    removed: bool | None


class KeyItem(Shape):
    """A key and where it is kept; never the key."""

    name: str
    source: str
    last_four: str | None


class KeyTest(Shape):
    """A key that could be fetched; never the key."""

    id: str
    name: str
    source: str
    last_four: str


class KeyPath(Shape):
    """The file that stored keys are in."""

    id: str
    file: str
    exists: bool


class Version(Shape):
    """What is running."""

    id: str
    version: str
    python: str
    sqlite: str
    platform: str


class TracePage(Shape):
    """A page made of a trace."""

    id: str
    file: str
    records: Count


class SchemaItem(Shape):
    """One kind of JSON. `family`: document, list, item, event, notice or remote."""

    id: str
    kind: str
    family: str
    summary: str


class Versions(Shape):
    """What is running."""

    lash: str
    python: str
    sqlite: str


class Place(Shape):
    """A file or directory of lash; `mode` is octal."""

    name: str
    path: str
    exists: bool
    mode: str | None


class ProjectFile(Shape):
    """The project file of the directory. `state`: harmless, or how the keys that need trust stand: trusted, changed or
    unknown."""

    file: str
    state: str
    keys: list[str]


class Configuration(Shape):
    """Whether the configuration holds, and what it names."""

    valid: bool
    providers: list[str]
    default_provider: str | None
    keys: list[str]
    project: ProjectFile | None


class Database(Shape):
    """The database. `state`: ok, absent, schema_old, or the code of what is wrong."""

    path: str
    state: str
    bytes: Count | None
    sessions: Count | None


class LeaseHolder(Shape):
    """Who holds a session. `state`: live, expired or dead."""

    session: str
    name: str
    owner: str | None
    label: str | None
    pid: int | None
    state: str
    generation: int
    expires_at: Time | None
    expires_in_ms: Count


class UnfinishedTurn(Shape):
    """A turn without an end; `holder` is who works on it, `begun` how often it has begun what it does."""

    session: str
    name: str | None
    turn: str
    started_at: Time
    holder: int | str | None
    begun: int


class HeldQueue(Shape):
    """A queue from which nothing is taken."""

    session: str
    name: str
    held_at: Time
    reason: str | None
    pending_inputs: Count
    pending_batches: Count


class DeadBatch(Shape, rename={"work_class": "class"}):
    """A batch that failed too often."""

    session: str
    name: str
    id: str
    work_class: str
    attempts: Count
    last_error: str | None


class UnfinishedEdit(Shape):
    """An edit of a queue that was cut off."""

    id: str
    session: str
    name: str
    inputs: Count


class Finding(Shape):
    """Something wrong. `severity`: error or warning."""

    code: str
    message: str
    hint: str | None
    severity: str


class Doctor(Shape):
    """What `lash doctor` found."""

    id: str
    healthy: bool
    versions: Versions
    paths: list[Place]
    fixed: list[str]
    configuration: Configuration
    database: Database
    lease_holders: list[LeaseHolder]
    unfinished_turns: list[UnfinishedTurn]
    held_queues: list[HeldQueue]
    dead_batches: list[DeadBatch]
    unfinished_edits: list[UnfinishedEdit]
    findings: list[Finding]


class CompletionInstalled(Shape):
    """The completion script of a shell, where that shell finds it. `then`: what is left to do."""

    id: str
    shell: str
    file: str
    changed: bool
    then: str


class TopicItem(Shape):
    """A topic of the guide."""

    id: str
    title: str


class Topic(TopicItem):
    """A topic of the guide in full, as Markdown."""

    text: str
