"use strict";
const collator = new Intl.Collator("en", { numeric: true });
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const entries = all(".table").map((block) => ({
  block,
  none: block.querySelector(".none"),
  count: block.querySelector(".rows"),
  rows: block.dataset.whole === "" ? [] : all("tbody tr", block).map((row) => ({
    row,
    text: `${row.querySelector("th").textContent} ${row.dataset.find || ""}`.toLowerCase(),
  })),
}));

// A heading's button sorts its table; rows without a value stay last, equal ones keep their order.
function sort(heading, first) {
  const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const now = heading.getAttribute("aria-sort");
  const sign = now === "ascending" ? -1 : now === "descending" ? 1 : first;
  const order = heading.dataset.kind === "number" ? (x, y) => x - y : collator.compare;
  const compare = (a, b) => {
    const x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
    return !x || !y ? !x - !y : sign * order(x, y);
  };
  body.append(...[...body.rows].sort(compare));
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
}
for (const button of all("thead button"))
  button.addEventListener("click", () => sort(button.closest("th"), Number(button.dataset.first)));

// Show the rows that have all words of the filter, in the tables of the chosen place, and say how many are left.
const filter = document.getElementById("filter"), place = document.getElementById("place");
function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = place ? place.value : "";
  let shown = 0, total = 0;
  for (const { block, none, count, rows } of entries) {
    block.hidden = Boolean(chosen && block.dataset.place && block.dataset.place !== chosen);
    let left = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    none.hidden = left > 0 || rows.length === 0;
    if (count && rows.length) count.textContent = left === rows.length ? `${left}` : `${left} of ${rows.length}`;
    if (!block.hidden) { shown += left; total += rows.length; }
  }
  document.getElementById("count").textContent = `${shown} of ${total} rows`;
}
filter.addEventListener("input", show);
if (place) place.addEventListener("change", show);

// Show and hide the columns of a metric, in all tables.
const columns = new Map();
for (const heading of all("th[data-metric]"))
  for (const row of heading.closest("table").rows) {
    if (!columns.has(heading.dataset.metric)) columns.set(heading.dataset.metric, []);
    columns.get(heading.dataset.metric).push(row.cells[heading.cellIndex]);
  }
const boxes = all(".choices input");
function choose(box) {
  for (const cell of columns.get(box.value)) cell.hidden = !box.checked;
}
for (const box of boxes) box.addEventListener("change", () => choose(box));
for (const button of all("[data-choose]"))
  button.addEventListener("click", () => {
    const kind = button.dataset.choose;
    for (const box of boxes) {
      box.checked = kind === "all" || (kind === "default" && box.defaultChecked);
      choose(box);
    }
  });

document.querySelector(".controls").hidden = false;
show();
