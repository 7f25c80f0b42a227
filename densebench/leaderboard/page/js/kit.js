// Small helpers. Nothing of the data becomes markup: texts are text nodes, and no string is evaluated.

const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Return a labelled select; `options` are [value, text] pairs. */
function select(label, name, options, value, change) {
  const box = el("select", { name, onchange: () => change(box.value) });
  for (const [key, text] of options) box.append(el("option", { value: key }, text));
  box.value = options.some(([key]) => key === value) ? value : (options[0] || [""])[0];
  return el("label", {}, label, box);
}

function check(label, name, checked, change) {
  const box = el("input", { type: "checkbox", name, onchange: () => change(box.checked) });
  box.checked = checked;
  return el("label", { class: "check" }, box, label);
}

const unique = (values) => [...new Set(values)];

/** Return a text with its middle left out where it is longer than `longest`. */
function elide(text, longest = 30) {
  if (text.length <= longest) return text;
  const head = Math.floor(longest / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (longest - head - 1))}`;
}

/** Compare for sorting; what is missing comes last, whichever way. */
function ordered(a, b, sign) {
  const lacksA = a === null || a === undefined || a === "";
  const lacksB = b === null || b === undefined || b === "";
  if (lacksA || lacksB) return lacksA - lacksB;
  return sign * (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
}

const units = [[1e9, " G"], [1e6, " M"], [1e3, " k"]];

/** Return a count in three digits: 86.6 M. */
function counted(value) {
  if (value === null || value === undefined) return "";
  const [size, unit] = units.find(([each]) => value >= each) || [1, ""];
  return `${Number((value / size).toPrecision(3))}${unit}`;
}

function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 100) return `${Number(value.toPrecision(2))} s`;
  return value < 6000 ? `${Number((value / 60).toPrecision(2))} min` : `${(value / 3600).toFixed(1)} h`;
}

const bytes = (value) => (value ? `${counted(value)}B` : "");
