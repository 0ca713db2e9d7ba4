"""A whole tool as one value, and the authority to run one (contract 05 §1.1, §1.8)."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from lash_cli.core.codec import Record
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
