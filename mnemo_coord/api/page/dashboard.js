(() => {
  "use strict";

  const REFRESH_S = 2, SILENT_AFTER_S = 10, GIVE_UP_AFTER_S = 25;
  const MAX_EVENTS = 200, MAX_ATTENTION = 8, MAX_EDGES = 120, MAX_FLOW_ROWS = 200, MAX_DOTS = 60, FEW_MAILBOXES = 12, MAX_BRANCH_ROWS = 200, FEW_FILES = 3;
  const FLEET_SLOTS = 24, OUTSIDE_SLOTS = 8, DOT_MS = 1100, DOT_FRAME_MS = 32, LIST_MS = 33, PACE_MS = 200, OLD_MESSAGE_S = 60;
  const SVG = "http://www.w3.org/2000/svg";
  const API_URL = /^http:\/\/(127\.0\.0\.1|\[::1\]):(\d{1,5})$/;
  const STATUSES = ["dead", "untrusted", "stalled", "paused", "alive", "foreign"];
  const ICONS = {
    alive: "M-4 .5-1.2 3.2 4-3", dead: "M-3.5-3.5l7 7M3.5-3.5l-7 7", stalled: "M0-5v5.5M0 4v.2", paused: "M-2.5-4v8M2.5-4v8",
    untrusted: "M-2.8-2.6a2.8 2.6 0 1 1 4.6 2q-1.8 1-1.8 2.1M0 4.6v.2", foreign: "M-4 0h8", outside: "M-3.5-3.5l7 7M3.5-1.5v5h-5", unknown: "M-.1 0h.2",
  };
  const STATUS_MEANS = {
    alive: "alive", stalled: "stalled: beats late", paused: "paused", dead: "dead", untrusted: "untrusted", foreign: "foreign: of another machine or user", outside: "sender outside the fleet",
  };
  // EventSource hands out named events only to those who ask by name: the server says which there are.
  const KINDS = document.body.dataset.kinds.split(" ");
  const $ = (id) => document.getElementById(id);
  const clock = () => performance.now() / 1000;
  const stillness = matchMedia("(prefers-reduced-motion: reduce)");

  const state = {
    overview: null, arrived: 0, instances: new Map(), usage: new Map(), mailboxes: [], claims: [], work: [], workOf: new Map(), conflicts: [], closeTo: new Map(), findings: new Map(), flows: new Map(),
    deadLettered: 0, refused: 0, events: [], shownEvents: [], paused: false, held: 0, lastEventId: null, server: null, serial: 0, waiting: new Map(),
    sort: null, allAttention: false, allMailboxes: false,
  };

  // ---- text of strangers -------------------------------------------------------------------------------------------------------------------------
  const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const PILES = /(\p{M}{2})\p{M}+/gu;

  function showControl(character) {
    const code = character.charCodeAt(0);
    if (code === 9) return " ";
    if (code === 10) return "↵";
    // Caret notation: every font has it, unlike the pictures of control characters.
    return code < 0x20 || code === 0x7f ? `^${String.fromCharCode(code ^ 0x40)}` : "\ufffd";
  }

  function clean(value, limit = 300) {
    if (value === null || value === undefined) return "";
    const raw = typeof value === "object" ? JSON.stringify(value) : String(value);
    const safe = raw.slice(0, limit + 1).replace(UNSAFE, showControl).replace(PILES, "$1");
    return safe.length > limit ? safe.slice(0, limit - 1).replace(/[\ud800-\udbff]$/, "") + "…" : safe;
  }

  const list = (value) => (Array.isArray(value) ? value.filter((entry) => entry !== null && entry !== undefined) : []);
  const number = (value) => (Number.isFinite(value) ? value : 0);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  function ageText(seconds) {
    if (!Number.isFinite(seconds)) return "";
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    return s < 86400 ? `${Math.floor(s / 3600)} h` : plural(Math.floor(s / 86400), "day");
  }

  function bytesText(bytes) {
    if (!Number.isFinite(bytes)) return "";
    return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
  }

  function shortPath(path) {
    const parts = clean(path, 2000).split("/").filter(Boolean);
    return parts.length > 1 ? `…/${clean(parts.at(-1), 30)}` : clean(path, 30);
  }

  // ---- DOM helpers -------------------------------------------------------------------------------------------------------------------------------
  function el(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    node.append(...children);
    return node;
  }

  function put(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function attr(node, name, value) {
    if (value === null) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }

  const bdi = (text, title) => { const node = el("bdi", "", text); if (title) node.title = title; return node; };
  const known = (status) => (STATUSES.includes(status) ? status : "unknown");

  function mark(status) {
    return svg("svg", { class: "mark", viewBox: "-9 -9 18 18", "aria-hidden": "true", "data-status": status },
      svg("circle", { r: 9 }), svg("path", { d: ICONS[status] }));
  }

  function remark(node, status) {
    if (node.getAttribute("data-status") === status) return;
    node.setAttribute("data-status", status);
    node.lastChild.setAttribute("d", ICONS[status]);
  }

  // Updates the children of `parent` in place: same key, same element; only what moved is moved.
  function reconcile(parent, kept, items, keyOf, create, update) {
    const wanted = new Map();
    for (const item of items) if (!wanted.has(keyOf(item))) wanted.set(keyOf(item), item);
    for (const [key, row] of kept) if (!wanted.has(key)) { row.root.remove(); kept.delete(key); }
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    let cursor = parent.firstElementChild;
    for (const [key, item] of wanted) {
      let row = kept.get(key);
      if (!row) kept.set(key, row = create(item));
      if (update) update(row, item);
      if (row.root === cursor) cursor = cursor.nextElementSibling;
      else parent.insertBefore(row.root, cursor);
    }
    if (focused && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  // ---- names -------------------------------------------------------------------------------------------------------------------------------------
  const nameOf = (id) => clean(state.instances.get(id)?.name || id, 80);

  function who(id) {
    if (id === null || id === undefined) return "someone";
    return el("b", "", bdi(nameOf(id), clean(id)));
  }

  function instanceAt(address) {
    if (state.instances.has(address)) return address;
    for (const [id, instance] of state.instances) if (instance.name === address) return id;
    return null;
  }

  // ---- what arrives ------------------------------------------------------------------------------------------------------------------------------
  function takeSnapshot(overview) {
    const now = clock();
    const fleet = new Map();
    for (const instance of list(overview.instances)) {
      const id = String(instance.instance_id);
      fleet.set(id, { ...instance, id, beatAt: Number.isFinite(instance.heartbeat_age) ? now - instance.heartbeat_age : null });
    }
    Object.assign(state, {
      overview, arrived: now, instances: fleet, usage: new Map(Object.entries(overview.usage || {})), mailboxes: list(overview.mailboxes),
      claims: list(overview.claims), findings: new Map(list(overview.findings).map((finding) => [findingKey(finding), finding])),
      deadLettered: number(overview.dead_lettered), refused: number(overview.refused), waiting: new Map(),
    });
    for (const box of state.mailboxes) {
      const owner = instanceAt(box.address);
      if (owner) state.waiting.set(owner, (state.waiting.get(owner) || 0) + number(box.waiting));
    }
    takeBranches(overview);
    state.memory = overview.memory || null;
    takeFlows(list(overview.flows), now, link.fresh);
    if (link.fresh) noteMissed(overview.last_event_id);
    link.fresh = false;
    schedule("header", "attention", "picture", "instances", "branches", "mailboxes", "claims", "memories", "events");
    recall(list(overview.past));
  }

  const findingKey = (finding) => JSON.stringify([finding.code, finding.subject]);
  const flowKey = (from, to) => JSON.stringify([from, to]);

  // On a new connection nothing moves and nothing is carried over: the counters grew unseen, perhaps in another process.
  function takeFlows(flows, now, first) {
    const fresh = new Map();
    if (first) state.flows.clear();
    for (const flow of flows) {
      const from = String(flow.from_agent), to = String(flow.to_agent), key = flowKey(from, to), old = state.flows.get(key);
      const grown = old ? Math.max(0, number(flow.count) - old.counted) : number(flow.count);
      const credit = old && now - old.creditAt < 15 ? old.credit : 0;
      // What an event has shown already is not shown again when the counter catches up.
      if (!first && grown > credit) for (let i = 0; i < Math.min(6, grown - credit); i++) launchDot(from, to, i * 0.16);
      fresh.set(key, { from, to, counted: number(flow.count), credit: Math.max(0, credit - grown), creditAt: old?.creditAt || 0, lastAt: now - number(flow.age) });
    }
    // A flow known from an event only: the receiver's counters come with its next heartbeat.
    for (const [key, old] of state.flows) if (!fresh.has(key) && old.counted === 0 && now - old.creditAt < 15) fresh.set(key, old);
    state.flows = fresh;
  }

  function noteMessage(from, to, id, received) {
    const key = flowKey(from, to), now = clock(), message = JSON.stringify([id, to]);
    if (shownMessages.has(message)) return;
    shownMessages.add(message);
    if (shownMessages.size > 500) shownMessages.delete(shownMessages.values().next().value);
    const flow = state.flows.get(key) || { from, to, counted: 0, credit: 0, creditAt: 0, lastAt: now };
    flow.credit += 1;
    flow.creditAt = now;
    if (received) flow.lastAt = now;
    state.flows.set(key, flow);
    launchDot(from, to, 0);
    schedule("picture");
  }
  const shownMessages = new Set();

  function applyEvent(event) {
    const id = event.instance_id, data = event.data || {}, instance = state.instances.get(id);
    const setStatus = (status) => { if (instance) instance.status = status; };
    switch (event.kind) {
      case "instance_registered":
        if (id) state.instances.set(id, { roles: [], ...instance, id, instance_id: id, name: data.name ?? null, pid: data.pid, status: "alive", beatAt: clock() });
        break;
      case "instance_stalled": setStatus("stalled"); break;
      case "instance_recovered": setStatus("alive"); if (instance) instance.beatAt = clock(); break;
      case "instance_died": setStatus("dead"); break;
      case "instance_left": state.instances.delete(id); break;
      case "agent_state": if (instance) instance.report = { state: data.state, text: data.text, at: event.at }; break;
      case "finding_found": state.findings.set(findingKey(data), data); break;
      case "finding_fixed": state.findings.delete(findingKey(data)); break;
      case "message_dead_lettered": state.deadLettered += 1; break;
      case "message_quarantined": state.refused += 1; break;
      case "message_received": if (data.from_agent && id) noteMessage(data.from_agent, id, data.id, true); return;
      case "message_sent": applySent(data); return;
      default: return;
    }
    const draw = URGENT.has(event.kind) ? scheduleNow : schedule;
    draw("header", "attention", "picture", "instances");
  }
  const URGENT = new Set(["instance_registered", "instance_stalled", "instance_recovered", "instance_died", "instance_left"]);

  function applySent(data) {
    if (!data.from_agent) return;
    if (data.to === null || data.to === undefined) {
      for (const id of state.instances.keys()) if (id !== data.from_agent && picture.nodes.has(id)) noteMessage(data.from_agent, id, data.id, false);
    } else if (instanceAt(data.to)) noteMessage(data.from_agent, instanceAt(data.to), data.id, false);
  }

  function takeEvent(event) {
    applyEvent(event);
    if (Number.isFinite(event.id)) state.lastEventId = event.id;
    keepEvent(event);
  }

  function keepEvent(event) {
    const kind = String(event.kind);
    const entry = { key: ++state.serial, id: event.id, kind, at: event.at, tone: toneOf(kind, event.data || {}), parts: sentence(kind, event.data || {}, event.instance_id), find: "" };
    const data = event.data || {};
    entry.find = [event.instance_id, state.instances.get(event.instance_id)?.name, data.name, data.from_agent, data.to, data.subject].filter(Boolean).join(" ").toLowerCase();
    state.events.unshift(entry);
    state.events.length = Math.min(state.events.length, MAX_EVENTS);
    if (state.paused) state.held += 1;
    addKind(kind);
    schedule("events");
  }

  // Who came, left and died before the page was opened: an empty list would say that nothing has happened.
  function recall(past) {
    if (state.recalled) return;
    state.recalled = true;
    for (const fact of past) keepEvent({ id: `past-${++state.serial}`, kind: fact.kind, at: fact.at, instance_id: fact.instance_id, data: { name: fact.name, pid: fact.pid } });
  }

  function noteMissed(lastId) {
    if (!Number.isFinite(lastId)) return;
    if (state.lastEventId !== null && state.overview.instance_id === state.server && lastId > state.lastEventId) {
      keepEvent({ id: `gap-${lastId}`, kind: "gap", at: state.overview.at, data: { missed: lastId - state.lastEventId } });
    }
    state.lastEventId = lastId;
    state.server = state.overview.instance_id;
  }

  // ---- one plain sentence for each kind ----------------------------------------------------------------------------------------------------------
  function sentence(kind, data, id) {
    const text = (value, limit) => bdi(clean(value, limit), clean(value, 2000).length > (limit || 300) ? clean(value, 2000) : "");
    const me = () => (data.name ? el("b", "", bdi(clean(data.name, 80), clean(id))) : who(id));
    const type = () => text(data.message_type || "a message", 80);
    switch (kind) {
      case "instance_registered": return [me(), " joined", data.pid ? ` (pid ${clean(data.pid, 12)})` : "", "."];
      case "instance_stalled": return [me(), " has stalled: its heartbeat is late."];
      case "instance_recovered": return [me(), " is back: its heart beats again."];
      case "instance_died": return [me(), " died", data.pid ? ` (pid ${clean(data.pid, 12)})` : "", "."];
      case "instance_left": return [me(), " left."];
      case "message_sent": return [who(data.from_agent), " sent ", type(), " to ", data.to ? who(data.to) : "everyone", "."];
      case "message_received": return [who(id), " received ", type(), " from ", who(data.from_agent), data.delivery > 1 ? ` (attempt ${clean(data.delivery, 6)}).` : "."];
      case "message_acknowledged": return [data.to ? who(data.to) : who(id), " is done with ", type(), " from ", who(data.from_agent), "."];
      case "message_dead_lettered": return ["A message was given up and set aside: ", text(data.reason), " (", text(data.file, 80), ")."];
      case "message_quarantined": return ["A message was refused: ", text(data.reason), " (", text(data.file, 80), ")."];
      case "port_taken": return [who(id), ": port ", text(data.port, 12), " is taken", data.url ? " (" : "", data.url ? text(data.url, 80) : "", data.url ? ")." : "."];
      case "worktree_added": return [who(id), " works in ", text(data.path, 200), data.branch ? ", on the branch " : "", data.branch ? text(data.branch, 80) : "", "."];
      case "worktree_removed": return [who(id), " removed its worktree ", text(data.path, 200), "."];
      case "branch_joined": case "branch_released": return branchSentence(kind, data, id, text);
      case "edits_collided": {
        const files = Array.isArray(data.files) ? data.files : [];
        return [who(id), " and ", who(data.other), " both change ", files.length ? text(files.slice(0, 3).join(", "), 200) : "a file", files.length > 3 ? ` and ${files.length - 3} more.` : "."];
      }
      case "finding_found": return ["Found: ", text(data.message || data.code)];
      case "finding_fixed": return ["Mended: ", text(data.message || data.code)];
      case "agent_state": return [who(id), " ", stateSays(data.state), data.text ? ": " : ".", data.text ? text(data.text) : ""];
      case "memory_stored": return [who(id), " remembered something (", text(data.namespace, 160), ")."];
      case "memory_recalled": return [who(id), ` recalled ${Number(data.found) || 0} memories.`];
      case "memory_waited": return [who(id), " waited ", text(data.seconds, 12), " s for the shared database", data.done === true ? "." : ", in vain."];
      case "gap": return [Number.isFinite(data.missed) ? `${plural(data.missed, "event")} passed unseen here.` : "Some events passed unseen here."];
      default: return [id ? who(id) : "", id ? ": " : "", text(kind.replaceAll("_", " "), 80), " ", text(data, 200)];
    }
  }

  function stateSays(value) {
    return { working: "is working", idle: "is idle", waiting: "is waiting", stuck: "is stuck" }[value] || `reports ${clean(value, 40)}`;
  }

  function toneOf(kind, data) {
    if (kind === "instance_died" || kind === "edits_collided" || (kind === "agent_state" && data.state === "stuck")) return "bad";
    if (["instance_stalled", "message_dead_lettered", "message_quarantined", "gap"].includes(kind)) return "warn";
    if (kind === "agent_state" && data.state === "waiting") return "warn";
    return kind === "finding_found" && data.severity !== "notice" ? (data.severity === "error" ? "bad" : "warn") : "";
  }

  // ---- drawing on the next frame -----------------------------------------------------------------------------------------------------------------
  const dirty = new Set(), pace = { last: 0, listed: 0, timer: 0, frame: 0, urgent: false };
  const painters = { header: paintHeader, attention: paintAttention, picture: paintPicture, instances: paintInstances, branches: paintBranches, mailboxes: paintMailboxes, claims: paintClaims, memories: paintMemories, events: paintEvents };

  // No frame comes in a hidden tab: what changes meanwhile is drawn once when it is shown again.
  // The first change is drawn on the next frame. Of a stream of them the list of events keeps up; the rest shares frames PACE_MS apart, unless it is urgent.
  function schedule(...parts) {
    for (const part of parts) dirty.add(part);
    plan();
  }

  function scheduleNow(...parts) {
    pace.urgent = true;
    schedule(...parts);
  }

  function plan() {
    clearTimeout(pace.timer);
    if (pace.frame || !dirty.size) return;
    const now = performance.now(), listed = dirty.has("events");
    const wait = Math.min(listed ? pace.listed + LIST_MS - now : Infinity, dirty.size > Number(listed) ? pace.last + PACE_MS - now : Infinity);
    if (pace.urgent || wait <= 0) pace.frame = requestAnimationFrame(paint);
    else pace.timer = setTimeout(plan, wait);
  }

  function paint() {
    const now = performance.now(), all = pace.urgent || now >= pace.last + PACE_MS;
    const parts = [...dirty].filter((part) => all || part === "events");
    Object.assign(pace, { frame: 0, urgent: false, listed: now, last: all ? now : pace.last });
    for (const part of parts) {
      dirty.delete(part);
      if (part === "events" || state.overview) painters[part]();
    }
    plan();
  }

  function paintHeader() {
    const { overview, instances } = state;
    put($("state-dir"), clean(overview.state_dir, 1000));
    const server = overview.instance_id;
    $("served-by").replaceChildren(...(server ? [bdi(nameOf(server)), " ", nameOf(server) === clean(server, 80) ? "" : el("span", "id muted", bdi(clean(server)))] : ["the state directory"]),
      el("span", "muted", overview.version ? ` · version ${clean(overview.version, 40)}` : ""));
    const counts = new Map();
    for (const instance of instances.values()) counts.set(known(instance.status), (counts.get(known(instance.status)) || 0) + 1);
    const chips = [["total", instances.size], ...[...STATUSES, "unknown"].filter((status) => counts.has(status)).map((status) => [status, counts.get(status)])];
    reconcile($("counts"), chipRows, chips, (chip) => chip[0], ([status]) => {
      const label = el("span");
      return { root: el("li", status === "total" ? "chip total" : "chip", ...(status === "total" ? [] : [mark(status)]), label), label };
    }, (row, [status, count]) => put(row.label, status === "total" ? plural(count, "instance") : `${count} ${status}`));
  }
  const chipRows = new Map();

  // ---- needs attention ---------------------------------------------------------------------------------------------------------------------------
  function attentionItems() {
    const items = [], merged = new Set(), now = clock();
    const add = (key, level, title, detail, hint) => items.push({ key, level, title, detail, hint: hint || "" });
    for (const instance of state.instances.values()) {
      const { id, status, report } = instance, label = { name: clean(instance.name || id, 48), id };
      if (["dead", "untrusted", "stalled"].includes(status)) {
        // One thing to look at, not two: the finding about this very state only lends its command.
        const finding = state.findings.get(findingKey({ code: `instance-${status}`, subject: id }));
        if (finding) merged.add(finding);
        const beat = instance.beatAt === null ? "" : `last beat ${ageText(now - instance.beatAt)} ago`;
        add(`status ${id}`, status === "stalled" ? "warn" : "bad", [label, status === "stalled" ? " has stalled" : ` is ${status}`], beat, finding?.hint);
      }
      if (report && (report.state === "stuck" || report.state === "waiting") && status !== "dead" && status !== "untrusted") {
        add(`report ${id}`, report.state === "stuck" ? "bad" : "warn", [label, ` ${stateSays(report.state)}`], clean(report.text));
      }
    }
    for (const finding of state.findings.values()) {
      if (finding.fixed || finding.severity === "notice" || merged.has(finding)) continue;
      add(`finding ${findingKey(finding)}`, finding.severity === "error" ? "bad" : "warn", [clean(finding.message || finding.code)], finding.subject ? `about ${nameOf(finding.subject)}` : "", finding.hint);
    }
    for (const conflict of state.conflicts) if (isGrave(conflict)) add(...conflictItem(conflict));
    if (state.deadLettered) add("dead letters", "bad", [`${plural(state.deadLettered, "message")} could not be handled (dead letters)`], "", "`mnemosyne queue show`");
    if (state.refused) add("refused", "warn", [`${plural(state.refused, "message")} refused`], "", "`mnemosyne queue show`");
    for (const box of state.mailboxes) {
      const oldest = number(box.oldest) + now - state.arrived;
      if (number(box.oldest) > OLD_MESSAGE_S) add(`mailbox ${box.address}`, "warn", ["Mailbox ", { name: clean(nameOf(box.address), 48), id: String(box.address) }, ` is behind: ${number(box.waiting)} waiting`], `the oldest for ${ageText(oldest)}`);
    }
    return items.sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
  }

  function paintAttention() {
    const items = attentionItems(), shown = state.allAttention ? items : items.slice(0, MAX_ATTENTION);
    reconcile($("attention-list"), attentionRows, shown, (item) => item.key, createAttention, updateAttention);
    $("attention-calm").hidden = items.length > 0;
    $("attention-calm").className = "calm";
    put($("attention-calm"), "All is well");
    put($("attention-count"), items.length ? String(items.length) : "");
    $("attention-more").hidden = items.length <= MAX_ATTENTION;
    put($("attention-more"), state.allAttention ? "Show fewer" : `Show all ${items.length}`);
    document.title = items.length ? `(${items.length}) mnemosyne` : "mnemosyne";
  }
  const attentionRows = new Map();

  function createAttention() {
    const level = el("span", "level"), title = el("strong"), detail = bdi(""), hint = el("div", "hint");
    return { root: el("li", "item", el("div", "what", level, title, " ", detail), hint), level, title, detail, hint, signature: "" };
  }

  function updateAttention(row, item) {
    attr(row.root, "data-level", item.level);
    put(row.level, item.level === "bad" ? "Problem" : "Check");
    put(row.detail, item.detail ? `– ${item.detail}` : "");
    const signature = JSON.stringify([item.title, item.hint]);
    if (row.signature === signature) return;
    row.signature = signature;
    row.title.replaceChildren(...item.title.flatMap((part) => (typeof part === "string" ? [part]
      : [bdi(part.name), ...(part.name === clean(part.id, 48) ? [] : [" ", el("span", "id", bdi(clean(part.id, 40)))])])));
    row.hint.replaceChildren(...hintParts(String(item.hint)));
  }

  function hintParts(hint) {
    return hint.split("`").map((part, index) => (index % 2 ? commandWithCopy(part) : bdi(clean(part.trim())))).filter((node) => node.textContent);
  }

  function commandWithCopy(command) {
    const code = el("code", "", bdi(clean(command, 600)));
    // What is shown must be what is pasted: a command with hidden characters gets no button.
    if (clean(command, 600) !== command) return el("span", "command", code);
    const button = el("button", "", "Copy");
    button.type = "button";
    button.setAttribute("aria-label", `Copy the command ${command}`);
    button.addEventListener("click", () => copyCommand(command, button, code));
    return el("span", "command", code, button);
  }

  async function copyCommand(command, button, code) {
    let done = true;
    try { await navigator.clipboard.writeText(command); } catch {
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    put(button, done ? "Copied" : "Selected");
    setTimeout(() => put(button, "Copy"), 1600);
  }

  // ---- the picture -------------------------------------------------------------------------------------------------------------------------------
  const picture = { svg: null, nodes: new Map(), edges: new Map(), dots: new Set(), width: 0, height: 0, points: [], running: false, movedAt: 0, narrow: false };
  const TOTAL_SLOTS = FLEET_SLOTS + OUTSIDE_SLOTS;
  const outsideOrder = [31, 1, 29, 3, 0, 30, 2, 28];
  const fleetOrder = spreadOrder();

  // Slots stand on an ellipse, numbered clockwise from the bottom, which is kept for outside senders. The first nodes get slots far from each other.
  function spreadOrder() {
    const first = OUTSIDE_SLOTS / 2, free = Array.from({ length: FLEET_SLOTS }, (_, i) => first + i), order = [8, 23];
    const gap = (a, b) => Math.min(Math.abs(a - b), TOTAL_SLOTS - Math.abs(a - b));
    while (order.length < FLEET_SLOTS) {
      const room = (slot) => Math.min(...order.map((taken) => gap(slot, taken)));
      order.push(free.filter((slot) => !order.includes(slot)).reduce((best, slot) => (room(slot) > room(best) ? slot : best)));
    }
    return order;
  }

  // Between an ellipse and a rectangle: no arrow passes behind a third node, and labels along the top stand in even rows.
  const bulge = (part) => Math.sign(part) * Math.abs(part) ** 0.72;

  function layOut() {
    const width = Math.round($("canvas").clientWidth);
    if (!width || width === picture.width) return;
    picture.width = width;
    picture.narrow = width < 760;
    picture.height = picture.narrow ? 560 : 430;
    const { height, narrow } = picture, cx = width / 2, cy = height / 2, rx = cx - (narrow ? 84 : 128), ry = cy - 58, steps = 720, along = [0];
    const at = (i) => { const t = Math.PI / 2 + (i / steps) * 2 * Math.PI; return { x: cx + rx * bulge(Math.cos(t)), y: cy + ry * bulge(Math.sin(t)) }; };
    for (let i = 1; i <= steps; i++) along.push(along[i - 1] + Math.hypot(at(i).x - at(i - 1).x, at(i).y - at(i - 1).y));
    picture.points = Array.from({ length: TOTAL_SLOTS }, (_, slot) => at(along.findIndex((length) => length >= ((slot + 0.5) / TOTAL_SLOTS) * along[steps])));
    for (const drawing of [picture.svg, picture.sky]) {
      drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
      drawing.setAttribute("height", height);
    }
    for (const node of picture.nodes.values()) placeNode(node);
    for (const edge of picture.edges.values()) edge.shape = "";
  }

  function startPicture() {
    picture.svg = svg("svg", { role: "img", preserveAspectRatio: "xMidYMid meet" });
    // The dots move in a drawing of their own, so that a frame of theirs paints nothing else again.
    picture.sky = svg("svg", { class: "sky", "aria-hidden": "true" });
    picture.flows = svg("g");
    picture.stand = svg("g");
    picture.svg.append(picture.flows, picture.stand);
    $("canvas").append(picture.svg, picture.sky);
    for (const status of ["alive", "stalled", "paused", "dead", "untrusted", "foreign"]) $("legend").append(el("li", "", mark(status), STATUS_MEANS[status]));
    const sample = (...shapes) => svg("svg", { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" }, ...shapes);
    const outside = svg("g", { class: "node", "data-status": "outside" }, svg("rect", { class: "body", x: -8, y: -8, width: 16, height: 16, rx: 3 }), svg("path", { class: "glyph", d: ICONS.outside }));
    const help = svg("circle", { class: "halo", r: 7 });
    const arrow = svg("g", { class: "flow" }, svg("path", { d: "M-9 0H3", "stroke-width": 3 }), svg("path", { class: "head", d: "M2-5 9 0 2 5Z" }));
    const badge = svg("g", { class: "badge" }, svg("rect", { x: -8, y: -8, width: 16, height: 16, rx: 8 }), svg("text", { y: 4 }, "3"));
    $("legend").append(el("li", "", sample(outside), STATUS_MEANS.outside), el("li", "", sample(help), "asks for help (stuck, waiting)"),
      el("li", "", sample(arrow), "messages: wide = many, faint = long ago"), el("li", "", sample(badge), "messages waiting"));
    new ResizeObserver(() => { layOut(); schedule("picture"); }).observe($("canvas"));
    layOut();
  }

  const needsHelp = (instance) => instance.report && ["stuck", "waiting"].includes(instance.report.state) && !["dead", "untrusted"].includes(instance.status);

  function chooseNodes() {
    const now = clock(), traffic = new Map();
    for (const flow of state.flows.values()) {
      const weight = Math.round(Math.log2(1 + flow.counted + flow.credit)) + (now - flow.lastAt < 60 ? 2 : 0);
      for (const agent of [flow.from, flow.to]) traffic.set(agent, Math.max(traffic.get(agent) || 0, weight));
    }
    const score = (agent) => {
      const instance = state.instances.get(agent), attention = instance && (["dead", "stalled", "untrusted"].includes(instance.status) || needsHelp(instance));
      // A node that is shown stays unless another one clearly matters more: else the picture would flicker.
      return (traffic.get(agent) || 0) * 2 + (attention ? 1 : 0) + (picture.nodes.has(agent) ? 2.5 : 0);
    };
    const rank = (agents) => agents.map((agent, order) => ({ agent, order, score: score(agent) })).sort((a, b) => b.score - a.score || a.order - b.order).map((entry) => entry.agent);
    const outsiders = [...traffic.keys()].filter((agent) => !state.instances.has(agent));
    return { fleet: rank([...state.instances.keys()]).slice(0, FLEET_SLOTS), outside: rank(outsiders).slice(0, OUTSIDE_SLOTS), quiet: Math.max(0, state.instances.size - FLEET_SLOTS), outsiders };
  }

  function paintPicture() {
    layOut();
    const chosen = chooseNodes();
    const kindOf = new Map([...chosen.fleet.map((agent) => [agent, "fleet"]), ...chosen.outside.map((agent) => [agent, "outside"])]);
    for (const [agent, node] of picture.nodes) if (kindOf.get(agent) !== node.kind) { node.root.remove(); picture.nodes.delete(agent); }
    const taken = new Set([...picture.nodes.values()].map((node) => node.slot));
    // Joined in the order of the fleet, so that the same fleet gives the same picture.
    const inOrder = [...state.instances.keys(), ...chosen.outsiders].filter((agent) => kindOf.has(agent));
    for (const agent of inOrder) {
      if (!picture.nodes.has(agent)) {
        const kind = kindOf.get(agent), slot = (kind === "fleet" ? fleetOrder : outsideOrder).find((candidate) => !taken.has(candidate));
        taken.add(slot);
        picture.nodes.set(agent, createNode(agent, kind, slot));
      }
    }
    for (const node of picture.nodes.values()) updateNode(node);
    paintEdges();
    const hidden = chosen.outsiders.length - chosen.outside.length;
    put($("picture-count"), [chosen.quiet ? `+${chosen.quiet} quiet` : "", hidden > 0 ? `+${hidden} more outside senders` : ""].filter(Boolean).join(" · "));
    $("picture-empty").hidden = picture.nodes.size > 0;
    $("legend").hidden = picture.nodes.size === 0;
    picture.svg.style.display = picture.nodes.size > 0 ? "" : "none";
    attr(picture.svg, "aria-label", `${plural(chosen.fleet.length, "instance")} and ${plural(chosen.outside.length, "outside sender")}, ${plural(picture.edges.size, "flow")} of messages between them. The table below says the same.`);
    paintFlowTable();
  }

  function createNode(agent, kind, slot) {
    const outside = kind === "outside", title = svg("title"), label = svg("text", { class: "label" });
    const body = outside ? svg("rect", { class: "body", rx: 4 }) : svg("circle", { class: "body" });
    const glyph = svg("path", { class: "glyph" }), halo = svg("circle", { class: "halo" }), count = svg("text", { y: 4 }), pill = svg("rect", { rx: 8, height: 16, y: -8 });
    const badge = svg("g", { class: "badge" }, pill, count);
    const root = svg("g", { class: "node", "data-node": agent }, title, halo, body, glyph, label, badge);
    const node = { agent, kind, slot, root, title, label, body, glyph, halo, badge, pill, count, x: 0, y: 0 };
    root.addEventListener("pointerenter", () => focusOn(agent));
    root.addEventListener("pointerleave", () => focusOn(null));
    picture.stand.append(root);
    placeNode(node);
    return node;
  }

  function placeNode(node) {
    const point = picture.points[node.slot], r = picture.narrow ? 11 : 14, cx = picture.width / 2, cy = picture.height / 2;
    if (!point) return;
    Object.assign(node, { x: point.x, y: point.y, r });
    node.root.setAttribute("transform", `translate(${point.x.toFixed(1)} ${point.y.toFixed(1)})`);
    if (node.kind === "outside") for (const [name, value] of Object.entries({ x: -r + 1, y: -r + 1, width: 2 * r - 2, height: 2 * r - 2 })) node.body.setAttribute(name, value);
    else node.body.setAttribute("r", r);
    node.halo.setAttribute("r", r + 4);
    node.glyph.setAttribute("transform", `scale(${picture.narrow ? 1.1 : 1.35})`);
    const dx = (point.x - cx) / (picture.points[8].x - cx), dy = (point.y - cy) / (cy - 58), right = point.x > cx, side = Math.abs(dx) > (picture.narrow ? 0.35 : 0.8);
    // Labels along the top and the bottom stand in two rows, so that neighbours have room.
    const lift = node.slot % 2 ? 0 : 15;
    const place = side ? [(right ? 1 : -1) * (r + 8), 4 + dy * 7, right ? "start" : "end"] : [0, dy < 0 ? -(r + 10) - lift : r + 18 + lift, "middle"];
    // The badge keeps clear of a label at the right.
    node.badge.setAttribute("transform", `translate(${side && right ? 1 - r : r - 1} ${1 - r})`);
    attr(node.label, "x", place[0]);
    attr(node.label, "y", place[1]);
    attr(node.label, "text-anchor", place[2]);
    node.room = picture.narrow ? 8 : side ? 15 : 12;
  }

  function updateNode(node) {
    const instance = state.instances.get(node.agent), status = instance ? known(instance.status) : "outside", waiting = state.waiting.get(node.agent) || 0;
    if (node.root.getAttribute("data-status") !== status) {
      node.root.setAttribute("data-status", status);
      node.glyph.setAttribute("d", ICONS[status]);
    }
    put(node.label, clean(instance?.name || node.agent, node.room));
    attr(node.halo, "visibility", instance && needsHelp(instance) ? "visible" : "hidden");
    attr(node.badge, "visibility", waiting ? "visible" : "hidden");
    const text = waiting > 999 ? "999+" : String(waiting), width = 9 + 7 * text.length;
    put(node.count, text);
    attr(node.pill, "width", width);
    attr(node.pill, "x", -width / 2);
    put(node.title, instance ? `${nameOf(node.agent)} (${clean(node.agent, 40)}): ${status}${waiting ? `, ${waiting} waiting` : ""}${instance.report?.state ? `, reports ${clean(instance.report.state, 40)}` : ""}`
      : `${nameOf(node.agent)}: not an instance of this fleet (any more)`);
  }

  function paintEdges() {
    const now = clock();
    const drawn = [...state.flows.values()].filter((flow) => picture.nodes.has(flow.from) && picture.nodes.has(flow.to) && flow.counted + flow.credit > 0)
      .sort((a, b) => b.lastAt - a.lastAt).slice(0, MAX_EDGES);
    const wanted = new Set(drawn.map((flow) => flowKey(flow.from, flow.to)));
    for (const [key, edge] of picture.edges) if (!wanted.has(key)) { edge.root.remove(); picture.edges.delete(key); }
    for (const flow of drawn) {
      const key = flowKey(flow.from, flow.to);
      let edge = picture.edges.get(key);
      if (!edge) picture.edges.set(key, edge = createEdge(flow));
      updateEdge(edge, flow, now, drawn.length <= 14);
    }
  }

  function createEdge(flow) {
    const title = svg("title"), line = svg("path"), head = svg("path", { class: "head" }), count = svg("text");
    // The number stays readable when the arrow fades.
    const arrow = svg("g", {}, line, head), root = svg("g", { class: "flow", "data-flow": `${flow.from}>${flow.to}` }, title, arrow, count);
    picture.flows.append(root);
    return { root, title, arrow, line, head, count, from: flow.from, to: flow.to, shape: "" };
  }

  function updateEdge(edge, flow, now, labelled) {
    const total = flow.counted + flow.credit, age = Math.max(0, now - flow.lastAt), width = 1.25 + Math.min(10, Math.log2(total)) * (labelled ? 0.75 : 0.5);
    // 1 while messages come, fading over about an hour to what is just visible.
    const brightness = Math.max(0.16, 1 - 0.24 * Math.log10(1 + age / 2));
    for (const name of ["stroke-opacity", "fill-opacity"]) attr(edge.arrow, name, (Math.round(brightness * 25) / 25).toFixed(2));
    const a = picture.nodes.get(flow.from), b = picture.nodes.get(flow.to), shape = `${a.x} ${a.y} ${b.x} ${b.y} ${width.toFixed(1)}`;
    if (edge.shape !== shape) {
      edge.shape = shape;
      const size = 6 + width, c = curve(a, b, size), angle = (Math.atan2(b.y - c[7], b.x - c[6]) * 180) / Math.PI, middle = onCurve(c, 0.5);
      edge.line.setAttribute("d", `M${c[0]} ${c[1]}C${c[2]} ${c[3]} ${c[4]} ${c[5]} ${c[6]} ${c[7]}`);
      edge.line.setAttribute("stroke-width", width.toFixed(1));
      edge.head.setAttribute("d", `M-.2 ${-size / 2 - 1}L${size} 0L-.2 ${size / 2 + 1}Z`);
      edge.head.setAttribute("transform", `translate(${c[6]} ${c[7]}) rotate(${angle.toFixed(1)})`);
      edge.count.setAttribute("x", middle[0]);
      edge.count.setAttribute("y", middle[1] + 4);
    }
    put(edge.count, labelled ? String(total) : "");
    put(edge.title, `${nameOf(flow.from)} → ${nameOf(flow.to)}: ${plural(total, "message")}, the last ${ageText(age)} ago`);
  }

  // A cubic curve bent towards the middle and a little to its right, so that there and back are two lines.
  function curve(a, b, head) {
    const cx = picture.width / 2, cy = picture.height / 2, length = Math.hypot(b.x - a.x, b.y - a.y);
    let p, q;
    if (a === b) {
      const turn = Math.atan2(cy - a.y, cx - a.x), reach = 70;
      p = { x: a.x + reach * Math.cos(turn - 0.6), y: a.y + reach * Math.sin(turn - 0.6) };
      q = { x: a.x + reach * Math.cos(turn + 0.6), y: a.y + reach * Math.sin(turn + 0.6) };
    } else {
      const mx = (a.x + b.x) / 2, my = (a.y + b.y) / 2, bend = Math.min(34, length * 0.16);
      const pull = Math.min(0.45, (0.3 * length + 24) / (Math.hypot(cx - mx, cy - my) || 1));
      const x = mx + (cx - mx) * pull - ((b.y - a.y) / length) * bend, y = my + (cy - my) * pull + ((b.x - a.x) / length) * bend;
      p = { x: a.x + (x - a.x) * 0.67, y: a.y + (y - a.y) * 0.67 };
      q = { x: b.x + (x - b.x) * 0.67, y: b.y + (y - b.y) * 0.67 };
    }
    const toward = (from, to, by) => { const d = Math.hypot(to.x - from.x, to.y - from.y) || 1; return [from.x + ((to.x - from.x) / d) * by, from.y + ((to.y - from.y) / d) * by]; };
    return [...toward(a, p, a.r + 3), p.x, p.y, q.x, q.y, ...toward(b, q, b.r + 4 + head)].map((value) => Math.round(value * 10) / 10);
  }

  function onCurve(c, t) {
    const u = 1 - t, w = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
    return [c[0] * w[0] + c[2] * w[1] + c[4] * w[2] + c[6] * w[3], c[1] * w[0] + c[3] * w[1] + c[5] * w[2] + c[7] * w[3]];
  }

  function focusOn(agent) {
    picture.svg.classList.toggle("focusing", agent !== null);
    if (agent === null) return;
    const near = new Set([agent]);
    for (const edge of picture.edges.values()) {
      const touches = edge.from === agent || edge.to === agent;
      edge.root.classList.toggle("near", touches);
      if (touches) near.add(edge.from).add(edge.to);
    }
    for (const node of picture.nodes.values()) node.root.classList.toggle("near", near.has(node.agent));
  }

  function launchDot(from, to, delay) {
    if (document.hidden || stillness.matches || picture.dots.size >= MAX_DOTS) return;
    picture.dots.add({ from, to, start: performance.now() + delay * 1000, node: null, path: null });
    if (!picture.running) { picture.running = true; requestAnimationFrame(moveDots); }
  }

  function moveDots(now) {
    if (now - picture.movedAt < DOT_FRAME_MS) return requestAnimationFrame(moveDots);
    picture.movedAt = now;
    for (const dot of picture.dots) {
      const t = (now - dot.start) / DOT_MS;
      if (t < 0) continue;
      if (!dot.node) {
        const a = picture.nodes.get(dot.from), b = picture.nodes.get(dot.to);
        if (t < 1 && a && b) {
          dot.path = curve(a, b, 0);
          picture.sky.append(dot.node = svg("circle", { class: "dot", r: 4.5 }));
        }
      }
      if (t >= 1 || document.hidden) { dot.node?.remove(); picture.dots.delete(dot); continue; }
      if (!dot.node) continue;
      const [x, y] = onCurve(dot.path, t * t * (3 - 2 * t));
      dot.node.setAttribute("cx", x.toFixed(1));
      dot.node.setAttribute("cy", y.toFixed(1));
    }
    picture.running = picture.dots.size > 0;
    if (picture.running) requestAnimationFrame(moveDots);
  }

  function paintFlowTable() {
    const now = clock(), flows = [...state.flows.values()].sort((a, b) => b.counted + b.credit - a.counted - a.credit);
    reconcile($("flow-rows"), flowRows, flows.slice(0, MAX_FLOW_ROWS), (flow) => flowKey(flow.from, flow.to), (flow) => {
      const from = bdi("", clean(flow.from)), to = bdi("", clean(flow.to)), count = el("td", "number"), last = el("td", "number");
      return { root: el("tr", "", el("td", "", from), el("td", "", to), count, last), from, to, count, last };
    }, (row, flow) => {
      put(row.from, nameOf(flow.from) + (state.instances.has(flow.from) ? "" : " (outside)"));
      put(row.to, nameOf(flow.to));
      put(row.count, String(flow.counted + flow.credit));
      put(row.last, `${ageText(now - flow.lastAt)} ago`);
    });
    put($("flow-note"), flows.length > MAX_FLOW_ROWS ? `and ${flows.length - MAX_FLOW_ROWS} more` : flows.length ? "" : "No messages have been received yet.");
  }
  const flowRows = new Map();

  // ---- instances ---------------------------------------------------------------------------------------------------------------------------------
  const beatAge = (instance) => (instance.beatAt === null || instance.beatAt === undefined ? null : clock() - instance.beatAt);
  const portOf = (instance) => API_URL.exec(String(instance.api_url));
  const usageOf = (instance) => state.usage.get(instance.id) || {};
  const rolesOf = (instance) => list(instance.roles).map((role) => clean(role, 60)).join(", ");
  const COLUMNS = [
    { key: "status", label: "Status", value: (i) => { const at = STATUSES.indexOf(i.status); return at < 0 ? 9 : at; } },
    { key: "instance", label: "Instance", value: (i) => String(i.name || i.id).toLowerCase() },
    { key: "roles", label: "Roles", value: rolesOf, text: (i) => clean(rolesOf(i), 48), title: rolesOf },
    { key: "beat", label: "Beat", numeric: true, value: beatAge, text: (i) => ageText(beatAge(i) ?? NaN) },
    { key: "port", label: "Port", value: (i) => Number(portOf(i)?.[2] ?? NaN) },
    { key: "branch", label: "Branch", value: (i) => clean(workOf(i)[0]?.branch ?? i.branch) },
    { key: "worktree", label: "Worktree", value: (i) => clean(i.worktree_path, 2000), text: (i) => shortPath(i.worktree_path), title: (i) => clean(i.worktree_path, 2000) },
    { key: "reports", label: "Reports", value: (i) => ["stuck", "waiting", "working", "idle"].indexOf(i.report?.state) + (i.report ? 0 : 9) },
    { key: "cpu", label: "CPU", numeric: true, value: (i) => usageOf(i).cpu_percent, text: (i) => (Number.isFinite(usageOf(i).cpu_percent) ? `${usageOf(i).cpu_percent.toFixed(1)} %` : "") },
    { key: "memory", label: "Memory", numeric: true, value: (i) => usageOf(i).rss, text: (i) => bytesText(usageOf(i).rss) },
    { key: "waiting", label: "Waiting", numeric: true, value: (i) => state.waiting.get(i.id) || 0, text: (i) => String(state.waiting.get(i.id) || 0) },
  ];
  const instanceRows = new Map();

  function startInstances() {
    for (const column of COLUMNS) {
      const button = el("button", "", column.label), head = el("th", `c-${column.key}${column.numeric ? " number" : ""}`, button);
      button.type = "button";
      for (const [name, value] of [["scope", "col"], ["role", "columnheader"], ["aria-sort", "none"]]) head.setAttribute(name, value);
      button.addEventListener("click", () => sortBy(column));
      column.head = head;
      $("instance-heads").append(head);
    }
    $("instances-filter").addEventListener("input", () => schedule("instances"));
  }

  // First click, second click the other way, third click: the order of registration again.
  function sortBy(column) {
    const directions = column.numeric ? ["descending", "ascending"] : ["ascending", "descending"], current = state.sort?.column === column ? directions.indexOf(state.sort.direction) : -1;
    state.sort = current === 1 ? null : { column, direction: directions[current + 1] };
    for (const each of COLUMNS) each.head.setAttribute("aria-sort", state.sort?.column === each ? state.sort.direction : "none");
    schedule("instances");
  }

  function sorted(instances) {
    if (!state.sort) return instances;
    const { column, direction } = state.sort, sign = direction === "ascending" ? 1 : -1;
    const absent = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
    return instances.map((instance) => ({ instance, value: column.value(instance) })).sort((a, b) => {
      if (absent(a.value) || absent(b.value)) return absent(a.value) - absent(b.value);
      return sign * (a.value < b.value ? -1 : a.value > b.value ? 1 : 0);
    }).map((entry) => entry.instance);
  }

  function matchesFilter(instance, words) {
    if (words.length === 0) return true;
    const hay = [instance.id, instance.name, rolesOf(instance), instance.status, instance.report?.state, instance.report?.text, instance.branch, ...workOf(instance).map((one) => one.branch)].filter(Boolean).join(" ").toLowerCase();
    return words.every((word) => hay.includes(word));
  }

  function paintInstances() {
    const words = $("instances-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = sorted([...state.instances.values()]);
    reconcile($("instance-rows"), instanceRows, all, (instance) => instance.id, createInstance, updateInstance);
    let shown = 0;
    for (const instance of all) {
      const match = matchesFilter(instance, words);
      instanceRows.get(instance.id).root.hidden = !match;
      shown += match ? 1 : 0;
    }
    put($("instances-count"), words.length ? `${shown} of ${all.length}` : String(all.length));
    $("instances-empty").hidden = shown > 0;
    put($("instances-empty"), all.length ? "No instance matches the filter." : "No instances yet.");
  }

  function createInstance(instance) {
    const root = el("tr"), row = { root, cells: {} };
    root.dataset.instance = instance.id;
    root.setAttribute("role", "row");
    for (const column of COLUMNS) {
      const cell = el("td", `c-${column.key}${column.numeric ? " number" : ""}`);
      cell.dataset.label = column.label;
      cell.setAttribute("role", "cell");
      row.cells[column.key] = cell;
      if (column.text) cell.append(column.numeric ? el("span") : el("bdi"));
      root.append(cell);
    }
    row.mark = mark("unknown");
    row.word = el("span");
    row.cells.status.append(el("span", "status", row.mark, row.word));
    row.name = el("bdi", "name");
    row.id = el("bdi", "id");
    row.cells.instance.append(el("div", "", row.name, row.id));
    row.branch = bdi("");
    row.works = el("span", "works");
    row.cells.branch.append(el("div", "", row.branch, row.works));
    row.says = el("span");
    row.saysState = el("b");
    row.saysText = el("bdi");
    row.cells.reports.append(row.says);
    row.says.className = "says";
    row.says.append(row.saysState, row.saysText);
    return row;
  }

  function updateInstance(row, instance) {
    const status = known(instance.status);
    attr(row.root, "data-status", instance.status ? clean(instance.status, 40) : "unknown");
    remark(row.mark, status);
    put(row.word, clean(instance.status, 40) || "unknown");
    put(row.name, clean(instance.name || instance.id, 40));
    put(row.id, instance.name ? clean(instance.id, 40) : "");
    attr(row.cells.instance, "title", clean(`${instance.name || ""} ${instance.id}${instance.pid ? ` pid ${instance.pid}` : ""}`.trim(), 600));
    for (const column of COLUMNS) if (column.text) putCell(row.cells[column.key], column.text(instance), column.title ? column.title(instance) : null);
    putPort(row.cells.port, portOf(instance));
    putWork(row, instance);
    const report = instance.report;
    attr(row.says, "data-state", report ? clean(report.state, 40) : "");
    put(row.saysState, report ? clean(report.state, 40) : "");
    put(row.saysText, report?.text ? ` ${clean(report.text, 120)}` : "");
    attr(row.says, "title", report?.text ? clean(report.text, 2000) : null);
    row.cells.reports.classList.toggle("none", !report);
  }

  function putCell(cell, text, title) {
    const inner = cell.firstChild;
    put(inner, text);
    if (inner.localName === "bdi") attr(inner, "title", title ?? text);
    cell.classList.toggle("none", text === "");
  }

  function putPort(cell, match) {
    const url = match ? match[0] : "";
    if (cell.dataset.url === url) return;
    cell.dataset.url = url;
    cell.classList.toggle("none", !match);
    if (!match) return cell.replaceChildren();
    const link = el("a", "", match[2]);
    link.href = url;
    link.rel = "noopener noreferrer";
    link.target = "_blank";
    cell.replaceChildren(link);
  }

  function tickBeats() {
    const column = COLUMNS.find((each) => each.key === "beat");
    for (const [id, row] of instanceRows) {
      const instance = state.instances.get(id);
      if (instance && !row.root.hidden) putCell(row.cells.beat, column.text(instance));
    }
  }

  // ---- branch work -------------------------------------------------------------------------------------------------------------------------------
  const workOf = (instance) => state.workOf.get(instance.id) || [];
  const workKey = (one) => JSON.stringify([one.branch, one.instance_id]);
  const isAlone = (one) => one.mode === "isolated" && one.intent !== "read";
  const isGrave = (conflict) => conflict.severity !== "warning";
  const filesOf = (one) => list(one.files).map((glob) => clean(glob, 300));

  // Of each instance what it joined last comes first: that is what its row has room for.
  function takeBranches(overview) {
    state.work = list(overview.branches);
    state.conflicts = list(overview.conflicts);
    state.workOf = new Map();
    for (const one of state.work) {
      const id = String(one.instance_id);
      if (!state.workOf.has(id)) state.workOf.set(id, []);
      state.workOf.get(id).push(one);
    }
    // What is merely close stands beside the branch, with both.
    state.closeTo = new Map();
    for (const conflict of state.conflicts) if (!isGrave(conflict)) for (const [id, other] of [[conflict.instance_id, conflict.other], [conflict.other, conflict.instance_id]]) {
      const key = workKey({ branch: conflict.branch, instance_id: id });
      if (!state.closeTo.has(key)) state.closeTo.set(key, []);
      state.closeTo.get(key).push({ other, conflict });
    }
    for (const some of state.workOf.values()) some.sort((a, b) => (String(a.since) < String(b.since) ? 1 : -1));
  }

  // Who reads is in nobody's way, whatever its mode.
  function howText(one) {
    const intent = clean(one.intent, 20) || "?";
    return intent === "read" ? intent : `${intent}, ${isAlone(one) ? "alone" : clean(one.mode, 20) || "?"}`;
  }

  function howTitle(one) {
    const past = one.bypassed === true ? "; given although others were in the way" : "";
    return `${clean(one.intent, 20)}, ${clean(one.mode, 20)}${isAlone(one) ? ": nobody else changes anything on this branch" : ""}${past}`;
  }

  const moreFiles = (files) => (files.length > FEW_FILES ? `, and ${files.length - FEW_FILES} more` : "");
  const fewFiles = (files) => files.slice(0, FEW_FILES).join(", ") + moreFiles(files);

  function putWork(row, instance) {
    const some = workOf(instance), [first, ...others] = some, branch = clean(first ? first.branch : instance.branch, 600);
    put(row.branch, branch);
    put(row.works, first ? howText(first) + (others.length ? ` +${others.length}` : "") : "");
    row.works.classList.toggle("alone", first !== undefined && isAlone(first));
    attr(row.cells.branch, "title", some.length ? some.map((one) => `${clean(one.branch, 300)} (${howTitle(one)})`).join("\n") : branch || null);
    row.cells.branch.classList.toggle("none", branch === "");
  }

  function branchSentence(kind, data, id, text) {
    if (kind === "branch_released") return [who(id), " no longer works on ", text(data.branch, 80), "."];
    const files = filesOf(data);
    return [who(id), " works on ", text(data.branch, 80), ` (${howText(data)})`, files.length ? ": " : ".", files.length ? bdi(clean(fewFiles(files), 200), clean(files.join(", "), 2000)) : ""];
  }

  // Its reason speaks of the other by its id.
  function whyText(conflict) {
    const reason = clean(conflict.reason), other = clean(conflict.other);
    return [other ? reason.replace(other, () => nameOf(conflict.other)) : reason, fewFiles(filesOf(conflict))].filter(Boolean).join(": ");
  }

  function conflictItem(conflict) {
    const label = (id) => ({ name: nameOf(id ?? "someone"), id: String(id) }), branch = clean(conflict.branch, 80), edits = conflict.kind === "edits";
    const title = [label(conflict.instance_id), " and ", label(conflict.other), edits ? " change the same files on " : " are in each other's way on ", { name: branch, id: branch }];
    const key = `conflict ${JSON.stringify([conflict.branch, conflict.instance_id, conflict.other, conflict.kind])}`;
    return [key, conflict.severity === "block" || edits ? "bad" : "warn", title, whyText(conflict), "`mnemosyne branch conflicts`"];
  }

  function paintBranches() {
    const shown = state.work.slice(0, MAX_BRANCH_ROWS), left = state.work.length - shown.length;
    reconcile($("branch-rows"), branchRows, shown, workKey, createBranch, updateBranch);
    put($("branches-count"), state.work.length ? String(new Set(state.work.map((one) => one.branch)).size) : "");
    $("branches-scroll").hidden = state.work.length === 0;
    $("branches-note").hidden = state.work.length > 0 && left <= 0;
    put($("branches-note"), left > 0 ? `and ${left} more: \`mnemosyne branch status\`` : "Nobody works on a branch.");
  }
  const branchRows = new Map();

  function createBranch(one) {
    const name = bdi(clean(one.branch, 600), clean(one.branch, 600)), close = bdi(""), holder = bdi(""), works = el("span", "works"), files = bdi(""), more = el("span"), since = el("span");
    close.className = "close";
    const cells = [["branch", "Branch", name, close], ["who", "Who", holder], ["works", "Works", works], ["files", "Files", files, more], ["since", "For", since]].map(([key, label, ...inside]) => {
      const cell = el("td", `w-${key}${key === "since" ? " number" : ""}`, el("div", "", ...inside));
      cell.dataset.label = label;
      cell.setAttribute("role", "cell");
      return cell;
    });
    const root = el("tr", "", ...cells);
    root.setAttribute("role", "row");
    root.dataset.branch = clean(one.branch, 600);
    return { root, close, holder, works, files, more, since, filesCell: cells[3] };
  }

  function updateBranch(row, one) {
    const files = filesOf(one), near = state.closeTo.get(workKey(one)) || [];
    put(row.close, near.length ? `close to ${clean(near.slice(0, 8).map((each) => nameOf(each.other)).join(", "), 120)}` : "");
    attr(row.close, "title", near.length ? near.slice(0, 8).map((each) => whyText(each.conflict)).join("\n") : null);
    put(row.holder, nameOf(one.instance_id));
    attr(row.holder, "title", clean(one.instance_id, 40));
    put(row.works, howText(one));
    row.works.classList.toggle("alone", isAlone(one));
    attr(row.works, "title", howTitle(one));
    put(row.files, files.slice(0, FEW_FILES).join(", "));
    put(row.more, moreFiles(files));
    attr(row.files, "title", files.length ? clean(files.join(", "), 4000) : null);
    row.filesCell.classList.toggle("none", files.length === 0);
    put(row.since, ageText((Date.parse(state.overview.at) - Date.parse(one.since)) / 1000) || "–");
  }

  // ---- memories: only where there is a database --------------------------------------------------------------------------------------------------
  function paintMemories() {
    const memory = state.memory || null;
    $("memories").hidden = memory === null;
    if (memory === null) return;
    put($("memories-count"), `${number(memory.memories)}, ${plural(number(memory.links), "link")}`);
    attr($("memories-title"), "title", clean(memory.path, 600));
    reconcile($("memory-rows"), memoryRows, list(memory.recent), (one) => String(one.id), createMemory, updateMemory);
  }
  const memoryRows = new Map();

  function createMemory() {
    const content = bdi(""), namespace = bdi(""), author = bdi(""), importance = el("td", "number");
    return { root: el("tr", "", el("td", "", content), el("td", "", namespace), el("td", "", author), importance), content, namespace, author, importance };
  }

  function updateMemory(row, one) {
    put(row.content, clean(one.content, 120));
    attr(row.content, "title", clean(one.content, 300));
    put(row.namespace, clean(one.namespace, 60));
    put(row.author, clean(one.author_name || one.author_id, 60) || "–");
    put(row.importance, clean(one.importance, 4));
  }

  // ---- mailboxes and claims ----------------------------------------------------------------------------------------------------------------------
  function paintMailboxes() {
    const busy = (box) => number(box.waiting) + number(box.claimed) + number(box.expired) > 0;
    const all = [...state.mailboxes].sort((a, b) => number(b.waiting) - number(a.waiting)), empty = all.filter((box) => !busy(box)).length, collapse = all.length > FEW_MAILBOXES && empty > 0;
    const shown = collapse && !state.allMailboxes ? all.filter(busy) : all, most = Math.max(10, ...all.map((box) => number(box.waiting)));
    reconcile($("mailbox-rows"), mailboxRows, shown, (box) => String(box.address), createMailbox, (row, box) => updateMailbox(row, box, most));
    const total = all.reduce((sum, box) => sum + number(box.waiting), 0);
    put($("mailboxes-count"), total ? `${total} waiting` : "");
    $("mailboxes-all").hidden = !collapse;
    attr($("mailboxes-all"), "aria-pressed", state.allMailboxes);
    put($("mailboxes-all"), `Show ${empty} empty`);
    $("mailboxes-empty").hidden = shown.length > 0;
    put($("mailboxes-empty"), all.length ? "All mailboxes are empty." : "No mailboxes yet.");
  }
  const mailboxRows = new Map();

  function createMailbox(box) {
    const name = bdi("", clean(box.address)), fill = el("b"), waiting = el("span"), claimed = el("td", "number"), oldest = el("td", "number");
    return { root: el("tr", "", el("td", "", name), el("td", "", el("div", "depth", waiting, el("i", "", fill))), claimed, oldest), name, fill, waiting, claimed, oldest };
  }

  function updateMailbox(row, box, most) {
    const own = state.instances.get(box.address)?.name;
    put(row.name, (own ? `${clean(own, 60)} ` : "") + (own ? `(${clean(box.address, 40)})` : clean(box.address, 80)));
    put(row.waiting, String(number(box.waiting)));
    row.fill.style.width = `${Math.round((100 * number(box.waiting)) / most)}%`;
    put(row.claimed, number(box.claimed) ? String(box.claimed) : "–");
    put(row.oldest, Number.isFinite(box.oldest) ? ageText(box.oldest) : "–");
    row.oldest.classList.toggle("late", number(box.oldest) > OLD_MESSAGE_S);
  }

  function paintClaims() {
    reconcile($("claim-rows"), claimRows, state.claims, (claim) => JSON.stringify([claim.kind, claim.claim]), (claim) => {
      const holder = bdi(""), epoch = el("td", "number"), since = el("td", "number");
      return { root: el("tr", "", el("td", "", bdi(`${clean(claim.kind, 40)} ${clean(claim.claim, 80)}`, clean(claim.claim))), el("td", "", holder), epoch, since), holder, epoch, since };
    }, (row, claim) => {
      put(row.holder, claim.instance_id ? nameOf(claim.instance_id) : "–");
      attr(row.holder, "title", clean(`${claim.instance_id ?? ""}${claim.pid ? ` pid ${claim.pid}` : ""}`));
      put(row.epoch, clean(claim.epoch, 20));
      put(row.since, ageText((Date.parse(state.overview.at) - Date.parse(claim.since)) / 1000) || "–");
    });
    put($("claims-count"), state.claims.length ? String(state.claims.length) : "");
    $("claims-empty").hidden = state.claims.length > 0;
  }
  const claimRows = new Map();

  // ---- events ------------------------------------------------------------------------------------------------------------------------------------
  function startEvents() {
    for (const kind of KINDS) addKind(kind);
    $("events-instance").addEventListener("input", () => schedule("events"));
    $("events-kind").addEventListener("change", () => schedule("events"));
    $("events-pause").addEventListener("click", () => {
      state.paused = !state.paused;
      state.held = 0;
      state.shownEvents = [...state.events];
      attr($("events-pause"), "aria-pressed", state.paused);
      schedule("events");
    });
    $("attention-more").addEventListener("click", () => { state.allAttention = !state.allAttention; schedule("attention"); });
    $("mailboxes-all").addEventListener("click", () => { state.allMailboxes = !state.allMailboxes; schedule("mailboxes"); });
  }

  function addKind(kind) {
    if (offeredKinds.has(kind) || offeredKinds.size > 60) return;
    offeredKinds.add(kind);
    const option = el("option", "", clean(kind, 60).replaceAll("_", " "));
    option.value = kind;
    $("events-kind").append(option);
  }
  const offeredKinds = new Set();

  function paintEvents() {
    const kind = $("events-kind").value, wanted = $("events-instance").value.trim().toLowerCase();
    const all = state.paused ? state.shownEvents : state.events;
    const shown = all.filter((entry) => (!kind || entry.kind === kind) && (!wanted || entry.find.includes(wanted)));
    reconcile($("event-list"), eventRows, shown, (entry) => entry.key, createEvent, null);
    put($("events-pause"), state.paused ? (state.held ? `Resume (${state.held} new)` : "Resume") : "Pause");
    put($("events-count"), all.length ? (shown.length === all.length ? String(all.length) : `${shown.length} of ${all.length}`) : "");
    $("events-empty").hidden = shown.length > 0;
    put($("events-empty"), all.length ? "No event matches the filters." : "No events since this page was opened.");
  }
  const eventRows = new Map();

  function createEvent(entry) {
    const at = new Date(entry.at), time = el("time", "", Number.isNaN(at.getTime()) ? "–" : at.toTimeString().slice(0, 8)), kind = el("span", "kind", bdi(clean(entry.kind, 60)));
    if (!Number.isNaN(at.getTime())) time.dateTime = at.toISOString();
    const root = el("li", "", time, kind, el("span", "said", ...entry.parts));
    Object.assign(root.dataset, { kind: entry.kind, event: clean(entry.id, 60), tone: entry.tone });
    return { root };
  }

  // ---- the stream --------------------------------------------------------------------------------------------------------------------------------
  const link = { source: null, delay: 0.5, timer: 0, lastData: null, phase: "connecting", fresh: true, openedAt: 0 };

  function connect() {
    clearTimeout(link.timer);
    link.source?.close();
    Object.assign(link, { fresh: true, openedAt: clock() });
    // A new EventSource each time: an id of the process before must not reach the next one.
    const source = link.source = new EventSource(`/events?refresh=${REFRESH_S}`);
    const on = (kind, handle) => source.addEventListener(kind, (message) => {
      if (source !== link.source) return;
      let data;
      try { data = JSON.parse(message.data); } catch { return; }
      if (data === null || typeof data !== "object") return;
      link.lastData = clock();
      handle(data);
    });
    on("snapshot", (overview) => { takeSnapshot(overview); link.delay = 0.5; setPhase("live"); });
    on("gap", (data) => keepEvent({ id: `gap-${++state.serial}`, kind: "gap", at: new Date().toISOString(), data }));
    for (const kind of KINDS) on(kind, takeEvent);
    on("message", takeEvent);
    source.onerror = () => { if (source === link.source) retryLater(); };
  }

  async function retryLater() {
    link.source.close();
    link.source = null;
    setPhase("reconnecting");
    const status = await statusOfSession();
    if (link.source) return;
    if (status === 401 || status === 403) return setPhase("ended");
    clearTimeout(link.timer);
    link.timer = setTimeout(connect, link.delay * 1000);
    link.delay = Math.min(5, link.delay * 2);
  }

  async function statusOfSession() {
    try {
      return (await fetch("/instances", { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(4000) })).status;
    } catch { return 0; }
  }

  function setPhase(phase) {
    if (link.phase !== phase) {
      link.phase = phase;
      document.body.classList.toggle("is-ended", phase === "ended");
      $("ended").replaceChildren();
      if (phase === "ended") {
        const again = el("button", "", "Try again");
        again.type = "button";
        again.addEventListener("click", () => { setPhase("reconnecting"); connect(); });
        $("ended").append(el("span", "", "This page's session has ended: run ", el("code", "", "mnemosyne dashboard")), again);
      }
    }
    paintConnection();
  }

  function paintConnection() {
    const quiet = link.lastData === null ? null : clock() - link.lastData, silent = link.phase === "live" && quiet > SILENT_AFTER_S;
    attr($("connection"), "data-state", silent ? "silent" : link.phase);
    put($("connection-state"), silent ? "no data" : { ended: "session ended" }[link.phase] || link.phase);
    put($("connection-age"), quiet === null ? "" : `data ${ageText(quiet)} ago`);
    if (link.source && clock() - Math.max(link.lastData ?? 0, link.openedAt) > GIVE_UP_AFTER_S) retryLater();
  }

  // A printed link opened in this tab changes only the hash; the door behind a reload takes the code.
  function handleCodeInAddress() {
    if (!location.hash.startsWith("#code=")) return;
    if (link.phase === "ended") location.reload();
    else history.replaceState(null, "", location.pathname);
  }

  function tick() {
    if (document.hidden) return;
    tickBeats();
    paintConnection();
  }

  startPicture();
  startInstances();
  startEvents();
  handleCodeInAddress();
  window.addEventListener("hashchange", handleCodeInAddress);
  document.addEventListener("visibilitychange", tick);
  window.addEventListener("pagehide", () => link.source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  setInterval(tick, 1000);
  $("attention-calm").classList.add("quiet");
  connect();
})();
