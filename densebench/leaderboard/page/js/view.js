// What is asked for: filters, columns, order, chosen models; and the rows and columns that follow from it.

const PER_PAGE = 100;
const FILTERS = {
  protocol: ["Protocol", (line) => line.protocol],
  data: ["Dataset", (line) => line.data],
  setting: ["Setting", (line) => line.setting],
  size: ["Backbone size", (line) => line.model.size],
  pretraining: ["Pretraining data", (line) => line.model.data],
  objective: ["Objective", (line) => line.model.objective],
  status: ["Status", (line) => D.statuses[line.status]],
};
const state = {
  search: "", every: false, page: 0, sort: null, columns: {}, chosen: [],
  filters: Object.fromEntries(Object.keys(FILTERS).map((name) => [name, ""])),
};

/** Whether the lines differ in something: a column in which all are equal is not shown unless it is asked for. */
const varies = Object.fromEntries(Object.entries(FILTERS).map(([name, [, get]]) => [name, new Set(lines.map(get)).size > 1]));

/** Whether any line says what it cost. */
const known = Object.fromEntries(["parameters", "speed", "seconds", "memory"].map((name) => [name, lines.some((line) => line[name])]));

const isOneTask = () => state.filters.protocol !== "" && state.filters.data !== "";

/** Whether a line passes the filters; those in `but` do not count. */
function passes(line, but = []) {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const text = words.length ? `${line.name} ${line.protocol} ${line.data} ${line.setting}`.toLowerCase() : "";
  return (
    words.every((word) => text.includes(word)) &&
    Object.entries(FILTERS).every(
      ([name, [, get]]) => state.filters[name] === "" || but.includes(name) || get(line) === state.filters[name],
    )
  );
}

/** Return the rows of the table: lines where one protocol and dataset are asked for, and single values otherwise. */
function rowsNow() {
  const kept = lines.map((line) => passes(line));
  const rows = isOneTask()
    ? lines.filter((line) => kept[line.i]).map((line) => ({ line, found: null }))
    : values.filter((each) => kept[each.line.i] && (state.every || each.metric.main)).map((found) => ({ line: found.line, found }));
  const columns = columnsNow();
  const by = columns.find((column) => column.key === state.sort?.key);
  if (!by && isOneTask()) { // ours, those that were withdrawn, and what papers print; each the best first
    const first = columns.find((column) => column.metric);
    const group = (row) => Math.max(row.line.status, STATUS.elsewhere) % STATUS.withdrawn || 1.5;
    rows.sort((a, b) => group(a) - group(b) || ordered(first.get(a), first.get(b), first.down ? -1 : 1));
  }
  if (by) {
    const sign = (state.sort?.key === by.key ? state.sort.down : by.down) ? -1 : 1;
    const keys = new Map(rows.map((row) => [row, by.get(row)]));
    rows.sort((a, b) => ordered(keys.get(a), keys.get(b), sign));
  }
  return rows;
}

const plainColumn = (key, text, get, more = {}) => ({ key, text, get, show: (row) => get(row) ?? "", on: true, ...more });

function metricColumn(index) {
  const metric = D.metrics[index];
  return {
    key: `metric ${index}`, text: head(metric), metric, number: true, on: metric.main || state.every, down: metric.up,
    get: (row) => row.line.values.get(index)?.value ?? null,
    found: (row) => row.line.values.get(index),
    show: (row) => { const found = row.line.values.get(index); return found ? shown(found) : ""; },
  };
}

/** Return every column that the table can have now; `on` says whether it is shown unless chosen otherwise. */
function columnsNow() {
  const one = isOneTask();
  const front = [plainColumn("model", "Model", (row) => row.line.name, { always: true, head: true })];
  if (!one) front.push(plainColumn("protocol", "Protocol", (row) => row.line.protocol, { on: varies.protocol }));
  if (!one) front.push(plainColumn("data", "Data", (row) => row.line.measuredOn, { on: varies.data }));
  front.push(plainColumn("setting", "Setting", (row) => row.line.setting, { on: varies.setting, wide: true }));
  const task = `${state.filters.protocol} on ${state.filters.data}`;
  const middle = one
    ? metricsOf(task).map(metricColumn)
    : [
        plainColumn("metric", "Metric", (row) => head(row.found.metric), { whole: true }),
        {
          key: "value", text: "Value", number: true, on: true, down: true, found: (row) => row.found,
          get: (row) => row.found.value, show: (row) => shown(row.found),
        },
        plainColumn("rank", "Rank", (row) => row.found.rank, { number: true }),
      ];
  const number = (key, text, say, on = known[key], down = false) =>
    plainColumn(key, text, (row) => row.line[key], { number: true, on, down, show: (row) => say(row.line[key]) });
  const say = (value) => value ?? "";
  return [
    ...front, ...middle,
    plainColumn("size", "Size", (row) => row.line.model.size, { on: varies.size, whole: true }),
    plainColumn("pretraining", "Pretraining data", (row) => row.line.model.data, { on: false }),
    plainColumn("objective", "Objective", (row) => row.line.model.objective, { on: false }),
    number("parameters", "Parameters", counted),
    number("speed", "Images/s", (value) => (value === null ? "" : counted(value)), known.speed, true),
    number("seconds", "Time", seconds),
    number("memory", "Memory", bytes),
    number("gpu", "GPU memory", bytes, false),
    plainColumn("status", "Status", (row) => D.statuses[row.line.status], { on: varies.status, whole: true }),
    number("images", "Images", say, false),
    number("seeds", "Seeds", say, false),
    plainColumn("date", "Date", (row) => row.line.date, { on: false }),
    plainColumn("record", "Record", (row) => row.line.hash, { on: false }),
  ];
}

const isOn = (column) => column.always || (state.columns[column.key] ?? column.on);

/** Return lines to draw of a task: the chosen ones, or else the first that pass the filters, and how many there are. */
function linesOf(task, most) {
  const there = lines.filter((line) => line.task === task && passes(line, ["protocol", "data"]));
  const chosen = there.filter((line) => state.chosen.includes(line.i));
  const ours = there.filter((line) => line.status !== STATUS.published);
  return { lines: chosen.length ? chosen : ours.slice(0, most), of: ours.length, chosen: chosen.length > 0, there };
}
