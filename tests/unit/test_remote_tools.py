"""Tools that cross a wire: pinned shapes, what cannot be granted, and call paths that stay (contract 04 §6.4)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lash_cli.core.remote import REMOTE_PROTOCOL_VERSION
from lash_cli.core.remote_input import RemoteTurnInput
from lash_cli.core.remote_tools import (
    RemoteOutputFromInput,
    RemotePreservedReferences,
    RemoteToolGrant,
    require_same_call_paths,
    validate_tool_grants,
)
from lash_cli.core.remote_turns import RemoteTurnRequest
from lash_cli.core.tool_shapes import MaterializedArguments, OutputFromInput, PreservedReferences, StaticOutput
from lash_cli.core.tools import IdempotentRetry, NeverRetry, SafeRetry, ToolContract, ToolManifest
from lash_cli.errors import (
    DuplicateRemoteCallPath,
    InvalidEnvelope,
    InvalidToolGrant,
    MismatchedNestedProtocolVersion,
    MissingRequiredField,
    MissingToolBinding,
    RemoteToolRegistryReopenMismatch,
)

V = REMOTE_PROTOCOL_VERSION
QUERY = {"type": "object", "properties": {"q": {"type": "string"}}}
BARE: dict[str, Any] = {
    "protocol_version": V, "id": "t1", "name": "find", "input_schema": QUERY, "output_schema": {"type": "array"},
}  # fmt: skip
LUA = {"module_path": ["shop", "stock"], "operation": "find"}


def grant(**fields: Any) -> RemoteToolGrant:
    return RemoteToolGrant.from_document({**BARE, **fields})


def test_a_grant_says_nothing_of_what_is_as_usual() -> None:
    assert grant().document() == BARE
    assert grant(activation="always", retry_policy={"type": "never"}).to_manifest() == grant().to_manifest()


def test_everything_a_grant_may_say_has_its_pinned_shape_and_survives_the_wire() -> None:
    whole = {
        **BARE,
        "description": "Finds things.",
        "output_contract": {"kind": "from_input_schema", "input_field": "shape", "default_schema": {"type": "string"}},
        "examples": ["find({q: 1})"],
        "activation": "internal",
        "argument_projection": {"kind": "preserve_projected_refs_in_field", "field": "q"},
        "retry_policy": {"type": "idempotent", "max_attempts": 3, "base_delay_ms": 5, "max_delay_ms": 50},
        "bindings": {"lua": LUA, "note": "anything"},
    }
    read = RemoteToolGrant.from_document(whole)
    assert read.document() == whole == RemoteToolGrant.from_json(read.to_json()).document()
    assert read.output_contract == RemoteOutputFromInput(input_field="shape", default_schema={"type": "string"})
    assert read.argument_projection == RemotePreservedReferences(field="q")
    for kind, name in (("output_contract", "static"), ("argument_projection", "materialize_projected_values")):
        assert grant(**{kind: {"kind": name}}).document()[kind] == {"kind": name}


@pytest.mark.parametrize("policy", [NeverRetry(), SafeRetry(2, 1, 9), IdempotentRetry(3)])
def test_a_tool_comes_back_as_it_went(policy: NeverRetry | SafeRetry | IdempotentRetry) -> None:
    manifest = ToolManifest("t1", "find", "Finds.", policy, "internal", bindings={"lua": LUA})
    contract = ToolContract(QUERY, None, ("an example",))
    for projection in (MaterializedArguments(), PreservedReferences("q")):
        for output in (StaticOutput(), OutputFromInput("shape", {"type": "string"}), OutputFromInput("shape")):
            manifest = msgspec.structs.replace(manifest, argument_projection=projection)
            contract = msgspec.structs.replace(contract, output_contract=output)
            read = RemoteToolGrant.from_json(RemoteToolGrant.of(manifest, contract).to_json())
            assert (read.to_manifest(), read.to_contract()) == (manifest, contract)


@pytest.mark.parametrize(("change", "error"), [
    ({"id": " "}, MissingRequiredField),
    ({"name": ""}, MissingRequiredField),
    ({"bindings": {" ": 1}}, InvalidToolGrant),
    ({"bindings": {"lua": {**LUA, "operation": " "}}}, InvalidToolGrant),
    ({"bindings": {"lua": {**LUA, "module_path": ["shop", ""]}}}, InvalidToolGrant),
    ({"retry_policy": {"type": "safe", "max_attempts": 0}}, InvalidToolGrant),
    ({"retry_policy": {"type": "safe", "max_attempts": 1, "base_delay_ms": -1}}, InvalidToolGrant),
    ({"output_contract": {"kind": "from_input_schema", "input_field": ""}}, InvalidToolGrant),
    ({"argument_projection": {"kind": "preserve_projected_refs_in_field", "field": " "}}, InvalidToolGrant),
    ({"output_contract": {"kind": "of_the_future"}}, InvalidEnvelope),
    ({"retry_policy": {"type": "always"}}, InvalidEnvelope),
    ({"activation": "sometimes"}, InvalidEnvelope),
    ({"input_schema": "text"}, InvalidEnvelope),
])  # fmt: skip
def test_what_cannot_be_granted_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        grant(**change)


def test_only_a_module_path_with_an_operation_is_a_call_path() -> None:
    bound = {
        "lua": LUA,
        "short": {"module_path": [], "operation": "find"},
        "no_operation": {"module_path": ["a"]},
        "no_texts": {"module_path": ["a", 1], "operation": "b"},
        "no_path": ["a"],
    }
    tool = grant(bindings=bound)
    assert tool.call_paths() == ("shop.stock.find", "find")
    assert tool.binding("no_path") == ["a"]
    with pytest.raises(MissingToolBinding) as missing:
        tool.binding("python")
    assert missing.value.details == {"tool_name": "find", "binding": "python"}


def test_ids_names_and_call_paths_are_granted_once() -> None:
    validate_tool_grants([grant(), grant(id="t2", name="other", bindings={"lua": LUA})])
    with pytest.raises(InvalidToolGrant, match="id"):
        validate_tool_grants([grant(), grant(name="other")])
    with pytest.raises(InvalidToolGrant, match="name"):
        validate_tool_grants([grant(), grant(id="t2")])
    bound = {"lua": LUA}
    with pytest.raises(DuplicateRemoteCallPath, match=r"shop\.stock\.find"):
        validate_tool_grants([grant(bindings=bound), grant(id="t2", name="other", bindings=bound)])
    with pytest.raises(DuplicateRemoteCallPath):
        validate_tool_grants([grant(bindings={"a": LUA, "b": LUA})])


def test_a_session_that_is_opened_again_has_the_call_paths_it_had() -> None:
    first, second = grant(bindings={"lua": LUA}), grant(id="t2", name="b", bindings={"x": {**LUA, "operation": "all"}})
    require_same_call_paths([first, second], [second, grant(id="t3", name="c", bindings={"other": LUA})])
    with pytest.raises(RemoteToolRegistryReopenMismatch) as raised:
        require_same_call_paths([first, second], [second])
    assert raised.value.details == {"before": ["shop.stock.all", "shop.stock.find"], "after": ["shop.stock.all"]}


def test_the_grants_of_a_request_are_judged_with_it() -> None:
    asked = RemoteTurnRequest(
        protocol_version=V, session_id="s", turn_id="t", input=RemoteTurnInput(protocol_version=V, items=()),
        tool_grants=(grant(),),
    )  # fmt: skip
    document = asked.document()
    assert document["tool_grants"] == [BARE] and RemoteTurnRequest.from_document(document) == asked
    with pytest.raises(MismatchedNestedProtocolVersion):
        RemoteTurnRequest.from_document({**document, "tool_grants": [{**BARE, "protocol_version": V + 1}]})
    with pytest.raises(InvalidToolGrant):
        RemoteTurnRequest.from_document({**document, "tool_grants": [BARE, {**BARE, "id": "t2"}]})
