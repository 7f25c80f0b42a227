// Cost beside score, scores over a setting or the layers, and scores per class.

const COSTS = {
  parameters: ["parameters", counted, false],
  speed: ["images per second", counted, true],
  seconds: ["seconds of the whole cell", seconds, false],
  memory: ["peak memory", bytes, false],
  gpu: ["peak GPU memory", bytes, false],
};
const AXES = { fraction: "share of the training images in memory", clusters: "number of clusters K", alpha: "alpha: distance allowed, as a share of the box" };
const MOST_LINES = 8;
const MOST_PUBLISHED = 6;
const MOST_CLASSES = 6;
const asked = { cost: {}, lines: {}, classes: {} };

const taskNow = (own) => (isOneTask() ? `${state.filters.protocol} on ${state.filters.data}` : own.task || tasks[0] || "");

function taskSelect(own, draw) {
  const change = (task) => { own.task = task; draw(); };
  return isOneTask() ? null : select("Protocol and data", "task", tasks.map((task) => [task, task]), taskNow(own), change);
}

/** Return the tip of a value: model, value with interval, setting. */
const tipOf = (found, more = "") => [found.line.name, `${found.metric.label} ${shown(found)} ${interval(found)}`, found.line.setting, found.line.status === STATUS.published ? found.line.hash : "", more].filter(Boolean).join("\n");

function drawPlots() { drawCost(); drawLines(); drawClasses(); }

function drawCost() {
  const own = asked.cost;
  const task = taskNow(own);
  const metrics = metricsOf(task);
  if (!metrics.includes(own.metric)) [own.metric] = metrics;
  const { there } = linesOf(task, Infinity);
  const having = Object.keys(COSTS).filter((name) => there.some((line) => line[name]));
  if (!having.includes(own.cost)) [own.cost] = having;
  byId("cost-form").replaceChildren(...[
    taskSelect(own, drawCost),
    select("Score", "metric", metrics.map((i) => [String(i), D.metrics[i].label]), String(own.metric), (v) => { own.metric = Number(v); drawCost(); }),
    select("Cost", "cost", having.map((name) => [name, COSTS[name][0]]), own.cost, (v) => { own.cost = v; drawCost(); }),
  ].filter(Boolean));
  const found = there.map((line) => line.values.get(own.metric)).filter((each) => each && each.value !== null && own.cost && each.line[own.cost] > 0);
  if (!found.length) {
    byId("cost-plot").replaceChildren(el("p", { class: "quiet" }, "No result here says what it cost: parameters and images per second are in records of version 0.1.0 of December 2026 on."));
    return;
  }
  const metric = D.metrics[own.metric];
  const [label, say, more] = COSTS[own.cost];
  const front = pareto(found, own.cost, more ? 1 : -1, metric.up ? 1 : -1);
  const point = (each) => ({
    x: each.line[own.cost], y: each.value, low: each.low, high: each.high, open: () => showDetails(each.line),
    tip: tipOf(each, `${label} ${say(each.line[own.cost])}`),
    text: front.length <= 8 && (front.includes(each) || state.chosen.includes(each.line.i)) ? elide(each.line.name, 24) : null,
  });
  const sizes = unique([...found].sort((a, b) => ordered(a.line.parameters, b.line.parameters, 1)).map((each) => each.line.model.size));
  const series = sizes.map((size, i) => ({ name: size, color: i, points: found.filter((each) => each.line.model.size === size).map(point) }));
  const few = found.length > 60;
  if (few) series.forEach((each) => each.points.forEach((p) => { p.low = p.high = null; }));
  chart(byId("cost-plot"), {
    x: { label: `${label} (${more ? "more" : "less"} is better)`, log: true, say },
    y: { label: head(metric) }, series, front: front.map(point), label: `${metric.label} beside ${label}, ${task}`,
  });
}

/** Return the values that no other beats in both cost and score, by cost. */
function pareto(found, cost, costSign, scoreSign) {
  const sorted = [...found].filter((each) => each.line.status !== STATUS.withdrawn)
    .sort((a, b) => costSign * (b.line[cost] - a.line[cost]) || scoreSign * (b.value - a.value));
  let best = -Infinity;
  return sorted.filter((each) => { const is = scoreSign * each.value > best; if (is) best = scoreSign * each.value; return is; })
    .sort((a, b) => a.line[cost] - b.line[cost]);
}

const asNumber = (text) => {
  const [, above, below] = /^(\d+)\/(\d+)$/.exec(text) || [];
  return above ? above / below : Number(text);
};

/** Return the settings that a task's metrics vary over: {name: {axis, points: metric -> x}}. */
function kindsOf(task) {
  const kinds = new Map();
  for (const i of metricsOf(task)) {
    const { quantity, at, label } = D.metrics[i];
    for (const coordinate of Object.keys(at)) {
      const others = Object.entries(at).filter(([name]) => name !== coordinate).map(([name, value]) => `, ${name} ${value}`).join("");
      const name = `${quantity} over ${coordinate}${others}`;
      if (!kinds.has(name)) kinds.set(name, { coordinate, members: [], metric: D.metrics[i], label });
      kinds.get(name).members.push([i, String(at[coordinate])]);
    }
  }
  const found = [...kinds].filter(([, kind]) => kind.members.length > 1);
  const curves = D.layers.filter((curve) => lines[curve.line].task === task);
  for (const curve of curves) {
    const name = `${curve.quantity} over layers, ${curve.facet}`;
    if (!found.some(([other]) => other === name)) found.push([name, { layers: curves.filter((c) => c.quantity === curve.quantity && c.facet === curve.facet) }]);
    const own = `${curve.quantity} over layers, facets of ${lines[curve.line].name}`;
    if (state.chosen.includes(curve.line) && !found.some(([other]) => other === own)) {
      found.push([own, { layers: curves.filter((c) => c.quantity === curve.quantity && c.line === curve.line), facets: true }]);
    }
  }
  return new Map(found);
}

function drawLines() {
  const own = asked.lines;
  const varied = tasks.filter((task) => kindsOf(task).size);
  const task = isOneTask() ? taskNow(own) : varied.includes(own.task) ? own.task : varied[0] || "";
  const kinds = kindsOf(task);
  if (!kinds.has(own.kind)) [own.kind] = kinds.keys();
  byId("lines-form").replaceChildren(...[
    isOneTask() || !varied.length ? null : select("Protocol and data", "task", varied.map((each) => [each, each]), task, (v) => { own.task = v; drawLines(); }),
    kinds.size ? select("Score", "kind", [...kinds.keys()].map((name) => [name, name]), own.kind, (v) => { own.kind = v; drawLines(); }) : null,
  ].filter(Boolean));
  const kind = kinds.get(own.kind);
  if (!kind) {
    byId("lines-plot").replaceChildren(el("p", { class: "quiet" }, "The scores of this protocol do not vary over a setting."));
  } else if (kind.layers) drawLayers(task, own.kind, kind);
  else drawKind(task, own.kind, kind);
}

function drawKind(task, name, { coordinate, members, metric }) {
  const numeric = members.every(([, text]) => Number.isFinite(asNumber(text)));
  const places = new Map(members.map(([i, text], order) => [i, numeric ? asNumber(text) : order]));
  const ticks = members.map(([i, text]) => [places.get(i), text]);
  const xs = [...places.values()];
  const log = numeric && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 20;
  const picked = linesOf(task, MOST_LINES);
  const printed = picked.there.filter((line) => line.status === STATUS.published && !picked.lines.includes(line));
  const seriesOf = (line, grey) => ({
    name: line.name, grey, line: true, setting: line.setting,
    points: [...places].map(([i, x]) => ({ x, found: line.values.get(i) })).filter(({ found }) => found && found.value !== null)
      .map(({ x, found }) => ({ x, y: found.value, low: found.low, high: found.high, tip: tipOf(found), open: () => showDetails(line) })).sort((a, b) => a.x - b.x),
  });
  const theirs = printed.map((line) => seriesOf(line, true)).filter((each) => each.points.length > 1);
  const best = (each) => each.points.at(-1).y * (metric.up ? -1 : 1);
  theirs.sort((a, b) => best(a) - best(b));
  const series = [...picked.lines.map((line) => seriesOf(line, line.status === STATUS.published)), ...theirs.slice(0, MOST_PUBLISHED)];
  chart(byId("lines-plot"), {
    x: { label: AXES[coordinate] || coordinate, log, ticks }, y: { label: head({ ...metric, label: metric.quantity }) },
    series: series.filter((each) => each.points.length), label: `${name}, ${task}`,
  });
  sayPicked("lines-plot", picked, theirs.length);
}

function drawLayers(task, name, { layers, facets }) {
  const picked = linesOf(task, MOST_LINES);
  const kept = layers.filter((curve) => facets || picked.lines.includes(lines[curve.line]));
  const share = unique(kept.map((curve) => curve.depth)).length > 1;
  const series = kept.map((curve) => ({
    name: facets ? curve.facet : lines[curve.line].name, line: true,
    points: curve.points.map(([layer, y]) => ({
      x: share ? layer / curve.depth : layer, y, open: () => showDetails(lines[curve.line]),
      tip: `${lines[curve.line].name}, ${curve.facet}\nlayer ${layer} of ${curve.depth}: ${Number(y.toPrecision(4))}${layer === curve.best ? "\nthe layer that is reported" : ""}`,
    })),
  }));
  chart(byId("lines-plot"), { x: { label: share ? "layer, as a share of the depth" : "layer" }, y: { label: name.split(" over ")[0] }, series, label: `${name}, ${task}` });
  if (!facets) sayPicked("lines-plot", picked, 0);
}

function sayPicked(id, picked, printed) {
  const text = picked.chosen ? "The chosen models." : picked.of > picked.lines.length ? `The first ${picked.lines.length} of ${picked.of} models; choose others in the table.` : "";
  const grey = printed ? ` Grey: as printed by the papers${printed > MOST_PUBLISHED ? `, the best ${MOST_PUBLISHED} of ${printed}` : ""}.` : "";
  if (text || grey) byId(id).append(el("p", { class: "quiet" }, `${text}${grey}`));
}
