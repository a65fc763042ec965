// Pictures: the ring, and a small chart. What they show is also there as text: a label for each, and tables.

import { draw, exact, NONE } from "./dom.js";
import { STATES } from "./model.js";

const TURN = 2 * Math.PI;
const RADIUS = 118;
const LABELS_MAX = 16;
const WIDTH = 300;
const HEIGHT = 64;

const round = (value) => Math.round(value * 100) / 100;

function at(radius, turn) {
  return [round(radius * Math.sin(turn * TURN)), round(-radius * Math.cos(turn * TURN))];
}

function arc(radius, from, to, attributes) {
  if (to - from > 0.999) return draw("circle", { r: radius, fill: "none", ...attributes });
  const [x, y] = at(radius, from);
  const [endX, endY] = at(radius, to);
  const d = `M${x} ${y}A${radius} ${radius} 0 ${to - from > 0.5 ? 1 : 0} 1 ${endX} ${endY}`;
  return draw("path", { d, fill: "none", ...attributes });
}

// One pattern a state, so that no state is told by its colour alone.
function patterns() {
  const lines = (id, size, width, angle) =>
    draw(
      "pattern",
      { id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` },
      draw("rect", { width: size, height: size, class: "paper" }),
      draw("rect", { width, height: size, class: "ink" }),
    );
  const dots = draw(
    "pattern",
    { id: "p-draining", width: 7, height: 7, patternUnits: "userSpaceOnUse" },
    draw("rect", { width: 7, height: 7, class: "paper" }),
    draw("circle", { cx: 3.5, cy: 3.5, r: 2, class: "ink" }),
  );
  return draw(
    "defs",
    {},
    lines("p-warming", 8, 4.5, 45),
    lines("p-leaving", 6, 2, 90),
    lines("p-unreachable", 9, 2, -45),
    lines("p-unknown", 5, 1, 0),
    dots,
  );
}

export function drawRing(view, names) {
  const nodes = view.rows.filter((row) => !row.leaving);
  const gap = nodes.length > 1 ? Math.min(0.006, 0.15 / nodes.length) : 0;
  const parts = [patterns()];
  const labelled = nodes.length <= LABELS_MAX ? nodes : nodes.filter((row) => row.state !== "ready").slice(0, LABELS_MAX);
  let turn = 0;
  for (const row of nodes) {
    const [from, to] = [turn + gap / 2, turn + row.share_first - gap / 2];
    turn += row.share_first;
    if (to <= from) continue;
    const state = STATES[row.state];
    const stroke = row.state === "ready" ? null : `url(#p-${row.state})`;
    const segment = draw("g", { class: `segment s-${row.state}` }, draw("title", {}, `${row.name}: ${state.word}`));
    segment.append(arc(RADIUS, from, to, { class: "band", stroke, "stroke-width": 30 }));
    if (row.state === "unreachable") segment.append(...edges(from, to));
    if (row.state === "warming") {
      const done = 1 - Math.min(1, row.summary.warming_ms / row.summary.ttl_ms);
      segment.append(arc(RADIUS - 21, from, from + (to - from) * Math.max(done, 0.001), { class: "done", "stroke-width": 4 }));
    }
    parts.push(segment);
    if (labelled.includes(row)) {
      const [x, y] = at(RADIUS + 26, (from + to) / 2);
      const anchor = Math.abs(x) < 30 ? "middle" : x > 0 ? "start" : "end";
      const label = row.name.length > 10 ? `${row.name.slice(0, 9)}…` : row.name;
      parts.push(
        draw(
          "text",
          { x, y: y + 5 + (Math.abs(x) < 30 ? Math.sign(y) * 6 : 0), "text-anchor": anchor, class: `name t-${state.level}` },
          `${state.mark} ${label}`,
        ),
      );
    }
  }
  const { users, exact: sure } = view.total;
  const text = users === null ? NONE : (sure ? "" : "≥ ") + exact(users);
  const size = text.length > 13 ? " longer" : text.length > 8 ? " long" : "";
  parts.push(draw("text", { class: `total${size}`, y: 4, "text-anchor": "middle" }, text));
  parts.push(draw("text", { class: "under", y: 28, "text-anchor": "middle" }, "users online"));
  return draw("svg", { viewBox: "-210 -165 420 330", role: "img", class: "ring", "aria-label": names }, ...parts);
}

function edges(from, to) {
  return [RADIUS - 14.5, RADIUS + 14.5].map((radius) => arc(radius, from, to, { class: "edge", "stroke-width": 1.5 }));
}

// `line` is a function of a point. Gaps are times of which nothing is known, hatched ones those of which some nodes
// told nothing.
export function drawChart(points, line, epochs, label) {
  const values = points.map(line).filter(Number.isFinite);
  const top = ceiling(Math.max(0, ...values));
  const span = points[0].agoS || 1;
  const x = (point) => round(WIDTH - (point.agoS / span) * WIDTH);
  const y = (value) => round(HEIGHT - 1.5 - (value / top) * (HEIGHT - 5));
  const parts = [
    draw(
      "defs",
      {},
      draw(
        "pattern",
        { id: "p-missing", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        draw("rect", { width: 1.5, height: 5, class: "ink" }),
      ),
    ),
  ];
  const step = WIDTH / (points.length - 1);
  for (const [from, to] of runs(points, (point) => point.missing > 0)) {
    const start = Math.max(0, x(points[from]) - step / 2);
    const end = Math.min(WIDTH, x(points[to]) + step / 2);
    parts.push(draw("rect", { x: round(start), y: 0, width: round(end - start), height: HEIGHT, class: "missing" }));
  }
  parts.push(draw("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 0.75, y2: HEIGHT - 0.75, class: "base" }));
  for (const { agoS, epoch } of epochs) {
    const place = round(WIDTH - (agoS / span) * WIDTH);
    const mark = draw("line", { x1: place, x2: place, y1: 0, y2: HEIGHT, class: "epoch" }, draw("title", {}, `epoch ${epoch}`));
    parts.push(mark);
  }
  for (const [from, to] of runs(points, (point) => Number.isFinite(line(point)))) {
    const run = points.slice(from, to + 1).map((point) => `${x(point)} ${y(line(point))}`);
    if (run.length === 1) run.push(`${Math.min(WIDTH, x(points[from]) + 1.5)} ${y(line(points[from]))}`);
    const d = `M${run.join("L")}`;
    parts.push(draw("path", { d: `${d}L${x(points[to])} ${HEIGHT}L${x(points[from])} ${HEIGHT}Z`, class: "area" }));
    parts.push(draw("path", { d, class: "line" }));
  }
  const svg = draw(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart", "aria-label": label },
    ...parts,
  );
  return { svg, top: values.length ? top : null };
}

// First and last index of each stretch where it holds.
function runs(points, holds) {
  const found = [];
  points.forEach((point, index) => {
    if (!holds(point)) return;
    if (found.length && found.at(-1)[1] === index - 1) found.at(-1)[1] = index;
    else found.push([index, index]);
  });
  return found;
}

// The next number above it that is easy to read.
function ceiling(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 7.5, 10].map((factor) => factor * unit).find((nice) => nice >= value);
}
