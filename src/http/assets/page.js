// Keeps a page up to date: when something has happened, and every few seconds, the page is asked
// for anew, and what differs in its live parts is changed in place. What has the focus, or is
// selected, stays.
"use strict";

(() => {
  const EVERY = 5_000;
  const AT_MOST_EVERY = 1_000;
  const live = document.getElementById("live");
  let connected = false;
  let asked = 0;
  let timer = 0;
  let under_way = false;
  let again = false;

  function say(on, text) {
    live.className = "live " + (on ? "on" : "off");
    if (live.textContent !== text) live.textContent = text;
  }

  function tell() {
    say(connected, connected ? "Live" : "Connection lost, trying again");
  }

  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
      from.replaceWith(to);
      return;
    }
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) return;
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name)) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    morphChildren(from, to);
  }

  // Children with an id are the same ones wherever they stand; the others are by their place.
  function morphChildren(from, to) {
    const known = new Map();
    for (const child of from.children) if (child.id) known.set(child.id, child);
    let at = from.firstChild;
    for (const child of [...to.childNodes]) {
      const named = child.id ? known.get(child.id) : undefined;
      if (named) {
        known.delete(child.id);
        if (named === at) at = at.nextSibling;
        else from.insertBefore(named, at);
        morph(named, child);
      } else if (!child.id && at && !at.id) {
        const next = at.nextSibling;
        morph(at, child);
        at = next;
      } else {
        if (child.dataset && child.dataset.sequence) child.classList.add("new");
        from.insertBefore(child, at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
    for (const gone of known.values()) gone.remove();
  }

  // For whoever listens instead of looking.
  function announce() {
    const fresh = document.querySelectorAll("li.new:not([data-told])");
    for (const item of fresh) item.dataset.told = "";
    if (!fresh.length) return;
    const latest = fresh[0].querySelector(".what").textContent;
    const count = fresh.length === 1 ? "New event" : fresh.length + " new events, the latest";
    document.getElementById("news").textContent = count + ": " + latest;
  }

  async function refresh() {
    if (under_way) {
      again = true;
      return;
    }
    under_way = true;
    asked = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok) {
        for (const part of document.querySelectorAll("[data-live]")) {
          const now = part.id !== "live" && fresh.getElementById(part.id);
          if (now) morph(part, document.importNode(now, true));
        }
        document.title = fresh.title;
        announce();
      }
    } catch {
      connected = false;
      tell();
    } finally {
      under_way = false;
      if (again) {
        again = false;
        soon();
      }
    }
  }

  function soon() {
    if (timer) return;
    const wait = Math.max(50, asked + AT_MOST_EVERY - Date.now());
    timer = setTimeout(() => {
      timer = 0;
      if (!document.hidden) refresh();
    }, wait);
  }

  // As the server writes it: two units at most.
  function relative(millis) {
    let rest = Math.floor(Math.abs(millis) / 1_000);
    const units = [[86_400, "d"], [3_600, "h"], [60, "m"], [1, "s"]];
    const first = units.findIndex(([unit]) => rest >= unit);
    const parts = [];
    for (const [unit, name] of first < 0 ? [] : units.slice(first, first + 2)) {
      if (rest >= unit) parts.push(Math.floor(rest / unit) + name);
      rest %= unit;
    }
    return (parts.join(" ") || "0s") + (millis < 0 ? " ago" : "");
  }

  function tick() {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const left = Date.parse(time.dateTime) - Date.now();
      const text = (left < 0 && time.dataset.relative) || relative(left);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  const events = new EventSource(document.body.dataset.follow);
  events.onopen = () => {
    connected = true;
    tell();
    soon();
  };
  events.onerror = () => {
    connected = false;
    tell();
  };
  events.onmessage = soon;
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  document.addEventListener("visibilitychange", () => document.hidden || soon());
  setInterval(soon, EVERY);
  setInterval(tick, 1_000);
})();
