"use strict";
// Only interactions: without this script the page still says everything.
(() => {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text; // never markup: texts come from models
    if (className) element.className = className;
    return element;
  };

  // Theme: follows the system until the reader chooses.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const storage = (use) => { try { return use(localStorage); } catch { return null; } }; // forbidden?
  const showTheme = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    const isDark = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    $("theme").textContent = isDark ? "Light theme" : "Dark theme";
    return isDark;
  };
  showTheme(storage((s) => s.getItem("mismatch-lab")));
  dark.addEventListener("change", () => showTheme());
  $("theme").addEventListener("click", () => {
    const next = showTheme() ? "light" : "dark";
    showTheme(next);
    storage((s) => s.setItem("mismatch-lab", next));
  });

  // All numbers at once.
  const expand = $("expand");
  expand.addEventListener("click", () => {
    const open = expand.getAttribute("aria-pressed") !== "true";
    all("details").forEach((details) => { details.open = open; });
    expand.setAttribute("aria-pressed", String(open));
    expand.textContent = open ? "Hide numbers" : "Show all numbers";
  });
  addEventListener("beforeprint", () => all("details").forEach((details) => { details.open = true; }));

  // Copy.
  for (const button of all("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(source);
      let done = true;
      try { await navigator.clipboard.writeText(source.textContent); }
      catch { done = document.execCommand("copy"); }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
  all("[data-script]").forEach((element) => { element.hidden = false; });

  // Token details: hover and focus preview, click or tap keeps, arrows walk, Escape closes.
  const popup = $("token-detail");
  if (!popup) return;
  const { fields, tokens } = JSON.parse($("token-data").textContent);
  let current = null;
  let kept = false;
  const list = (pairs) => {
    const dl = make("dl");
    for (const [term, value] of pairs) dl.append(make("dt", term), make("dd", value));
    return dl;
  };
  const show = (chip) => {
    if (current) current.setAttribute("aria-expanded", "false");
    current = chip;
    chip.setAttribute("aria-expanded", "true");
    const [text, values, infer, train] = tokens[chip.dataset.t];
    const pairs = fields.map((field, i) => [field, values[i]]).filter((pair) => pair[1] !== "");
    popup.replaceChildren(make("h4", text), list(pairs));
    if (infer.length || train.length) {
      const sides = make("div", undefined, "sides");
      for (const [name, side] of [["engine", infer], ["trainer", train]]) {
        const column = make("div");
        column.append(make("span", `${name} prefers`, "muted"), list(side));
        if (!side.length) column.append(make("p", "not probed here", "muted"));
        sides.append(column);
      }
      popup.append(sides);
    }
    popup.hidden = false;
    const box = chip.getBoundingClientRect();
    const left = Math.min(box.left, root.clientWidth - popup.offsetWidth - 16);
    const above = box.top - popup.offsetHeight - 6;
    const fits = box.bottom + popup.offsetHeight + 6 < root.clientHeight;
    popup.style.left = `${Math.max(8, left) + scrollX}px`;
    popup.style.top = `${(fits || above < 0 ? box.bottom + 6 : above) + scrollY}px`;
    const covered = box.bottom + 8 - popup.getBoundingClientRect().top;
    if (getComputedStyle(popup).position === "fixed" && covered > 0) scrollBy(0, covered); // a phone
  };
  const close = () => {
    popup.hidden = true;
    kept = false;
    if (current) current.setAttribute("aria-expanded", "false");
    current = null;
  };
  for (const chip of all("button.tok")) {
    chip.setAttribute("aria-expanded", "false");
    chip.setAttribute("aria-controls", "token-detail");
    // Not on a touch before its click: a sheet sliding under the finger would swallow the click.
    chip.addEventListener("focus", () => { if (chip.matches(":focus-visible")) show(chip); });
    chip.addEventListener("blur", () => { if (!kept && current === chip) close(); });
    chip.addEventListener("pointerenter", (e) => { if (!kept && e.pointerType === "mouse") show(chip); });
    chip.addEventListener("pointerleave", () => { if (!kept && document.activeElement !== chip) close(); });
    chip.addEventListener("click", () => { show(chip); kept = true; });
  }
  addEventListener("click", (event) => { if (!event.target.closest("button.tok, .popup")) close(); });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") return close();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const chip = document.activeElement;
    if (!step || !chip.matches("button.tok")) return;
    const chips = [...chip.parentElement.querySelectorAll("button.tok")];
    const next = chips[chips.indexOf(chip) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
})();
