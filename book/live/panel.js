// What the live figures of the chapters share: controls, live text, and a place in the page.
(function (FlowVAE) {
  "use strict";

  const { Plane, element, provenance } = FlowVAE;

  const button = (words, does) => element("button", { type: "button", onclick: does }, words);

  // The words below a picture that say what its colours are. What is black is white on a dark page.
  function colourKey(words) {
    const [first, ...rest] = words.split("Black");
    const ink = () => [element("span", { class: "live-light" }, "Black"),
      element("span", { class: "live-dark" }, "White")];
    return element("p", { class: "live-key" }, first, ...rest.flatMap((part) => [...ink(), part]));
  }

  // A plane with its title above it; `label` says what it is, and what the keys do if it has any.
  function titledPlane(name, title, label, redraw, { keys = true } = {}) {
    const role = keys ? { tabindex: "0", role: "application" } : { role: "img", class: "live-seen" };
    const canvas = element("canvas", { ...role, "aria-label": label });
    const heading = element("p", { class: "live-title" }, title);
    return Object.assign(new Plane(canvas, name, redraw), {
      heading, node: element("div", {}, heading, canvas),
    });
  }

  // Calls `move(x, y, kind)` when a pointer presses ("press") or drags on ("drag"), and for the arrow
  // keys ("key"). Then `show(dragged, byKey)`: once a frame while the pointer is down, at the end of a
  // drag, and for a key.
  function onDrag(plane, move, show) {
    let held = false;
    const later = oncePerFrame(() => { if (held) show(true); });
    plane.listen((x, y, kind) => {
      const inside = [x, y].map((v) => Math.max(-plane.extent, Math.min(plane.extent, v)));
      if (kind === "press") {
        move(...inside, held ? "drag" : "press");
        held = true;
        later();
      } else if (kind === "key") {
        move(...inside, kind);
        show(false, true);
      } else if (kind === "release" && held) {
        held = false;
        show(false);
      }
    });
  }

  // The row of (N, 2) points that is nearest to (x, y).
  function nearest(points, x, y) {
    const away = (n) => Math.hypot(points.row(n)[0] - x, points.row(n)[1] - y);
    const all = Array.from({ length: points.rows }, (_, n) => n);
    return all.reduce((best, n) => (away(n) < away(best) ? n : best));
  }

  // A slider with its name, its value in words, and `change(value)`.
  function slider(name, { min, max, step, value, words = String }, change) {
    const said = element("output", {}, words(value));
    const input = element("input", { type: "range", min, max, step, value, "aria-label": name });
    const told = () => {
      said.textContent = words(Number(input.value));
      input.setAttribute("aria-valuetext", said.textContent);
    };
    input.addEventListener("input", () => {
      told();
      change(Number(input.value));
    });
    told();
    return {
      node: element("label", { class: "live-slider" }, `${name} `, said, input), input,
      set: (to) => {
        input.value = to;
        told();
      },
    };
  }

  function choice(name, options, change) {
    const select = element("select", { onchange: () => change(select.value) },
      ...Object.entries(options).map(([value, words]) => element("option", { value }, words)));
    return { select, node: element("label", {}, `${name} `, select) };
  }

  // A table with names above its columns and beside its rows; `fill(row, words)` writes into a row.
  function table(corner, columns, rows) {
    const name = (scope, words) => element("th", { scope }, words);
    const cells = rows.map(() => columns.map(() => element("td")));
    const node = element("table", { class: "live-table" },
      element("thead", {}, element("tr", {}, corner ? name("col", corner) : element("td"),
        ...columns.map((words) => name("col", words)))),
      element("tbody", {}, ...rows.map((words, r) => element("tr", {}, name("row", words), ...cells[r]))));
    const fill = (r, words) => words.forEach((text, c) => { cells[r][c].textContent = text; });
    return { node, fill };
  }

  // Goes from one number to another, so many units a second, and calls `show(value, arrived)` each
  // frame, until it is there or told to stop.
  function glide(show) {
    let current = null;
    const stop = () => { current = null; };
    const go = (from, to, speed) => {
      const own = (current = {}), begin = performance.now(), far = Math.abs(to - from);
      const frame = (now) => {
        if (current !== own) return;
        const gone = Math.min(far, (Math.max(0, now - begin) / 1000) * speed);
        if (gone === far) stop();
        show(from + Math.sign(to - from) * gone, gone === far);
        if (gone < far) requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    };
    return { go, stop };
  }

  // However often it is called within a frame, `does` runs once, at its end.
  function oncePerFrame(does) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        does();
      });
    };
  }

  // Puts a figure in its place, if the page has one: `make(say)` returns its `nodes`, and `draw`;
  // `about` too, if nothing in it is trained.
  function mount(figure, make) {
    const root = document.getElementById(`live-${figure}`);
    if (!root) return;
    const status = element("p", { class: "lab-status", role: "status", "aria-live": "polite" });
    // Quietly while something is dragged: a screen reader would hear every frame.
    const made = make((words, quietly = false) => {
      if (quietly && words === status.textContent) return;
      status.setAttribute("aria-live", quietly ? "off" : "polite");
      status.textContent = words;
    });
    root.replaceChildren(...made.nodes, status,
      element("p", { class: "live-weights" }, made.about || provenance(figure)));
    new MutationObserver(made.draw).observe(
      document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    // In place of the still picture.
    document.documentElement.classList.add("live-alive");
    // By name, since a page may have two; `live` is the last.
    FlowVAE.figures[figure] = FlowVAE.live = made;
  }

  Object.assign(FlowVAE, {
    button, colourKey, titledPlane, onDrag, nearest, slider, choice, table, glide, oncePerFrame, mount,
    figures: {},
  });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
