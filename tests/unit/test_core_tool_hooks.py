"""How what several hooks of one tool call ask for is composed (contract 05 §4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.activity import PluginRuntime, PluginStatus
from lash_cli.core.codec import decode_any, encode
from lash_cli.core.content import Message, PluginOrigin, Role, TextPart
from lash_cli.core.tool_hooks import (
    AFTER_CONFLICT,
    BEFORE_CONFLICT,
    AbortTurn,
    AfterToolDirective,
    BeforeToolDirective,
    EmitRuntimeEvents,
    EmitTrace,
    EnqueueMessages,
    ForbiddenDirective,
    HookQuestion,
    PluginMessage,
    ReplaceToolArgs,
    ShortCircuitTool,
    ToolHookVerdict,
    after_verdict,
    before_verdict,
    hook_failure,
)
from lash_cli.core.tools import FailureClass, cancelled, failure, success

Hook = Callable[[Any], Sequence[object]]

ABORT = AbortTurn("stop", "not that one")
DENY = ShortCircuitTool(failure(FailureClass.PERMISSION_DENIED, "denied", "no", source="plugin"))
CANCEL = ShortCircuitTool(cancelled("not now"))
ANSWER = ShortCircuitTool(success("cached"))
ARGS = {"path": "a"}


def judged(hooks: dict[str, Hook], args: Any = ARGS) -> tuple[ToolHookVerdict, list[HookQuestion]]:
    """The verdict of hooks that are functions of the arguments, and the questions they were asked."""
    ids = list(hooks)
    rounds = before_verdict(ids, args)
    asked: list[HookQuestion] = []
    try:
        question = next(rounds)
        while True:
            asked.append(question)
            question = rounds.send(hooks[ids[question.index]](question.args))
    except StopIteration as end:
        return end.value, asked


def always(*directives: object) -> Hook:
    return lambda args: directives


def code_of(verdict: ToolHookVerdict) -> str | None:
    """What became of a call: the code of its failure, its value, or None where it is made."""
    if verdict.output is None:
        return None
    outcome: Any = verdict.output.outcome
    match verdict.output.status:
        case "failure":
            return str(outcome.failure.code)
        case "cancelled":
            return "cancelled"
        case _:
            return str(outcome.value)


def test_a_call_that_no_hook_has_anything_to_say_about_is_made_as_it_is() -> None:
    assert judged({"a": always(), "b": always()}) == (ToolHookVerdict(), [HookQuestion(0, ARGS), HookQuestion(1, ARGS)])


@pytest.mark.parametrize(
    ("directives", "code"),
    [
        ((ANSWER, DENY), "denied"),
        ((DENY, ANSWER), "denied"),
        ((CANCEL, ANSWER), "cancelled"),
        ((DENY, ABORT), "tool_error"),
        ((ANSWER, ABORT), "tool_error"),
        ((ABORT, CANCEL), "tool_error"),
    ],
)
def test_the_strictest_decision_wins_whoever_was_asked_first(directives: tuple[object, ...], code: str) -> None:
    hooks = {f"h{index}": always(directive) for index, directive in enumerate(directives)}
    assert code_of(judged(hooks)[0]) == code
    assert code_of(judged(dict(reversed(hooks.items())))[0]) == code


def test_an_abort_fails_the_call_with_its_message() -> None:
    verdict, _ = judged({"guard": always(ABORT)})
    assert verdict.output == failure(
        FailureClass.EXECUTION, "tool_error", "not that one", source="plugin", raw={"code": "stop", "hook": "guard"}
    )


def test_equally_strict_decisions_go_to_the_first_id_before_a_call() -> None:
    one, other = (ShortCircuitTool(success(value)) for value in ("one", "other"))
    for order in permutations({"a": always(one), "b": always(other)}.items()):
        assert code_of(judged(dict(order))[0]) == "one"


def test_of_several_decisions_of_one_hook_the_first_counts_and_no_conflict_is_told_of() -> None:
    verdict, _ = judged({"a": always(ANSWER, ShortCircuitTool(success("again")))})
    assert (code_of(verdict), verdict.conflicts) == ("cached", ())


def test_whoever_saw_the_old_arguments_is_asked_once_more_and_whoever_comes_later_sees_the_new_ones() -> None:
    verdict, asked = judged({"a": always(), "b": always(), "c": always(ReplaceToolArgs({"path": "b"})), "d": always()})
    assert verdict.args == {"path": "b"}
    assert asked[3:] == [
        HookQuestion(0, {"path": "b"}, is_inspection=True),
        HookQuestion(1, {"path": "b"}, is_inspection=True),
        HookQuestion(3, {"path": "b"}),
    ]


def test_a_guard_that_is_asked_first_refuses_what_a_later_hook_put_in_place() -> None:
    def guard(args: Any) -> Sequence[object]:
        return (DENY,) if args["path"] == "secret" else ()

    for order in permutations({"guard": guard, "other": always(ReplaceToolArgs({"path": "secret"}))}.items()):
        assert code_of(judged(dict(order))[0]) == "denied"


def test_only_a_refusal_counts_when_a_hook_is_asked_again() -> None:
    event = PluginStatus("k", "seen")

    def tells(args: Any) -> Sequence[object]:
        return (EmitRuntimeEvents((event,)), EmitTrace("seen"), *((ANSWER,) if args != ARGS else ()))

    verdict, _ = judged({"a": tells, "b": always(ReplaceToolArgs({"path": "b"}))})
    assert verdict == ToolHookVerdict(
        {"path": "b"}, events=(PluginRuntime("a", event),), traces=(EmitTrace("plugin.a.seen"),)
    )


@pytest.mark.parametrize(
    "hooks",
    [
        {"a": always(ReplaceToolArgs({"path": "b"})), "b": always(ReplaceToolArgs({"path": "c"}))},
        {"a": always(ReplaceToolArgs({"path": "b"}), ReplaceToolArgs({"path": "c"}))},
        {
            "a": lambda args: () if args == ARGS else (ReplaceToolArgs({"path": "c"}),),
            "b": always(ReplaceToolArgs({"path": "b"})),
        },
    ],
)
def test_a_second_replacement_makes_the_call_fail_and_leaves_a_trace(hooks: dict[str, Hook]) -> None:
    verdict, _ = judged(hooks)
    assert code_of(verdict) == BEFORE_CONFLICT
    assert [conflict.code for conflict in verdict.conflicts] == [BEFORE_CONFLICT]


def test_a_replacement_by_equal_arguments_is_none() -> None:
    same = always(ReplaceToolArgs(ARGS))
    assert judged({"a": same, "b": same}) == (ToolHookVerdict(), [HookQuestion(0, ARGS), HookQuestion(1, ARGS)])
    assert judged({"a": always(ReplaceToolArgs({"n": True}))}, {"n": 1})[0].args == {"n": True}


def test_who_normalises_arguments_that_are_in_order_already_composes_with_another() -> None:
    def upper(args: Any) -> Sequence[object]:
        return (ReplaceToolArgs({"path": args["path"].upper()}),)

    assert judged({"a": upper, "b": upper})[0] == ToolHookVerdict({"path": "A"})


@pytest.mark.parametrize("directive", ["no directive", None, 7, ABORT.code])
def test_what_is_no_directive_is_refused_by_name(directive: object) -> None:
    with pytest.raises(ForbiddenDirective, match=type(directive).__name__) as raised:
        judged({"a": always(directive)})
    assert raised.value.hook_id == "a"
    with pytest.raises(ForbiddenDirective, match="replace_tool_args is no directive of after_tool_call"):
        after_verdict([("a", (ReplaceToolArgs({}),))])
    with pytest.raises(ForbiddenDirective):
        judged({"a": lambda args: () if args == ARGS else (7,), "b": always(ReplaceToolArgs({}))})


def test_messages_are_enqueued_behind_a_call_only_and_say_who_added_them() -> None:
    reminder = EnqueueMessages((PluginMessage("system", "mind the budget"),))
    verdict = after_verdict([("a", (reminder,)), ("b", (DENY, reminder))])
    message = Message("", Role.SYSTEM, (TextPart("mind the budget"),), PluginOrigin("a"))
    assert verdict.messages == (message, msgspec.structs.replace(message, origin=PluginOrigin("b")))
    with pytest.raises(ForbiddenDirective, match="enqueue_messages is no directive of before_tool_call"):
        judged({"a": always(reminder)})
    with pytest.raises(ValueError, match="needs a text"):
        PluginMessage("user", " ")


def test_of_two_replaced_results_the_first_wins_and_the_conflict_is_told() -> None:
    verdict = after_verdict([("b", (ANSWER,)), ("a", (ShortCircuitTool(success("other")),))])
    assert code_of(verdict) == "cached"
    (conflict,) = verdict.conflicts
    assert (conflict.winner, conflict.ignored, conflict.code) == ("b", "a", AFTER_CONFLICT)


def test_a_refusal_of_a_result_is_not_undone_by_a_replacement_of_it() -> None:
    for order in permutations([("a", (ANSWER,)), ("b", (DENY,)), ("c", (ABORT,))]):
        assert code_of(after_verdict(order)) == "tool_error"
    for order in permutations([("a", (ANSWER,)), ("b", (DENY,))]):
        assert code_of(after_verdict(order)) == "denied"


def test_a_hook_that_failed_is_named() -> None:
    output = hook_failure("after_tool_call", "guard", "ValueError: a bug")
    assert output == failure(
        FailureClass.INTERNAL,
        "after_tool_call_failed",
        "The after_tool_call hook guard failed: ValueError: a bug",
        source="plugin",
    )


RANKS = {None: 0, "cached": 1, "denied": 2, "cancelled": 2, BEFORE_CONFLICT: 2, "tool_error": 3}
deciding = st.sampled_from([ABORT, DENY, CANCEL, ANSWER, EmitTrace("t"), EmitRuntimeEvents((PluginStatus("k", "l"),))])
replacing = st.builds(ReplaceToolArgs, st.fixed_dictionaries({"path": st.sampled_from("abc")}))
hooks_of = st.dictionaries(
    st.sampled_from("abcdef"),
    # What a hook says depends on the arguments it is shown.
    st.fixed_dictionaries({path: st.lists(deciding | replacing, max_size=2) for path in "abc"}),
    max_size=5,
)


def functions(table: dict[str, dict[str, list[object]]]) -> dict[str, Hook]:
    def of(rows: dict[str, list[object]]) -> Hook:
        return lambda args: rows[args["path"]]

    return {hook_id: of(rows) for hook_id, rows in table.items()}


@given(hooks_of)
def test_no_hook_undoes_a_refusal_of_what_the_call_would_be_made_with(table: dict[str, Any]) -> None:
    verdict, asked = judged(functions(table))
    args = ARGS if verdict.args is None else verdict.args
    # Who put the arguments in place is not asked about them again.
    judges = {
        index: rows[args["path"]]
        for index, rows in enumerate(table.values())
        if not any(isinstance(item, ReplaceToolArgs) for path in "abc" for item in rows[path])
    }
    assert judges.keys() <= {question.index for question in asked if question.args == args}
    refusals = [
        RANKS["tool_error" if item is ABORT else "denied"]
        for rows in judges.values()
        for item in rows
        if item in (ABORT, DENY, CANCEL)
    ]
    assert RANKS[code_of(verdict)] >= max(refusals, default=0)


@given(hooks_of, st.randoms(use_true_random=False))
def test_without_replacements_the_order_of_hooks_does_not_matter(table: dict[str, Any], random: Any) -> None:
    fixed = {
        hook_id: {path: [item for item in rows["a"] if not isinstance(item, ReplaceToolArgs)] for path in "abc"}
        for hook_id, rows in table.items()
    }
    shuffled = list(fixed)
    random.shuffle(shuffled)
    one, other = (judged(functions({hook_id: fixed[hook_id] for hook_id in order}))[0] for order in (fixed, shuffled))
    assert one.output == other.output
    assert sorted(map(str, one.events)) == sorted(map(str, other.events))


@given(hooks_of)
def test_every_hook_is_asked_at_most_twice_and_composing_is_a_function(table: dict[str, Any]) -> None:
    one, asked = judged(functions(table))
    assert judged(functions(table)) == (one, asked)
    for index in range(len(table)):
        assert [question.is_inspection for question in asked if question.index == index] in ([False], [False, True])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(deciding, max_size=2)), max_size=4))
def test_after_a_call_the_first_of_the_strictest_wins(answers: list[tuple[str, list[object]]]) -> None:
    said = [item for _, directives in answers for item in directives if isinstance(item, AbortTurn | ShortCircuitTool)]
    codes = [code_of(after_verdict([("x", [item])])) for item in said]
    expected = max(codes, key=lambda code: RANKS[code], default=None)  # `max` gives the first of several
    assert code_of(after_verdict(answers)) == expected


@given(deciding | replacing)
def test_directives_survive_json(directive: object) -> None:
    assert decode_any(encode(directive), BeforeToolDirective) == directive
    if not isinstance(directive, ReplaceToolArgs):
        assert decode_any(encode(directive), AfterToolDirective) == directive
