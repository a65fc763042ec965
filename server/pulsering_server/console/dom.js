// Making and changing elements, and how numbers are written. No markup is ever made from text, and an element is
// touched only where something changed, so that focus, selection and a screen reader's place stay.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children);
  return element;
}

export function set(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

// The children of `parent` are one element an item, in order, each kept for as long as its key is there.
export function list(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    old.delete(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update?.(child, item);
  }
  for (const child of old.values()) child.remove();
}

// A row of a table that becomes a card on a narrow screen, where each cell needs its column's name.
export function row(columns) {
  const cells = columns.map((column, place) => {
    const head = place === 0;
    const attributes = { role: head ? "rowheader" : "cell", "data-label": column.label, class: column.n ? "n" : null };
    return make(head ? "th" : "td", head ? { ...attributes, scope: "row" } : attributes);
  });
  return make("tr", { role: "row" }, ...cells);
}

export const NONE = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const exact = (value) => (known(value) ? whole.format(value) : NONE);

export function amount(value) {
  if (!known(value)) return NONE;
  return Math.abs(value) < 1000 ? short.format(value) : short.format(value).replace(/([KMBT])$/, "\u00a0$1").replace("K", "k");
}

export function percent(share) {
  return known(share) ? `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}\u00a0%` : NONE;
}

export function millis(ms) {
  if (!known(ms)) return NONE;
  if (ms < 1) return `${Number((ms * 1000).toPrecision(2))}\u00a0µs`;
  return ms < 1000 ? `${Number(ms.toPrecision(3))}\u00a0ms` : `${Number((ms / 1000).toPrecision(3))}\u00a0s`;
}

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (value >= 1000 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${place ? Number(value.toPrecision(3)) : value}\u00a0${units[place]}`;
}

export function span(ms) {
  if (!known(ms)) return NONE;
  const s = Math.max(0, ms / 1000);
  if (s < 60) return `${Math.floor(s)}\u00a0s`;
  if (s < 3600) return `${Math.floor(s / 60)}\u00a0min ${Math.floor(s % 60)}\u00a0s`;
  if (s < 86400) return `${Math.floor(s / 3600)}\u00a0h ${Math.floor((s % 3600) / 60)}\u00a0min`;
  return `${Math.floor(s / 86400)}\u00a0d ${Math.floor((s % 86400) / 3600)}\u00a0h`;
}

// Time that is left, upwards: it never says 0 while there is some.
export const left = (ms) => (known(ms) ? span(Math.ceil(ms / 1000) * 1000) : NONE);

export const clock = (wallMs) => new Date(wallMs).toLocaleTimeString("en-GB");
