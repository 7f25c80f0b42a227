// The page comes to life: filters, table, plots, theme.

function changed() {
  state.page = 0;
  const set = Object.entries(state.filters).filter(([, value]) => value !== "").map(([name, value]) => `${FILTERS[name][0]}: ${value}`);
  byId("filters-said").textContent = [state.search && `“${state.search}”`, ...set].filter(Boolean).join(", ");
  drawColumns();
  drawTable();
  drawPlots();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
}

function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  byId("theme").hidden = false;
  byId("app").hidden = false;
  byId("filters").open = innerWidth > 640;
  const ours = lines.filter((line) => line.status !== STATUS.published);
  const printed = lines.length - ours.length;
  byId("summary").textContent = `${unique(ours.map((line) => line.model.name)).length} models, ${ours.length} results, ${tasks.length} protocols with data` + (printed ? `, ${printed} rows as printed by papers.` : ".");
  byId("legend").replaceChildren("#: the rank within one setting on the same images, one more than the number of models that are better beyond noise; bold: rank 1. ", ...(printed ? [el("span", { class: "tag published" }, "published"), " as printed by a paper, not ranked. "] : []),
    ...(ours.some((line) => line.status === STATUS.withdrawn) ? [el("span", { class: "tag withdrawn" }, "withdrawn"), ": taken back, or of a withdrawn version of its protocol; kept, not ranked. "] : []));
  if (tasks.length === 1) { state.filters.protocol = ours[0].protocol; state.filters.data = ours[0].data; }
  drawFilters();
  for (const name of ["protocol", "data"]) byId("filter-form").elements[name].value = state.filters[name];
  drawColumns();
  drawTable();
  drawChosen();
  requestAnimationFrame(() => setTimeout(() => { performance.mark("table painted"); drawPlots(); performance.mark("all drawn"); document.documentElement.dataset.ready = "yes"; }));
  byId("copy-csv").addEventListener("click", () => copy("CSV", asCsv()));
  byId("copy-latex").addEventListener("click", () => copy("LaTeX", asLatex()));
  byId("clear").addEventListener("click", () => { state.chosen = []; drawTable(); drawChosen(); drawPlots(); });
  for (const name of ["filter-form", "cost-form", "lines-form", "classes-form"]) byId(name).addEventListener("submit", (event) => event.preventDefault());
  let width = innerWidth;
  addEventListener("resize", () => { if (width !== innerWidth) { width = innerWidth; drawPlots(); } });
}

start();
