// What the live figures of the chapters share: controls, live text, and a place in the page.
(function (FlowVAE) {
  "use strict";

  const { Plane, element, provenance } = FlowVAE;

  const button = (words, does) => element("button", { type: "button", onclick: does }, words);

  // A plane with its title above it; `label` says what it is, and what the keys do if it has any.
  function titledPlane(name, title, label, redraw, { keys = true } = {}) {
    const role = keys ? { tabindex: "0", role: "application" } : { role: "img", class: "live-seen" };
    const canvas = element("canvas", { ...role, "aria-label": label });
    const heading = element("p", { class: "live-title" }, title);
    return Object.assign(new Plane(canvas, name, redraw), {
      heading, node: element("div", {}, heading, canvas),
    });
  }

  // Calls `change(x, y, kind)` when a pointer presses or drags, and for the arrow keys.
  function onDrag(plane, change) {
    plane.listen((x, y, kind) => {
      const inside = [x, y].map((v) => Math.max(-plane.extent, Math.min(plane.extent, v)));
      if (kind === "press" || kind === "key" || kind === "release") change(...inside, kind);
    });
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
    button, titledPlane, onDrag, slider, choice, oncePerFrame, mount, figures: {},
  });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
