"""The page's style sheet and its one script. The look is that of the page of `expressnet data audit`.

Colours of charts are Okabe and Ito's, which stay apart for colour-blind readers. The script only adds: buttons that
sort tables, and a tab stop on what scrolls sideways.
"""

STYLE = """
:root { color-scheme: light dark; --ground: #fdfdfc; --text: #1d1d1f; --weak: #5c5c63; --line: #dcdce0;
  --box: #f2f2f0; --mark: #a02c1c; --link: #0b57a4; --axis: #85858c; --heat-colour: 0 114 178; --heat-most: .55;
  --one: #0072b2; --two: #d55e00; --three: #6b6b72; }
@media (prefers-color-scheme: dark) { :root { --ground: #17181b; --text: #ececee; --weak: #a5a7ae; --line: #3a3c42;
  --box: #22242a; --mark: #ff9c8a; --link: #8fc1ff; --axis: #7d8088; --heat-colour: 86 180 233; --heat-most: .45;
  --one: #56b4e9; --two: #e69f00; --three: #b9bbc2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3, h4, h5, p, li, dt, dd, summary, figcaption { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.35rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; } h4 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
h5 { font-size: .95rem; margin: 1.5rem 0 .5rem; color: var(--weak); }
p, ul, ol { max-width: 46rem; } a { color: var(--link); } .weak { color: var(--weak); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: -999rem; padding: .5rem 1rem; background: var(--ground); }
.skip:focus { left: 1rem; top: 1rem; z-index: 2; }
.state { border-left: .3rem solid var(--mark); padding: .1rem 1rem; background: var(--box); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.conclusion li { font-weight: 600; margin: .35rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--weak); padding-bottom: .35rem; }
/* As wide as the page; the margin keeps the table from growing with it, and it stays while that scrolls. */
caption span { display: block; position: sticky; left: 0; width: max-content; max-width: min(46rem, 100vw - 2rem);
  margin-right: -46rem; }
th, td { padding: .25rem 0 .25rem 1.25rem; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal;
  vertical-align: top; } thead th { color: var(--weak); vertical-align: bottom; }
td { white-space: nowrap; } .text { text-align: left; }
td.text { white-space: normal; overflow-wrap: break-word; max-width: 24rem; }
th:first-child { position: sticky; left: 0; z-index: 1; padding-left: 0; padding-right: .25rem; text-align: left;
  background: var(--ground); overflow-wrap: break-word; max-width: 16rem; }
th.text:first-child { min-width: 6.5rem; }
th button { font: inherit; color: inherit; text-align: inherit; background: none; border: 0;
  padding: .15rem .25rem; margin: 0 -.25rem; cursor: pointer; text-decoration: underline dotted;
  text-underline-offset: .2em; }
th button:focus-visible { outline-offset: -2px; }
th[aria-sort] button { color: var(--text); text-decoration: none; }
th[aria-sort=ascending] button::after { content: " \\25B2" / ""; }
th[aria-sort=descending] button::after { content: " \\25BC" / ""; }
.matrix th:not(:first-child) { max-width: 7rem; padding-right: .5rem; overflow-wrap: break-word; }
.matrix td { padding: 1px; border: 0; }
.heat { display: block; min-width: 3.5rem; padding: .2rem .5rem; text-align: right;
  background: rgb(var(--heat-colour) / calc(var(--heat) * var(--heat-most))); }
.heat small { display: block; font-size: .75rem; line-height: 1.2; }
.bar { display: inline-block; width: 8rem; height: .7rem; margin-left: .75rem; background: var(--box); }
.bar span { display: block; height: 100%; background: var(--one); }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2rem; margin: 1rem 0; }
.facts dt { font-size: .85rem; color: var(--weak); } .facts dd { margin: 0; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; } summary { cursor: pointer; padding: .35rem 0; color: var(--link); }
summary h3 { display: inline; color: var(--text); } summary .weak { font-size: .9rem; }
.run { margin: 0; padding: .35rem 0; } .run + .run { border-top: 1px solid var(--line); }
.target { scroll-margin-top: 4rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; column-gap: clamp(1rem, 3vw, 2rem); align-items: flex-start; }
.charts > figure { flex: 1 1 20rem; max-width: 35rem; min-width: 0; }
.charts > figure.panel { flex: 1 1 9rem; max-width: 12rem; }
figure { margin: 0; } figcaption { color: var(--weak); padding-bottom: .35rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--text); font: 13px system-ui, sans-serif; }
svg .weak { fill: var(--weak); } svg .strong { font-weight: 600; } svg .hollow { fill: var(--ground); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--axis); }
svg .one { color: var(--one); } svg .two { color: var(--two); } svg .three { color: var(--three); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures figure { max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
@media (max-width: 30rem) { table { font-size: .875rem; } th + th, td { padding-left: .7rem; }
  th:first-child { max-width: 8.5rem; } td.text { max-width: 14rem; } .bar { width: 5rem; }
  svg text { font-size: 15px; } figcaption { font-size: .875rem; } }
@media print { .skip, nav { display: none; } .wide { overflow: visible; } }
"""

SCRIPT = """
"use strict";
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const holder = cell.dataset.value === undefined ? cell.querySelector("[data-value]") : cell;
  return holder ? Number(holder.dataset.value) : cell.textContent.trim();
};
const order = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return typeof a === "string" && typeof b === "string" ? a.localeCompare(b, "en", { numeric: true }) : 0;
};
const rank = (value) => (value === "-" || value === "" ? 2 : typeof value === "number" ? 0 : 1);
const sort = (table, column, sign) => {
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => rank(a) - rank(b) || sign * order(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table, column, up ? 1 : -1);
    });
  });
}
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".wide").forEach((wide) => watch.observe(wide));
"""
