// The page itself: what is chosen, searched and shown. State lives here and nowhere else.

const SLICE_MS = 12;            // of work between two frames while searching
const TYPING_MS = 120;
const QUIET_KINDS = ['prompt_built', 'token_usage', 'custom', 'provider_request', 'provider_stream_event', 'runtime_stream_event'];
const STREAM_KINDS = ['provider_stream_event', 'runtime_stream_event'];
const KIND_ORDER = ['session', 'turn', 'llm', 'tool', 'prompt_built', 'token_usage', 'custom', 'provider_request', 'provider_stream_event', 'runtime_stream_event'];

const byId = (id) => document.getElementById(id);
const model = buildModel(JSON.parse(byId('records').textContent));
byId('records').remove();   // the text is needed no more, and it may be large

const state = {
  tab: 'timeline', query: '', matches: null, onlyFailed: false, folded: new Set(),
  hidden: { timeline: new Set(QUIET_KINDS), llm: new Set(), streams: new Set(), raw: new Set() },
  rows: [], selected: { timeline: 0, llm: 0, streams: 0, raw: 0 }, isOpen: false, zoom: null,
  axis: wholeAxis(model), ticks: [],
};
const scroller = byId('scroller');
const list = new RowList(scroller, byId('sizer'), 26, renderRow);
let scan = 0;

// --- rows ---

function renderRow(index) {
  const row = state.rows[index];
  const isSelected = index === state.selected[state.tab];
  if (state.tab === 'timeline') return timelineRow(row, index, isSelected, state.axis, state.ticks);
  if (state.tab === 'llm') return callRow(row, index, isSelected, model.start);
  if (state.tab === 'streams') return streamRow(row, index, isSelected, model.start);
  return rawRow(row, index, isSelected);
}

function wants(item) {
  if (state.onlyFailed && !hasFailed(item)) return false;
  return !state.matches || entriesOf(item).some((entry) => state.matches.has(entry.index));
}

function hasFailed(item) {
  const span = isSpan(item) ? item : item.entry ? null : item.span;
  return Boolean(span) && (span.state === 'failed' || span.state === 'unfinished');
}

function refresh(keep = itemAt(state.rows[state.selected[state.tab]])) {
  const isNarrowed = Boolean(state.matches) || state.onlyFailed;
  if (state.tab === 'timeline') {
    state.rows = timelineRows(model, { hidden: state.hidden.timeline, wants, isNarrowed, folded: state.folded });
  } else if (state.tab === 'llm') {
    state.rows = model.spans.filter((span) => span.kind === 'llm' && wants(span));
  } else {
    const isHere = (kind) => !state.hidden[state.tab].has(kind) && (state.tab === 'raw' || STREAM_KINDS.includes(kind));
    state.rows = model.entries.filter((entry) => isHere(entry.kind) && wants(entry));
  }
  const kept = keep ? state.rows.findIndex((row) => itemAt(row) === keep) : -1;
  const before = state.selected[state.tab];
  state.selected[state.tab] = kept >= 0 ? kept : Math.max(0, Math.min(before, state.rows.length - 1));
  measure();
  showColumns();
  showCounts(isNarrowed);
  showNothing();
  if (state.isOpen) showDetail();
}

const itemAt = (row) => (row && row.item ? row.item : row);

function measure() {
  const height = parseFloat(getComputedStyle(scroller).getPropertyValue('--row'));
  list.rowHeight = Number.isFinite(height) ? height : 26;
  list.setCount(state.rows.length);
  scroller.setAttribute('role', state.tab === 'timeline' ? 'treegrid' : 'grid');
  scroller.setAttribute('aria-rowcount', state.rows.length);
  scroller.setAttribute('aria-label', byId(`tab-${state.tab}`).textContent);
  showSelected();
}

function showSelected() {
  const index = state.selected[state.tab];
  if (state.rows.length) scroller.setAttribute('aria-activedescendant', `row-${index}`);
  else scroller.removeAttribute('aria-activedescendant');
}

function select(index, { open = false } = {}) {
  if (!state.rows.length) return;
  state.selected[state.tab] = Math.max(0, Math.min(index, state.rows.length - 1));
  showSelected();
  if (open) state.isOpen = true;
  if (state.isOpen) showDetail();
  list.reveal(state.selected[state.tab]);
}

// --- around the rows ---

function showColumns() {
  const titles = {
    timeline: ['name', 'status', 'tokens', 'length'], llm: ['number', 'when', 'name', 'status', 'tokens', 'length'],
    streams: ['number', 'when', 'type', 'json'], raw: ['number', 'when', 'type', 'json'],
  }[state.tab];
  const words = { name: 'Span', status: 'Outcome', tokens: 'Tokens', length: 'Length', number: '#', when: 'Time', type: 'Type', json: 'Record' };
  if (state.tab === 'streams') Object.assign(words, { type: 'Event', json: 'What came' });
  const columns = byId('columns');
  columns.replaceChildren(...titles.map((name) => make('div', name, name === 'name' && state.tab === 'llm' ? 'Model and answer' : words[name])));
  byId('view').dataset.tab = state.tab;
  if (state.tab !== 'timeline') return;
  state.ticks = ticksOf(state.axis);
  const lane = make('div', 'lane');
  for (const [share, label] of state.ticks) lane.append(placed(make('span', 'tick-label', label), share));
  for (const gap of state.axis.breaks) {
    const mark = placed(make('i', 'break'), gap.share);
    mark.title = `${spoken(gap.idle)} idle`;
    lane.append(mark);
  }
  if (state.zoom) lane.append(button('whole trace', 'link unzoom', () => zoomTo(null)));
  columns.append(lane);
  list.draw();
}

function showCounts(isNarrowed) {
  const wanted = state.tab === 'timeline' ? state.rows.filter((row) => row.isWanted).length : state.rows.length;
  byId('found').textContent = isNarrowed ? `${grouped(wanted)} found` : '';
}

function showNothing() {
  const nothing = byId('nothing');
  nothing.hidden = state.rows.length > 0;
  const isUntold = state.tab === 'streams' && !model.entries.some((entry) => STREAM_KINDS.includes(entry.kind));
  nothing.textContent = isUntold ? 'What was streamed is traced at the extended level only.'
    : state.query ? `Nothing here contains “${state.query}”.` : 'Nothing of the chosen kinds is here.';
}

function showDetail() {
  const panel = byId('detail');
  const item = itemAt(state.rows[state.selected[state.tab]]);
  panel.hidden = !state.isOpen || !item;
  document.body.classList.toggle('has-detail', !panel.hidden);
  if (panel.hidden) { panel.replaceChildren(); return; }
  const close = button('Close', 'close', closeDetail);
  close.setAttribute('aria-keyshortcuts', 'Escape');
  const bar = make('div', 'bar-top', close);
  if (isSpan(item) && state.tab === 'timeline') bar.prepend(button('Zoom to span', '', () => zoomTo(item)));
  panel.replaceChildren(bar, ...detailOf(item, state.query, goToRecord));
  panel.scrollTop = 0;
}

function closeDetail() {
  state.isOpen = false;
  showDetail();
  scroller.focus({ preventScroll: true });
}

function goToRecord(entry) {
  state.hidden.raw.delete(entry.kind);
  state.onlyFailed = false;
  if (state.matches && !state.matches.has(entry.index)) {
    scan += 1;   // a search under way must not bring the old matches back
    byId('search').value = state.query = '';
    state.matches = null;
  }
  setTab('raw', entry);
  list.reveal(state.selected.raw);
}

function zoomTo(span) {
  state.zoom = span;
  state.axis = span ? spanAxis(span) : wholeAxis(model);
  showColumns();
}

// --- tabs, kinds, totals ---

function setTab(name, keep = itemAt(state.rows[state.selected[state.tab]])) {
  const isOfRecords = name === 'raw' || name === 'streams';
  const wanted = isOfRecords && keep && isSpan(keep) ? keep.entries[0] : !isOfRecords && keep && !isSpan(keep) ? keep.span : keep;
  state.tab = name;
  for (const tab of document.querySelectorAll('[role=tab]')) {
    const isChosen = tab.dataset.tab === name;
    tab.setAttribute('aria-selected', isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    if (isChosen) byId('view').setAttribute('aria-labelledby', tab.id);
  }
  scroller.scrollTop = 0;
  showKinds();
  refresh(wanted);
  if (state.rows.length) list.reveal(state.selected[name]);
}

function showKinds() {
  const counts = new Map();
  for (const item of [...model.spans, ...model.instants]) counts.set(item.kind, (counts.get(item.kind) || 0) + 1);
  const rank = (kind) => (KIND_ORDER.includes(kind) ? KIND_ORDER.indexOf(kind) : KIND_ORDER.length);
  const kinds = [...counts.keys()].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  const hidden = state.hidden[state.tab];
  const offered = { llm: [], streams: kinds.filter((kind) => STREAM_KINDS.includes(kind)) }[state.tab] ?? kinds;
  const toggles = offered.map((kind) => {
    const toggle = button('', `toggle kind-${cssName(kind)}`, () => {
      if (!hidden.delete(kind)) hidden.add(kind);
      toggle.setAttribute('aria-pressed', !hidden.has(kind));
      refresh();
    });
    toggle.append(visible(LABELS[kind] || kind), make('span', 'count', grouped(counts.get(kind))));
    toggle.dataset.kind = kind;
    toggle.setAttribute('aria-pressed', !hidden.has(kind));
    return toggle;
  });
  const failed = button('only failed', 'toggle only', () => {
    state.onlyFailed = !state.onlyFailed;
    failed.setAttribute('aria-pressed', state.onlyFailed);
    refresh();
  });
  failed.setAttribute('aria-pressed', state.onlyFailed);
  byId('kinds').replaceChildren(...toggles, failed);
}

function showTotals() {
  const of = (kind) => model.spans.filter((span) => span.kind === kind).length;
  const { input_tokens: input, cache_read_input_tokens: read, cache_write_input_tokens: write, output_tokens: output } = model.tokens;
  const rows = [
    ['records', model.entries.length], ['turns', of('turn')], ['model calls', of('llm')], ['tool calls', of('tool')],
    ['failures', model.failures], ['input', input], ['cache read', read], ['cache write', write], ['output', output],
  ];
  for (const [name, count] of rows) {
    const pair = make('div', name === 'failures' && count ? 'total bad' : 'total', make('dt', '', name), make('dd', '', grouped(count)));
    pair.dataset.total = name;
    if (count || !name.startsWith('cache')) byId('totals').append(pair);
  }
}

// --- search ---

function haystackOf(entry) {
  if (entry.hay !== undefined) return entry.hay;
  const pieces = [];
  const walk = (value) => {
    if (typeof value === 'string') pieces.push(value);
    else if (typeof value === 'number') pieces.push(String(value));
    else if (Array.isArray(value)) value.forEach(walk);
    else if (value !== null && typeof value === 'object') Object.entries(value).forEach(([name, item]) => { pieces.push(name); walk(item); });
  };
  walk(entry.record);
  entry.hay = pieces.join('\n').toLowerCase();
  return entry.hay;
}

async function search(text) {
  const mine = (scan += 1);
  const query = text.trim().toLowerCase();
  document.body.dataset.state = 'busy';
  let found = null;
  if (query) {
    found = new Set();
    let since = performance.now();
    for (const entry of model.entries) {
      if (haystackOf(entry).includes(query)) found.add(entry.index);
      if (performance.now() - since > SLICE_MS) {
        await new Promise((resume) => { setTimeout(resume); });
        if (mine !== scan) return;
        since = performance.now();
      }
    }
  }
  state.query = query;
  state.matches = found;
  refresh();
  document.body.dataset.state = 'ready';
}

// --- keys and pointers ---

function fold(isFolding) {
  const row = state.rows[state.selected[state.tab]];
  if (state.tab !== 'timeline' || !row) return;
  if (isFolding === row.isFolded || !row.hasChildren) {
    if (!isFolding) return;
    let above = state.selected.timeline - 1;
    while (above >= 0 && state.rows[above].depth >= row.depth) above -= 1;
    if (above >= 0) select(above);
    return;
  }
  if (isFolding) state.folded.add(row.item); else state.folded.delete(row.item);
  refresh();
}

function back() {
  if (state.isOpen) closeDetail();
  else if (state.zoom) zoomTo(null);
  else if (byId('search').value) { byId('search').value = ''; search(''); }
}

const LIST_KEYS = {
  ArrowDown: () => select(state.selected[state.tab] + 1),
  ArrowUp: () => select(state.selected[state.tab] - 1),
  PageDown: () => select(state.selected[state.tab] + list.pageSize),
  PageUp: () => select(state.selected[state.tab] - list.pageSize),
  Home: () => select(0),
  End: () => select(state.rows.length - 1),
  ArrowLeft: () => fold(true),
  ArrowRight: () => fold(false),
  Enter: () => { select(state.selected[state.tab], { open: true }); byId('detail').querySelector('button')?.focus(); },
  z: () => { const item = itemAt(state.rows[state.selected[state.tab]]); if (state.tab === 'timeline' && isSpan(item)) zoomTo(item); },
};

scroller.addEventListener('keydown', (event) => {
  const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : LIST_KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});
scroller.addEventListener('click', (event) => {
  const row = event.target.closest('.row');
  if (!row) return;
  const index = Number(row.dataset.index);
  if (event.target.closest('.twisty') && state.rows[index].hasChildren) {
    select(index);
    fold(!state.rows[index].isFolded);
  } else if (!String(getSelection())) select(index, { open: true });
});
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') { back(); return; }
  if (event.target instanceof HTMLInputElement) {
    if (event.key === 'ArrowDown' || event.key === 'Enter') { event.preventDefault(); scroller.focus(); }
    return;
  }
  const tabs = { 1: 'timeline', 2: 'llm', 3: 'streams', 4: 'raw' };
  if (event.key === '/') { event.preventDefault(); byId('search').select(); byId('search').focus(); }
  else if (tabs[event.key]) setTab(tabs[event.key]);
});
document.querySelector('.tabs').addEventListener('keydown', (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const tabs = [...document.querySelectorAll('[role=tab]')];
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  if (step && next) { setTab(next.dataset.tab); next.focus(); }
});
for (const tab of document.querySelectorAll('[role=tab]')) tab.addEventListener('click', () => setTab(tab.dataset.tab));
let typing = 0;
byId('search').addEventListener('input', (event) => {
  document.body.dataset.state = 'busy';
  clearTimeout(typing);
  typing = setTimeout(() => search(event.target.value), TYPING_MS);
});
new ResizeObserver(() => measure()).observe(byId('view'));

showTotals();
setTab('timeline');
document.body.dataset.state = 'ready';
scroller.focus({ preventScroll: true });
