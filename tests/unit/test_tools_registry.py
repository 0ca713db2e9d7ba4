"""The laws of the tool registry (contract 05 §2.2, §8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.tools import GrantedTools, NamedTools, ShyTools

from lash_cli.core.codec import decode, encode
from lash_cli.core.tool_shapes import PreservedReferences
from lash_cli.core.tools import SafeRetry, ToolManifest, ToolState, ToolStateEntry
from lash_cli.errors import GenerationMismatch, ReconfigureError
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ToolRegistry
from lash_cli.tools.surface import MAX_GENERATION


def registry(*tools: tuple[str, str], hidden: tuple[str, ...] = ()) -> ToolRegistry:
    made = ToolRegistry(hidden)
    made.upsert_source("plugins", NamedTools(*tools))
    return made


def names(of: ToolRegistry) -> list[str]:
    return [manifest.name for manifest in of.members()]


def entry(tool_id: str, name: str, **fields: bool) -> ToolStateEntry:
    return ToolStateEntry(ToolManifest(tool_id, name, f"does {name}"), **fields)


def test_new_tools_are_members_and_the_first_source_moves_the_generation_to_one() -> None:
    made = ToolRegistry()
    assert made.generation == 0
    assert made.upsert_source("plugins", NamedTools(("t.b", "b"), ("t.a", "a"))) == 1
    assert names(made) == ["a", "b"]


def test_a_tool_that_is_not_advertised_is_a_member_once_it_was_found() -> None:
    made = ToolRegistry()
    source = ShyTools(("t.deep", "deep"), advertised=(("t.a", "a"),))
    made.upsert_source("plugins", source)
    assert (names(made), made.resolve("deep"), made.generation) == (["a"], None, 1)
    found = made.find("deep")
    assert found is not None and (found.manifest.id, found.provider) == ("t.deep", source)
    assert (names(made), made.generation) == (["a", "deep"], 2)
    again = made.find("deep")
    assert again is not None and (made.generation, source.asked) == (2, ["deep"])
    assert (made.find("nothing"), made.generation) == (None, 2)
    assert (made.refresh_sources(), names(made)) == (2, ["a", "deep"])


def test_a_tool_that_was_found_is_bound_again_behind_a_restart_with_its_membership() -> None:
    made = ToolRegistry()
    made.upsert_source("plugins", ShyTools(("t.deep", "deep")))
    made.find("deep")
    made.set_tool_membership({"deep": False})
    later = ToolRegistry()
    later.upsert_source("plugins", ShyTools(("t.deep", "deep")))
    report = later.restore_state(made.export_state())
    assert (report.orphaned, report.changed, later.export_state()) == ((), False, made.export_state())
    assert later.find("deep") is None, "somebody took it out"
    gone = ToolRegistry()
    gone.upsert_source("plugins", ShyTools())
    assert gone.restore_state(made.export_state()).orphaned == ("t.deep",)


def test_a_tool_that_is_not_advertised_is_found_by_its_id_too() -> None:
    made = ToolRegistry(("secret",))
    source = ShyTools(("t.deep", "deep"), ("t.secret", "secret"), ("t.a2", "a"), advertised=(("t.a", "a"),))
    made.upsert_source("plugins", source)
    found = made.find_id("t.deep")
    assert found is not None and (found.manifest.name, names(made), made.generation) == ("deep", ["a", "deep"], 2)
    assert (made.find_id("t.deep"), made.find_id("nothing"), made.generation) == (found, None, 2)
    assert (made.find_id("t.secret"), made.find_id("t.a2"), names(made)) == (None, None, ["a", "deep"])
    made.set_tool_membership({"deep": False})
    assert made.find_id("t.deep") is None, "somebody took it out"


def test_sources_that_are_added_are_numbered_and_no_number_comes_twice() -> None:
    made = registry(("t.a", "a"))
    first = made.add_source(NamedTools(("t.b", "b")))
    with pytest.raises(ReconfigureError):
        made.add_source(NamedTools(("t.b", "b")))
    made.remove_source(first)
    second = made.add_source(NamedTools(("t.b", "b")))
    assert (first, second, names(made)) == ("live:1", "live:2", ["a", "b"])


def test_what_is_hidden_or_known_is_not_asked_of_a_source() -> None:
    made = ToolRegistry(("secret",))
    source = ShyTools(("t.secret", "secret"), ("t.a2", "a"), advertised=(("t.a", "a"),))
    made.upsert_source("plugins", source)
    made.set_tool_membership({"a": False})
    assert (made.find("secret"), made.find("a"), source.asked) == (None, None, [])


@pytest.mark.parametrize(
    "unreadable",
    [
        ToolManifest("t.b", "b", "d", approval="reading"),  # type: ignore[arg-type]
        ToolManifest("t.b", "b", 5),  # type: ignore[arg-type]
        ToolManifest("t.b", "b", "\ud800"),
        ToolManifest("t.b", "b", "d", bindings={"path": object()}),
        ToolManifest("t.b", "b", "d", timeout_ms="soon"),  # type: ignore[arg-type]
        5,
    ],
)
@pytest.mark.parametrize("is_advertised", [True, False])
def test_a_tool_that_could_not_be_read_again_is_not_taken_from_a_source(unreadable: Any, is_advertised: bool) -> None:
    made = registry(("t.a", "a"))
    source = NamedTools()
    source.offered = [unreadable]
    shy = ShyTools()
    shy.resolve_manifest = lambda name: unreadable  # type: ignore[method-assign]
    before = made.surface
    with pytest.raises(ReconfigureError, match="source live"):
        if is_advertised:
            made.upsert_source("live", source)
        else:
            made.upsert_source("live", shy)
            before = made.surface
            made.find("b")
    assert made.surface is before


class Lying(ShyTools):
    """It answers with another tool than it was asked for."""

    def resolve_manifest(self, name: str) -> ToolManifest | None:
        return ToolManifest("t.other", "other", "")

    def resolve_manifest_by_id(self, tool_id: str) -> ToolManifest | None:
        return ToolManifest("t.other", "other", "")


@pytest.mark.parametrize(
    "sources",
    [
        (ShyTools(("t.deep", "deep")), ShyTools(("t.deep", "deep"))),
        (ShyTools(("t.deep", "deep")), ShyTools(("t.deep2", "deep"))),
        (Lying(),),
    ],
    ids=["one tool of two sources", "two tools of one name", "another tool"],
)
def test_a_tool_that_is_not_the_one_or_the_only_one_is_refused_and_changes_nothing(sources: tuple[ShyTools]) -> None:
    made = ToolRegistry()
    for number, source in enumerate(sources):
        made.upsert_source(f"live:{number}", source)
    before = made.export_state()
    with pytest.raises(ReconfigureError):
        made.find("deep")
    assert made.export_state() == before


@pytest.mark.parametrize(
    "sources",
    [(ShyTools(("t.deep", "deep")), ShyTools(("t.deep", "deeper"))), (Lying(),)],
    ids=["one tool of two sources", "another tool"],
)
def test_a_known_tool_is_not_bound_to_one_that_is_not_it_or_not_the_only_one(sources: tuple[ShyTools]) -> None:
    made = ToolRegistry()
    for number, source in enumerate(sources):
        made.upsert_source(f"live:{number}", source)
    before = made.surface
    with pytest.raises(ReconfigureError):
        made.restore_state(ToolState(1, {"t.deep": entry("t.deep", "deep")}))
    assert made.surface is before
    with pytest.raises(ReconfigureError):
        made.find_id("t.deep")
    assert made.surface is before


def test_a_snapshot_carries_no_source_and_no_defaults() -> None:
    wire = encode(registry(("t.a", "a")).export_state())
    assert b"plugins" not in wire
    assert b"member" not in wire
    assert b"orphaned" not in wire
    assert (
        decode(b'{"tools":{"t.a":{"manifest":{"id":"t.a","name":"a","description":""}}}}', ToolState)
        .tools["t.a"]
        .member
    )


@pytest.mark.parametrize("clash", [("t.a", "other"), ("t.other", "a")])
def test_an_id_or_name_offered_twice_is_refused_and_changes_nothing(clash: tuple[str, str]) -> None:
    made = registry(("t.a", "a"))
    before = made.export_state()
    with pytest.raises(ReconfigureError):
        made.upsert_source("live:1", NamedTools(clash))
    for source_id in ("plugins", "context"):
        with pytest.raises(ReconfigureError):
            ToolRegistry().upsert_source(source_id, NamedTools(("t.a", "a"), clash))
    assert made.export_state() == before
    assert made.source("live:1") is None


def test_the_context_overlay_replaces_and_its_removal_restores() -> None:
    made = registry(("t.a", "a"), ("t.b", "b"))
    overlay = NamedTools(("c.a", "a"), ("t.b", "better"))
    made.upsert_source("context", overlay)
    resolved = made.resolve("a")
    assert resolved is not None
    assert (resolved.manifest.id, resolved.provider) == ("c.a", overlay)
    assert names(made) == ["a", "better"]
    made.remove_source("context")
    assert [manifest.id for manifest in made.members()] == ["t.a", "t.b"]


def test_upsert_of_an_equal_source_leaves_the_generation() -> None:
    made = registry(("t.a", "a"))
    assert made.upsert_source("plugins", NamedTools(("t.a", "a"))) == 1
    assert made.upsert_source("plugins", NamedTools(("t.a", "renamed"))) == 2
    assert names(made) == ["renamed"]


def test_refreshing_a_source_keeps_membership() -> None:
    source = NamedTools(("t.a", "a"), ("t.b", "b"))
    made = ToolRegistry()
    made.upsert_source("plugins", source)
    made.set_tool_membership({"a": False})
    source.offered.append(ToolManifest("t.c", "c", ""))
    assert made.refresh_sources() == 3
    assert names(made) == ["b", "c"]


def test_removing_an_unknown_source_is_its_own_error() -> None:
    with pytest.raises(ReconfigureError) as caught:
        registry().remove_source("live:9")
    assert caught.value.code == "tool_source_unknown"


def test_removing_a_source_drops_its_tools_and_always_moves_the_generation() -> None:
    made = registry(("t.a", "a"))
    made.upsert_source("live:1", NamedTools())
    assert made.remove_source("live:1") == 3
    assert made.remove_source("plugins") == 4
    assert made.export_state().tools == {}


def test_apply_with_an_old_generation_is_refused_and_changes_nothing() -> None:
    made = registry(("t.a", "a"))
    stale = made.export_state()
    made.set_tool_membership({"a": False})
    current = made.export_state()
    with pytest.raises(GenerationMismatch) as caught:
        made.apply_state(stale)
    assert caught.value.details == {"expected": 1, "actual": 2}
    assert made.export_state() == current


def test_of_two_setters_on_one_generation_one_wins_and_the_other_gets_a_mismatch() -> None:
    made = registry(("t.a", "a"), ("t.b", "b"))
    seen = made.generation
    made.set_tool_membership({"a": False}, expected_generation=seen)
    with pytest.raises(GenerationMismatch):
        made.set_tool_membership({"b": False}, expected_generation=seen)
    assert names(made) == ["b"]


def test_apply_defines_the_set_and_round_trips_with_orphans() -> None:
    made = registry(("t.a", "a"), ("t.b", "b"))
    made.restore_state(ToolState(1, {"t.gone": entry("t.gone", "gone")}))
    state = made.export_state()
    without_b = msgspec.structs.replace(state, tools={k: v for k, v in state.tools.items() if k != "t.b"})
    generation = made.apply_state(without_b)
    assert generation == state.generation + 1
    assert made.export_state().tools == without_b.tools
    assert made.resolve("b") is None
    assert made.resolve("gone") is None


@pytest.mark.parametrize(
    "tools",
    [
        {"t.unknown": entry("t.unknown", "unknown")},
        {"t.other": entry("t.a", "a")},
        {"t.b": entry("t.a", "a")},
        {"t.a": entry("t.a", "secret")},
        {"t.a": entry("t.a", "same"), "t.b": entry("t.b", "same")},
        {"t.a": ToolStateEntry(ToolManifest("t.a", "a", "", approval="write"))},
        {"t.a": ToolStateEntry(ToolManifest("t.a", "a", "", retry_policy=SafeRetry(2)))},
        {"t.a": ToolStateEntry(ToolManifest("t.a", "a", "", argument_projection=PreservedReferences("x")))},
        {"t.secret": entry("t.secret", "secret")},
        {"t.secret": entry("t.secret", "disguised")},
    ],
)
def test_an_inconsistent_state_is_refused_and_changes_nothing(tools: dict[str, ToolStateEntry]) -> None:
    made = registry(("t.a", "a"), ("t.b", "b"), ("t.secret", "secret"), hidden=("secret",))
    before = made.export_state()
    with pytest.raises(ReconfigureError):
        made.apply_state(ToolState(before.generation, tools))
    assert made.export_state() == before


def test_the_generation_cannot_overflow() -> None:
    made = registry(("t.a", "a"))
    state = msgspec.structs.replace(made.export_state(), generation=MAX_GENERATION)
    made.restore_state(state)
    with pytest.raises(ReconfigureError):
        made.set_tool_membership({"a": False})
    assert names(made) == ["a"]


def test_one_unknown_name_among_many_changes_nothing() -> None:
    made = registry(("t.a", "a"))
    with pytest.raises(ReconfigureError, match="unknown tool `nope`") as caught:
        made.set_tool_membership({"a": False, "nope": True})
    assert caught.value.code == "tool_unknown"
    assert (names(made), made.generation) == (["a"], 1)
    with pytest.raises(ReconfigureError, match=r"unknown tool id `t\.nope`"):
        made.set_membership({"t.a": False, "t.nope": True})
    assert names(made) == ["a"]


def test_a_removed_tool_is_unreachable_by_name_and_id() -> None:
    made = registry(("t.a", "a"))
    made.set_membership({"t.a": False})
    assert made.resolve("a") is None
    assert made.resolve_id("t.a") is None
    made.set_tool_membership({"a": True})
    assert made.resolve("a") is not None


def test_hidden_tools_cannot_be_reached_by_name_id_membership_or_rebuild() -> None:
    made = registry(("t.a", "a"), ("t.s", "secret"), hidden=("secret",))
    made.restore_state(ToolState(5, {"t.s": entry("t.s", "disguised")}))
    made.upsert_source("live:1", NamedTools(("t.b", "b")))
    for name in ("secret", "disguised"):
        assert made.resolve(name) is None
        with pytest.raises(ReconfigureError):
            made.set_tool_membership({name: True})
    assert made.resolve_id("t.s") is None
    with pytest.raises(ReconfigureError):
        made.set_membership({"t.s": True})
    assert names(made) == ["a", "b"]


def test_no_grant_reaches_a_hidden_tool_under_another_name() -> None:
    made = registry(hidden=("secret",))
    source = GrantedTools(("deferred.secret", "secret"), source_id="live:9")
    made.upsert_source("live:9", source)
    disguised = source.grant("secret")
    disguised = msgspec.structs.replace(disguised, manifest=msgspec.structs.replace(disguised.manifest, name="plain"))
    for grant in (source.grant("secret"), disguised):
        with pytest.raises(ToolFault) as caught:
            made.granted(grant)
        assert caught.value.code == "tool_unavailable"
    assert made.granted(source.grant("open")).manifest.name == "open"


def test_resolving_asks_no_provider_and_a_contract_is_asked_for_one_tool_only() -> None:
    source = NamedTools(("t.a", "a"), ("t.b", "b"))
    made = ToolRegistry()
    made.upsert_source("plugins", source)
    resolved = made.resolve("a")
    assert resolved is not None
    assert source.contracts_asked == []
    resolved.contract()
    assert source.contracts_asked == ["t.a"]


def test_cold_restore_of_its_own_snapshot_adopts_the_generation_and_reports_no_change() -> None:
    saved = registry(("t.a", "a"), ("t.b", "b"))
    saved.set_tool_membership({"b": False})
    reopened = registry(("t.a", "a"), ("t.b", "b"))
    report = reopened.restore_state(saved.export_state())
    assert (report.generation, report.orphaned, report.changed) == (2, (), False)
    assert reopened.export_state() == saved.export_state()
    parted = registry(("t.a", "a"))
    for source_id, tool in (("live:1", ("t.b", "b")), ("live:2", ("t.c", "c")), ("live:3", ("t.d", "d"))):
        parted.upsert_source(source_id, NamedTools(tool))
    adopted = msgspec.structs.replace(parted.export_state(), generation=2)
    assert (parted.generation, parted.restore_state(adopted).generation) == (4, 2)


def test_cold_restore_keeps_the_opt_out_adds_new_tools_and_wants_to_be_persisted() -> None:
    made = registry(("t.a", "a"), ("t.new", "new"))
    report = made.restore_state(ToolState(7, {"t.a": entry("t.a", "a", member=False)}))
    assert (report.generation, report.changed) == (8, True)
    assert names(made) == ["new"]


def test_a_missing_tool_becomes_an_orphan_that_rebinds_with_its_opt_out() -> None:
    made = registry()
    snapshot = ToolState(3, {"t.a": entry("t.a", "a"), "t.b": entry("t.b", "b", member=False)})
    report = made.restore_state(snapshot)
    assert report.orphaned == ("t.a", "t.b")
    assert made.resolve("a") is None
    assert made.members() == ()
    made.refresh_sources()
    made.upsert_source("live:0", NamedTools(("t.c", "c")))
    made.remove_source("live:0")
    assert list(made.export_state().tools) == ["t.a", "t.b"], "no other source takes them away"
    made.upsert_source("live:1", NamedTools(("t.a", "a"), ("t.b", "b")))
    assert names(made) == ["a"]


def test_an_orphan_whose_name_was_taken_is_dropped_without_handing_on_its_opt_out() -> None:
    made = registry(("t.successor", "a"))
    report = made.restore_state(ToolState(3, {"t.old": entry("t.old", "a", member=False)}))
    assert (report.orphaned, names(made)) == ((), ["a"])
    late = registry()
    late.restore_state(ToolState(3, {"t.old": entry("t.old", "a", member=False)}))
    late.upsert_source("live:1", NamedTools(("t.successor", "a")))
    assert list(late.export_state().tools) == ["t.successor"]
    assert names(late) == ["a"]


def test_a_snapshot_keeps_its_edits_but_never_weakens_the_rules_of_the_source() -> None:
    made = ToolRegistry()
    made.upsert_source("plugins", NamedTools(ToolManifest("t.a", "a", "live", approval="execute")))
    edited = ToolManifest("t.a", "mine", "edited", approval="read", retry_policy=SafeRetry(9))
    made.restore_state(ToolState(3, {"t.a": ToolStateEntry(edited)}))
    (manifest,) = made.members()
    assert (manifest.name, manifest.description) == ("mine", "edited")
    assert (manifest.approval, manifest.retry_policy) == ("execute", ToolManifest("x", "x", "").retry_policy)


def test_an_edited_name_that_a_source_now_uses_gives_way() -> None:
    made = registry(("t.a", "a"), ("t.cat", "cat"))
    made.restore_state(ToolState(3, {"t.a": entry("t.a", "cat")}))
    assert names(made) == ["a", "cat"]


def test_a_warm_restore_never_moves_the_generation_back() -> None:
    made = registry(("t.a", "a"))
    snapshot = made.export_state()
    for present in (False, True, False):
        made.set_tool_membership({"a": present})
    assert made.restore_state(snapshot).generation == 5
    assert made.restore_state(snapshot).generation == 5


def test_a_warm_restore_goes_on_from_a_snapshot_that_is_ahead() -> None:
    made = registry(("t.a", "a"))
    made.set_tool_membership({"a": False})
    ahead = msgspec.structs.replace(made.export_state(), generation=9)
    assert made.restore_state(ahead).generation == 9
    grown = msgspec.structs.replace(made.export_state(), generation=20, tools={})
    assert made.restore_state(grown).generation == 21


def test_a_malformed_snapshot_is_refused_and_changes_nothing() -> None:
    made = registry(("t.a", "a"))
    with pytest.raises(ReconfigureError):
        made.restore_state(ToolState(3, {"t.b": entry("t.a", "a")}))
    with pytest.raises(ReconfigureError):
        made.restore_state(ToolState(-1, {}))
    assert (made.generation, names(made)) == (1, ["a"])


def test_a_child_gets_the_state_the_sources_and_at_least_the_hidden_names() -> None:
    parent = registry(("t.a", "a"), ("t.b", "b"), ("t.c", "c"), hidden=("c",))
    parent.set_tool_membership({"a": False})
    child = parent.fork_with_state(parent.export_state(), hidden_names=["b"])
    assert names(child) == []
    assert names(parent) == ["b"]
    child.set_tool_membership({"a": True})
    assert names(parent) == ["b"]


TOOLS = {f"t.{letter}": letter for letter in "abcd"}
HIDDEN = "d"
SOURCES = ("plugins", "live:1")
ids = st.sets(st.sampled_from(sorted(TOOLS)))


class RegistryMachine(RuleBasedStateMachine):
    """The registry against an oracle that keeps plain sets: what is live, known and opted out of."""

    @initialize()
    def begin(self) -> None:
        self.registry = ToolRegistry([HIDDEN])
        self.offers: dict[str, set[str]] = {}
        self.member: dict[str, bool] = {}
        self.orphans: set[str] = set()
        self.generation = 0
        # Without this first edit a restore may adopt a lower generation (a cold open).
        self.registry.apply_state(self.registry.export_state())
        self.saved = self.registry.export_state()

    @property
    def live(self) -> set[str]:
        return set().union(*self.offers.values())

    def rebuild(self, keep_gone: bool) -> None:
        if keep_gone:
            self.orphans |= self.member.keys() - self.live
        self.orphans -= self.live
        known = self.live | self.orphans
        self.member = {
            tool: self.member.get(tool, True) and not (tool in self.live and TOOLS[tool] == HIDDEN) for tool in known
        }

    @rule(source=st.sampled_from(SOURCES), offered=ids)
    def upsert(self, source: str, offered: set[str]) -> None:
        others = set().union(*(tools for known, tools in self.offers.items() if known != source))
        provider = NamedTools(*((tool, TOOLS[tool]) for tool in sorted(offered)))
        if offered & others:
            with pytest.raises(ReconfigureError):
                self.registry.upsert_source(source, provider)
            return
        self.registry.upsert_source(source, provider)
        self.offers[source] = offered
        self.rebuild(keep_gone=False)

    @rule(source=st.sampled_from(SOURCES))
    def remove(self, source: str) -> None:
        if source not in self.offers:
            with pytest.raises(ReconfigureError):
                self.registry.remove_source(source)
            return
        self.registry.remove_source(source)
        del self.offers[source]
        self.rebuild(keep_gone=False)

    @rule(tool=st.sampled_from(sorted(TOOLS)), present=st.booleans())
    def set_membership(self, tool: str, present: bool) -> None:
        if tool not in self.member or (TOOLS[tool] == HIDDEN and present):
            with pytest.raises(ReconfigureError):
                self.registry.set_membership({tool: present})
            return
        before = self.registry.generation
        assert self.registry.set_membership({tool: present}) == before + 1
        self.member[tool] = present

    @rule()
    def save(self) -> None:
        self.saved = self.registry.export_state()

    @rule()
    def apply(self) -> None:
        if self.saved.generation != self.registry.generation:
            before = self.registry.export_state()
            with pytest.raises(GenerationMismatch):
                self.registry.apply_state(self.saved)
            assert self.registry.export_state() == before
        else:
            assert self.registry.apply_state(self.saved) == self.saved.generation + 1

    @rule()
    def restore(self) -> None:
        report = self.registry.restore_state(self.saved)
        self.member = {tool: held.member for tool, held in self.saved.tools.items()}
        self.orphans = set()
        self.rebuild(keep_gone=True)
        assert set(report.orphaned) == self.orphans
        assert report.changed == (self.registry.export_state() != self.saved)

    @invariant()
    def generation_never_goes_back(self) -> None:
        assert self.registry.generation >= self.generation
        self.generation = self.registry.generation

    @invariant()
    def callable_iff_member_and_live_and_not_hidden(self) -> None:
        expected = {tool for tool in self.live if self.member.get(tool) and TOOLS[tool] != HIDDEN}
        assert {manifest.id for manifest in self.registry.members()} == expected
        for tool, name in TOOLS.items():
            assert (self.registry.resolve(name) is not None) == (tool in expected)
            assert (self.registry.resolve_id(tool) is not None) == (tool in expected)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
