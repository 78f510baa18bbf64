// Keeps a page up to date, and shows the numbers of the column that is pointed at. Without it the page works as well.
"use strict";

(() => {
  const LIVE_MS = 2000;
  const WHOLE_MS = 20000;
  let wholeAt = Date.now();
  let failures = 0;

  // Takes over the parts of a page that were sent anew. A part that is being read stays: one with the focus, or
  // with selected text. What was unfolded and scrolled stays so.
  const replaceParts = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const selection = document.getSelection();
    for (const part of fresh.querySelectorAll("[data-live]")) {
      const old = document.getElementById(part.id);
      if (!old || old.innerHTML === part.innerHTML) continue;
      if (old.contains(document.activeElement)) continue;
      if (selection && !selection.isCollapsed && selection.containsNode(old, true)) continue;
      const unfolded = [...old.querySelectorAll("details")].map((each) => each.open);
      const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
      old.replaceChildren(...document.adoptNode(part).childNodes);
      old.querySelectorAll("details").forEach((each, place) => (each.open = unfolded[place] ?? false));
      old.querySelectorAll(".scroll").forEach((each, place) => (each.scrollLeft = scrolled[place] ?? 0));
    }
  };

  const load = async (url) => {
    const answer = await fetch(url, { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    replaceParts(await answer.text());
  };

  const isOut = () => document.querySelector("#outage .outage") !== null;

  const refresh = async () => {
    if (document.visibilityState === "visible") {
      try {
        const out = isOut();
        await load(document.body.dataset.liveUrl);
        if (out !== isOut() || Date.now() - wholeAt > WHOLE_MS) {
          await load(location.href);
          wholeAt = Date.now();
        }
        failures = 0;
      } catch {
        failures += 1;
        if (failures === 2) sayStopped();
      }
    }
    setTimeout(refresh, LIVE_MS * Math.min(1 + failures, 5));
  };

  const sayStopped = () => {
    const place = document.getElementById("outage");
    const box = document.createElement("div");
    box.className = "outage";
    box.setAttribute("role", "alert");
    const words = document.createElement("p");
    words.textContent = "The server of this page does not answer. The numbers are old. This page tries again by itself.";
    box.append(words);
    place.replaceChildren(box);
  };

  // The legend shows the sums of all columns, or the numbers of one, which are in the table.
  const pointAt = (event) => {
    const figure = event.target instanceof Element ? event.target.closest("figure.days") : null;
    for (const other of document.querySelectorAll("figure.days[data-shown]")) {
      if (other !== figure || !event.target.classList.contains("column")) restore(other);
    }
    if (!figure || !event.target.classList.contains("column")) return;
    const place = [...event.target.parentNode.children].indexOf(event.target);
    const row = figure.querySelectorAll("tbody tr")[place];
    if (!row || figure.dataset.shown === String(place)) return;
    const cells = [...row.children].map((cell) => cell.textContent);
    const shown = [cells[1], cells[2], cells[3], cells[0]];
    const values = figure.querySelectorAll(".legend dd");
    if (!figure.dataset.shown) figure.sums = [...values].map((value) => value.textContent);
    values.forEach((value, at) => (value.textContent = shown[at]));
    figure.dataset.shown = String(place);
  };

  const restore = (figure) => {
    figure.querySelectorAll(".legend dd").forEach((value, at) => (value.textContent = figure.sums[at]));
    delete figure.dataset.shown;
  };

  document.addEventListener("pointerover", pointAt);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && (wholeAt = 0));
  setTimeout(refresh, LIVE_MS);
})();
