"""Tools that a session runs and tells no model of."""

from __future__ import annotations

from lash_cli.api import FunctionToolProvider
from lash_cli.core.tools import ToolManifest


class Unadvertised:
    """Tools that are found when they are called, so that no request depends on their being there."""

    def __init__(self, provider: FunctionToolProvider) -> None:
        self._provider = provider
        self.contract, self.execute, self.aclose = provider.contract, provider.execute, provider.aclose

    def manifests(self) -> tuple[ToolManifest, ...]:
        return ()

    def resolve_manifest(self, name: str) -> ToolManifest | None:
        return next((manifest for manifest in self._provider.manifests() if manifest.name == name), None)

    def resolve_manifest_by_id(self, tool_id: str) -> ToolManifest | None:
        return next((manifest for manifest in self._provider.manifests() if manifest.id == tool_id), None)
