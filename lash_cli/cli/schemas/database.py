"""Shapes of what `lash db` and `lash gc` print (contract 08 §5.4)."""

from __future__ import annotations

from lash_cli.cli.schemas.shape import Count, Shape, Time


class DatabasePath(Shape):
    """Where the database is."""

    id: str
    path: str
    exists: bool


class TableRows(Shape):
    """A table and how many rows it has."""

    name: str
    rows: Count


class DatabaseInfo(Shape):
    """What is in the database file. `bytes` is the file, `log_bytes` what its log has not handed over yet,
    `free_bytes` what `lash db vacuum` would give back. `pending` are the migrations it has not had."""

    id: str
    path: str
    bytes: Count
    log_bytes: Count
    free_bytes: Count
    page_size: Count
    journal_mode: str
    schema_version: Count
    known_schema_version: Count
    migrations: list[str]
    pending: list[str]
    sessions: Count
    deleted_sessions: Count
    tables: list[TableRows]


class BrokenRule(Shape):
    """One place where a rule between rows does not hold. `whole_until` is the last message before a hole in the path
    of the session, null where there is no hole or nothing before it. With the code `node_cut_off` the path is whole:
    nodes beside it lead to no root, and a fork of the session leaves them behind."""

    code: str
    session: str | None
    detail: str
    whole_until: str | None


class DatabaseCheck(Shape):
    """Whether the database is sound: `integrity` is what SQLite finds wrong with the file, `broken` which rules do not
    hold. `rules_checked` is false for a file that has to be migrated first."""

    id: str
    healthy: bool
    integrity: list[str]
    rules_checked: bool
    broken: list[BrokenRule]


class DatabaseBackup(Shape):
    """A copy of the database at one moment."""

    id: str
    file: str
    bytes: Count
    schema_version: Count
    sessions: Count


class DatabaseRestore(Shape):
    """A copy that was put back. `kept` is where the content from before is, null when there was none."""

    id: str
    file: str
    kept: str | None
    sessions: Count


class DatabaseVacuum(Shape):
    """How large the file was and is."""

    id: str
    bytes_before: Count
    bytes_after: Count


class DatabaseMigration(Shape):
    """What brought, or would bring, the database up to date. `backup` is a copy of it from before."""

    id: str
    dry_run: bool
    from_version: Count
    to_version: Count
    migrations: list[str]
    backup: str | None


class SecretItem(Shape):
    """A secret at rest. `kind`: loaded_key, api_key, private_key, bearer_token or url_password; `row` names the row of
    `table`; `ends_with` is never more than its end."""

    table: str
    column: str
    session: str | None
    row: str
    kind: str
    times: Count
    ends_with: str


class DatabaseScrub(Shape):
    """Secrets that were, or would be, taken out, and those that were left. `backup` still has them; `record` is the
    file that says what was done."""

    id: str
    dry_run: bool
    backup: str | None
    record: str | None
    scrubbed: list[SecretItem]
    left: list[SecretItem]


class DatabasePurge(Shape):
    """The database that was emptied for good, or would be. `spilled_files` are the files with whole outputs of commands
    that went with it; `bytes_after` is null when nothing was done."""

    id: str
    dry_run: bool
    sessions: Count
    bytes_before: Count
    bytes_after: Count | None
    spilled_files: Count
    spilled_bytes: Count


class ExpiredSession(Shape):
    """A session that was not used for longer than retention.max_age."""

    id: str
    name: str
    last_commit_at: Time | None


class Collection(Shape):
    """What `lash gc` removed, or would remove. `settled_before` is up to when settled inputs and batches, waits of
    calls whose turns are committed, hidden nodes and uncommitted attachments went, and files with whole outputs of
    commands, the spilled ones; `idle_since` since when the sessions were idle, null when none expire."""

    id: str
    dry_run: bool
    settled_before: Time
    idle_since: Time | None
    sessions: list[ExpiredSession]
    nodes: Count
    inputs: Count
    batches: Count
    waits: Count
    attachments: Count
    blobs: Count
    blob_bytes: Count
    journal_rows: Count
    spilled_files: Count
    spilled_bytes: Count
