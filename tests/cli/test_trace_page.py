"""The trace page in a real browser: what a reader sees, and what a hostile trace cannot do (contract 04 §9)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from support.browser import Page, start_browser
from support.cli import run_lash
from support.traces import TraceText

from lash_cli.views.trace_page import trace_lines, trace_page

MANY = 20_000
BREAKOUT = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    "<!--<script> ]]> \u2028 \u2029 &lt;b&gt; javascript:window.broken=1 {{records}}"
)
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all pages."""
    started = start_browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a trace; at the end nothing was requested but pages, and the console is empty."""
    pages: list[Page] = []

    def opened(trace: TraceText, title: str = "demo") -> Page:
        path = tmp_path / f"page{len(pages)}.html"
        source = "\n".join(trace.lines).encode()
        path.write_text(trace_page(trace_lines(source), title=title, source="demo.jsonl"), encoding="utf-8")
        pages.append(Page(browser, path))
        return pages[-1]

    yield opened
    for page in pages[-1:]:
        assert [url for url in page.requests() if url != page.url and not url.startswith("data:")] == []
        assert page.complaints() == []
        assert browser.current_url == page.url


def small_trace() -> TraceText:
    """A turn of two model calls with two overlapping tools between them, and a failed turn much later."""
    trace = TraceText()
    trace.session()
    trace.turn(1, 10, 1000)
    trace.call(1, 0, 20, 300, prompt="find the needle", usage=(100, 7))
    trace.usage(1, 0, 301, (100, 7))
    trace.tool(1, "a", 310, 600)
    trace.tool(
        1, "b", 320, 500, name="read_file", payload={"code": "not_found", "message": "no such file"}, status="failure"
    )
    trace.call(1, 1, 610, 990, prompt="find the needle", usage=(200, 9))
    trace.usage(1, 1, 991, (230, 11))
    trace.turn(2, 900_000, 900_100, status="failed", reason="provider_error")
    return trace


TREE = [
    "session demo",
    "turn 1 find the needle",
    "model model-1",
    "tool grep",
    "tool read_file",
    "model model-1",
    "turn 2 s:t2",
]


def test_the_waterfall_shows_every_span_under_its_cause_in_the_order_of_time(open_page: Open) -> None:
    page = open_page(small_trace())
    assert page.rows() == TREE
    bars = page.run("""return [...document.querySelectorAll('.row')].map((row) => {
      const bar = row.querySelector('.bar').getBoundingClientRect(); return [bar.left, bar.right]; })""")
    session, turn, first, grep, read, second, failed = bars
    for inner, outer in ((turn, session), (first, turn), (grep, turn), (read, grep), (second, turn), (failed, session)):
        assert outer[0] - 1 <= inner[0] and inner[1] <= outer[1] + 1
    assert first[1] <= grep[0] + 1 and grep[1] <= second[0] + 1 and turn[1] < failed[0]
    lengths = ["15 min 00 s", "990 ms", "280 ms", "290 ms", "180 ms", "380 ms", "100 ms"]
    assert page.texts(".row .length") == lengths
    assert page.texts(".row .status") == ["", "ok", "ok", "ok", "not_found", "ok", "provider_error"]


def test_idle_time_between_turns_does_not_squeeze_the_turns_into_nothing(open_page: Open) -> None:
    page = open_page(small_trace())
    share = page.run("""const width = (selector) => document.querySelector(selector).getBoundingClientRect().width;
      return width('.bar.kind-turn') / width('.row .lane')""")
    assert share > 0.5
    assert page.run("return document.querySelectorAll('.columns .break').length") == 1
    assert page.run("return document.querySelector('.columns .break').title").endswith("idle")


def test_the_totals_count_every_token_once(open_page: Open) -> None:
    totals = open_page(small_trace()).totals()
    assert totals == {
        "records": 15, "turns": 2, "model calls": 2, "tool calls": 2, "failures": 2, "input": 330, "output": 18,
    }  # fmt: skip
    trace = TraceText()
    trace.turn(1, 0, 100)
    trace.call(1, 0, 10, 20, usage=(100, 7))
    trace.call(1, 1, 30, 40, usage=(50, 3))
    assert open_page(trace).totals()["input"] == 150


def test_a_redriven_turn_counts_a_call_that_was_read_from_the_journal_once(open_page: Open) -> None:
    trace = TraceText()
    for start in (0, 500):
        trace.turn(1, start, None if start == 0 else start + 100)
        trace.call(1, 0, start + 10, start + 20, usage=(100, 7))
        trace.usage(1, 0, start + 21, (100, 7))
    page = open_page(trace)
    assert page.totals()["input"] == 100
    assert page.rows()[1:] == ["turn 1 hi", "model model-1", "model model-1"]


def test_what_a_killed_process_left_open_is_unfinished_and_what_began_before_the_trace_is_not(open_page: Open) -> None:
    trace = TraceText()
    trace.turn(1, 0, None)
    trace.tool(1, "a", 10, None)
    trace.tool(1, "b", 20, 60)
    trace.tool(2, "c", 100, 110)
    page = open_page(trace)
    assert page.rows() == ["session s", "turn 1 s:t1", "tool grep", "tool grep", "turn s:t2", "tool grep"]
    assert page.texts(".row .status") == ["", "unfinished", "unfinished", "ok", "", "ok"]
    page.click(".toggle.only")
    assert page.rows() == ["session s", "turn 1 s:t1", "tool grep"]


def test_a_record_of_a_found_span_is_reached_although_the_record_itself_does_not_match(open_page: Open) -> None:
    page = open_page(small_trace())
    page.search("no such file")
    page.press(Keys.ARROW_DOWN)
    page.run("[...document.querySelectorAll('.row')].at(-1).click()")
    page.run("document.querySelector('#detail .records button').click()")
    assert page.text(".row[aria-selected=true] .type") == "tool_call_started"
    assert '"call_id": "b"' in page.text("#detail")


def test_search_leaves_the_matching_spans_and_their_parents(open_page: Open) -> None:
    page = open_page(small_trace())
    page.search("NO SUCH FILE")
    assert page.rows() == ["session demo", "turn 1 find the needle", "tool read_file"]
    assert page.text("#found") == "1 found"
    assert page.run("return [...document.querySelectorAll('.row.dimmed')].length") == 2
    page.search("nowhere to be found")
    assert page.rows() == []
    assert "nowhere to be found" in page.text("#nothing")
    page.press(Keys.ESCAPE)
    assert page.rows() == TREE


def test_kinds_and_failures_filter_the_list(open_page: Open) -> None:
    page = open_page(small_trace())
    page.click("[data-kind=tool]")
    assert page.rows() == [row for row in TREE if not row.startswith("tool")]
    page.click("[data-kind=turn]")
    assert page.rows() == ["session demo", "model model-1", "model model-1"]
    page.click("[data-kind=tool]")
    page.click("[data-kind=turn]")
    page.click("[data-kind=token_usage]")
    assert len([row for row in page.rows() if row.startswith("tokens")]) == 2
    page.click(".toggle.only")
    assert page.rows() == ["session demo", "turn 1 find the needle", "tool read_file", "turn 2 s:t2"]


def test_tabs_show_the_calls_and_every_record(open_page: Open) -> None:
    page = open_page(small_trace())
    page.click("#tab-llm")
    assert page.texts(".row .label") == ["model-1", "model-1"]
    assert page.texts(".row .tokens") == ["100 → 7", "230 → 11"]
    page.click("#tab-raw")
    types = page.texts(".row .type")
    assert len(types) == 15 and types[0] == "session_started" and types[-1] == "turn_completed"
    chosen = "return document.querySelector('[role=tab][aria-selected=true]').id"
    assert page.run(chosen) == "tab-raw"
    for key, tab in (("1", "timeline"), ("2", "llm"), ("3", "streams"), ("4", "raw")):
        page.run("document.getElementById('scroller').focus()")
        page.press(key)
        assert page.run(chosen) == f"tab-{tab}"


def test_the_streams_tab_shows_what_came_and_what_was_shown_in_order(open_page: Open) -> None:
    trace = TraceText()
    trace.session()
    trace.turn(1, 10, 100)
    trace.call(1, 0, 20, 90)
    call = {"session_id": "s", "turn_id": "t1", "parent_graph_node_id": "llm:s:t1:llm:0"}
    wire = {"provider": "p", "elapsed_ms": 1, "raw_sha256": "00"}
    trace.add("provider_stream_event", 30, call, event={
        **wire, "sequence": 0, "event_name": "message_start", "raw_len": 9, "raw_json": {"a": "b"},
    })  # fmt: skip
    trace.add("runtime_stream_event", 31, call, event={
        "sequence": 0, "elapsed_ms": 2, "event_name": "assistant_prose_delta", "visible_text": "hello <b>",
    })  # fmt: skip
    trace.add("provider_stream_event", 40, call, event={
        **wire, "sequence": 1, "event_name": "message_stop", "raw_len": 5_000,
    })  # fmt: skip
    trace.add("runtime_stream_event", 50, call, event="of another kind")
    page = open_page(trace)
    page.click("#tab-streams")
    assert page.texts(".row .type") == ["message_start", "assistant_prose_delta", "message_stop", "stream"]
    assert page.texts(".row .json") == ['{"a":"b"}', "hello <b>", "5\u202f000 bytes", '{"event":"of another kind"}']
    assert page.texts("#kinds .toggle") == ["wire2", "stream2", "only failed"]
    page.click("#kinds [data-kind=runtime_stream_event]")
    assert page.texts(".row .type") == ["message_start", "message_stop"]
    page.click(".row")
    assert "message_start" in page.text("#detail")
    page = open_page(small_trace())
    page.click("#tab-streams")
    assert page.rows() == [] and "extended level" in page.text("#nothing")


def test_the_page_can_be_read_by_keyboard_alone(open_page: Open) -> None:
    page = open_page(small_trace())
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.text(".row[aria-selected=true] .label") == "grep"
    page.press(Keys.ENTER)
    assert page.texts("#detail h3")[:2] == ["Arguments", "Result"]
    page.press(Keys.ESCAPE)
    assert not page.browser.find_element("id", "detail").is_displayed()
    page.press("z")
    wide = page.run("""const lane = document.querySelector('.row[aria-selected=true] .lane').getBoundingClientRect();
      return document.querySelector('.row[aria-selected=true] .bar').getBoundingClientRect().width / lane.width""")
    assert wide > 0.95
    page.press(Keys.ESCAPE)
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.rows() == ["session demo", "turn 1 find the needle", "turn 2 s:t2"]
    page.press(Keys.ARROW_RIGHT, Keys.END)
    assert page.text(".row[aria-selected=true] .label") == "s:t2"
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"


def test_a_call_shows_prompt_answer_attempts_and_what_was_cut(open_page: Open) -> None:
    trace = TraceText()
    context = {"session_id": "s", "turn_id": "t1", "llm_call_id": "c", "graph_node_id": "llm:c"}
    parts = [{"kind": "tool_call", "tool_call_id": "x1", "tool_name": "grep", "input_json": '{"pattern":"a"}'}]
    messages = [
        {"role": "system", "parts": [{"kind": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"kind": "text", "content": "y" * 20_000}]},
    ]
    request = {"model": "m", "messages": messages, "messages_total": 40, "tool_choice": "auto", "stream": True}
    cut = [{"path": "request.messages[1].parts[0].content", "kept": 20_000, "length": 123_456, "unit": "characters"}]
    trace.add("llm_call_started", 0, context, request=request, cut=cut)
    attempts = [
        {"ordinal": 1, "started_at": "2026-03-01T09:00:00.000Z", "duration_ms": 30, "outcome": "failed",
         "error": {"code": "overloaded_error"}, "retry": {"scheduled": True, "delay_ms": 2000}},
        {"ordinal": 2, "started_at": "2026-03-01T09:00:02.030Z", "duration_ms": 400, "outcome": "completed"},
    ]  # fmt: skip
    response = {"text": "", "duration_ms": 2430, "terminal_reason": "tool_use", "parts": parts}
    trace.add("llm_call_completed", 2430, context, response=response, attempts=attempts)
    page = open_page(trace)
    page.click("#tab-llm")
    page.click(".row")
    detail = page.text("#detail")
    for shown in ("be brief", "overloaded_error", "wait 2.00 s", "calls grep", '"pattern": "a"', "39 older messages"):
        assert shown in detail
    assert "kept 20\u202f000 of 123\u202f456 characters" in detail
    assert "y" * 7_000 not in detail
    page.click("#detail pre .link")
    assert page.run(
        "return [...document.querySelectorAll('#detail pre')].some((pre) => pre.textContent.length === 20000)"
    )


def test_markup_in_a_trace_is_text_everywhere_and_runs_nothing(open_page: Open) -> None:
    trace = small_trace()
    trace.turn(3, 900_200, 900_400)
    trace.call(3, 0, 900_210, 900_220, prompt=BREAKOUT)
    trace.tool(3, BREAKOUT, 900_230, 900_240, name=BREAKOUT, payload=BREAKOUT)
    trace.add(BREAKOUT, 900_250, {"session_id": BREAKOUT}, payload={BREAKOUT: BREAKOUT})
    page = open_page(trace, title=BREAKOUT)
    assert page.run("return document.querySelector('h1').textContent") == BREAKOUT
    page.search("window.broken")
    for tab in ("timeline", "llm", "raw"):
        page.click(f"#tab-{tab}")
        rows = len(page.rows())
        assert rows > 0
        page.run("for (let i = 0; i < arguments[0]; i += 1) document.getElementById(`row-${i}`).click()", rows)
    page.click("#tab-timeline")
    page.run("[...document.querySelectorAll('.kind-tool')].filter((kind) => kind.closest('.row')).at(-1).click()")
    assert BREAKOUT in page.run("return [...document.querySelectorAll('#detail pre')].map((pre) => pre.textContent)")
    assert page.run("return window.broken") is None
    assert page.run("return document.querySelectorAll('img, main script, iframe, object').length") == 0


def test_a_trace_that_breaks_every_expectation_is_still_shown(open_page: Open) -> None:
    trace = TraceText()
    trace.raw('"just text"')
    trace.raw("42")
    trace.raw("null")
    trace.raw("[]")
    for kind in ("constructor", "__proto__", "future_kind", "toString"):
        trace.add(kind, 1, payload=1)
    for kind in ("llm_call_started", "llm_call_completed", "llm_call_failed", "tool_call_completed", "turn_completed"):
        for value in (None, 1, "x", [], {}):
            trace.add(
                kind,
                2,
                request=value,
                response=value,
                error=value,
                output=value,
                attempts=value,
                usage=value,
                cut=value,
            )
    loop = {"session_id": "s", "turn_id": "t", "graph_node_id": "turn:a", "parent_graph_node_id": "turn:b"}
    trace.add("turn_started", 3, loop)
    trace.add("turn_started", 4, {**loop, "graph_node_id": "turn:b", "parent_graph_node_id": "turn:a"})
    trace.raw('{"type":"turn_started","timestamp":7,"context":[]}')
    trace.raw('{"type":["a"],"timestamp":"never"}')
    page = open_page(trace)
    for tab in ("timeline", "llm", "raw"):
        page.click(f"#tab-{tab}")
        count = page.run("return Number(document.getElementById('scroller').getAttribute('aria-rowcount'))")
        assert count > 0
        page.run("document.getElementById('scroller').focus()")
        page.press(Keys.HOME, Keys.ENTER)
        page.run("document.getElementById('scroller').focus()")
        assert page.run("return document.getElementById('detail').checkVisibility()"), "each is shown on the way"
        page.press(Keys.ARROW_DOWN * count)
        assert page.run("return document.querySelector('.row[aria-selected=true]').id") == f"row-{count - 1}"
        if tab == "raw":
            assert count == len(trace.lines)
    page.search("future_kind")
    assert page.texts(".row .type") == ["future_kind"]


def test_a_trace_of_twenty_thousand_records_draws_only_what_is_in_sight(open_page: Open) -> None:
    trace = TraceText()
    trace.session()
    turn = 0
    while len(trace.lines) < MANY:
        turn += 1
        at = turn * 100
        trace.turn(turn, at, at + 90)
        trace.call(turn, 0, at + 1, at + 40, prompt=f"question {turn:06}")
        trace.tool(turn, f"c{turn}", at + 41, at + 80)
    page = open_page(trace)
    drawn = "return document.querySelectorAll('.row').length"
    assert page.totals()["records"] == len(trace.lines)
    assert 0 < page.run(drawn) < 200
    page.press(Keys.END)
    assert page.text(".row[aria-selected=true] .label") == "grep"
    assert page.run(drawn) < 200
    page.search(f"question {turn // 2:06}")
    assert page.rows() == ["session demo", f"turn {turn // 2} question {turn // 2:06}", "model model-1"]
    page.search("")
    page.click("#tab-raw")
    page.run("document.getElementById('scroller').scrollTop = 1e9")
    page.run("return " + NEXT_FRAME)
    assert page.texts(".row .number")[-1] == str(len(trace.lines))


def test_nothing_leaves_the_screen_at_any_width(open_page: Open) -> None:
    page = open_page(small_trace())
    overflow = "return document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
    outside = """return [...document.querySelectorAll(arguments[0])].map((part) => part.getBoundingClientRect())
      .filter((box) => box.height > 0 && (box.width === 0 || box.left < 0 || box.right > innerWidth + 1)).length"""
    for width, tab in itertools.product((1400, 640, 390, 320), ("timeline", "llm", "raw")):
        page.set_size(width, 800)
        page.click(f"#tab-{tab}")
        page.run("return " + NEXT_FRAME)
        assert page.run(overflow) <= 0, (width, tab)
        assert page.run(outside, ".row .name, .row .json, .row .bar, .row .length") == 0, (width, tab)
        page.run("document.querySelector('.row').click()")
        assert page.run(overflow) <= 0, (width, tab)
        assert page.run(outside, "#detail, #detail *") == 0, (width, tab)
        page.press(Keys.ESCAPE)


def test_light_and_dark_follow_the_reader_and_both_can_be_read(open_page: Open) -> None:
    page = open_page(small_trace())
    # The contrast of WCAG 2: relative luminance of ink against ground.
    contrast = """
      const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map((part) => linear(Number(part) / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = light(getComputedStyle(document.body).backgroundColor);
      const texts = document.querySelectorAll('.label, .note, .kind, .status, .length, .source, dt, .toggle');
      return [...texts].map((element) => {
        const ink = light(getComputedStyle(element).color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      });"""
    grounds = []
    for scheme in ("light", "dark"):
        page.set_scheme(scheme)
        grounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
        assert min(page.run(contrast)) > 4
    assert grounds[0] != grounds[1]


def test_a_trace_written_by_a_turn_becomes_a_page_that_shows_it(browser: webdriver.Chrome, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "evil.txt").write_text(BREAKOUT, encoding="utf-8")
    script = '!tool read_file {"path":"evil.txt"}\n!then\n!fail server 1\n!text "all read"\n'
    options = ("-c", "providers.loopback.options={base_delay_ms=1}")
    done = run_lash([*options, "turn", "s", "--or-open", "--trace", "t.jsonl"], home=home, input=script, cwd=tmp_path)
    assert done.code == 0, done.err
    made = run_lash(["trace", "html", "t.jsonl"], home=home, cwd=tmp_path)
    assert made.out == "t.html\n"
    page = Page(browser, tmp_path / "t.html")
    assert [row.split(" ")[0] for row in page.rows()] == ["session", "turn", "model", "tool", "model"]
    assert page.run("return document.querySelectorAll('.bar.attempt').length") == 2
    page.run("document.querySelector('.row .kind-tool').click()")
    shown: list[Any] = page.run("return [...document.querySelectorAll('#detail pre')].map((pre) => pre.textContent)")
    assert any("</script><script>window.broken = 1</script>" in text for text in shown)
    assert page.run("return window.broken") is None
    assert page.requests() == [page.url]
    assert page.complaints() == []
