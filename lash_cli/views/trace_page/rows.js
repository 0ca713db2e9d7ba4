// What the lists show, and how one row of each looks.

const LABELS = {
  __proto__: null,   // kinds come from the file, and one may be called "constructor"
  session: 'session', turn: 'turn', llm: 'model', tool: 'tool',
  prompt_built: 'prompt', token_usage: 'tokens', provider_request: 'request', provider_stream_event: 'wire',
  runtime_stream_event: 'stream',
};
const COLOURED = new Set(['session', 'turn', 'llm', 'tool']);
const STATES = { ok: 'ok', failed: 'failed', cancelled: 'cancelled', unfinished: 'unfinished', implied: '' };

const isSpan = (item) => !item.entry && Array.isArray(item.entries);
const startOf = (item) => (isSpan(item) ? item.start : item.at);
const entriesOf = (item) => (isSpan(item) ? item.entries : item.entry ? [item.entry] : [item]);
const firstLine = (text) => visible(text.slice(0, 400)).replace(/\s+/g, ' ').trim().slice(0, 200);

function tokensOf(usage) {
  if (!usage) return '';
  const cached = (Number(usage.cache_read_input_tokens) || 0) + (Number(usage.cache_write_input_tokens) || 0);
  const input = (Number(usage.input_tokens) || 0) + cached;
  const output = Number(usage.output_tokens) || 0;
  return input || output ? `${grouped(input)} → ${grouped(output)}` : '';
}

// The rows of the tree in order. `wants` says whether an item is asked for; parents of such items stay, dimmed.
function timelineRows(model, { hidden, wants, isNarrowed, folded }) {
  const rows = [];
  const visit = (item, depth) => {
    const isShown = !hidden.has(item.kind);
    const isWanted = isShown && wants(item);
    const mark = rows.length;
    const children = isSpan(item) ? item.children : [];
    const hasChildren = children.some((child) => !hidden.has(child.kind) || isSpan(child));
    if (isShown) rows.push({ item, depth, isWanted, hasChildren, isFolded: folded.has(item) });
    let any = isWanted;
    if (isNarrowed || !isShown || !folded.has(item)) {
      for (const child of children) if (visit(child, depth + (isShown ? 1 : 0))) any = true;
    }
    if (!any) rows.length = mark;
    return any;
  };
  for (const root of model.roots) visit(root, 0);
  return rows;
}

function titleOf(item) {
  if (!isSpan(item)) return instantTitle(item.entry ? item.entry.record : item.record);
  const record = item.opened || item.closed || {};
  switch (item.kind) {
    case 'session': return [textOf(record.metadata?.name) || item.node.replace(/^session:/, ''), ''];
    case 'turn': return [firstLine(promptOf(item)) || item.node.replace(/^turn:/, ''), ''];
    case 'llm': {
      const tries = Array.isArray(item.closed?.attempts) ? item.closed.attempts.length : 0;
      const notes = [item.closed?.replayed ? 'from the journal' : '', tries > 1 ? `${tries} attempts` : ''];
      return [textOf(record.request?.model) || 'model call', notes.filter(Boolean).join(', ') || answerOf(item)];
    }
    default: return [textOf(record.name) || 'tool', firstLine(record.args === undefined ? '' : JSON.stringify(record.args))];
  }
}

function answerOf(span) {
  const response = span.closed?.response;
  if (!isObject(response)) return '';
  if (textOf(response.text)) return firstLine(response.text);
  const names = (Array.isArray(response.parts) ? response.parts : []).map((part) => textOf(part?.tool_name)).filter(Boolean);
  return names.length ? `calls ${names.join(', ')}` : '';
}

function instantTitle(record) {
  if (!isObject(record)) return [firstLine(JSON.stringify(record) ?? ''), ''];
  switch (record.type) {
    case 'prompt_built':
      return [`${grouped(record.prompt_chars ?? 0)} characters`, `${record.components?.length ?? 0} components`];
    case 'token_usage': return [tokensOf(record.usage) || 'no tokens', ''];
    case 'provider_request':
      return [textOf(record.event?.endpoint), `${grouped(record.event?.body_len ?? 0)} bytes`];
    case 'provider_stream_event':
      return [textOf(record.event?.event_name), `${grouped(record.event?.raw_len ?? 0)} bytes`];
    case 'runtime_stream_event': return [textOf(record.event?.event_name), firstLine(textOf(record.event?.visible_text))];
    case 'custom': return [textOf(record.name), firstLine(JSON.stringify(record.payload ?? '') ?? '')];
    default: return ['', firstLine(JSON.stringify(record))];
  }
}

function cell(className, ...children) {
  const element = make('div', className, ...children);
  element.setAttribute('role', 'gridcell');
  return element;
}

function baseRow(id, isSelected, index) {
  const row = make('div', 'row');
  row.id = id;
  row.dataset.index = index;
  row.setAttribute('role', 'row');
  row.setAttribute('aria-rowindex', index + 1);
  row.setAttribute('aria-selected', isSelected);
  return row;
}

const kindLabel = (item) => (item.kind === 'turn' && item.turnIndex !== undefined ? `turn ${item.turnIndex}` : LABELS[item.kind] || visible(item.kind));
const ENVELOPE = new Set(['schema_version', 'id', 'timestamp', 'type', 'context']);

function nameCell(kind, [label, note], depth, twisty, shownKind) {
  const name = cell('name', twisty, shownKind ? make('span', `kind kind-${cssName(kind)}`, shownKind) : null, make('span', 'label', visible(label)));
  if (note) name.append(make('span', 'note', note));
  name.style.setProperty('--depth', Math.min(depth, 12));
  return name;
}

// Kinds come from the file: only our own get a colour of their own.
const cssName = (kind) => (COLOURED.has(kind) ? kind : 'other');

function statusCell(item) {
  if (!isSpan(item)) return cell('status');
  const text = item.state === 'failed' ? item.reason || 'failed' : item.state === 'ok' && item.kind === 'session' ? '' : STATES[item.state];
  const status = cell(`status state-${item.state}`, visible(text));
  status.title = text;
  return status;
}

function timelineRow(row, index, isSelected, axis, ticks) {
  const { item, depth } = row;
  const element = baseRow(`row-${index}`, isSelected, index);
  element.classList.toggle('dimmed', !row.isWanted);
  element.setAttribute('aria-level', depth + 1);
  const twisty = make('span', 'twisty', row.hasChildren ? (row.isFolded ? '▸' : '▾') : '');
  if (row.hasChildren) element.setAttribute('aria-expanded', !row.isFolded);
  const length = isSpan(item) ? spoken(item.end - item.start) : '';
  element.append(
    nameCell(item.kind, titleOf(item), depth, twisty, kindLabel(item)),
    statusCell(item),
    cell('tokens', isSpan(item) ? tokensOf(item.usage) : ''),
    cell('length', length),
    laneCell(item, axis, ticks),
  );
  return element;
}

const percent = (share) => `${(share * 100).toFixed(3)}%`;

function laneCell(item, axis, ticks) {
  const lane = cell('lane');
  for (const [share] of ticks) lane.append(placed(make('i', 'tick'), share));
  for (const gap of axis.breaks) lane.append(placed(make('i', 'break'), gap.share));
  const start = startOf(item);
  const end = isSpan(item) ? item.end : start;
  if (Number.isNaN(start) || end < axis.start || start > axis.end) return lane;
  const from = axis.share(start);
  if (!isSpan(item)) {
    lane.append(placed(make('i', 'point'), from));
    return lane;
  }
  const bar = placed(make('i', `bar kind-${cssName(item.kind)} state-${item.state}`), from);
  bar.style.width = percent(axis.share(end) - from);
  bar.title = `${spoken(end - start)} from +${spoken(start - axis.start)}`;
  lane.append(bar);
  const attempts = item.kind === 'llm' && Array.isArray(item.closed?.attempts) ? item.closed.attempts : [];
  if (attempts.length > 1) {
    bar.classList.add('hollow');
    for (const attempt of attempts) {
      const begun = Date.parse(attempt?.started_at);
      if (!(begun >= item.start - 1) || begun > axis.end) continue;
      const place = axis.share(begun);
      const piece = placed(make('i', `bar kind-llm attempt state-${attempt.outcome === 'completed' ? 'ok' : 'failed'}`), place);
      piece.style.width = percent(axis.share(begun + (Number(attempt.duration_ms) || 0)) - place);
      lane.append(piece);
    }
  }
  return lane;
}

function placed(element, share) {
  element.style.left = percent(share);
  return element;
}

function callRow(span, index, isSelected, start) {
  const element = baseRow(`row-${index}`, isSelected, index);
  element.append(
    cell('number', String(index + 1)),
    cell('when', `+${spoken(span.start - start)}`),
    nameCell('llm', [textOf((span.opened || span.closed)?.request?.model) || 'model call', answerOf(span)], 0, null, ''),
    statusCell(span),
    cell('tokens', tokensOf(span.usage)),
    cell('length', spoken(span.end - span.start)),
  );
  return element;
}

function streamRow(entry, index, isSelected, start) {
  const element = baseRow(`row-${index}`, isSelected, index);
  const event = isObject(entry.record.event) ? entry.record.event : {};
  const length = Number.isFinite(event.raw_len) ? `${grouped(event.raw_len)} bytes` : withoutEnvelope(entry.record);
  const said = event.visible_text ?? event.detail ?? event.raw_json ?? length;
  element.append(
    cell('number', String(entry.index + 1)),
    cell('when', Number.isNaN(entry.at) ? '' : `+${spoken(entry.at - start)}`),
    cell('type kind-other', visible(textOf(event.event_name) || LABELS[entry.kind])),
    cell('json', visible((typeof said === 'string' ? said : JSON.stringify(said)).slice(0, 500))),
  );
  return element;
}

function rawRow(entry, index, isSelected) {
  const element = baseRow(`row-${index}`, isSelected, index);
  const when = Number.isNaN(entry.at) ? '' : new Date(entry.at).toISOString().slice(11, 23);
  const type = isObject(entry.record) && typeof entry.record.type === 'string' ? entry.record.type : 'unknown';
  element.append(
    cell('number', String(entry.index + 1)),
    cell('when', when),
    cell(`type kind-${cssName(entry.kind)}`, visible(type)),
    cell('json', visible(withoutEnvelope(entry.record).slice(0, 500))),
  );
  return element;
}

function withoutEnvelope(record) {
  if (!isObject(record)) return JSON.stringify(record) ?? '';
  return JSON.stringify(Object.fromEntries(Object.entries(record).filter(([name]) => !ENVELOPE.has(name))));
}
