// Records to spans: pairs starts with ends, hangs every span on its cause, counts every token once.
// Nothing here touches the document.

const SPAN_OF = {
  session_started: 'session',
  turn_started: 'turn', turn_completed: 'turn',
  llm_call_started: 'llm', llm_call_completed: 'llm', llm_call_failed: 'llm',
  tool_call_started: 'tool', tool_call_completed: 'tool',
};
const OPENS = new Set(['session_started', 'turn_started', 'llm_call_started', 'tool_call_started']);
const BUCKETS = ['input_tokens', 'cache_read_input_tokens', 'cache_write_input_tokens', 'output_tokens'];

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const textOf = (value) => (typeof value === 'string' ? value : '');

function kindOf(record) {
  const type = isObject(record) && typeof record.type === 'string' ? record.type : 'unknown';
  return Object.hasOwn(SPAN_OF, type) ? SPAN_OF[type] : type;
}

function momentOf(record) {
  return isObject(record) ? Date.parse(record.timestamp) : NaN;
}

function buildModel(documents) {
  const model = {
    entries: documents.map((record, index) => ({ index, record, kind: kindOf(record), at: momentOf(record), span: null })),
    spans: [], instants: [], roots: [], start: NaN, end: NaN,
  };
  const open = new Map();   // span key -> the span that its next record belongs to
  let last = NaN;
  for (const entry of model.entries) {
    // A record without a time stands where it was written.
    if (Number.isNaN(entry.at)) entry.at = last; else last = entry.at;
    if (isObject(entry.record) && Object.hasOwn(SPAN_OF, entry.record.type)) takeSpanRecord(model, open, entry);
    else takeInstant(model, open, entry);
  }
  settle(model, open);
  countTokens(model);
  return model;
}

function scopeOf(record) {
  const context = isObject(record) && isObject(record.context) ? record.context : {};
  const session = textOf(context.session_id);
  const turn = textOf(context.turn_id) || (context.turn_index === undefined ? '' : `idx${context.turn_index}`);
  return {
    context,
    node: textOf(context.graph_node_id),
    parent: textOf(context.parent_graph_node_id),
    turnNode: session && turn ? `turn:${session}:${turn}` : '',
  };
}

// Ids of calls are unique in their turn, not in a file: some providers number them afresh.
function keyOf(kind, scope, record) {
  const id = scope.node || `${kind}:${textOf(record.call_id) || textOf(scope.context.llm_call_id) || '?'}`;
  return kind === 'llm' || kind === 'tool' ? `${scope.turnNode}|${id}` : id;
}

function newSpan(model, open, kind, key, node, scope, at, order) {
  const span = {
    kind, key, node, parentNode: scope.parent, turnNode: scope.turnNode, turnIndex: scope.context.turn_index,
    start: at, end: NaN, entries: [], children: [], parent: null,
    opened: null, closed: null, state: 'unfinished', reason: '', usage: null, lastAt: at, order,
  };
  model.spans.push(span);
  open.set(key, span);
  return span;
}

function takeSpanRecord(model, open, entry) {
  const { record } = entry;
  const kind = entry.kind;
  const scope = scopeOf(record);
  const key = keyOf(kind, scope, record);
  let span = open.get(key);
  const isOpening = OPENS.has(record.type);
  // A call that starts again was cut off by a crash, or is read from the journal: another span. A turn goes on.
  if (!span || (isOpening && span.opened && (kind === 'llm' || kind === 'tool'))) {
    if (span && !span.closed) span.end = span.lastAt;
    const took = record.duration_ms ?? record.response?.duration_ms ?? 0;
    const begun = isOpening || !Number.isFinite(took) ? entry.at : entry.at - took;
    span = newSpan(model, open, kind, key, scope.node || key, scope, begun, entry.index);
  }
  entry.span = span;
  span.entries.push(entry);
  if (isOpening) {
    span.opened = span.opened || record;
    if (kind === 'session') span.state = 'ok';
  } else {
    span.closed = record;
    span.end = entry.at;
    judge(span, record);
  }
  touch(open, scope, entry.at);
}

function judge(span, record) {
  if (record.type === 'llm_call_failed') {
    span.state = 'failed';
    span.reason = textOf(record.error?.code) || textOf(record.error?.terminal_reason) || 'failed';
  } else if (span.kind === 'tool') {
    const outcome = isObject(record.output?.outcome) ? record.output.outcome : {};
    span.state = outcome.status === 'success' ? 'ok' : outcome.status === 'cancelled' ? 'cancelled' : 'failed';
    span.reason = span.state === 'failed' ? textOf(outcome.payload?.code) || 'failed' : '';
  } else if (span.kind === 'turn') {
    span.reason = textOf(record.done_reason);
    span.state = record.status === 'completed' ? 'ok' : span.reason === 'cancelled' ? 'cancelled' : 'failed';
  } else {
    span.state = 'ok';
    span.reason = textOf(record.response?.terminal_reason);
  }
}

function touch(open, scope, at) {
  const turn = open.get(scope.turnNode);
  if (turn && at > turn.lastAt) turn.lastAt = at;
}

function takeInstant(model, open, entry) {
  const scope = scopeOf(entry.record);
  const owner = open.get(`${scope.turnNode}|${scope.parent}`) || open.get(scope.parent) || null;
  const instant = { kind: entry.kind, entry, at: entry.at, parent: owner, parentNode: scope.parent, order: entry.index };
  entry.span = owner;
  model.instants.push(instant);
  touch(open, scope, entry.at);
  if (entry.kind === 'token_usage') {
    const turn = open.get(scope.turnNode);
    if (turn) (turn.usageEntries ||= []).push(entry);
  }
}

// Parents, ends of what never ended, and the order of the tree.
function settle(model, open) {
  const parentOf = (node, scopeKey) => open.get(`${scopeKey}|${node}`) || open.get(node) || implied(model, open, node);
  for (const instant of model.instants) {
    if (!instant.parent && instant.parentNode) instant.parent = parentOf(instant.parentNode, '');
    if (instant.parent) instant.parent.children.push(instant);
  }
  for (let i = 0; i < model.spans.length; i += 1) {   // implied parents are appended while this runs
    const span = model.spans[i];
    const parent = span.parentNode ? parentOf(span.parentNode, span.turnNode) : null;
    if (parent && parent !== span && !isBelow(parent, span)) {
      span.parent = parent;
      parent.children.push(span);
    }
  }
  model.roots = [...model.spans, ...model.instants].filter((item) => !item.parent);
  for (const root of model.roots) settleTimes(root);
  model.roots.sort(byStart);
  for (const item of model.roots) {
    const end = item.entry ? item.at : item.end;
    const start = item.entry ? item.at : item.start;
    if (!(start >= model.start)) model.start = start;
    if (!(end <= model.end)) model.end = end;
  }
}

function isBelow(candidate, span) {
  for (let above = candidate; above; above = above.parent) if (above === span) return true;
  return false;
}

// A parent that no record of this file describes: the trace began in the middle.
function implied(model, open, node) {
  const kind = node.startsWith('turn:') ? 'turn' : node.startsWith('session:') ? 'session' : '';
  if (!kind) return null;
  const session = kind === 'turn' ? node.slice(5, node.lastIndexOf(':')) : '';
  const scope = { parent: session ? `session:${session}` : '', turnNode: kind === 'turn' ? node : '', context: {} };
  const span = newSpan(model, open, kind, node, node, scope, NaN, -1);
  span.state = 'implied';
  return span;
}

const byStart = (a, b) => (a.entry ? a.at : a.start) - (b.entry ? b.at : b.start) || a.order - b.order;

function settleTimes(root) {
  const stack = [[root, false]];
  while (stack.length) {
    const [item, isDone] = stack.pop();
    if (item.entry) continue;
    if (!isDone) {
      stack.push([item, true]);
      for (const child of item.children) stack.push([child, false]);
      continue;
    }
    item.children.sort(byStart);
    let last = item.lastAt;
    for (const child of item.children) {
      const start = child.entry ? child.at : child.start;
      const end = child.entry ? child.at : child.end;
      if (!(item.start <= start)) item.start = Number.isNaN(start) ? item.start : start;
      if (!(last >= end)) last = Number.isNaN(end) ? last : end;
    }
    if (item.kind === 'session' || Number.isNaN(item.end)) item.end = last >= item.start ? last : item.start;
    if (item.kind !== 'session' && item.parent && !item.closed && !item.children.length) {
      item.end = Math.max(item.start, item.parent.lastAt || item.start);
    }
  }
}

// Tokens of a turn: its token_usage records, one per iteration, the later of two; without any, what its calls say.
function countTokens(model) {
  const total = Object.fromEntries(BUCKETS.map((name) => [name, 0]));
  const add = (sum, usage) => { for (const name of BUCKETS) sum[name] += Number(usage?.[name]) || 0; };
  for (const span of model.spans) {
    if (span.kind !== 'turn') continue;
    const books = new Map();
    for (const entry of span.usageEntries || []) {
      books.set(entry.record.context?.protocol_iteration ?? `#${entry.index}`, entry.record.usage);
    }
    const calls = span.children.filter((child) => child.kind === 'llm');
    const booked = books.size > 0;
    for (const call of calls) {
      const iteration = call.entries[0]?.record.context?.protocol_iteration;
      call.usage = books.get(iteration) || call.closed?.usage || null;
      if (!booked && call.usage) books.set(call.order, call.usage);
    }
    span.usage = Object.fromEntries(BUCKETS.map((name) => [name, 0]));
    for (const usage of books.values()) add(span.usage, usage);
    add(total, span.usage);
  }
  for (const span of model.spans) {
    if (span.kind !== 'llm' || span.usage || !span.closed?.usage) continue;
    span.usage = span.closed.usage;   // a call outside of any turn
    if (!span.parent || span.parent.kind !== 'turn') add(total, span.usage);
  }
  model.tokens = total;
  model.failures = model.spans.filter((span) => span.state === 'failed').length;
}

// The prompt of a turn is the newest thing its user said before the first call.
function promptOf(turn) {
  const call = turn.children.find((child) => child.kind === 'llm' && child.opened);
  const messages = Array.isArray(call?.opened.request?.messages) ? call.opened.request.messages : [];
  for (let i = messages.length - 1; i >= 0; i -= 1) {
    const message = messages[i];
    if (message?.role !== 'user' || !Array.isArray(message.parts)) continue;
    const text = message.parts.map((part) => (part?.kind === 'text' ? textOf(part.content) : '')).join(' ').trim();
    if (text) return text;
  }
  return '';
}
