"""Tools that a peer grants to a turn, as they cross a wire (contract 04 §6.4).

A grant describes a tool; what runs it stays where it is. A binding with a
`module_path` and an `operation` is a call path, the name under which code may
call the tool. Ids, names and call paths are unique in a list of grants, and the
call paths of a session are the same after it was opened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from lash_cli.core.codec import from_builtins_any
from lash_cli.core.remote import REMOTE_PROTOCOL_VERSION, RemoteEnvelope, plain, require_text
from lash_cli.core.remote_input import RemotePart
from lash_cli.core.tool_shapes import MATERIALIZED, STATIC, ArgumentProjection, OutputContract
from lash_cli.core.tools import NeverRetry, ToolContract, ToolManifest, ToolRetryPolicy
from lash_cli.errors import (
    DuplicateRemoteCallPath,
    InvalidToolGrant,
    MissingToolBinding,
    RemoteToolRegistryReopenMismatch,
)


class RemoteStaticOutput(RemotePart, frozen=True, kw_only=True, tag="static", tag_field="kind"):
    """What the tool returns always fits its output schema."""


class RemoteOutputFromInput(RemotePart, frozen=True, kw_only=True, tag="from_input_schema", tag_field="kind"):
    """What the tool returns fits the schema that the call names in `input_field`; `default_schema` without one."""

    input_field: str
    default_schema: dict[str, Any] | None = None


class RemoteMaterializedArguments(
    RemotePart, frozen=True, kw_only=True, tag="materialize_projected_values", tag_field="kind"
):
    """The tool gets every argument as a value."""


class RemotePreservedReferences(
    RemotePart, frozen=True, kw_only=True, tag="preserve_projected_refs_in_field", tag_field="kind"
):
    """The tool gets what stands in `field` as references, and every other argument as a value."""

    field: str


RemoteOutputContract = RemoteStaticOutput | RemoteOutputFromInput
RemoteArgumentProjection = RemoteMaterializedArguments | RemotePreservedReferences


class RemoteToolGrant(RemoteEnvelope, frozen=True, kw_only=True):
    """A tool that a peer grants (contract 04 §6.4). Without a retry policy a call is tried once."""

    id: str
    name: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    description: str = ""
    output_contract: RemoteOutputContract | None = None
    examples: tuple[str, ...] = ()
    activation: Literal["always", "internal"] = "always"
    argument_projection: RemoteArgumentProjection | None = None
    retry_policy: ToolRetryPolicy | None = None
    bindings: dict[str, Any] = {}

    def _validate_fields(self) -> None:
        require_text(self, "id", "name")
        if any(not key.strip() for key in self.bindings):
            raise InvalidToolGrant(self.name, "a binding without a key")
        for binding, value in self.bindings.items():
            if _is_call_path(value) and not all(part.strip() for part in _parts_of(value)):
                raise InvalidToolGrant(self.name, f"the call path of the binding {binding!r} has a blank part")
        match self.output_contract, self.argument_projection:
            case (RemoteOutputFromInput(input_field=field), _) if not field.strip():
                raise InvalidToolGrant(self.name, "its output contract names no field")
            case (_, RemotePreservedReferences(field=field)) if not field.strip():
                raise InvalidToolGrant(self.name, "its argument projection names no field")
        policy = self.retry_policy
        if policy is not None and not isinstance(policy, NeverRetry):
            if policy.max_attempts < 1:
                raise InvalidToolGrant(self.name, "max_attempts is below 1")
            if policy.base_delay_ms < 0 or policy.max_delay_ms < 0:
                raise InvalidToolGrant(self.name, "a delay is negative")

    def call_paths(self) -> tuple[str, ...]:
        """The names under which code may call the tool, `module.path.operation`, in the order of its bindings."""
        return tuple(".".join(_parts_of(value)) for value in self.bindings.values() if _is_call_path(value))

    def binding(self, key: str) -> Any:
        """What is bound under `key`; raises `MissingToolBinding`."""
        if key not in self.bindings:
            raise MissingToolBinding(self.name, key)
        return self.bindings[key]

    @classmethod
    def of(cls, manifest: ToolManifest, contract: ToolContract) -> RemoteToolGrant:
        """The envelope of a tool. How long it may take, and who is asked before it runs, is the business of the side
        that runs it."""
        policy = manifest.retry_policy
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            id=manifest.id,
            name=manifest.name,
            description=manifest.description,
            input_schema=plain(contract.input_schema),
            output_schema=plain(contract.output_schema or {}),
            output_contract=_unless(STATIC, contract.output_contract, RemoteOutputContract),
            examples=contract.examples,
            activation=manifest.activation,
            argument_projection=_unless(MATERIALIZED, manifest.argument_projection, RemoteArgumentProjection),
            retry_policy=None if isinstance(policy, NeverRetry) else policy,
            bindings=plain(manifest.bindings),
        )

    def to_manifest(self) -> ToolManifest:
        """The manifest of the tool. Raises as `validate`."""
        self.validate()
        projection = self.argument_projection
        return ToolManifest(
            self.id,
            self.name,
            self.description,
            self.retry_policy or NeverRetry(),
            self.activation,
            bindings=self.bindings,
            argument_projection=MATERIALIZED if projection is None else _same(projection, ArgumentProjection),
        )

    def to_contract(self) -> ToolContract:
        """The schemas of the tool. Raises as `validate`."""
        self.validate()
        output = self.output_contract
        return ToolContract(
            self.input_schema,
            self.output_schema or None,
            self.examples,
            output_contract=STATIC if output is None else _same(output, OutputContract),
        )


def validate_tool_grants(grants: Iterable[RemoteToolGrant]) -> None:
    """Validate every grant, and that no id, name or call path comes twice.

    Raises as `validate`, `InvalidToolGrant` and `DuplicateRemoteCallPath`.
    """
    ids: set[str] = set()
    names: set[str] = set()
    paths: set[str] = set()
    for grant in grants:
        grant.validate()
        if grant.id in ids:
            raise InvalidToolGrant(grant.name, f"the id {grant.id!r} is granted twice")
        if grant.name in names:
            raise InvalidToolGrant(grant.name, "the name is granted twice")
        ids.add(grant.id)
        names.add(grant.name)
        for path in grant.call_paths():
            if path in paths:
                raise DuplicateRemoteCallPath(path)
            paths.add(path)


def require_same_call_paths(before: Sequence[RemoteToolGrant], after: Sequence[RemoteToolGrant]) -> None:
    """Raise `RemoteToolRegistryReopenMismatch` unless a session that is opened again has the call paths it had."""
    had, has = (sorted(path for grant in grants for path in grant.call_paths()) for grants in (before, after))
    if had != has:
        raise RemoteToolRegistryReopenMismatch(had, has)


def _unless(usual: Any, value: Any, kind: Any) -> Any:
    """`value` as a part of an envelope, None where it is as usual."""
    return None if value == usual else _same(value, kind)


def _same(value: Any, kind: Any) -> Any:
    """A declaration as `kind`, which is written alike."""
    return from_builtins_any(plain(value), kind)


def _is_call_path(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    module_path = value.get("module_path")
    is_path = isinstance(module_path, list) and all(isinstance(part, str) for part in module_path)
    return is_path and isinstance(value.get("operation"), str)


def _parts_of(value: dict[str, Any]) -> list[str]:
    return [*value["module_path"], value["operation"]]
