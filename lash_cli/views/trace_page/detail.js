// The panel beside the list: everything known about one span or one record.

function detailOf(item, query, goTo) {
  const nodes = isSpan(item) ? spanDetail(item, query) : recordDetail(entriesOf(item)[0], query);
  const entries = entriesOf(item);
  nodes.push(...cutNotes(entries));
  if (isSpan(item) && entries.length) {
    const links = make('p', 'records', 'Records ');
    for (const entry of entries.slice(0, 40)) {
      links.append(button(`${entry.index + 1} ${entry.record.type}`, 'link', () => goTo(entry)));
    }
    if (entries.length > 40) links.append(make('span', 'dim', `and ${entries.length - 40} more`));
    nodes.push(links);
  }
  return nodes;
}

function spanDetail(span, query) {
  switch (span.kind) {
    case 'session': return sessionDetail(span, query);
    case 'turn': return turnDetail(span, query);
    case 'llm': return callDetail(span, query);
    default: return toolDetail(span, query);
  }
}

function heading(kind, title) {
  return make('h2', '', make('span', `kind kind-${cssName(kind)}`, LABELS[kind] || kind), ' ', visible(title));
}

function stateOf(span) {
  const reason = span.reason && span.reason !== span.state ? ` · ${visible(span.reason)}` : '';
  return make('span', `state-${span.state}`, STATES[span.state] + reason);
}

const exact = (ms) => (Number.isNaN(ms) ? '' : new Date(ms).toISOString().replace('T', ' ').replace('Z', ' UTC'));

function usageRows(usage) {
  if (!usage) return [];
  const count = (name) => (Number(usage[name]) ? grouped(usage[name]) : '');
  return [
    ['input tokens', count('input_tokens')], ['cache read', count('cache_read_input_tokens')],
    ['cache write', count('cache_write_input_tokens')], ['output tokens', count('output_tokens')],
    ['of it reasoning', count('reasoning_output_tokens')],
  ];
}

function sessionDetail(span, query) {
  const records = span.entries.map((entry) => entry.record);
  const turns = span.children.filter((child) => child.kind === 'turn').length;
  return [
    heading('session', titleOf(span)[0]),
    pairs([['id', span.node.replace(/^session:/, ''), 'mono'], ['opened', exact(span.start)], ['times opened', records.length],
      ['turns', turns], ['length', spoken(span.end - span.start)]]),
    ...records.slice(0, 20).map((record, i) => folded(`Opened ${i + 1}`, records.length === 1, textBlock(record.metadata ?? {}, query))),
  ];
}

function turnDetail(span, query) {
  const record = span.opened || {};
  const prompt = promptOf(span);
  const errors = Array.isArray(span.closed?.errors) ? span.closed.errors : [];
  const calls = span.children.filter((child) => child.kind === 'llm').length;
  const tools = span.children.filter((child) => child.kind === 'tool').length;
  return [
    heading('turn', String(span.turnIndex ?? '')),
    pairs([['outcome', stateOf(span)], ['id', span.node.replace(/^turn:/, ''), 'mono'], ['started', exact(span.start)],
      ['length', spoken(span.end - span.start)], ['model calls', calls || ''], ['tool calls', tools || ''], ...usageRows(span.usage)]),
    ...errors.map((error) => section('Error', textBlock(error, query, 'bad'))),
    prompt ? section('Prompt', textBlock(prompt, query)) : null,
    record.metadata ? folded('Metadata', false, textBlock(record.metadata, query)) : null,
  ].filter(Boolean);
}

function callDetail(span, query) {
  const request = isObject(span.opened?.request) ? span.opened.request : {};
  const closed = span.closed || {};
  const response = isObject(closed.response) ? closed.response : null;
  const attempts = Array.isArray(closed.attempts) ? closed.attempts : [];
  const messages = Array.isArray(request.messages) ? request.messages : [];
  const tools = Array.isArray(request.tools) ? request.tools : [];
  const left = Number(request.messages_total) - messages.filter((message) => message?.role !== 'system').length;
  return [
    heading('llm', textOf(request.model) || 'model call'),
    pairs([['outcome', stateOf(span)], ['id', textOf(span.entries[0]?.record.context?.llm_call_id), 'mono'],
      ['variant', textOf(request.model_variant)], ['started', exact(span.start)], ['length', spoken(span.end - span.start)],
      ['source', closed.replayed ? 'read from the journal' : ''], ...usageRows(span.usage), ['tool choice', textOf(request.tool_choice)]]),
    closed.error ? section('Error', textBlock(closed.error, query, 'bad')) : null,
    attempts.length > 1 || attempts.some((attempt) => attempt?.outcome !== 'completed') ? section('Attempts', attemptTable(attempts)) : null,
    response ? section('Answer', ...answerBlocks(response, query)) : null,
    folded(`Prompt · ${messages.length} messages`, true,
      left > 0 ? make('p', 'dim', `${grouped(left)} older messages were left out of the record`) : null,
      ...messages.map((message) => messageBlock(message, query))),
    tools.length ? folded(`Tools · ${tools.length}`, false,
      ...tools.map((offered) => folded(visible(textOf(offered?.name) || 'tool'), false, textBlock(offered, query)))) : null,
    closed.evidence ? folded('Evidence', false, textBlock(closed.evidence, query)) : null,
  ].filter(Boolean);
}

function answerBlocks(response, query) {
  const parts = Array.isArray(response.parts) ? response.parts : [];
  return parts.length ? parts.map((part) => partBlock(part, query)) : [textBlock(textOf(response.text), query)];
}

function attemptTable(attempts) {
  const table = make('table', 'attempts', make('tr', '', ...['#', 'outcome', 'length', 'error', 'then'].map((name) => make('th', '', name))));
  for (const attempt of attempts) {
    const isDone = attempt?.outcome === 'completed';
    const wait = attempt?.retry?.scheduled ? `wait ${spoken(Number(attempt.retry.delay_ms) || 0)}` : textOf(attempt?.retry?.reason);
    table.append(make('tr', '', make('td', '', String(attempt?.ordinal ?? '')),
      make('td', isDone ? '' : 'state-failed', visible(textOf(attempt?.outcome))),
      make('td', 'right', spoken(Number(attempt?.duration_ms))),
      make('td', '', visible(textOf(attempt?.error?.code) || textOf(attempt?.error?.kind))), make('td', '', visible(wait))));
  }
  return table;
}

function messageBlock(message, query) {
  if (!isObject(message)) return textBlock(message, query);
  const parts = Array.isArray(message.parts) ? message.parts : [];
  return make('article', `message role-${['system', 'user', 'assistant'].includes(message.role) ? message.role : 'other'}`,
    make('h4', '', visible(textOf(message.role) || 'message')), ...parts.map((part) => partBlock(part, query)));
}

function partBlock(part, query) {
  if (!isObject(part)) return textBlock(part, query);
  switch (part.kind) {
    case 'text': case 'prose': case 'output': return textBlock(textOf(part.content), query);
    case 'reasoning': return folded('reasoning', false, textBlock(textOf(part.content), query));
    case 'tool_call':
      return make('div', '', caption(`calls ${textOf(part.tool_name)}`, part.tool_call_id), textBlock(reindented(textOf(part.input_json)), query));
    case 'tool_result':
      return make('div', '', caption(`result of ${textOf(part.tool_name)}${part.status && part.status !== 'success' ? ` · ${part.status}` : ''}`,
        part.tool_call_id), textBlock(textOf(part.content), query));
    default: return make('div', '', caption(textOf(part.kind), ''), textBlock(part, query));
  }
}

const caption = (text, id) => make('p', 'caption', visible(text), id ? make('span', 'dim mono', ` ${visible(textOf(id))}`) : null);

function reindented(json) {
  try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; }
}

function toolDetail(span, query) {
  const record = span.closed || span.opened || {};
  const outcome = isObject(span.closed?.output?.outcome) ? span.closed.output.outcome : {};
  const isBad = span.state === 'failed';
  const ran = span.closed?.duration_ms;
  return [
    heading('tool', textOf(record.name) || 'tool'),
    pairs([['outcome', stateOf(span)], ['id', textOf(record.call_id), 'mono'], ['started', exact(span.start)],
      ['length', spoken(span.end - span.start)], ['running', ran === undefined ? '' : spoken(ran)]]),
    section('Arguments', textBlock(record.args ?? null, query)),
    span.closed ? section(isBad ? 'Failure' : 'Result', textBlock(outcome.payload ?? null, query, isBad ? 'bad' : '')) : null,
    outcome.attachments ? section('Attachments', textBlock(outcome.attachments, query)) : null,
    span.closed?.output?.control ? section('Control', textBlock(span.closed.output.control, query)) : null,
  ].filter(Boolean);
}

function recordDetail(entry, query) {
  const type = isObject(entry.record) && typeof entry.record.type === 'string' ? entry.record.type : 'unknown';
  return [
    heading(entry.kind, type === (LABELS[entry.kind] || entry.kind) ? '' : type),
    pairs([['record', grouped(entry.index + 1)], ['time', exact(entry.at)]]),
    textBlock(JSON.stringify(entry.record, null, 2), query),
  ];
}

// What the record lacks, said where a reader would otherwise take a part for the whole.
function cutNotes(entries) {
  const cuts = entries.flatMap((entry) => (Array.isArray(entry.record?.cut) ? entry.record.cut : []));
  if (!cuts.length) return [];
  const lines = cuts.map((cut) => `${textOf(cut?.path)}: kept ${grouped(cut?.kept)} of ${grouped(cut?.length)} ${textOf(cut?.unit)}`);
  return [section('Cut when recorded', make('pre', 'text', visible(lines.join('\n'))))];
}
