"use strict";

// Keeps the project page up to date: polls the numbers every second and reloads the lists when they changed.
(function () {
  const POLL_MS = 1000;
  const MIN_MS_BETWEEN_LISTS = 3000;
  const section = document.getElementById("progress");
  let shown = "";
  let listsAt = 0;

  function put(name, value) {
    const place = document.querySelector(`[data-fact="${name}"]`);
    if (place) place.textContent = value === null ? "–" : value;
  }

  function show(now) {
    const state = document.getElementById("state");
    state.className = `state state-${now.state}`;
    state.textContent = now.label;
    const bar = document.getElementById("bar");
    bar.max = now.total;
    bar.value = now.done;
    document.getElementById("spent").value = now.spent_percent;
    Object.entries({ ...now.facts, done: now.done, percent: now.percent }).forEach(([name, value]) => put(name, value));
    document.querySelectorAll("[data-verb]").forEach((form) => {
      form.hidden = !now.buttons.includes(form.dataset.verb);
    });
  }

  async function refreshLists() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelectorAll("[data-live]").forEach((old) => {
      const fresh = page.getElementById(old.id);
      if (fresh) old.replaceWith(fresh);
    });
  }

  async function poll() {
    const answer = await fetch(section.dataset.url, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const now = await answer.json();
    show(now);
    const fingerprint = [now.state, now.done, now.history, now.facts.disputed].join();
    if (shown && fingerprint === shown) return;
    if (shown && now.state === "succeeded") return location.reload();
    if (Date.now() - listsAt < MIN_MS_BETWEEN_LISTS) return;
    if (shown) await refreshLists();
    shown = fingerprint;
    listsAt = Date.now();
  }

  async function keepPolling() {
    try {
      if (!document.hidden) await poll();
    } catch (error) {
      document.getElementById("state").textContent = "The server does not answer; trying again";
    }
    setTimeout(keepPolling, POLL_MS);
  }

  keepPolling();
})();
