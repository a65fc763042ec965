// The page: asks its node for /cluster every two seconds while somebody looks, and puts what `model` makes of it
// into the elements of index.html. What it last heard stays, with its age, when nothing comes any more.

import { amount, byId, bytes, clock, exact, list, make, millis, NONE, percent, row, say, set, show, span } from "./dom.js";
import { drawChart, drawRing } from "./draw.js";
import {
  epochsOf, findingsOf, impactOf, Memory, minutesOf, STATES, sum, talkersOf, unknownsOf, verdictOf,
} from "./model.js";

const ASK_MS = 2000;
const PATIENCE_MS = 9000;
const STALE_S = 8;
const ROWS_MAX = 50;

const memory = new Memory();
const page = { view: null, timer: 0, token: "", paused: false, heardS: null, lost: "", wanted: false, asking: false, all: false };

const nowS = () => performance.now() / 1000;

// -- Asking ------------------------------------------------------------------------------------------------------

async function ask() {
  clearTimeout(page.timer);
  if (page.asking) return;
  page.asking = true;
  const startedS = nowS();
  try {
    const headers = page.token ? { Authorization: `Bearer ${page.token}` } : {};
    const options = { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE_MS) };
    const answer = await fetch("/cluster", options);
    if (answer.status === 401) throw new Refused(page.token ? "the node refuses this token" : "the node wants a token");
    if (!answer.ok) throw new Error(`the node answers with status ${answer.status}`);
    const heard = await answer.json();
    if (page.lost) note("answers this page again", "good");
    page.lost = "";
    page.heardS = nowS();
    page.view = memory.take(heard, page.heardS, Date.now());
    page.wanted = page.view.rows.some((found) => found.problem === "token");
    render(page.view);
  } catch (error) {
    lose(error);
  }
  page.asking = false;
  tick();
  if (!page.paused && !document.hidden) page.timer = setTimeout(ask, Math.max(200, ASK_MS - (nowS() - startedS) * 1000));
}

class Refused extends Error {}

function lose(error) {
  const why = error instanceof Refused ? error.message : error.name === "TimeoutError" ? "the node of this page hangs"
    : error instanceof TypeError ? "the node of this page cannot be reached" : error.message;
  page.wanted = error instanceof Refused;
  if (!page.lost) note(`does not answer this page: ${why}`, page.wanted ? "watch" : "act");
  page.lost = why;
}

function note(text, level) {
  const from = page.view?.from ?? "node";
  memory.changes = [];
  memory.tell(`page:${nowS()}`, Date.now(), from, text, level, true);
  announce();
  if (page.view) renderPast();
}

function announce() {
  if (memory.changes.length) say(byId("said"), memory.changes.join(". "));
}

// -- What changes with the time alone ----------------------------------------------------------------------------

function tick() {
  const live = byId("live");
  const ageS = page.heardS === null ? null : nowS() - page.heardS;
  const stale = Boolean(page.lost) || (ageS !== null && ageS > STALE_S);
  const age = ageS === null ? "" : `${span(ageS * 1000)} old`;
  say(byId("age"), page.paused ? `paused, ${age}` : stale ? age || "no answer" : ageS === null ? "loading" : `live, ${age}`);
  set(live, "data-level", page.paused ? "note" : stale ? "act" : ageS === null ? "note" : "good");
  set(document.body, "data-stale", stale && !page.paused ? "true" : null);
  show(byId("token-form"), page.wanted);
  if (page.lost) verdictOfSilence(age);
}

function verdictOfSilence(age) {
  const others = (page.view?.rows ?? []).filter((found) => found.name !== page.view.from && reachable(found));
  const known = page.view ? `All below is ${age}. ` : "";
  const next = page.wanted ? "Give it below."
    : others.length ? "Open the console of another node, from the table below."
    : "Is it running? See pulsering status, and systemctl status on its machine.";
  renderVerdict({ level: page.wanted ? "watch" : "act", mark: page.wanted ? "?" : "✕", title: capital(page.lost) }, known + next);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
// Whether a link may lead there: on another machine's loopback, or at a port that nobody knows, it would mislead.
const reachable = ({ admin, problem }) => Boolean(admin) && !admin.endsWith(":0") && problem !== "loopback";

// -- What a document changes -------------------------------------------------------------------------------------

function render(view) {
  const findings = findingsOf(view);
  const verdict = verdictOf(view, findings);
  for (const id of ["top", "nodes-card", "halves"]) show(byId(id), true);
  say(byId("cluster"), view.own?.cluster ?? "");
  say(byId("seen"), `epoch ${epochText(view)}, seen from ${view.from}`);
  document.title = `${verdict.level === "good" || verdict.level === "note" ? "" : `${verdict.mark} `}${view.own?.cluster ?? ""} · Pulsering`;
  renderVerdict(verdict, impactOf(view));
  renderFindings(findings);
  renderRing(view);
  const minutes = minutesOf(view);
  renderTiles(view, minutes);
  renderNodes(view);
  renderUnknown(view);
  renderTalkers(view);
  renderMinutes(minutes);
  renderPast();
  announce();
}

function renderVerdict({ level, mark, title }, users) {
  set(byId("verdict"), "data-level", level);
  say(byId("verdict-mark"), mark);
  say(byId("verdict-title"), title);
  say(byId("verdict-users"), users);
}

// Text in which what stands between backticks is something to type.
function typed(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part)));
}

function renderFindings(findings) {
  const create = () => {
    const parts = [make("h2"), make("p", { class: "why" }), make("p", { class: "next" })];
    return make("li", { class: "finding" }, ...parts);
  };
  list(byId("findings"), findings, (finding) => finding.key, create, (item, finding) => {
    set(item, "data-level", finding.level);
    const words = { act: "Act", watch: "Look", note: "Know" };
    say(item.children[0], `${words[finding.level]}: ${finding.title}`);
    typed(item.children[1], finding.why);
    typed(item.children[2], finding.next);
  });
}

function renderRing(view) {
  const states = Object.entries(STATES)
    .map(([state, facts]) => ({ ...facts, state, count: view.rows.filter((found) => found.state === state).length }))
    .filter(({ count }) => count);
  const words = view.rows.map((found) => `${found.name} ${STATES[found.state].word}, ${percent(found.share_first)}`).join("; ");
  const { users, exact: sure } = view.total;
  byId("ring").replaceChildren(drawRing(view, `${sure ? "" : "At least "}${exact(users)} users online. ${words}`));
  list(byId("legend"), states, ({ state }) => state, () => make("li"), (item, { mark, word, level, count }) => {
    set(item, "class", `pill t-${level}`);
    say(item, `${mark} ${count} ${word}`);
  });
}

const TILES = [
  {
    key: "users", title: "Users online", line: (point) => point.users, write: amount,
    now: ({ total }) => (total.users === null ? NONE : (total.exact ? "" : "≥ ") + exact(total.users)),
    under: ({ total }) => (total.exact ? "each counted once; chart ≈" : "not all owners tell; chart ≈"),
  },
  {
    key: "heartbeats", title: "Heartbeats a second", line: (point) => point.heartbeats, write: amount,
    now: (view) => amount(sum(view.rows, (said) => said.rates?.heartbeats_per_s)),
    under: (view) => (view.replicas > 1 ? `all nodes; each goes to ${view.replicas} owners` : "all nodes together"),
  },
  {
    key: "gets", title: "Users asked for, a second", line: (point) => point.gets, write: amount,
    now: (view) => amount(sum(view.rows, (said) => said.rates?.gets_per_s)),
    under: () => "all nodes together",
  },
  {
    key: "unknown", title: "Unknown answers a second", line: (point) => point.unknown, write: amount,
    now: (view) => amount(sum(view.rows, (said) => said.rates?.unknown_per_s)),
    under: (view) => {
      const asked = sum(view.rows, (said) => said.rates?.gets_per_s);
      return asked ? `${percent(sum(view.rows, (said) => said.rates?.unknown_per_s) / asked)} of what nodes answer` : "nobody asks";
    },
  },
  {
    key: "p99", title: "p99 of gets", line: (point) => point.p99, write: millis,
    now: (view) => millis(worst(view, "get")),
    under: () => "time in the slowest node, a frame",
  },
  {
    key: "p99_heartbeat", title: "p99 of heartbeats", line: (point) => point.p99_heartbeat, write: millis,
    now: (view) => millis(worst(view, "heartbeat")),
    under: () => "time in the slowest node, a frame",
  },
];

function epochText(view) {
  const found = [...new Set(view.rows.map((found) => found.summary?.epoch).filter(Number.isFinite))].sort((a, b) => a - b);
  return found.join(" and ") || NONE;
}

function worst(view, op) {
  const found = view.rows.map((item) => item.summary?.p99_ms?.[op]).filter(Number.isFinite);
  return found.length ? Math.max(...found) : null;
}

function renderTiles(view, minutes) {
  const epochs = epochsOf(view);
  const create = ({ title }) => {
    const axis = make("p", { class: "axis" }, make("span", {}, "5 min ago"), make("span", { class: "max" }), make("span", {}, "now"));
    const parts = [make("h2", {}, title), make("p", { class: "value" }), make("p", { class: "under" }), make("div", { class: "plot" })];
    return make("div", { class: "card tile" }, ...parts, axis);
  };
  list(byId("tiles"), TILES, (tile) => tile.key, create, (item, { title, line, write, now, under }) => {
    say(item.querySelector(".value"), now(view));
    say(item.querySelector(".under"), under(view));
    const known = minutes.map(line).filter(Number.isFinite);
    const label = known.length
      ? `${title}, last five minutes: from ${write(Math.min(...known))} to ${write(Math.max(...known))}`
      : `${title}: nothing is known of the last five minutes`;
    const { svg, top } = drawChart(minutes, line, epochs, label);
    item.querySelector(".plot").replaceChildren(svg);
    say(item.querySelector(".max"), top === null ? "" : `top ${write(top)}`);
  });
}

const COLUMNS = [
  { label: "Node" },
  { label: "State" },
  { label: "Share", n: true, write: (_, found) => percent(found.share_first) },
  { label: "Users held", n: true, write: (said) => exact(said.users) },
  { label: "Heartbeats/s", n: true, write: (said) => amount(said.rates?.heartbeats_per_s) },
  { label: "Asked/s", n: true, write: (said) => amount(said.rates?.gets_per_s) },
  { label: "Unknown/s", n: true, write: (said) => amount(said.rates?.unknown_per_s) },
  { label: "p99 of gets", n: true, write: (said) => millis(said.p99_ms?.get) },
  { label: "Loop lag p99", n: true, write: (said) => millis(said.p99_ms?.loop_lag) },
  { label: "Table", n: true, write: (said) => bytes(said.memory_bytes) },
  { label: "Connections", n: true, write: (said) => exact(said.connections) },
  { label: "Epoch", n: true, write: (said) => exact(said.epoch) },
  { label: "Up for", n: true, write: (said) => span(said.uptime_ms) },
];

const MINUTES = [
  { label: "Ago", write: (point) => (point.agoS ? span(point.agoS * 1000) : "now") },
  { label: "Users ≈", n: true, write: (point) => amount(point.users) },
  { label: "Heartbeats/s", n: true, write: (point) => amount(point.heartbeats) },
  { label: "Asked/s", n: true, write: (point) => amount(point.gets) },
  { label: "Unknown/s", n: true, write: (point) => amount(point.unknown) },
  { label: "p99 of gets", n: true, write: (point) => millis(point.p99) },
  { label: "Silent", n: true, write: (point) => (point.gets === null ? "all" : exact(point.missing)) },
];

function renderNodes(view) {
  const odd = (found) => (found.state === "ready" ? 1 : 0);
  const sorted = [...view.rows].sort((a, b) => odd(a) - odd(b));
  // A small cluster stays in the order of its file, so that a node is where it always is.
  const shown = view.rows.length <= ROWS_MAX ? view.rows : page.all ? sorted : sorted.slice(0, ROWS_MAX);
  list(byId("nodes"), shown, (found) => found.name, createNode, updateNode);
  show(byId("nodes-all"), view.rows.length > ROWS_MAX && !page.all);
  say(byId("nodes-all"), `Show all ${view.rows.length}, the others are ready`);
}

function createNode(found) {
  const made = row(COLUMNS);
  made.children[0].append(make("span", { class: "node-name" }, found.name), make("a", { class: "to" }), make("span", { class: "zone" }));
  made.children[1].append(make("span", { class: "pill" }), make("span", { class: "detail" }));
  return made;
}

function updateNode(made, found) {
  const [name, state] = made.children;
  const { mark, word, level, code } = STATES[found.state];
  const link = name.children[1];
  const own = found.name === page.view.from;
  show(link, !own && reachable(found));
  set(link, "href", reachable(found) ? `${location.protocol}//${found.admin}/` : null);
  set(link, "rel", "noreferrer");
  set(link, "aria-label", `Console of ${found.name}`);
  say(link, "open");
  say(name.children[2], [found.address, found.zone].filter(Boolean).join(" · "));
  set(state.children[0], "class", `pill t-${level}`);
  set(state.children[0], "title", `${code}, as pulsering status says`);
  say(state.children[0], `${mark} ${word}`);
  say(state.children[1], detailOf(found));
  const said = found.summary ?? found.last;
  set(made, "class", found.summary ? null : "stale");
  COLUMNS.forEach((column, place) => {
    if (column.write) say(made.children[place], said || column.label === "Share" ? column.write(said ?? {}, found) : NONE);
  });
}

function detailOf(found) {
  if (!found.summary) {
    return found.last ? `numbers are ${span((page.view.atS - found.heardS) * 1000)} old` : "never heard by this page";
  }
  if (found.state === "warming") return `${span(Math.ceil(found.summary.warming_ms / 1000) * 1000)} left`;
  if (found.state === "leaving") return found.summary.needed_ms ? `asked for ${span(found.summary.needed_ms)} more` : "may be stopped";
  return found.summary.overloaded ? "overloaded" : "";
}

const labels = (id) => [...byId(id).closest("table").querySelectorAll("thead th")].map((head) => ({ label: head.textContent, n: head.classList.contains("n") }));
const UNKNOWN = labels("unknown");
const TALKERS = labels("talkers");

function renderUnknown(view) {
  const create = () => {
    const made = row(UNKNOWN);
    made.children[0].append(make("span", { class: "node-name" }), make("span", { class: "zone" }));
    return made;
  };
  list(byId("unknown"), unknownsOf(view), ({ reason }) => reason, create, (made, { reason, perS, total, means }) => {
    const [head, rate, all] = made.children;
    say(head.children[0], reason);
    say(head.children[1], means);
    say(rate, perS === null ? "measuring" : amount(perS));
    say(all, exact(total));
    set(made, "class", perS ? "hot" : null);
  });
}

function renderTalkers(view) {
  const talkers = talkersOf(view);
  show(byId("talkers-none"), !talkers.length);
  show(byId("talkers").closest("table"), Boolean(talkers.length));
  list(byId("talkers"), talkers, (talker) => `${talker.node} ${talker.peer}`, () => {
    const made = row(TALKERS);
    made.children[0].append(make("span", { class: "node-name" }), make("span", { class: "zone" }));
    return made;
  }, (made, talker) => {
    say(made.children[0].children[0], talker.peer);
    say(made.children[0].children[1], talker.client);
    const { received_bytes: received, sent_bytes: sent } = talker;
    [talker.node, bytes(received), bytes(sent), span(talker.age_ms)].forEach((text, place) => say(made.children[place + 1], text));
  });
}

function renderMinutes(minutes) {
  const oldest = Math.max(0, ...minutes.filter((point) => Number.isFinite(point.gets)).map((point) => point.agoS));
  const shown = minutes.filter((point) => point.agoS % 30 === 0 && point.agoS <= oldest).reverse();
  list(byId("minutes"), shown, (point) => point.agoS, () => row(MINUTES), (made, point) => {
    MINUTES.forEach((column, place) => say(made.children[place], column.write(point)));
  });
}

function renderPast() {
  const past = memory.newest().slice(0, 30);
  show(byId("past-none"), !past.length);
  list(byId("past"), past, (entry) => entry.key, (entry) => {
    const words = [make("strong", {}, entry.node), ` ${entry.text}`];
    return make("li", { class: `t-${entry.level}` }, make("time", {}, clock(entry.wallMs)), make("span", {}, ...words));
  });
}

// -- The page itself ---------------------------------------------------------------------------------------------

function head(id, columns) {
  for (const { label, n } of columns) byId(id).append(make("th", { role: "columnheader", scope: "col", class: n ? "n" : null }, label));
}

head("nodes-head", COLUMNS);
head("minutes-head", MINUTES);

byId("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  set(byId("pause"), "aria-pressed", String(page.paused));
  say(byId("pause"), page.paused ? "Go on" : "Pause");
  if (page.paused) clearTimeout(page.timer);
  else ask();
  tick();
});
byId("nodes-all").addEventListener("click", () => {
  page.all = true;
  renderNodes(page.view);
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  page.token = byId("token").value.trim();
  byId("token").value = "";
  ask();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !page.paused) ask();
});
setInterval(tick, 1000);
ask();
