// Shows what is new of the jobs that {% job_progress %} has put on the page: one request for all of them.
"use strict";

(() => {
  const POLL_SECONDS = 2, LONGEST_PAUSE_SECONDS = 60;
  if (window.pgonlyProgress) return;
  window.pgonlyProgress = true;

  let pause = POLL_SECONDS, timer = null, stream = null, streams = true, generation = 0, isRefused = false;

  const open = () => [...document.querySelectorAll("[data-pgonly-progress]:not([data-over])")].slice(0, 20);
  const part = (box, name) => box.querySelector(`[data-part="${name}"]`);

  function put(box, name, text) {
    const element = part(box, name);
    if (element && element.textContent !== text) element.textContent = text;
  }

  function write(box, output) {
    const element = part(box, "output");
    if (!element || !output) return;
    // What another answer has brought already is not written twice.
    if (BigInt(output.offset) < BigInt(box.dataset.offset || "0")) return;
    if (output.text || output.keep !== null) {
      const isAtEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - 4;
      const text = output.keep === null ? element.textContent : [...element.textContent].slice(0, output.keep).join("");
      element.textContent = text + output.text;
      element.hidden = !element.textContent;
      if (isAtEnd) element.scrollTop = element.scrollHeight;
    }
    box.dataset.offset = output.offset;
    box.dataset.next = output.next || "";
  }

  function show(box, job) {
    box.dataset.token = job.token;
    box.dataset.state = job.state;
    put(box, "label", job.label);
    const isKnown = job.percent !== null && job.percent !== undefined;
    put(box, "percent", isKnown ? `${job.percent} %` : "");
    put(box, "pace", job.pace || "");
    put(box, "message", job.message || "");
    const bar = part(box, "bar");
    bar.hidden = !isKnown;
    if (isKnown) bar.value = job.percent;
    write(box, job.output);
    const form = box.querySelector("form");
    if (form) {
      form.hidden = !job.may_cancel;
      form.elements.token.value = job.token;
    }
    if (job.is_over) box.dataset.over = "";
    box.dispatchEvent(new CustomEvent("pgonly:progress", { bubbles: true, detail: job }));
  }

  const cursor = (box) => box.dataset.next || box.dataset.offset || "0";

  // Boxes that show the same job ask once: a list of boxes for each job of the answer.
  function byJob(boxes) {
    const jobs = new Map();
    for (const box of boxes) {
      const key = `${box.dataset.token} ${cursor(box)}`;
      jobs.set(key, [...(jobs.get(key) || []), box]);
    }
    return [...jobs.values()];
  }

  function address(jobs, path) {
    const query = new URLSearchParams();
    for (const [box] of jobs) {
      query.append("token", box.dataset.token);
      query.append("after", cursor(box));
    }
    return `${path}?${query}`;
  }

  function note(boxes, isShown) {
    for (const box of boxes) part(box, "note").hidden = !isShown;
  }

  // No later look is allowed what this one was not: the page has to be made again.
  function refuse(boxes) {
    isRefused = true;
    stop();
    note(boxes, false);
    for (const box of boxes) part(box, "refused").hidden = false;
  }

  function took(jobs, answer) {
    pause = POLL_SECONDS;
    note(jobs.flat(), false);
    jobs.forEach((boxes, place) => boxes.forEach((box) => show(box, answer.jobs[place])));
  }

  async function poll(boxes) {
    const now = generation += 1;  // the answer to an earlier request would bring the same output twice
    const jobs = byJob(boxes);
    let hasMore = false;
    try {
      const answer = await fetch(address(jobs, boxes[0].dataset.pgonlyProgress), {
        headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store",
      });
      if (now !== generation) return;
      if (answer.status === 403) return refuse(boxes);
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      const news = await answer.json();
      if (now !== generation) return;
      took(jobs, news);
      hasMore = news.jobs.some((job) => job.output && job.output.next);
    } catch {
      if (now !== generation) return;
      note(boxes, true);
      pause = Math.min(pause * 2, LONGEST_PAUSE_SECONDS);
    }
    later(hasMore ? 0 : pause);
  }

  function listen(boxes) {
    const jobs = byJob(boxes);
    const source = stream = new EventSource(address(jobs, boxes[0].dataset.events));
    source.onmessage = (event) => took(jobs, JSON.parse(event.data));
    source.addEventListener("over", () => { stop(); later(0); });
    source.onerror = () => {  // it is over after five minutes, or was refused: ask once, and listen again later
      if (source !== stream) return;
      stop();
      streams = false;
      later(POLL_SECONDS);
      setTimeout(() => { streams = true; }, 10000);
    };
  }

  function stop() {
    generation += 1;
    clearTimeout(timer);
    if (stream) stream.close();
    stream = null;
  }

  function later(seconds) {
    clearTimeout(timer);
    timer = setTimeout(look, 1000 * seconds);
  }

  function look() {
    const boxes = open();
    if (!boxes.length || document.hidden || stream || isRefused) return;
    if (streams && boxes[0].dataset.events && window.EventSource) listen(boxes);
    else poll(boxes);
  }

  async function cancel(form) {
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch(form.action, {
        method: "POST", body: new FormData(form), headers: { Accept: "application/json" }, credentials: "same-origin",
      });
      if (answer.status === 403) refuse(open());
    } catch {  // the next look says that the site cannot be reached
    } finally {
      button.disabled = false;
      if (!stream) later(0);
    }
  }

  document.addEventListener("submit", (event) => {
    if (!event.target.matches(".pgonly-progress-cancel")) return;
    event.preventDefault();
    cancel(event.target);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else later(0);
  });
  look();
})();
