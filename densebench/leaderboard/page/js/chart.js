// A chart as SVG: points, lines and intervals; the arrow keys go from point to point, and each says what it is.

const HEIGHT = 340;
const MARGIN = { left: 58, right: 18, top: 12, bottom: 46 };
const DASHES = ["", "7 3", "2 3", "8 3 2 3"];
const SHAPES = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z", "M-3.6,-3.6h7.2v7.2h-7.2z", "M0,-4.6L4.4,3.6H-4.4z", "M0,-5L5,0L0,5L-5,0z"];

/** Return round numbers that span low to high. */
function niceTicks(low, high, most) {
  const raw = (high - low) / Math.max(1, most) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= raw - 1e-12 * raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const each of [1, 2, 5]) if (each * 10 ** power >= low * 0.999 && each * 10 ** power <= high * 1.001) found.push(each * 10 ** power);
  }
  if (found.length < 3) return niceTicks(low, high, 5).filter((value) => value > 0);
  return found.length > 7 ? found.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9) : found;
}

/** Return the function from values to pixels, with its ticks as [value, text]. */
function scale(given, axis, from, to, most) {
  let low = Math.min(...given);
  let high = Math.max(...given);
  if (axis.log) [low, high] = low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
  else { const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1; [low, high] = [low - room, high + room]; }
  const turn = axis.log ? Math.log : (value) => value;
  const place = (value) => from + ((turn(value) - turn(low)) / (turn(high) - turn(low))) * (to - from);
  const say = axis.say || ((value) => String(Number(value.toPrecision(6))));
  const ticks = axis.ticks || (axis.log ? logTicks(low, high) : niceTicks(low, high, most)).map((value) => [value, say(value)]);
  return { place, ticks };
}

/**
 * Draw into `host`: axes x and y {label, log, ticks, say}, series [{name, color, grey, line, points: [{x, y, low, high,
 * tip, open}]}], and `front`, points to join by a dashed line.
 */
function chart(host, { x, y, series, front = [], label }) {
  const all = series.flatMap((each) => each.points);
  if (!all.length) {
    host.replaceChildren(el("p", { class: "quiet" }, "Nothing to draw with these filters."));
    return;
  }
  const width = Math.max(300, Math.min(1100, host.clientWidth || 900));
  const tall = all.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const sx = scale(all.map((p) => p.x), x, MARGIN.left, width - MARGIN.right, width / 90);
  const sy = scale(tall, y, HEIGHT - MARGIN.bottom, MARGIN.top, 6);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": label });
  drawAxes(picture, sx, sy, width, x.label, y.label);
  if (front.length > 1) picture.append(svg("polyline", { class: "front", points: front.map((p) => `${sx.place(p.x)},${sy.place(p.y)}`).join(" ") }));
  series.forEach((each, order) => drawSeries(picture, each, order, sx, sy));
  rove(picture);
  host.replaceChildren(picture, key(series));
}

function drawAxes(picture, sx, sy, width, xLabel, yLabel) {
  const bottom = HEIGHT - MARGIN.bottom;
  for (const [value, text] of sy.ticks) {
    const at = sy.place(value);
    picture.append(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
    picture.append(svg("text", { x: MARGIN.left - 7, y: at + 4, "text-anchor": "end" }, text));
  }
  let last = -Infinity;
  let before = "";
  for (const [value, text] of [...sx.ticks].sort((a, b) => a[0] - b[0])) {
    if (text === before) continue; // of numbers that are rounded alike
    before = text;
    const at = sx.place(value);
    picture.append(svg("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    if (at - last < 7 * text.length + 6) continue;
    picture.append(svg("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, text));
    last = at;
  }
  picture.append(svg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
  picture.append(svg("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xLabel));
  picture.append(svg("text", { transform: `translate(14 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
}

const look = (each, order) => ({
  color: each.grey ? "grey" : `s${(each.color ?? order) % 10}`,
  turn: Math.floor((each.color ?? order) / 10) % 4,
});

function drawSeries(picture, each, order, sx, sy) {
  const { color, turn } = look(each, order);
  const group = svg("g", { class: color });
  if (each.line && each.points.length > 1) {
    const points = each.points.map((p) => `${sx.place(p.x)},${sy.place(p.y)}`).join(" ");
    group.append(svg("polyline", { class: "series", "stroke-dasharray": each.grey ? "2 3" : DASHES[turn], points }));
  }
  for (const p of each.points) {
    const at = sx.place(p.x);
    if (p.low !== null && p.low !== undefined) group.append(svg("line", { class: "band", x1: at, x2: at, y1: sy.place(p.low), y2: sy.place(p.high) }));
    const mark = svg("path", {
      class: "point", d: SHAPES[each.shape ?? turn], transform: `translate(${at} ${sy.place(p.y)})`, tabindex: "-1",
      role: p.open ? "button" : "img", "aria-label": p.tip.replaceAll("\n", ", "),
      onmouseenter: () => tip(mark, p.tip), onmouseleave: hideTip, onfocus: () => tip(mark, p.tip), onblur: hideTip,
      onclick: p.open, onkeydown: (event) => { if (event.key === "Enter" && p.open) p.open(); },
    });
    group.append(mark);
    const end = at > 0.75 * picture.viewBox.baseVal.width;
    if (p.text) group.append(svg("text", { x: at + (end ? -7 : 7), y: sy.place(p.y) - 6, "text-anchor": end ? "end" : "start" }, p.text));
  }
  picture.append(group);
}

/** Make a picture one stop of the tab key, within which arrows move. */
function rove(picture) {
  const points = [...picture.querySelectorAll(".point")];
  points[0].setAttribute("tabindex", "0");
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = points.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    points[at].setAttribute("tabindex", "-1");
    const next = points[(at + step + points.length) % points.length];
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

function key(series) {
  const named = series.map((each, order) => ({ each, order })).filter(({ each }) => each.name);
  return el("ul", { class: "key" }, named.map(({ each, order }) => {
    const { color, turn } = look(each, order);
    const line = each.line ? svg("line", { class: "series", x1: 0, x2: 26, y1: 6, y2: 6, "stroke-dasharray": each.grey ? "2 3" : DASHES[turn] }) : null;
    const mark = svg("path", { class: "point", d: SHAPES[each.shape ?? turn], transform: "translate(13 6)" });
    return el("li", { class: color }, svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, line, mark), " ", el("b", {}, each.name));
  }));
}

function tip(mark, text) {
  const [box, place] = [byId("tip"), mark.getBoundingClientRect()];
  box.textContent = text;
  box.hidden = false;
  const left = Math.min(place.x + 14, document.documentElement.clientWidth - box.offsetWidth - 8);
  box.style.left = `${Math.max(4, left) + scrollX}px`;
  box.style.top = `${Math.max(4, place.y - box.offsetHeight - 8) + scrollY}px`;
}

function hideTip() { byId("tip").hidden = true; }
