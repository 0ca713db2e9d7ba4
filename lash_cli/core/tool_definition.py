"""A whole tool as one value, and the authority to run one (contract 05 §1.1, §1.8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec

from lash_cli.core.codec import Record, canonical_hash
from lash_cli.core.schemas import AUTO, SchemaProjection
from lash_cli.core.tool_shapes import MATERIALIZED, STATIC, ArgumentProjection, OutputContract
from lash_cli.core.tools import ApprovalClass, NeverRetry, ToolContract, ToolManifest, ToolRetryPolicy

P = TypeVar("P", ToolManifest, ToolContract)


class ToolDefinition(Record):
    """Manifest and contract of one tool, flattened: the fields are those of `ToolManifest` and `ToolContract`, but for
    `compact_contract`, which follows from the others. Raises `ValueError` as they do."""

    id: str
    name: str
    description: str
    input_schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object"})
    output_schema: dict[str, Any] | None = None
    output_contract: OutputContract = STATIC
    examples: tuple[str, ...] = ()
    projection: SchemaProjection = AUTO
    retry_policy: ToolRetryPolicy = NeverRetry()
    activation: Literal["always", "internal"] = "always"
    approval: ApprovalClass = "read"
    timeout_ms: int | None = None
    exclusive_group: str | None = None
    bindings: dict[str, Any] = {}
    argument_projection: ArgumentProjection = MATERIALIZED

    def __post_init__(self) -> None:
        self._part(ToolManifest)

    @classmethod
    def of(cls, manifest: ToolManifest, contract: ToolContract) -> ToolDefinition:
        """The definition that has these two halves."""
        halves = (manifest, contract)
        own = {name: getattr(half, name) for half in halves for name in half.__struct_fields__}
        del own["compact_contract"]
        return cls(**own)

    def manifest(self) -> ToolManifest:
        """The half that is always loaded, with the prompt rendering of the whole."""
        from lash_cli.core.compact_contract import compact_contract  # few who make tools show them in a prompt

        shown = compact_contract(
            self.name, self.description, self.input_schema, self.output_schema, self.output_contract, self.examples
        )
        return msgspec.structs.replace(self._part(ToolManifest), compact_contract=shown)

    def contract(self) -> ToolContract:
        """The half that is resolved when the tool is called."""
        return self._part(ToolContract)

    def _part(self, kind: type[P]) -> P:
        return kind(**{name: getattr(self, name) for name in kind.__struct_fields__ if name != "compact_contract"})


class ToolExecutionGrant(Record):
    """The authority to run one tool that is not in the catalogue (contract 05 §1.8).

    `source_id` names the source that runs it: a registry never guesses one. `execution_binding` is what that source
    needs to find the tool again, as JSON. The grant stands in the journal with every attempt that was made under it,
    so whoever drives the turn again has to hold an equal one. Raises `ValueError` for a blank source.
    """

    manifest: ToolManifest
    contract: ToolContract
    source_id: str | None = None
    execution_binding: Any = None

    def __post_init__(self) -> None:
        if self.source_id is not None and not self.source_id.strip():
            raise ValueError("the source of a grant is named, or not given")
        # Equal grants are written alike, whoever made them: one that was not would be another one to the journal.
        msgspec.structs.force_setattr(self, "manifest", _plainly(self.manifest))
        msgspec.structs.force_setattr(self, "contract", _plainly(self.contract))

    @classmethod
    def of(
        cls, definition: ToolDefinition, *, source_id: str | None = None, execution_binding: Any = None
    ) -> ToolExecutionGrant:
        """The grant of a whole tool."""
        manifest = msgspec.structs.replace(definition.manifest(), compact_contract=None)
        return cls(manifest, definition.contract(), source_id, execution_binding)


def _plainly(half: P) -> P:
    """`half` with the default itself where a record equals it: only that is left out when it is written."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(half)}
    usual = {
        name: default
        for name, default in defaults.items()
        if isinstance(default, msgspec.Struct) and getattr(half, name) == default
    }
    return msgspec.structs.replace(half, **usual)


def tool_batch_id(calls: Iterable[tuple[str, Any, ToolExecutionGrant | None]]) -> str:
    """The id of a batch of `(tool id, arguments, grant)` that nothing else names: a function of its calls, so that who
    makes them again means the same batch (contract 05 §3.3)."""
    return f"tool-batch:{canonical_hash([list(call) for call in calls])}"
