// The page of a report: tables that sort and filter, values on figures, and the runs and answers of the embedded JSON.
// Texts of results enter the page as text nodes alone.
"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  /** An element with attributes and children; a string is a text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const mark = (method) =>
    draw("svg", { class: "mark", "aria-hidden": "true" }, draw("use", { href: `#m${method}` }));

  // ---- Tables

  const words = new Intl.Collator("en", { numeric: true });

  /** What a cell is sorted by: its number, else its text; nothing where there is no value. */
  function key(cell) {
    if (cell === undefined) return null;
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim();
    return text === "" || text === "-" ? null : text;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return words.compare(String(a), String(b));
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = make("button", { type: "button" });
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const rising = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of headings) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
        rows.sort(([a], [b]) => {
          // Rows without a value stay last.
          if (a === null || b === null) return (a === null) - (b === null);
          return rising ? compare(a, b) : compare(b, a);
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  /** A field before `place` that hides those of `items` that lack one of its words. */
  function filter(place, name, items) {
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    const count = make("output", { "aria-live": "polite" });
    const texts = items.map((item) => item.textContent.toLowerCase());
    const update = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      items.forEach((item, index) => {
        item.hidden = !wanted.every((word) => texts[index].includes(word));
        shown += item.hidden ? 0 : 1;
      });
      count.textContent = `${shown} of ${items.length}`;
    };
    input.addEventListener("input", update);
    place.before(make("div", { class: "filter" }, make("label", {}, `Filter ${name.toLowerCase()} `, input), count));
    update();
  }

  /** Says above a table that is wider than its place that there is more of it. */
  const wide = new ResizeObserver((entries) => {
    for (const { target } of entries) target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
  });

  for (const table of document.querySelectorAll(".table > table")) {
    table.parentElement.before(make("p", { class: "aside" }, "There are more columns to the right: move the table sideways."));
    wide.observe(table.parentElement);
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 2) continue;
    sortable(table);
    if (rows.length > 4) filter(table.parentElement.previousElementSibling, table.dataset.name, rows);
  }

  // ---- Values on figures

  const tip = document.getElementById("tip");
  /** What the tip is of: drawing, points and place among them. */
  let pointed = null;

  function hide(svg) {
    pointed = null;
    tip.hidden = true;
    svg.querySelector(".here")?.remove();
  }

  function show(svg, points, index) {
    pointed = [svg, points, index];
    const [x, y, name, along, value] = points.values[index];
    tip.textContent = `${name ? `${name}\n` : ""}${points.y}: ${value}\n${points.x}: ${along}`;
    tip.hidden = false;
    svg.querySelector(".here")?.remove();
    svg.append(
      draw("circle", { class: "here", cx: x, cy: y, r: 13, fill: "none", stroke: "currentColor", "stroke-width": 3 }),
    );
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const left = box.left + x * scale + 14;
    const top = box.top + y * scale + 14;
    const beyond = left + tip.offsetWidth > document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, beyond ? left - tip.offsetWidth - 28 : left)}px`;
    tip.style.top = `${Math.max(4, Math.min(top, innerHeight - tip.offsetHeight - 4))}px`;
  }

  /** Lets a drawing be pointed at, or walked through by keys. `points` has labels and values in its pixels. */
  function pointable(svg, points) {
    if (points.values.length === 0) return;
    points.values.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    let current = -1;
    const near = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const at = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      let [best, distance] = [-1, 60];
      points.values.forEach(([x, y], index) => {
        const found = Math.hypot(x - at[0], y - at[1]);
        if (found < distance) [best, distance] = [index, found];
      });
      current = best;
      if (best < 0) hide(svg);
      else show(svg, points, best);
    };
    svg.addEventListener("pointermove", near);
    svg.addEventListener("pointerdown", near);
    svg.addEventListener("pointerleave", () => hide(svg));
    svg.addEventListener("blur", () => hide(svg));
    svg.addEventListener("keydown", (event) => {
      const last = points.values.length - 1;
      const next = {
        ArrowRight: Math.min(current + 1, last),
        ArrowLeft: Math.max(current - 1, 0),
        Home: 0,
        End: last,
      }[event.key];
      if (event.key === "Escape") hide(svg);
      if (next === undefined) return;
      event.preventDefault();
      current = next;
      show(svg, points, current);
    });
  }

  for (const svg of document.querySelectorAll("svg.panel")) pointable(svg, DATA.figures[svg.dataset.points]);
  // The tip goes with its drawing.
  addEventListener("scroll", () => pointed && show(...pointed), { passive: true });

  // ---- Curves of one run, in the form of the figures

  const FRAME = { left: 144, right: 904, top: 68, bottom: 552, width: 940, height: 660 };

  /** Round numbers inside a range, and their decimals. */
  function ticks(low, high) {
    const raw = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let index = Math.ceil(low / step); index <= Math.floor(high / step); index += 1) found.push(index * step);
    return [found, decimals];
  }

  function chart(title, side, method, curves, marked) {
    const all = curves.flatMap((curve) => curve.points).filter(([, y]) => y !== null);
    if (all.length === 0) return null;
    const ys = all.map(([, y]) => y).sort((a, b) => a - b);
    // The wildest batches must not flatten the rest.
    const at = (share) => ys[Math.round(share * (ys.length - 1))];
    let [low, high] = marked ? [ys[0], ys[ys.length - 1]] : [at(0.01), at(0.98)];
    const room = Math.max(0.06 * (high - low), 1e-3);
    [low, high] = [low - room, high + room];
    const last = Math.max(1, ...all.map(([x]) => x));
    const clamp = (share) => Math.min(1, Math.max(0, share));
    const x = (step) => Math.round(FRAME.left + clamp((step + 0.02 * last) / (1.04 * last)) * (FRAME.right - FRAME.left));
    const y = (value) => Math.round(FRAME.bottom - clamp((value - low) / (high - low)) * (FRAME.bottom - FRAME.top));
    const text = (content, attributes, size = 25) =>
      draw("text", { fill: "currentColor", "font-size": size, dy: "0.35em", "text-anchor": "middle", ...attributes }, content);
    const svg = draw("svg", {
      class: "panel",
      viewBox: `0 0 ${FRAME.width} ${FRAME.height}`,
      role: "img",
      tabindex: "0",
      "aria-label": `${title}: ${side} by optimizer step, from ${all[0][1]} to ${all[all.length - 1][1]}.`,
    });
    for (const step of ticks(0, last)[0]) {
      svg.append(draw("path", { d: `M${x(step)} ${FRAME.top}V${FRAME.bottom}`, stroke: "var(--grid)" }));
      svg.append(text(String(step), { x: x(step), y: FRAME.bottom + 26 }));
    }
    const [values, decimals] = ticks(low, high);
    for (const value of values) {
      svg.append(draw("path", { d: `M${FRAME.left} ${y(value)}H${FRAME.right}`, stroke: "var(--grid)" }));
      svg.append(text(value.toFixed(decimals), { x: FRAME.left - 14, y: y(value), "text-anchor": "end" }));
    }
    const points = { x: "Optimizer step", y: side, values: [] };
    for (const { name, points: places, faint } of curves) {
      let path = "";
      let broken = true;
      for (const [step, value] of places) {
        if (value !== null) path += `${broken ? "M" : "L"}${x(step)} ${y(value)}`;
        broken = value === null;
      }
      const stroke = DATA.methods[method].colour;
      svg.append(draw("path", { d: path, fill: "none", stroke, "stroke-width": faint ? 2 : 3, opacity: faint ? 0.3 : 1 }));
      if (faint) continue;
      for (const [step, value] of places) {
        if (value === null) continue;
        if (marked) svg.append(draw("use", { href: `#m${method}`, x: x(step) - 12, y: y(value) - 12, width: 24, height: 24 }));
        points.values.push([x(step), y(value), name, String(step), value.toFixed(4)]);
      }
    }
    svg.append(
      draw("path", {
        d: `M${FRAME.left} ${FRAME.top}H${FRAME.right}V${FRAME.bottom}H${FRAME.left}Z`,
        fill: "none",
        stroke: "currentColor",
        "stroke-width": 2,
      }),
      text(title, { x: (FRAME.left + FRAME.right) / 2, y: 34 }, 28),
      text("Optimizer step", { x: (FRAME.left + FRAME.right) / 2, y: FRAME.bottom + 72 }, 28),
      text(side, { transform: `translate(28 ${(FRAME.top + FRAME.bottom) / 2}) rotate(-90)` }, 28),
    );
    pointable(svg, points);
    return svg;
  }

  function panels(run) {
    const curves = run.curves;
    if (!curves) return null;
    const along = (values) => curves.steps.map((step, place) => [step, values[place]]);
    const drawn = [
      chart("Training", "Loss", run.method, [
        { name: "Every step", points: along(curves.raw), faint: true },
        { name: "Mean of the last steps", points: along(curves.smooth) },
      ]),
      chart("Held-out", "Loss", run.method, [{ name: "Held-out loss", points: curves.held_out }], true),
      chart("Evaluated", "Score of the task", run.method, [{ name: "Score", points: curves.score }], true),
    ].filter(Boolean);
    return drawn.length === 0 ? null : make("div", { class: "panels" }, ...drawn);
  }

  // ---- Answers side by side

  /** Of each method the answer of the run that is most like `run`: this one, else with its axes and seed, else the first. */
  function chosen(question, run) {
    const best = new Map();
    for (const answer of question.answers) {
      const other = DATA.runs[answer[0]];
      let fit = 0;
      if (run) fit = other === run ? 3 : (other.axes === run.axes) + (other.axes === run.axes && other.seed === run.seed);
      const known = best.get(other.method);
      if (!known || fit > known.fit) best.set(other.method, { fit, answer });
    }
    const answers = [...best.values()].map(({ answer }) => answer);
    const place = ([index]) => (DATA.runs[index] === run ? -1 : DATA.runs[index].method);
    return answers.sort((a, b) => place(a) - place(b));
  }

  function viewer(run) {
    const has = (question) => !run || question.answers.some(([index]) => DATA.runs[index] === run);
    const tasks = DATA.answers
      .map((task) => ({ name: task.name, shown: task.shown.filter(has) }))
      .filter((task) => task.shown.length > 0);
    if (tasks.length === 0) return null;
    const element = make("div", { class: "viewer" });
    const choice = make("select", { "aria-label": "Task" });
    choice.append(...tasks.map((task, index) => make("option", { value: index }, task.name)));
    const number = make("select", { "aria-label": "Question" });
    const before = make("button", { type: "button" }, "Previous");
    const after = make("button", { type: "button" }, "Next");
    const content = make("div", { "aria-live": "polite" });
    const task = () => tasks[Number(choice.value) || 0];

    const update = () => {
      const question = task().shown[number.selectedIndex];
      const cards = chosen(question, run).map(([index, text, grades]) => {
        const other = DATA.runs[index];
        const title = make("p", {}, mark(other.method), make("b", {}, DATA.methods[other.method].name), ` ${other.name}`);
        return make(
          "article",
          { class: other === run ? "answer this" : "answer" },
          title,
          make("p", { class: "grades" }, grades.join(", ") || "not graded"),
          make("pre", { class: "wrap", tabindex: "0" }, text === "" ? "(nothing)" : text),
        );
      });
      content.replaceChildren(
        make("h4", {}, `Question ${question.id}${question.group ? `, ${question.group}` : ""}`),
        make("pre", { class: "wrap", tabindex: "0" }, question.prompt),
        make("h4", {}, "Reference"),
        make("pre", { class: "wrap", tabindex: "0" }, question.reference),
        make("div", { class: "answers" }, ...cards),
      );
      before.disabled = number.selectedIndex === 0;
      after.disabled = number.selectedIndex === task().shown.length - 1;
    };
    const fill = () => {
      number.replaceChildren(...task().shown.map((question) => make("option", {}, `Question ${question.id}`)));
      update();
    };
    choice.addEventListener("change", fill);
    number.addEventListener("change", update);
    const move = (by) => () => {
      number.selectedIndex += by;
      update();
    };
    before.addEventListener("click", move(-1));
    after.addEventListener("click", move(1));
    element.append(make("div", { class: "controls" }, ...(tasks.length > 1 ? [choice] : []), number, before, after), content);
    fill();
    return element;
  }

  const place = document.getElementById("answers-viewer");
  const shown = place && viewer(null);
  if (shown) place.append(shown);

  // ---- Runs

  /** Name and value by turns, as rows; `own` are names that stand out. */
  function pairs(list, kind, own = new Set()) {
    const body = make("tbody");
    for (let index = 0; index < list.length; index += 2) {
      const row = make(
        "tr",
        own.has(index) ? { class: "own" } : {},
        make("th", { scope: "row" }, DATA.strings[list[index]]),
        make("td", {}, DATA.strings[list[index + 1]]),
      );
      body.append(row);
    }
    return make("div", { class: "table", tabindex: "0", role: "region", "aria-label": kind }, make("table", { class: kind }, body));
  }

  /** How many runs have a setting with a value. */
  const counts = new Map();
  for (const { settings } of DATA.runs) {
    for (let index = 0; index < settings.length; index += 2) {
      const pair = `${settings[index]} ${settings[index + 1]}`;
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
  }

  function fillRun(details, run) {
    const part = (title, content) => (content ? [make("h4", {}, title), content] : []);
    const own = new Set();
    for (let index = 0; index < run.settings.length; index += 2) {
      if (counts.get(`${run.settings[index]} ${run.settings[index + 1]}`) < DATA.runs.length) own.add(index);
    }
    const facts = run.facts.slice(0, -2);
    const command = DATA.strings[run.facts[run.facts.length - 1]];
    details.append(
      ...part("Scores", run.scores.length > 0 && pairs(run.scores, "pairs")),
      ...part("Curves", panels(run)),
      ...part("Answers", viewer(run)),
      ...part("Where it comes from", pairs(facts, "pairs")),
      ...part("Settings; in bold those that not all runs have", pairs(run.settings, "settings", own)),
      ...part("Command", make("pre", { tabindex: "0" }, make("code", {}, command))),
    );
  }

  const sections = [...document.querySelectorAll("details.run")];
  sections.forEach((details, index) => {
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) fillRun(details, DATA.runs[index]);
    });
  });
  if (sections.length > 4) filter(document.getElementById("runs-list"), "each run", sections);

  // The table of the runs has them in the same order.
  const table = document.querySelector("#runs table");
  if (table) {
    [...table.tBodies[0].rows].forEach((row, index) => {
      const cell = row.cells[0];
      const link = make("a", { href: `#${encodeURIComponent(sections[index].id)}` });
      link.append(...cell.childNodes);
      cell.append(link);
    });
  }

  function openNamed() {
    const details = sections.find((section) => section.id === decodeURIComponent(location.hash.slice(1)));
    if (!details) return;
    details.hidden = false;
    details.open = true;
    details.firstElementChild.focus();
    details.scrollIntoView();
  }
  addEventListener("hashchange", openNamed);
  openNamed();
})();
