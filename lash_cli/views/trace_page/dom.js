// Building elements. Text of a trace only ever becomes text nodes, so nothing in it is read as markup.

const SHOWN_CHARS = 6000;     // of one text before "show all"
const MOST_MARKS = 400;       // highlighted matches per text

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

function button(label, className, onPress) {
  const element = make('button', className, label);
  element.type = 'button';
  element.addEventListener('click', onPress);
  return element;
}

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
const pretty = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));

// Control characters and bidirectional overrides as visible escapes: text of a tool cannot rearrange the page.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (found) => (found === '\r' ? '' : `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`));
}

function marked(text, query) {
  const fragment = document.createDocumentFragment();
  if (!query) { fragment.append(text); return fragment; }
  const haystack = text.toLowerCase();
  let from = 0;
  // Lower case may have another length (for example of İ): then places do not match and nothing is marked.
  for (let count = 0; haystack.length === text.length && count < MOST_MARKS; count += 1) {
    const at = haystack.indexOf(query, from);
    if (at < 0) break;
    fragment.append(text.slice(from, at), make('mark', '', text.slice(at, at + query.length)));
    from = at + query.length;
  }
  fragment.append(text.slice(from));
  return fragment;
}

function textBlock(value, query, className = '') {
  const text = visible(pretty(value) ?? '');
  const block = make('pre', `text ${className}`);
  if (text === '') { block.append(make('span', 'dim', 'empty')); return block; }
  if (text.length <= SHOWN_CHARS + 500) { block.append(marked(text, query)); return block; }
  const at = query ? text.toLowerCase().indexOf(query) : -1;
  if (at >= SHOWN_CHARS) { block.append(marked(text, query)); return block; }
  block.append(marked(text.slice(0, SHOWN_CHARS), query));
  const more = button(`show all ${grouped(text.length)} characters`, 'link', () => block.replaceChildren(marked(text, query)));
  block.append('\n', more);
  return block;
}

function pairs(rows) {
  const list = make('dl', 'pairs');
  for (const [name, value, className] of rows) {
    if (value === null || value === undefined || value === '') continue;
    list.append(make('dt', '', name), make('dd', className || '', value instanceof Node ? value : visible(String(value))));
  }
  return list;
}

function section(title, ...children) {
  return make('section', 'part', make('h3', '', title), ...children);
}

function folded(title, isOpen, ...children) {
  const details = make('details', 'part', make('summary', '', title), ...children);
  details.open = isOpen;
  return details;
}
