// The table: head with sorting, a page of rows, columns and filters to choose.

const CLASS = ["here", "elsewhere", "published", "withdrawn"];
let rows = [];

function drawFilters() {
  const form = byId("filter-form");
  const search = el("input", { type: "search", name: "search", autocomplete: "off", placeholder: "model, dataset, …" });
  search.addEventListener("input", () => { state.search = search.value; changed(); });
  form.append(el("label", {}, "Search", search));
  for (const [name, [label, get]] of Object.entries(FILTERS)) {
    const options = unique(lines.map(get)).sort();
    if (options.length < 2 && !["protocol", "data"].includes(name)) continue;
    const change = (value) => { state.filters[name] = value; if (name === "protocol" || name === "data") state.sort = null; changed(); };
    form.append(select(label, name, [["", `all (${options.length})`], ...options.map((o) => [o, o])], "", change));
  }
  form.append(check("every metric, not the main ones alone", "every", false, (on) => { state.every = on; changed(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function drawColumns() {
  const box = byId("columns");
  box.replaceChildren(el("legend", {}, "Columns"));
  for (const column of columnsNow()) {
    if (column.always) continue;
    box.append(check(column.text, column.key, isOn(column), (on) => { state.columns[column.key] = on; drawTable(); }));
  }
}

function drawTable() {
  rows = rowsNow();
  const columns = columnsNow().filter(isOn);
  const pages = Math.max(1, Math.ceil(rows.length / PER_PAGE));
  state.page = Math.min(state.page, pages - 1);
  const [thead, tbody] = [byId("table").tHead, byId("table").tBodies[0]];
  thead.replaceChildren(el("tr", {}, el("th", { scope: "col" }, el("span", { class: "unseen" }, "Choose")), columns.map(headCell)));
  const part = rows.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
  tbody.replaceChildren(...part.map((row) => bodyRow(row, columns)));
  const models = new Set(rows.map((row) => row.line.name)).size;
  byId("count").textContent = `${rows.length} row${rows.length === 1 ? "" : "s"}, ${models} model${models === 1 ? "" : "s"}`;
  byId("hint").textContent = isOneTask()
    ? `One row per model and setting. ${footOf(rows)}`
    : "One row per score. Choose a protocol and a dataset for one row per model.";
  drawPages(pages);
}

/** Return what holds for all numbers of the rows, where that is the same. */
function footOf(shown) {
  const feet = unique(shown.filter((row) => row.line.status !== STATUS.published).map((row) => row.line.table.foot));
  return feet.length === 1 ? feet[0] : "";
}

function headCell(column) {
  const active = state.sort?.key === column.key;
  const down = active ? state.sort.down : null;
  const sort = () => {
    state.sort = { key: column.key, down: active ? !down : Boolean(column.down) };
    state.page = 0;
    drawTable();
    byId("table").tHead.querySelector("[aria-sort] button")?.focus();
  };
  const arrow = active ? (down ? " ▼" : " ▲") : "";
  return el(
    "th",
    { scope: "col", class: column.number ? "number" : column.head ? "names" : null, "aria-sort": active ? (down ? "descending" : "ascending") : null },
    el("button", { type: "button", onclick: sort, "data-key": column.key }, column.text, el("span", { "aria-hidden": "true" }, arrow)),
  );
}

function bodyRow(row, columns) {
  const { line } = row;
  const chosen = state.chosen.includes(line.i);
  const box = el("input", { type: "checkbox", "aria-label": `Choose ${line.name}`, "data-line": line.i });
  box.checked = chosen;
  box.addEventListener("change", () => choose(line.i, box.checked));
  return el(
    "tr",
    { class: [CLASS[line.status], chosen ? "chosen" : ""].join(" ").trim(), "data-line": line.i },
    el("td", {}, box),
    columns.map((column) => bodyCell(column, row)),
  );
}

function bodyCell(column, row) {
  if (column.head) {
    const open = () => showDetails(row.line);
    return el("th", { scope: "row" }, el("button", { type: "button", class: "name", onclick: open }, row.line.name));
  }
  if (column.found) return valueCell(column.found(row), column.key !== "value");
  if (column.key === "status") {
    return el("td", {}, el("span", { class: `tag ${CLASS[row.line.status]}`, title: row.line.withdrawn || null }, column.show(row)));
  }
  return el("td", { class: column.number ? "number" : column.whole ? "whole" : column.wide ? "wide" : null }, String(column.show(row)));
}

function valueCell(found, ranked) {
  if (!found) return el("td", { class: "number" });
  const best = found.rank === 1;
  const rank = ranked && found.rank !== null ? el("span", { class: "rank" }, el("span", { class: "unseen" }, "rank "), `#${found.rank}`) : null;
  return el("td", { class: "number" }, el(best ? "b" : "span", {}, shown(found)), " ", el("small", {}, interval(found)), rank);
}

function drawPages(pages) {
  const go = (page) => () => { state.page = page; drawTable(); byId("results").scrollIntoView(); };
  const button = (text, page) => el("button", { type: "button", onclick: go(page), disabled: page < 0 || page >= pages }, text);
  byId("pages").hidden = pages === 1;
  byId("pages").replaceChildren(
    button("Previous", state.page - 1), el("span", {}, `page ${state.page + 1} of ${pages}`), button("Next", state.page + 1),
  );
}

function choose(i, on) {
  state.chosen = on ? [...state.chosen.filter((each) => each !== i), i] : state.chosen.filter((each) => each !== i);
  for (const row of byId("table").tBodies[0].rows) {
    const is = state.chosen.includes(Number(row.dataset.line));
    row.classList.toggle("chosen", is);
    row.querySelector("input").checked = is;
  }
  drawChosen();
  drawPlots();
}
