// Classes, the comparison of chosen models, and all that is known of one result.

const classesOf = (line) => D.classes.lines[line.i] || {};

function drawClasses() {
  const own = asked.classes;
  const having = tasks.filter((task) => lines.some((line) => line.task === task && D.classes.lines[line.i]));
  const task = isOneTask() ? taskNow(own) : having.includes(own.task) ? own.task : having[0] || "";
  const { lines: some, chosen, there } = linesOf(task, MOST_CLASSES);
  const metrics = unique(there.flatMap((line) => Object.keys(classesOf(line))));
  if (!metrics.includes(own.metric)) [own.metric] = metrics;
  own.order ||= "data";
  const orders = [["data", "as the data has them"], ["name", "by name"], ["best", "best first"], ["apart", "where models differ most"]];
  byId("classes-form").replaceChildren(...(metrics.length ? [
    isOneTask() ? null : select("Protocol and data", "task", having.map((each) => [each, each]), task, (v) => { own.task = v; drawClasses(); }),
    select("Score", "metric", metrics.map((each) => [each, each]), own.metric, (v) => { own.metric = v; drawClasses(); }),
    select("Order", "order", orders, own.order, (v) => { own.order = v; drawClasses(); }),
  ].filter(Boolean) : []));
  const columns = some.filter((line) => classesOf(line)[own.metric]);
  if (!columns.length) {
    byId("classes").replaceChildren();
    return;
  }
  const names = unique(columns.flatMap((line) => D.classes.names[classesOf(line)[own.metric][0]]));
  const valueOf = (line, name) => { const [place, numbers] = classesOf(line)[own.metric]; return numbers[D.classes.names[place].indexOf(name)] ?? null; };
  const table = names.map((name) => ({ name, cells: columns.map((line) => valueOf(line, name)) }));
  const known = (row) => row.cells.filter((cell) => cell !== null);
  const top = (row) => (known(row).length ? Math.max(...known(row)) : -Infinity);
  const range = (row) => (known(row).length ? Math.max(...known(row)) - Math.min(...known(row)) : -Infinity);
  const orderings = { name: (a, b) => ordered(a.name, b.name, 1), best: (a, b) => top(b) - top(a), apart: (a, b) => range(b) - range(a) };
  if (orderings[own.order]) table.sort(orderings[own.order]);
  const metric = [...columns[0].values.values()].map((each) => each.metric).find((each) => each.label === own.metric);
  byId("classes").replaceChildren(el("table", {},
    el("caption", {}, `${metric.label} per class, ${task}. ${chosen ? "The chosen models." : "The first models; choose others in the table."} Bold: the best.`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class"), columns.map((line) => el("th", { scope: "col", class: "number", title: line.name }, elide(line.name, 24))))),
    el("tbody", {}, table.map((row) => {
      const best = known(row).length > 1 ? (metric.up ? top(row) : Math.min(...known(row))) : null;
      return el("tr", {}, el("th", { scope: "row" }, row.name), row.cells.map((cell) => el("td", { class: "number" }, cell === best && cell !== null ? el("b", {}, digits(cell, metric)) : digits(cell, metric))));
    })),
  ));
}

function drawChosen() {
  const chosen = state.chosen.map((i) => lines[i]);
  byId("clear").disabled = !chosen.length;
  byId("chosen").textContent = chosen.length ? chosen.map((line) => line.name).join(", ") : "Choose models in the table to draw them alone, and two to compare them.";
  byId("compare").replaceChildren(...(chosen.length === 2 ? comparison(...chosen) : chosen.length > 2 ? [el("p", { class: "quiet" }, "A comparison is of two.")] : []));
}

/** Return what sets a measured line apart from a published one, in words; "" where nothing is known. */
function besideOf(a, b) {
  const [ours, theirs] = a.status === STATUS.published ? [b, a] : [a, b];
  if (theirs.status !== STATUS.published || ours.status === STATUS.published || ours.task !== theirs.task) return "";
  return ours.table.beside[theirs.setting.replace(/, on the whole dataset$/, "")] || "";
}

/** Return the comparison of two lines: their values, the paired difference where it is embedded, and what differs. */
function comparison(a, b) {
  const differ = [["protocol", a.protocol, b.protocol], ["data", a.data, b.data], ["setting", a.setting, b.setting], ["version of the protocol", a.table.version, b.table.version]]
    .filter(([name, one, other]) => one !== other && !(name.startsWith("version") && (a.status === STATUS.published || b.status === STATUS.published)));
  const of = (line) => new Map([...line.values.values()].map((found) => [found.metric.label, found]));
  const [ours, theirs] = [of(a), of(b)];
  const common = [...ours.keys()].filter((label) => theirs.has(label) && a.protocol === b.protocol);
  const out = [];
  const beside = besideOf(a, b);
  if (beside) out.push(el("p", {}, `Beside ours, ${beside}.`));
  else if (differ.length) out.push(el("p", {}, "They differ in more than the model: ", differ.map(([name, one, other]) => `${name} (${one} against ${other})`).join("; "), ". So a difference of scores is not the models' alone."));
  if (!common.length) return [...out, el("p", {}, "They have no score in common.")];
  let paired = 0;
  const body = common.map((label) => {
    const [one, other] = [ours.get(label), theirs.get(label)];
    const pair = pairs.get(`${a.i} ${b.i} ${one.index}`);
    if (pair) paired += 1;
    const difference = pair ? pair.difference : one.value === null || other.value === null ? null : other.value - one.value;
    const sure = pair && pair.low !== null && (pair.low > 0 || pair.high < 0);
    const better = difference !== null && (one.metric.up ? difference > 0 : difference < 0);
    const sign = difference > 0 ? "+" : "";
    return el("tr", {}, el("th", { scope: "row" }, head(one.metric)), valueCell(one, false), valueCell(other, false),
      el("td", { class: `number ${sure ? (better ? "better" : "worse") : ""}` }, difference === null ? "–" : `${sign}${digits(difference, one.metric)}`, " ", el("small", {}, pair && pair.low !== null ? `[${digits(pair.low, one.metric)}, ${digits(pair.high, one.metric)}]` : "")),
      el("td", { class: "number" }, pair && pair.p !== null ? pair.p.toPrecision(2) : ""));
  });
  const heads = ["score", a.name, b.name, "difference, second − first", "p"];
  out.push(el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Comparison" }, el("table", { id: "comparison" },
    el("thead", {}, el("tr", {}, heads.map((text, i) => el("th", { scope: "col", class: i ? "number" : null }, text)))), el("tbody", {}, body))));
  out.push(el("p", { class: "quiet" }, paired
    ? "Differences on the same images: 95 % interval over images, and p of a permutation test where this file has it. Coloured: the interval excludes 0."
    : "Plain differences of two scores: no paired ones of these two lie in this file. On the same images, `densebench compare` says whether a difference is noise; overlapping intervals do not."));
  return out;
}

const tablesOf = (task) => unique(lines.filter((line) => line.task === task).map((line) => line.table));

/** Return a close button and a heading of a dialog. */
function dialogHead(id, text) {
  const dialog = byId(id);
  return el("div", { class: "bar" }, el("h2", { id: `${id}-head` }, text), el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => dialog.close() }, "Close")));
}

function showDetails(line) {
  const { model } = line;
  hideTip();
  const facts = [
    ["protocol", `${line.protocol}, ${line.setting}`], ["data", `${line.data}${line.images ? `, ${line.images} images` : ""}`],
    ["status", D.statuses[line.status] + (line.withdrawn ? `: ${line.withdrawn}` : "")],
    [line.status === STATUS.published ? "printed in" : "record", line.hash], ["date", line.date],
    ["backbone", [model.size, model.width && `width ${model.width}`, model.depth && `${model.depth} blocks`, model.patch && `patches of ${model.patch} px`].filter(Boolean).join(", ")],
    ["parameters", counted(model.parameters)], ["pretraining data", model.data], ["objective", model.objective],
    ["images per second", line.speed && counted(line.speed)], ["time", seconds(line.seconds)], ["peak memory", [bytes(line.memory), line.gpu && `GPU ${bytes(line.gpu)}`].filter(Boolean).join(", ")],
    ["weights", model.weights], ["licence", model.licence], ["citation", model.citation], ["measured with", line.about], ["notes", line.notes.join("\n")],
  ].filter(([, value]) => value);
  const scores = metricsOf(line.task).map((i) => line.values.get(i)).filter(Boolean);
  const rank = (found) => (found.rank === null ? "" : `#${found.rank}`);
  const pictures = D.pictures[line.i] || [];
  byId("details").replaceChildren(
    dialogHead("details", line.name),
    el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    el("h3", {}, "Scores"),
    el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Scores" }, el("table", {}, el("thead", {}, el("tr", {}, ["score", "value", "rank"].map((text, i) => el("th", { scope: "col", class: i ? "number" : null }, text)))),
      el("tbody", {}, scores.map((found) => el("tr", {}, el("th", { scope: "row" }, head(found.metric)), valueCell(found, false), el("td", { class: "number" }, rank(found))))))),
    ...(pictures.length ? [el("h3", {}, "Pictures"), ...pictures.map(([name, uri]) => el("figure", {}, el("img", { src: uri, alt: `${name} of ${line.name}`, loading: "lazy" }), el("figcaption", { class: "quiet" }, name)))] : []),
    ...classTable(line),
  );
  byId("details").showModal();
}

function classTable(line) {
  const having = Object.entries(classesOf(line));
  if (!having.length) return [];
  const metrics = new Map([...line.values.values()].map((found) => [found.metric.label, found.metric]));
  const names = D.classes.names[having[0][1][0]];
  return [el("h3", {}, "Classes"), el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Classes" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class"), having.map(([label]) => el("th", { scope: "col", class: "number" }, label)))),
    el("tbody", {}, names.map((name, i) => el("tr", {}, el("th", { scope: "row" }, name), having.map(([label, [, numbers]]) => el("td", { class: "number" }, digits(numbers[i] ?? null, metrics.get(label)))))))))];
}
