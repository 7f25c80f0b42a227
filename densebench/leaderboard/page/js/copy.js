// The rows of the table as CSV and LaTeX, for the clipboard; a text that a spreadsheet would compute begins with '.

const FORMULA = /^[=+\-@\t\r]/;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

function csvCell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (FORMULA.test(text) && !NUMBER.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return the columns that are shown as CSV, a value with its interval in three. */
function asCsv() {
  const columns = columnsNow().filter(isOn);
  const heads = columns.flatMap((column) => (column.found ? [column.text, `${column.text} low`, `${column.text} high`] : [column.text]));
  const cells = (row) => columns.flatMap((column) => {
    if (!column.found) return [typeof column.get(row) === "number" ? column.get(row) : column.show(row)];
    const found = column.found(row);
    return found ? [found.value, found.low, found.high] : ["", "", ""];
  });
  return [heads, ...rows.map(cells)].map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
}

const TEX = { "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "±": "$\\pm$", "–": "--", "…": "\\dots{}", "α": "$\\alpha$" };
const tex = (text) => String(text).replace(/[\\^~↑↓±–…α]|[&%$#_{}]/g, (letter) => TEX[letter] || `\\${letter}`);

/** Return the columns that are shown as a booktabs table: the best bold, the second underlined, printed rows grey. */
function asLatex() {
  const columns = columnsNow().filter((column) => isOn(column) && column.key !== "status");
  const places = new Map(columns.filter((column) => column.metric).map((column) => [column.key, topTwo(column)]));
  const cell = (row, column) => {
    const found = column.found?.(row);
    const text = found ? tex([shown(found), interval(found)].filter(Boolean).join(" ")) : tex(column.show(row));
    const [first, second] = places.get(column.key) || [];
    const ours = found && row.line.status !== STATUS.published && row.line.status !== STATUS.withdrawn;
    const marked = ours && found.value === first ? `\\textbf{${text}}` : ours && found.value === second ? `\\underline{${text}}` : text;
    return row.line.status === STATUS.published && text ? `\\textcolor{gray}{${marked}}` : marked;
  };
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  return [
    "% \\usepackage{booktabs,xcolor}", `\\begin{tabular}{${columns.map((column) => (column.number ? "r" : "l")).join("")}}`, "\\toprule",
    line(columns.map((column) => tex(column.text))), "\\midrule", ...rows.map((row) => line(columns.map((column) => cell(row, column)))),
    "\\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}

function topTwo(column) {
  const own = rows.filter((row) => row.line.status !== STATUS.published && row.line.status !== STATUS.withdrawn).map(column.get);
  return unique(own.filter((value) => value !== null)).sort((a, b) => (column.metric.up ? b - a : a - b));
}

/** Show a text in a dialog, selected, and put it on the clipboard where the browser allows it. */
async function copy(what, text) {
  const box = el("textarea", { readonly: true, "aria-label": what, id: "copied-text" });
  box.value = text;
  const note = el("p", { role: "status" }, "Selected: copy with Ctrl+C.");
  byId("copied").replaceChildren(dialogHead("copied", `${what}, ${rows.length} rows`), note, box);
  byId("copied").showModal();
  box.select();
  try {
    await navigator.clipboard.writeText(text);
    note.textContent = "Copied.";
  } catch {
    if (document.execCommand("copy")) note.textContent = "Copied.";
  }
}
