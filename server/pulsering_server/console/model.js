// What the documents of /cluster mean: states, what to look at, the last minutes. Knows no element of the page.
//
// A node's counters are its own, so everything that is added up says how many nodes it is of. What a node said is
// kept here while it is silent, with its age. Times are seconds of this page's clock; only ages travel.

import { amount, left, percent, span } from "./dom.js";

const STEP_S = 5;
const STEPS = 60;
const NEAR_S = 2.5; // rows of nodes are 5 to 6 s long and begin when they like
const MINUTE_S = 60;
const CERTIFICATE_LATE_MS = 14 * 86_400_000;
const PAST_MAX = 80;

export const STATES = {
  ready: { code: "UN", word: "ready", mark: "✓", level: "good" },
  warming: { code: "UW", word: "warming", mark: "◔", level: "watch" },
  draining: { code: "UR", word: "draining", mark: "↓", level: "note" },
  leaving: { code: "UL", word: "leaving", mark: "→", level: "note" },
  unreachable: { code: "DN", word: "unreachable", mark: "✕", level: "act" },
  unknown: { code: "??", word: "unknown", mark: "?", level: "dim" },
};

// Why a node is silent, where that says nothing of whether it serves.
const CANNOT_ASK = new Set(["off", "any_port", "loopback", "unnamed", "token", "trust", "old", "full", "not_asked"]);

const LEVELS = { act: 0, watch: 1, note: 2 };

export const REASONS = {
  start: "It was started, and waits one ttl before it calls anybody offline. Wait; restart no other node meanwhile.",
  stall: "It stood still and may have missed heartbeats. See what else runs there: steal time, swap, no processor.",
  clock: "Its clock could not be trusted, so it forgot all users. Drain nodes before their machine is paused.",
  topology: "It was given users of other nodes and waits for their heartbeats. It passes within one ttl.",
};

export function stateOf(row) {
  const said = row.summary;
  if (!said) return CANNOT_ASK.has(row.problem) ? "unknown" : "unreachable";
  if (said.draining) return "draining";
  if (said.removed) return "leaving";
  if (said.warming_ms > 0) return "warming";
  return said.ready ? "ready" : "unknown";
}

// What a page remembers of the cluster between two documents, and beyond.
export class Memory {
  constructor() {
    this.nodes = new Map();
    this.past = new Map();
    this.changes = [];
  }

  // Takes a document that came at nowS (wallMs on the wall); returns what there is to show.
  take(document, nowS, wallMs) {
    this.changes = [];
    const rows = document.nodes.map((row) => this.#note(row, nowS, wallMs));
    const names = new Set(rows.map((row) => row.name));
    for (const name of [...this.nodes.keys()].filter((name) => !names.has(name))) {
      this.nodes.delete(name);
      this.tell(`gone:${name}:${nowS}`, wallMs, name, "has left the cluster and is gone", "note", true);
    }
    const view = { from: document.from, atS: nowS, rows };
    view.own = rows.find((row) => row.name === document.from)?.summary ?? null;
    view.replicas = view.own?.replicas ?? 1;
    view.total = totalOf(view);
    return view;
  }

  tell(key, wallMs, node, text, level, announced = false) {
    if (this.past.has(key)) return;
    this.past.set(key, { key, wallMs, node, text, level });
    if (announced) this.changes.push(`${node} ${text}`);
    if (this.past.size > 2 * PAST_MAX) {
      for (const old of this.newest().slice(PAST_MAX)) this.past.delete(old.key);
    }
  }

  newest() {
    return [...this.past.values()].sort((a, b) => b.wallMs - a.wallMs).slice(0, PAST_MAX);
  }

  #note(row, nowS, wallMs) {
    const known = this.nodes.get(row.name) ?? { rows: new Map(), samples: [], last: null, heardS: null, state: null };
    this.nodes.set(row.name, known);
    const state = stateOf(row);
    if (known.state !== null && known.state !== state) this.#tellState(row, known.state, state, nowS, wallMs);
    known.state = state;
    if (row.summary) {
      known.last = row.summary;
      known.heardS = nowS - row.age_ms / 1000;
      this.#noteRows(known, row);
      this.#noteSample(known, row.summary);
      this.#noteEvents(row, wallMs);
    }
    for (const [key, { end }] of known.rows) if (end < nowS - STEP_S * (STEPS + 2)) known.rows.delete(key);
    return { ...row, state, known, heardS: known.heardS, last: known.last };
  }

  #tellState(row, before, state, nowS, wallMs) {
    const texts = {
      ready: before === "unreachable" ? "answers again and is ready" : "is ready",
      warming: `${before === "unreachable" ? "answers again, " : ""}is warming`,
      draining: "is draining",
      leaving: "is leaving",
      unreachable: `does not answer: ${row.message}`,
      unknown: `cannot be asked: ${row.message ?? "it says that it is not ready"}`,
    };
    const level = state === "unreachable" ? "act" : STATES[state].level;
    this.tell(`${state}:${row.name}:${nowS}`, wallMs, row.name, texts[state], level, true);
  }

  #noteRows(known, row) {
    const said = row.summary;
    const history = said.history ?? {};
    (history.ago_ms ?? []).forEach((agoMs, i) => {
      const upMs = said.uptime_ms - agoMs;
      const key = `${said.boot_id}:${upMs}`;
      if (known.rows.has(key)) return;
      const end = known.heardS - agoMs / 1000;
      const spanMs = history.span_ms[i];
      known.rows.set(key, {
        start: end - spanMs / 1000,
        end,
        warm: upMs - spanMs >= said.ttl_ms && !wasCold(said, agoMs),
        share: row.share,
        users: history.users[i],
        heartbeats: history.heartbeats_per_s[i],
        gets: history.gets_per_s[i],
        unknown: history.unknown_per_s[i],
        p99: history.p99_ms?.get?.[i] ?? null,
        p99_heartbeat: history.p99_ms?.heartbeat?.[i] ?? null,
      });
    });
  }

  #noteSample(known, said) {
    if (known.samples.at(-1)?.boot !== said.boot_id) known.samples = [];
    known.samples.push({ atS: known.heardS, boot: said.boot_id, unknown: said.unknown ?? {} });
    while (known.samples.length > 2 && known.samples[1].atS <= known.heardS - MINUTE_S) known.samples.shift();
  }

  #noteEvents(row, wallMs) {
    const said = row.summary;
    for (const event of said.events ?? []) {
      const key = `${said.boot_id}:${said.uptime_ms - event.ago_ms}:${event.event}`;
      const { text, level } = eventText(event);
      this.tell(key, wallMs - row.age_ms - event.ago_ms, row.name, text, level);
    }
  }
}

function wasCold(said, agoMs) {
  return (said.events ?? []).some(
    ({ event, ago_ms: since }) =>
      (event === "node.stalled" || event === "node.suspect") && since >= agoMs && since - agoMs <= said.ttl_ms,
  );
}

function eventText(event) {
  switch (event.event) {
    case "node.topology":
      return {
        text: `follows epoch ${event.epoch}: ${event.slots_gained} slots gained, ${event.slots_lost} lost`,
        level: "epoch",
      };
    case "node.warm":
      return { text: "became warm", level: "good" };
    case "node.stalled":
      return { text: `stood still for ${span(event.stood_still_ms)} and is cold for one ttl`, level: "watch" };
    case "node.suspect":
      return { text: `could not trust its clock and forgot ${amount(event.users_forgotten)} users`, level: "watch" };
    case "node.removed":
      return { text: `is not part of epoch ${event.epoch} any more`, level: "note" };
    case "node.not_needed":
      return { text: "is not asked any more and may be stopped", level: "note" };
    default: {
      const facts = Object.entries(event).filter(([name]) => name !== "event" && name !== "ago_ms");
      return { text: [event.event, ...facts.map(([name, value]) => `${name}=${value}`)].join(" "), level: "note" };
    }
  }
}

// Each user is counted by the first of its owners that is not skipped, so nodes must have skipped the same: whoever
// is silent, or cold where another owner is not.
function totalOf(view) {
  const silent = view.rows.filter((row) => !row.summary && !row.leaving);
  const heard = view.rows.filter((row) => row.summary);
  const cold = heard.filter((row) => row.summary.warming_ms > 0);
  const out = silent.length + cold.length < view.replicas ? [...silent, ...cold] : silent;
  const skipped = JSON.stringify(out.map((row) => row.name).sort());
  const users = heard.reduce((sum, row) => sum + (row.summary.users_first ?? 0), 0);
  const agreed = heard.every((row) => JSON.stringify(row.summary.skipped ?? null) === skipped);
  const oneEpoch = new Set(heard.map((row) => row.summary.topology_hash)).size === 1;
  // A node that was given users of others: who else holds them depends on the change.
  const told = cold.every((row) => out.includes(row) && row.summary.cold !== "topology");
  return { users: heard.length ? users : null, exact: agreed && oneEpoch && told && out.length < view.replicas };
}

export function sum(rows, pick) {
  const values = rows.filter((row) => row.summary).map((row) => pick(row.summary)).filter(Number.isFinite);
  return values.length ? values.reduce((a, b) => a + b, 0) : null;
}

// The last five minutes, a point every five seconds, oldest first. `missing` nodes said nothing of that time.
export function minutesOf(view) {
  const nodes = view.rows.filter((row) => !row.leaving);
  const histories = nodes.map((row) => [...row.known.rows.values()].sort((a, b) => a.end - b.end));
  const points = [];
  for (let step = STEPS; step >= 0; step -= 1) {
    const agoS = step * STEP_S;
    points.push(pointAt(histories, view.atS - agoS, agoS));
  }
  return points;
}

function pointAt(histories, atS, agoS) {
  const rows = histories
    .map((rows) => rows.findLast((row) => row.start - NEAR_S <= atS && atS <= row.end + 2 * NEAR_S))
    .filter(Boolean);
  const added = (name) => (rows.length ? rows.reduce((total, row) => total + row[name], 0) : null);
  const worst = (name) => rows.map((row) => row[name]).filter(Number.isFinite).reduce((a, b) => Math.max(a, b), -1);
  const warm = rows.filter((row) => row.warm);
  const share = warm.reduce((total, row) => total + row.share, 0);
  return {
    agoS,
    missing: rows.length ? histories.length - rows.length : 0,
    users: share > 0 ? warm.reduce((total, row) => total + row.users, 0) / share : null,
    heartbeats: added("heartbeats"),
    gets: added("gets"),
    unknown: added("unknown"),
    p99: worst("p99") < 0 ? null : worst("p99"),
    p99_heartbeat: worst("p99_heartbeat") < 0 ? null : worst("p99_heartbeat"),
  };
}

// When an epoch began, in seconds ago, as far as nodes tell.
export function epochsOf(view) {
  const found = new Map();
  for (const { summary, age_ms: ageMs } of view.rows) {
    for (const event of summary?.events ?? []) {
      if (event.event !== "node.topology") continue;
      found.set(event.epoch, Math.max(found.get(event.epoch) ?? 0, (event.ago_ms + ageMs) / 1000));
    }
  }
  return [...found].map(([epoch, agoS]) => ({ epoch, agoS })).filter(({ agoS }) => agoS <= STEP_S * STEPS);
}

// Unknown answers by reason: how many since the nodes started, and a second over the last minute, if long enough known.
export function unknownsOf(view) {
  return Object.keys(REASONS).map((reason) => {
    let perS = null;
    for (const { known, summary } of view.rows) {
      const [first, last] = [known.samples[0], known.samples.at(-1)];
      if (!summary || !first || last.atS - first.atS < STEP_S) continue;
      perS = (perS ?? 0) + ((last.unknown[reason] ?? 0) - (first.unknown[reason] ?? 0)) / (last.atS - first.atS);
    }
    return { reason, perS, total: sum(view.rows, (said) => said.unknown?.[reason]), means: REASONS[reason] };
  });
}

export function talkersOf(view, most = 8) {
  const all = view.rows.flatMap((row) => (row.summary?.talkers ?? []).map((talker) => ({ ...talker, node: row.name })));
  const moved = (talker) => talker.received_bytes + talker.sent_bytes;
  return all.sort((a, b) => moved(b) - moved(a)).slice(0, most);
}

// -- What to look at ---------------------------------------------------------------------------------------------

const names = (rows, most = 4) => {
  const first = rows.slice(0, most).map((row) => row.name);
  if (rows.length > most) return `${first.join(", ")} and ${rows.length - most} more`;
  return first.length > 1 ? `${first.slice(0, -1).join(", ")} and ${first.at(-1)}` : first.join("");
};
const verb = (rows, one, many) => (rows.length === 1 ? one : many);

// What users see of the nodes that are down or cold.
export function impactOf(view) {
  const nodes = view.rows.filter((row) => !row.leaving);
  const out = nodes.filter((row) => row.state === "unreachable" || row.state === "warming");
  const unsure = nodes.filter((row) => row.state === "unknown");
  if (!out.length) {
    if (unsure.length) return `Nothing is wrong on the ${nodes.length - unsure.length} of ${nodes.length} nodes that tell.`;
    return "Every node answers and is ready; what users see is true.";
  }
  if (out.length < view.replicas) {
    return `Users see nothing of it: each has ${view.replicas} owners, so there is one beside ${names(out)} that answers.`;
  }
  if (view.replicas === 1) {
    const share = out.reduce((total, row) => total + row.share_first, 0);
    return `Users who belong to ${names(out)} (${percent(share)} of all) may be unknown. Nobody is shown wrongly.`;
  }
  return `Users whose ${view.replicas} owners are all among ${names(out)} may be unknown until one of these is ready. Nobody is shown wrongly.`;
}

export function findingsOf(view) {
  const found = [...silences(view), ...phases(view), ...topology(view), ...loads(view)];
  return found.sort((a, b) => LEVELS[a.level] - LEVELS[b.level]);
}

function silences(view) {
  return view.rows
    .filter((row) => !row.summary)
    .map((row) => ({
      key: `silent:${row.name}`,
      level: row.state === "unreachable" ? "act" : "watch",
      title: row.state === "unreachable" ? `${row.name} does not answer` : `${row.name} cannot be asked from here`,
      why: `${capital(row.message ?? "it says nothing")}.`,
      next: capital(row.advice ?? "look at its log"),
      token: row.problem === "token",
    }));
}

function phases(view) {
  const found = [];
  for (const row of view.rows) {
    if (row.state === "warming") {
      found.push({
        key: `warming:${row.name}`,
        level: "note",
        title: `${row.name} is warming, for ${left(row.summary.warming_ms)} more`,
        why: "Until then it says unknown of users that it does not hold, as it may have missed their heartbeats.",
        next: "Nothing to do. Restart no other node before it is ready.",
      });
    } else if (row.state === "draining") {
      found.push({
        key: `draining:${row.name}`,
        level: "note",
        title: `${row.name} is draining`,
        why: "It was told to stop, serves whoever is still there, and ends within 12 s.",
        next: `If nobody meant that, start it again: \`systemctl start pulsering@${row.service ?? row.name}\``,
      });
    } else if (row.state === "leaving") {
      const needed = row.summary.needed_ms > 0;
      found.push({
        key: `leaving:${row.name}`,
        level: "note",
        title: needed ? `${row.name} is leaving, asked for ${left(row.summary.needed_ms)} more` : `${row.name} may be stopped`,
        why: `It is not part of epoch ${row.summary.epoch}${needed ? ", but clients may still ask for users it holds" : ""}.`,
        next: needed ? "Let it run until then." : `Stop it when you like: \`systemctl stop pulsering@${row.service ?? row.name}\``,
      });
    }
  }
  return found;
}

function topology(view) {
  const found = [];
  const heard = view.rows.filter((row) => row.summary);
  const groups = Map.groupBy(heard, (row) => row.summary.topology_hash);
  if (groups.size > 1) {
    const parts = [...groups.values()].map((rows) => `${names(rows)}: epoch ${rows[0].summary.epoch}`);
    found.push({
      key: "topology",
      level: "watch",
      title: "Nodes follow different topologies",
      why: `${parts.join("; ")}. For some seconds of a rollout that is as it should be; clients ask old and new owners.`,
      next: "If it stays, copy cluster.yaml to the odd ones; `pulsering apply` does it and can be started again.",
    });
  }
  const refused = heard.filter((row) => row.summary.config_ok === false);
  if (refused.length) {
    found.push({
      key: "config",
      level: "watch",
      title: `${names(refused)} refused the last cluster.yaml`,
      why: refused[0].summary.config_problems?.join(" · ") || "Why is in the log.",
      next: "`pulsering config validate`, mend the file; nodes read it again by themselves. Until then do not restart them.",
    });
  }
  const frozen = heard.filter((row) => row.summary.topology_frozen);
  if (frozen.length) {
    found.push({
      key: "frozen",
      level: "watch",
      title: `${names(frozen)} cannot reach etcd`,
      why: "The topology stays as it is, and users see nothing of that. Changes of it are not heard.",
      next: "See why: `etcdctl endpoint health`. Until it is back do not restart nodes, nor change the topology.",
    });
  }
  const ending = heard.filter((row) => row.summary.tls_left_ms !== null && row.summary.tls_left_ms < CERTIFICATE_LATE_MS);
  if (ending.length) {
    const first = Math.min(...ending.map((row) => row.summary.tls_left_ms));
    found.push({
      key: "certificate",
      level: "watch",
      title: first ? `A certificate of ${names(ending)} ends in ${span(first)}` : `A certificate of ${names(ending)} has ended`,
      why: first ? "After that no client connects any more." : "No client connects any more; those connected stay.",
      next: "Put the new one in the place of the old; nodes take it up by themselves. See `tls` in cluster.yaml.",
    });
  }
  return found;
}

// The same bounds as the alerts in deploy/prometheus.
function loads(view) {
  const found = [];
  const heard = view.rows.filter((row) => row.summary);
  const where = (holds) => heard.filter((row) => holds(row.summary, row.summary.rates ?? {}));
  const add = (rows, key, level, title, why, next) => rows.length && found.push({ key, level, title, why, next });

  const busy = where((_, rates) => rates.busy_per_s > 1);
  add(busy, "busy", "act", `${names(busy)} ${verb(busy, "is", "are")} asked for more than a core can do`,
    "Requests that came too late are refused as BUSY, gets before heartbeats; clients wait and try again.",
    "Find who asks so much under Top talkers; add cores or nodes.");
  const full = where((_, rates) => rates.users_refused_per_s > 0);
  add(full, "full", "act", `${names(full)} ${verb(full, "has", "have")} no room for more users`,
    "Heartbeats of users who are not online yet are refused there. Who is online stays so.",
    "Raise `limits.memory` and restart one after the other, each when the one before is ready; or add nodes.");
  const users = sum(heard, (said) => said.users);
  const beats = sum(heard, (said) => said.rates?.heartbeats_per_s);
  const settled = where((said) => said.span_ms >= 5000);
  add(users > 0 && beats === 0 ? settled : [], "silence", "act", "No heartbeats come in",
    "Users are online, and nobody was heard for seconds: all go offline within one ttl.",
    "It is almost never the nodes. Look at what sends: the API servers, their client, the network between.");
  const asked = sum(heard, (said) => said.rates?.gets_per_s);
  const unknown = sum(heard, (said) => said.rates?.unknown_per_s);
  const coldLately = where((said) => said.warming_ms > 0 || warmedLately(said)).length > 0;
  add(asked > 0 && unknown > asked / 1000 ? heard : [], "unknown", coldLately ? "note" : "watch",
    `${percent(unknown / asked)} of the answers of nodes are unknown`,
    "A client that is told unknown asks the other owners, so callers see fewer.",
    "The table of reasons below says why; all of them pass within one ttl.");
  const stale = where((_, rates) => rates.stale_per_s > rates.heartbeats_per_s / 100);
  add(stale, "stale", "watch", `Heartbeats come too late to ${names(stale)}`,
    "More than one in a hundred is older than a ttl, or older than a leave of the same user.",
    "A queue or a link in front of the nodes stands still now and then: look at what sends.");
  // One slow moment is no finding: half of the last minute's rows.
  const slow = where((said) => (said.history?.p99_ms?.loop_lag ?? []).slice(-12).filter((lag) => lag > 50).length > 5);
  add(slow, "lag", "watch", `${names(slow)} ${verb(slow, "does", "do")} not get a core`,
    "One in a hundred timers is more than 50 ms late, and answers with it.",
    "See what else runs there: `vmstat 1 5` for steal time and swap; a limit of processor; too much load for a core.");
  const tight = where((said) => said.memory_bytes > 0.9 * said.memory_max_bytes);
  add(tight, "memory", "watch", `The table of ${names(tight)} is nearly as large as it may be`,
    "Users beyond that would be refused.", "Raise `limits.memory`, or add nodes: `pulsering size` reckons.");
  const many = where((said) => said.connections > 0.8 * said.connections_max);
  add(many, "connections", "watch", `${names(many)} ${verb(many, "has", "have")} nearly all connections taken`,
    "Clients beyond that are refused.", "Lower `max_connections` of the clients, or raise `limits.connections`.");
  return found;
}

const warmedLately = (said) =>
  (said.events ?? []).some(({ event, ago_ms: agoMs }) => event === "node.warm" && agoMs < 3 * said.span_ms);

export function verdictOf(view, findings) {
  const nodes = view.rows.filter((row) => !row.leaving);
  const urgent = findings.filter((finding) => finding.level === "act");
  const watch = findings.filter((finding) => finding.level === "watch");
  const more = (those) => (those.length > 1 ? `, and ${those.length - 1} more` : "");
  if (urgent.length) return { level: "act", mark: "✕", title: `${urgent[0].title}${more(urgent)}` };
  if (watch.length) return { level: "watch", mark: "!", title: `${watch[0].title}${more(watch)}` };
  if (findings.length) return { level: "note", mark: "i", title: `Nothing to do: ${findings[0].title}${more(findings)}` };
  const all = nodes.length === 1 ? "the node is ready" : `all ${nodes.length} nodes are ready`;
  return { level: "good", mark: "✓", title: `All is well: ${all}` };
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
