// Keys, the dialog of the queue, and ticked rows. Every page works without this too.

const typing = (element) =>
  element instanceof HTMLElement &&
  (element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName)) &&
  element.type !== "checkbox";

const rows = () => [...document.querySelectorAll("[data-row]")];
let current = null;

function choose(row) {
  current?.classList.remove("current");
  current = row;
  row.classList.add("current");
  (row.querySelector(".row-link") ?? row.querySelector("a, button"))?.focus();
  row.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const all = rows();
  if (!all.length) return;
  const at = all.indexOf(current);
  choose(all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)]);
}

// The decision on a row of the queue, with a reason.
const dialog = document.getElementById("decide");
const words = { confirm: "Confirm", reject: "Reject" };

function ask(row, verdict) {
  const form = dialog.querySelector("form");
  form.action = row.dataset.decide;
  form.elements.shown.value = row.dataset.shown;
  form.elements.verdict.value = verdict;
  form.elements.reason.value = "";
  dialog.querySelector("[data-word]").textContent = words[verdict];
  dialog.querySelector("[data-name]").textContent = row.querySelector(".row-link").textContent;
  dialog.showModal();
  form.elements.reason.focus();
}

dialog?.addEventListener("close", () => current?.querySelector(".row-link")?.focus());

function decide(verdict, key) {
  if (current?.dataset.decide && document.contains(current)) return ask(current, verdict);
  const form = document.querySelector("form[data-decision]");
  const button = form?.querySelector(`[data-key=${key}]`);
  if (!button) return;
  // Without a reason nothing is decided: the key leads to where one is typed, then decides.
  if (form.elements.reason.value.trim()) form.requestSubmit(button);
  else form.elements.reason.focus();
}

let last = "";
const keys = {
  j: () => move(1),
  k: () => move(-1),
  c: () => (last === "g" ? location.assign("/desk/campaigns") : decide("confirm", "c")),
  r: () => decide("reject", "r"),
  u: () => document.querySelector(".notice [data-key=u]")?.click(),
  x: () => {
    const box = current?.querySelector("input[type=checkbox]");
    box?.click();
  },
  "/": () => {
    const field = document.querySelector("[data-search]");
    if (field) { field.focus(); field.select?.(); }
    else location.assign("/desk/search");
  },
  q: () => last === "g" && location.assign("/desk/queue"),
  s: () => last === "g" && location.assign("/desk/search"),
  t: () => last === "g" && location.assign("/desk/templates"),
  m: () => last === "g" && location.assign("/desk/model"),
  a: () => last === "g" && location.assign("/desk/audit"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog?.open) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    // A search of several lines is begun as a letter is sent.
    return;
  }
  const act = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (act) { event.preventDefault(); act(); }
  last = event.key;
});

// A text that is searched for may have lines: Ctrl+Enter or Cmd+Enter sends its form.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) {
    event.target.form.requestSubmit();
  }
});

document.addEventListener("click", (event) => {
  const target = event.target.closest?.("[data-ask], [data-close], [data-all]");
  if (!target) return;
  if (target.dataset.ask) { choose(target.closest("[data-row]")); ask(current, target.dataset.ask); }
  else if ("close" in target.dataset) dialog.close();
  else tickAll(target.closest("form"));
});

// A field to be copied: all of it is chosen at once, and a button copies it.
for (const field of document.querySelectorAll("[data-copied]")) {
  field.addEventListener("focus", () => field.select());
  const button = document.querySelector(`[data-copy="${field.id}"]`);
  if (!button || !navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let told = "Copied.";
    try { await navigator.clipboard.writeText(field.value); }
    catch { field.focus(); told = "Press Ctrl+C."; }
    document.querySelector("[data-copied-told]").textContent = told;
  });
}

function boxes(form) { return [...form.querySelectorAll("input[name=pick]")]; }

function tickAll(form) {
  const all = boxes(form);
  const on = !all.every((box) => box.checked);
  for (const box of all) box.checked = on;
  told(form);
}

function told(form) {
  const count = boxes(form).filter((box) => box.checked).length;
  const place = form.querySelector("[data-count]");
  if (place) place.textContent = `${count} ticked:`;
  form.dispatchEvent(new CustomEvent("ticked"));
}

for (const form of document.querySelectorAll("form[data-picks]")) {
  form.addEventListener("change", () => told(form));
  told(form);
}

// What was put in the place of a list has rows of its own: the chosen one stays so, if it is there.
document.body.addEventListener("htmx:afterSwap", () => {
  if (!current || document.contains(current)) return;
  const link = current.querySelector(".row-link")?.getAttribute("href");
  current = null;
  const same = rows().find((row) => row.querySelector(".row-link")?.getAttribute("href") === link);
  if (same) choose(same);
});
