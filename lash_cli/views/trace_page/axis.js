// Time to place: the lane of the waterfall. Long idle stretches between turns are drawn as narrow breaks.

const MOST_IDLE_SHARE = 0.2;   // of the lane that all breaks together may take
const LONG_IDLE_SHARE = 0.1;   // of the busy time: a shorter idle stretch is drawn to scale

function wholeAxis(model) {
  const turns = model.spans.filter((span) => span.kind === 'turn' && span.end >= span.start);
  const sources = turns.length ? turns : model.spans.filter((span) => span.end >= span.start);
  const points = model.instants.filter((instant) => !instant.parent && !Number.isNaN(instant.at));
  const intervals = [
    ...sources.map((span) => [span.start, span.end]),
    ...points.map((instant) => [instant.at, instant.at]),
    [model.start, model.start], [model.end, model.end],
  ].filter(([start]) => !Number.isNaN(start)).sort((a, b) => a[0] - b[0]);
  const busy = [];
  for (const [start, end] of intervals) {
    const previous = busy[busy.length - 1];
    if (previous && start <= previous[1]) previous[1] = Math.max(previous[1], end);
    else busy.push([start, end]);
  }
  return makeAxis(busy);
}

function spanAxis(span) {
  const end = Math.max(span.end, span.start + 1);
  return makeAxis([[span.start, end]]);
}

function makeAxis(busy) {
  if (!busy.length) busy.push([0, 1]);
  const busyTotal = busy.reduce((sum, [start, end]) => sum + end - start, 0) || 1;
  const isLong = (length) => length > busyTotal * LONG_IDLE_SHARE;
  let long = 0;
  for (let i = 1; i < busy.length; i += 1) if (isLong(busy[i][0] - busy[i - 1][1])) long += 1;
  const breakWidth = long ? Math.min(busyTotal * 0.03, (busyTotal * MOST_IDLE_SHARE) / long) : 0;
  // Knots of a piecewise linear map from time to drawn length.
  const times = [];
  const places = [];
  const stretches = [];   // where each busy stretch begins
  const breaks = [];
  let place = 0;
  busy.forEach(([start, end], i) => {
    if (i > 0) {
      const idle = start - busy[i - 1][1];
      if (isLong(idle)) breaks.push({ place: place + breakWidth / 2, idle });
      place += isLong(idle) ? breakWidth : idle;
      if (isLong(idle)) stretches.push({ place, start });
    } else stretches.push({ place, start });
    times.push(start); places.push(place);
    place += end - start;
    times.push(end); places.push(place);
  });
  const whole = place || 1;
  return {
    start: busy[0][0], end: busy[busy.length - 1][1], isBroken: breaks.length > 0,
    stretches: stretches.map((found) => ({ share: found.place / whole, start: found.start })),
    breaks: breaks.map((found) => ({ share: found.place / whole, idle: found.idle })),
    share: (time) => interpolate(times, places, time) / whole,
  };
}

function interpolate(from, to, value) {
  if (value <= from[0]) return to[0];
  let low = 0;
  let high = from.length - 1;
  if (value >= from[high]) return to[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] <= value) low = middle; else high = middle;
  }
  const width = from[high] - from[low];
  return width > 0 ? to[low] + ((value - from[low]) / width) * (to[high] - to[low]) : to[low];
}

// Marks of the axis as [share, label]: round steps where the axis is to scale, the starts of its stretches where not.
function ticksOf(axis) {
  const length = axis.end - axis.start;
  if (axis.isBroken) {
    const marks = [];
    for (const { share, start } of axis.stretches) {
      const previous = marks.length ? marks[marks.length - 1][0] : -1;
      if (share - previous > 0.13 && share < 0.94) marks.push([share, share ? `+${spoken(start - axis.start)}` : '0']);
    }
    return marks;
  }
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5,
    216e5, 864e5].find((size) => length / size <= 6) || length / 5;
  const ticks = [];
  for (let at = 0; at < length * 0.9; at += step) ticks.push([at / length, at ? `+${spoken(at).replace(/ 00 (s|min)$/, '')}` : '0']);
  return ticks;
}

function spoken(ms) {
  if (!Number.isFinite(ms)) return '–';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60e3) return `${(ms / 1000).toFixed(ms < 10e3 ? 2 : 1)} s`;
  if (ms < 3600e3) return `${Math.floor(ms / 60e3)} min ${String(Math.floor((ms % 60e3) / 1000)).padStart(2, '0')} s`;
  if (ms < 864e5) return `${Math.floor(ms / 36e5)} h ${String(Math.floor((ms % 36e5) / 6e4)).padStart(2, '0')} min`;
  return `${Math.floor(ms / 864e5)} d ${Math.floor((ms % 864e5) / 36e5)} h`;
}
