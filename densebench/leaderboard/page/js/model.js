// The data of the page as objects: lines (a model in a table) with their values by metric.

const D = JSON.parse(byId("data").textContent);
const STATUS = { here: 0, elsewhere: 1, published: 2, withdrawn: 3 };

const lines = D.lines.table.map((place, i) => {
  const table = D.tables[place];
  const model = D.models[D.lines.model[i]];
  const variant = D.texts[D.lines.variant[i]];
  const get = (name) => D.lines[name][i];
  return {
    i, place, table, model, variant,
    name: variant ? `${model.name} (${variant})` : model.name,
    protocol: table.protocol,
    data: table.data,
    measuredOn: get("status") === STATUS.published ? table.dataset : table.data,
    task: `${table.protocol} on ${table.data}`,
    setting: D.texts[get("setting")],
    status: get("status"),
    hash: get("hash"), date: get("date"), images: get("images"), seeds: get("seeds"),
    parameters: model.parameters ?? null,
    speed: get("speed"), seconds: get("seconds"), memory: get("memory"), gpu: get("gpu"),
    about: get("about") === null ? "" : D.texts[get("about")],
    withdrawn: get("withdrawn") === null ? "" : D.texts[get("withdrawn")],
    notes: (get("notes") || []).map((note) => D.texts[note]),
    values: new Map(),
  };
});

const values = D.values.line.map((at, i) => {
  const get = (name) => D.values[name][i];
  const found = {
    line: lines[at], index: get("metric"), metric: D.metrics[get("metric")],
    value: get("value"), low: get("low"), high: get("high"), sd: get("sd"), rank: get("rank"), printed: get("printed"),
  };
  lines[at].values.set(found.index, found);
  return found;
});

const tasks = unique(lines.filter((line) => line.status !== STATUS.published).map((line) => line.task));

/** Return the places of the metrics that a task has, main ones first. */
function metricsOf(task) {
  const found = unique(lines.filter((line) => line.task === task).flatMap((line) => [...line.values.keys()]));
  return found.sort((a, b) => D.metrics[b].main - D.metrics[a].main || a - b);
}

const head = (metric) =>
  `${metric.label}${metric.unit === "1" ? "" : ` (${metric.unit})`} ${metric.up ? "↑" : "↓"}`;

const digits = (value, metric) => (value === null ? "–" : value.toFixed(metric.digits));

const shown = (found) => found.printed || digits(found.value, found.metric);

/** Return what images and seeds leave open: "± 1.2 (sd 0.3)". */
function interval(found) {
  const { low, high, value, sd, metric } = found;
  const parts = [];
  if (low !== null && high !== null) {
    const even = Math.abs(high - value - (value - low)) <= 0.125 * (high - low);
    parts.push(even ? `± ${digits((high - low) / 2, metric)}` : `[${digits(low, metric)}, ${digits(high, metric)}]`);
  }
  if (sd !== null) parts.push(`(sd ${digits(sd, metric)})`);
  return parts.join(" ");
}

const pairs = new Map();
if (D.pairs) {
  D.pairs.a.forEach((a, i) => {
    const one = { difference: D.pairs.difference[i], low: D.pairs.low[i], high: D.pairs.high[i], p: D.pairs.p[i] };
    const other = { ...one, difference: -one.difference, low: one.high === null ? null : -one.high };
    other.high = one.low === null ? null : -one.low;
    pairs.set(`${a} ${D.pairs.b[i]} ${D.pairs.metric[i]}`, one);
    pairs.set(`${D.pairs.b[i]} ${a} ${D.pairs.metric[i]}`, other);
  });
}
