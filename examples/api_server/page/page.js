/* A friends list whose dots turn by themselves; this tab is a user like any other.
 *
 * A tab says it is alive as often as the server asks for (POST /heartbeat), says goodbye when it goes (POST /leave,
 * by sendBeacon) and is told changes on the WebSocket /watch. Friends are kept in localStorage, which all tabs of a
 * browser share, so that two tabs find each other; who this tab is, in sessionStorage, which they do not share.
 *
 * Always: nobody is shown online by a page that hears nothing. While the way to the server is broken, all are unknown.
 */

const ID = /^[a-z0-9][a-z0-9_-]{0,31}$/;
const NAME_HELP = "A name is 1 to 32 letters (a to z), digits, - or _.";
const LOST_MS = 3000; // A server that is restarted is back by then; nothing needs to flicker.
const RETRY_MS = [250, 8000];
const WORDS_MS = 15000;
const WHY = {
  cold: "Not known yet: a node is warming up",
  unreachable: "Not known: no node answers for it",
  moved: "Not known yet: the cluster is changing",
  overloaded: "Not known: the cluster is busy",
  line: "Not known while disconnected",
  asking: "One moment",
};

const $ = (selector) => document.querySelector(selector);
const shown = (id) => id[0].toUpperCase() + id.slice(1);
const jitter = (ms) => ms * Math.random();

// --- Who this tab is ----------------------------------------------------------------------------------------------

let me = null; // {id, token}

async function ask(path, how = {}) {
  const headers = { ...how.headers, ...(me && { Authorization: `Bearer ${me.token}` }) };
  return fetch(path, { ...how, headers, cache: "no-store" });
}

async function openSession(name) {
  const body = JSON.stringify({ name });
  const answer = await fetch("/session", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail);
  me = { id: told.id, token: told.token };
  sessionStorage.setItem("me", JSON.stringify(me));
  return told.friends;
}

async function comeIn(name) {
  const suggested = await openSession(name);
  friends.keep([...friends.kept(), ...suggested, me.id]);
  start();
}

function start() {
  $("#hello").hidden = true;
  $("#friends").hidden = false;
  $("#my-name").textContent = shown(me.id);
  paint($("#my-avatar"), me.id);
  document.title = `${shown(me.id)}: who is there?`;
  friends.show();
  heart.beat();
  line.open();
}

function leave() {
  heart.stop();
  line.close();
  navigator.sendBeacon("/leave", new URLSearchParams({ token: me.token }));
}

function forget() {
  me = null;
  sessionStorage.removeItem("me");
  friends.clear();
  $("#friends").hidden = true;
  $("#hello").hidden = false;
  document.title = "Who is there?";
  $("#name").focus();
}

// --- Being alive --------------------------------------------------------------------------------------------------

const heart = {
  timer: 0,
  every: 5000,
  ok: true,

  async beat() {
    clearTimeout(this.timer);
    const whose = me;
    let wait = 500 + jitter(1500);
    try {
      const answer = await ask("/heartbeat", { method: "POST" });
      if (whose !== me) return;
      if (answer.status === 401) await openSession(me.id); // the server has another secret now
      this.ok = answer.ok;
      if (answer.ok) {
        this.every = (await answer.json()).beat_again_ms;
        wait = this.every * (0.9 + jitter(0.1)); // a thousand tabs must not beat in step
      } else if (answer.status === 503) {
        wait += 1000 * Number(answer.headers.get("Retry-After"));
      }
    } catch {
      this.ok = false;
    }
    if (whose === null || me === null) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.beat(), wait);
    line.show();
  },

  stop() {
    clearTimeout(this.timer);
  },
};

// --- Being told ---------------------------------------------------------------------------------------------------

const line = {
  socket: null,
  state: "joining",
  tries: 0,
  pulse: 5000,
  timers: {},

  open() {
    this.close();
    const url = new URL("/watch", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.socket = socket;
    this.listen();
    socket.onopen = () => {
      socket.send(JSON.stringify({ token: me.token }));
      this.add(friends.ids());
    };
    socket.onmessage = (event) => socket === this.socket && this.hear(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.socket && this.lose(event.code);
  },

  hear(message) {
    this.listen();
    if (message.pulse_ms) {
      this.pulse = message.pulse_ms;
      this.tries = 0;
      clearTimeout(this.timers.lost);
      this.is("live");
    } else if (message.id) {
      friends.turn(message);
    }
  },

  listen() { // a way that is silent for three pulses is broken, whatever the browser thinks of it
    clearTimeout(this.timers.silent);
    this.timers.silent = setTimeout(() => this.lose(), 3 * this.pulse);
  },

  lose(code) {
    this.close();
    this.is("lost");
    this.timers.lost ??= setTimeout(() => friends.unknow("line"), LOST_MS);
    const wait = jitter(Math.min(RETRY_MS[1], RETRY_MS[0] * 2 ** this.tries++));
    this.timers.again = setTimeout(async () => {
      if (code === 4401) await openSession(me.id).catch(() => {});
      this.open();
    }, wait);
  },

  close() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.timers.silent);
    clearTimeout(this.timers.again);
    socket?.close();
  },

  add(ids) {
    this.say("add", ids);
  },

  remove(ids) {
    this.say("remove", ids);
  },

  say(what, ids) {
    if (ids.length && this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ [what]: ids }));
  },

  is(state) {
    this.state = state;
    if (state === "live") this.timers.lost = null;
    this.show();
  },

  show() {
    const words = {
      joining: "Joining…",
      lost: "Reconnecting…",
      live: heart.ok ? "Online, as your friends see you" : "Your heartbeat does not get through",
    };
    const state = this.state === "live" && !heart.ok ? "lost" : this.state;
    $("#line").dataset.line = state;
    $("#line span").textContent = words[this.state];
  },
};

// --- Friends ------------------------------------------------------------------------------------------------------

const friends = {
  all: new Map(), // id -> {status, reason, seen, row}

  ids() {
    return [...this.all.keys()];
  },

  kept() {
    try {
      return JSON.parse(localStorage.getItem("friends") ?? "[]").filter((id) => ID.test(id));
    } catch {
      return [];
    }
  },

  keep(ids) {
    localStorage.setItem("friends", JSON.stringify([...new Set(ids)].slice(-200)));
  },

  show() { // what is kept is what is shown, and watched
    const wanted = new Set(this.kept().filter((id) => id !== me.id));
    const gone = this.ids().filter((id) => !wanted.has(id));
    const come = [...wanted].filter((id) => !this.all.has(id));
    for (const id of gone) {
      this.all.get(id).row.remove();
      this.all.delete(id);
    }
    for (const id of come) this.all.set(id, { status: "unknown", reason: "asking", row: rowOf(id) });
    for (const id of this.ids().sort()) $("#list").append(this.all.get(id).row);
    for (const id of come) write(this.all.get(id));
    line.remove(gone);
    line.add(come);
    tally();
  },

  clear() {
    this.all.clear();
    $("#list").replaceChildren();
  },

  turn({ id, status, reason }) {
    const friend = this.all.get(id);
    if (!friend) return;
    const [before, first] = [friend.status, friend.reason === "asking"];
    if (before === "online" && status === "offline") friend.seen = performance.now();
    Object.assign(friend, { status, reason });
    write(friend);
    if (!first && before !== status && status !== "unknown") {
      friend.row.dataset.turned = status;
      say(`${shown(id)} is ${status}`);
    }
    if (status === "offline") lastSeen.want(id);
    tally();
  },

  unknow(reason) {
    for (const friend of this.all.values()) {
      Object.assign(friend, { status: "unknown", reason });
      write(friend);
    }
    tally();
  },
};

/** When those who are offline were last seen: asked for in one question, of a server that knows. */
const lastSeen = {
  ids: new Set(),
  timer: 0,

  want(id) {
    this.ids.add(id);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask([...this.ids].slice(0, 200)), 200);
  },

  async ask(ids) {
    this.ids.clear();
    const answer = await ask(`/status?ids=${ids}`).catch(() => null);
    if (!answer?.ok) return;
    for (const { id, last_seen_s: ago } of (await answer.json()).statuses) {
      const friend = friends.all.get(id);
      if (friend?.status !== "offline" || ago === undefined || ago === null) continue;
      friend.seen = performance.now() - 1000 * ago;
      write(friend);
    }
  },
};

function words({ status, reason, seen }) {
  if (status === "online") return "Online";
  if (status === "unknown") return WHY[reason] ?? "Not known";
  if (seen === undefined) return "Offline";
  const minutes = Math.floor((performance.now() - seen) / 60000);
  if (minutes < 1) return "Last seen just now";
  const [size, unit] = minutes < 60 ? [1, "minute"] : minutes < 1440 ? [60, "hour"] : [1440, "day"];
  const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(minutes / size), unit);
  return `Last seen ${ago}`;
}

// --- What is seen -------------------------------------------------------------------------------------------------

function make(tag, classes, text = "") {
  const element = document.createElement(tag);
  element.className = classes;
  element.textContent = text;
  return element;
}

function paint(avatar, id) {
  const hue = [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 360, 7);
  avatar.style.setProperty("--hue", hue);
  avatar.replaceChildren(make("span", "face", id.split(/[-_]+/).slice(0, 2).map((part) => part.charAt(0).toUpperCase()).join("")));
}

function rowOf(id) {
  const row = make("li", "friend");
  row.dataset.id = id;
  const avatar = make("span", "avatar");
  avatar.ariaHidden = "true";
  paint(avatar, id);
  avatar.append(make("i", "dot"));
  const spot = make("div", "spot");
  spot.append(make("p", "name", shown(id)), make("p", "words"));
  const drop = make("button", "drop", "×");
  drop.type = "button";
  drop.ariaLabel = `Remove ${shown(id)}`;
  drop.onclick = () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    friends.keep(friends.kept().filter((each) => each !== id));
    friends.show();
    (next?.querySelector(".drop") ?? $("#friend")).focus();
  };
  row.append(avatar, spot, drop);
  row.addEventListener("animationend", (event) => event.animationName === "turn" && delete row.dataset.turned);
  return row;
}

function write(friend) {
  friend.row.dataset.status = friend.status;
  const place = friend.row.querySelector(".words");
  const text = words(friend);
  if (place.textContent !== text) place.textContent = text;
}

function tally() {
  const here = [...friends.all.values()].filter((friend) => friend.status === "online").length;
  $("#tally").textContent = friends.all.size ? `${here} of ${friends.all.size} online` : "";
  $("#nobody").hidden = friends.all.size > 0;
}

let sentences = [];
let speaking = 0;

function say(sentence) { // for whoever hears this page; many at once become one announcement
  sentences.push(sentence);
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    $("#said").textContent = sentences.length > 3 ? `${sentences.length} friends came or went` : sentences.join(", ");
    sentences = [];
  }, 700);
}

// --- What a person does -------------------------------------------------------------------------------------------

function onName(form, field, then) {
  const problem = $(`[data-for="${field.id}"]`);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const name = field.value.trim().toLowerCase().replace(/\s+/g, "-");
    problem.textContent = "";
    try {
      if (!ID.test(name)) throw new Error(NAME_HELP);
      await then(name);
      field.value = "";
    } catch (error) {
      problem.textContent = error instanceof TypeError ? "The server does not answer. Try again." : error.message;
      field.focus();
    }
  };
}

onName($("#hello"), $("#name"), comeIn);
onName($("#add"), $("#friend"), (name) => {
  if (name === me.id) throw new Error("That is you.");
  friends.keep([...friends.kept(), name]);
  friends.show();
});
$("#go").onclick = () => {
  leave();
  forget();
};
addEventListener("pagehide", () => me && leave());
addEventListener("pageshow", (event) => event.persisted && me && start());
addEventListener("storage", (event) => event.key === "friends" && me && friends.show());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && me && heart.beat());
setInterval(() => friends.all.forEach(write), WORDS_MS);

me = JSON.parse(sessionStorage.getItem("me") ?? "null");
if (me) {
  friends.keep([...friends.kept(), me.id]);
  start();
} else {
  $("#hello").hidden = false;
  $("#name").focus();
}
