// Drawing: planes of points and densities, curves, and what a pointer or the arrow keys point at.
// Colours are those of the style sheet, `--prior` and the others, so that they change in one place.
(function (FlowVAE) {
  "use strict";

  const { Tensor } = FlowVAE;
  const FONT = "12px system-ui, sans-serif";
  // How far from a corner the numbers of two axes, and their names, stand clear of each other.
  const CLEAR = 26;

  // An element with attributes, listeners (`onclick: f`) and children; text stays text.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  // With a minus as wide as a plus, and none before a zero.
  const number = (value, digits = 2) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // A canvas as sharp as the screen, that says when it was resized.
  class Figure {
    constructor(canvas, redraw) {
      this.canvas = canvas;
      this.context = canvas.getContext("2d");
      this.redraw = redraw;
      this.style = getComputedStyle(canvas);
      this.colours = {};
      new ResizeObserver(() => {
        this.fit();
        this.redraw();
      }).observe(canvas);
      this.fit();
    }

    fit() {
      const sharp = window.devicePixelRatio || 1;
      this.width = this.canvas.clientWidth || 300;
      this.height = this.canvas.clientHeight || 300;
      this.canvas.width = Math.round(this.width * sharp);
      this.canvas.height = Math.round(this.height * sharp);
      this.context.setTransform(sharp, 0, 0, sharp, 0, 0);
    }

    // Asked for once a drawing: the theme may have changed since the last one.
    colour(name) {
      return (this.colours[name] ??= this.style.getPropertyValue(`--${name}`).trim());
    }

    clear() {
      this.colours = {};
      this.context.clearRect(0, 0, this.width, this.height);
      Object.assign(this.context, { font: FONT, globalAlpha: 1, lineWidth: 1, textBaseline: "middle" });
    }

    // What stays while a reader drags is painted once, and again for another size or theme.
    still(paint) {
      const { canvas, context } = this, stamp = [canvas.width, canvas.height, this.colour("ink")].join();
      if (this.kept?.stamp !== stamp) {
        const image = Object.assign(element("canvas"), { width: canvas.width, height: canvas.height });
        this.context = image.getContext("2d");
        this.context.setTransform(context.getTransform());
        paint();
        this.context = context;
        this.kept = { stamp, image };
      }
      context.drawImage(this.kept.image, 0, 0, this.width, this.height);
    }

    text(words, x, y, { colour = "ink", align = "left", bold = false } = {}) {
      const c = this.context;
      Object.assign(c, { font: bold ? `bold ${FONT}` : FONT, textAlign: align, globalAlpha: 1 });
      // A halo of the paper, so that words stay legible on lines and clouds.
      Object.assign(c, { strokeStyle: this.colour("paper"), lineWidth: 4, lineJoin: "round" });
      c.strokeText(words, x, y);
      c.fillStyle = this.colour(colour);
      c.fillText(words, x, y);
    }

    dot(x, y, colour) {
      const c = this.context;
      Object.assign(c, { fillStyle: this.colour(colour), globalAlpha: 1 });
      c.beginPath();
      c.arc(x, y, 3, 0, 2 * Math.PI);
      c.fill();
    }

    // A square picture of numbers from 0 to 1, in ink on paper.
    picture(values, [left, top], size, { alpha = 1, colour = "ink" } = {}) {
      const side = Math.sqrt(values.length), image = element("canvas", { width: side, height: side });
      const c = image.getContext("2d"), pixels = new ImageData(side, side);
      // What is out of range is clamped.
      values.forEach((value, i) => { pixels.data[4 * i + 3] = 255 * value; });
      c.putImageData(pixels, 0, 0);
      c.globalCompositeOperation = "source-in";
      c.fillStyle = this.colour(colour);
      c.fillRect(0, 0, side, side);
      // Pixels that have room stay squares.
      Object.assign(this.context, { globalAlpha: alpha, imageSmoothingEnabled: size < 2 * side });
      this.context.drawImage(image, left, top, size, size);
      Object.assign(this.context, { globalAlpha: 1, imageSmoothingEnabled: true });
    }

    // The same as one of several, with a frame.
    tile(values, at, size) {
      this.picture(values, at, size);
      this.frame(at, size, { colour: "frame", width: 1 });
    }

    frame([left, top], size, look) {
      this.line([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]].map(([a, b]) =>
        [left + a * size, top + b * size]), look);
    }

    line(points, look) {
      this.paths([points], look);
    }

    paths(paths, { colour = "ink", width = 1.5, dash = [], alpha = 1 } = {}) {
      const c = this.context;
      Object.assign(c, { strokeStyle: this.colour(colour), lineWidth: width, globalAlpha: alpha });
      c.setLineDash(dash);
      c.beginPath();
      for (const points of paths) {
        points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
      }
      c.stroke();
      c.setLineDash([]);
      c.globalAlpha = 1;
    }
  }

  // A square of the plane, from −extent to extent along both axes.
  class Plane extends Figure {
    constructor(canvas, name, redraw) {
      super(canvas, redraw);
      this.name = name;
      this.extent = 3.2;
      // Of one press of an arrow key, as a share of the extent; five times with shift.
      this.stride = 0.03;
      this.at = [0, 0];
    }

    place(x, y) {
      const half = this.width / 2 / this.extent;
      return [this.width / 2 + x * half, this.height / 2 - y * half];
    }

    // Lines between side × side pixels.
    ruled(side) {
      for (let i = 1; i < side; i++) {
        const at = (i * this.width) / side;
        this.paths([[[at, 0], [at, this.height]], [[0, at], [this.width, at]]],
          { colour: "frame", width: 0.5 });
      }
    }

    ticks() {
      const step = [2, 4, 8].find((each) => this.extent <= 3.5 * each) || 16;
      return Array.from({ length: 9 }, (_, i) => (i - 4) * step)
        .filter((tick) => Math.abs(tick) <= this.extent);
    }

    axes() {
      for (const tick of this.ticks()) {
        const [x, y] = this.place(tick, tick), edge = { colour: "frame", width: tick ? 0.5 : 1 };
        this.line([[x, 0], [x, this.height]], edge);
        this.line([[0, y], [this.width, y]], edge);
      }
    }

    // Last, so that nothing lies on the numbers.
    numbers() {
      for (const tick of this.ticks()) {
        const [x, y] = this.place(tick, tick);
        if (!tick || Math.min(x, this.width - x) < CLEAR) continue;
        this.text(number(tick, 0), x, this.height - 9, { colour: "quiet", align: "center" });
        this.text(number(tick, 0), 5, y, { colour: "quiet" });
      }
    }

    names(across = `${this.name}₁`, up = `${this.name}₂`) {
      this.numbers();
      this.text(across, this.width - 6, this.height - 9, { align: "right" });
      this.text(up, 5, 10);
    }

    // `mark`: "dot", "ring" or "cross".
    points(x, colour, { size = 1.6, alpha = 1, mark = "dot", rows = x.rows } = {}) {
      const c = this.context;
      Object.assign(c, { fillStyle: this.colour(colour), strokeStyle: this.colour(colour) });
      Object.assign(c, { globalAlpha: alpha, lineWidth: 1.2 });
      c.beginPath();
      for (let r = 0; r < rows; r++) {
        const [a, b] = this.place(x.data[2 * r], x.data[2 * r + 1]);
        if (mark === "cross") {
          c.moveTo(a - size, b);
          c.lineTo(a + size, b);
          c.moveTo(a, b - size);
          c.lineTo(a, b + size);
        } else {
          c.moveTo(a + size, b);
          c.arc(a, b, size, 0, 2 * Math.PI);
        }
      }
      if (mark === "dot") c.fill();
      else c.stroke();
      c.globalAlpha = 1;
    }

    // A larger mark with a rim, which stands out from all others.
    spot([x, y], colour) {
      const c = this.context, [a, b] = this.place(x, y);
      Object.assign(c, { fillStyle: this.colour(colour), strokeStyle: this.colour("paper") });
      Object.assign(c, { lineWidth: 2, globalAlpha: 1 });
      c.beginPath();
      c.arc(a, b, 6, 0, 2 * Math.PI);
      c.fill();
      c.stroke();
    }

    // Where a density is drawn: the centres of steps × steps squares, row by row from above.
    grid(steps, extent = this.extent) {
      const points = new Tensor(steps * steps, 2), step = (2 * extent) / steps;
      for (let r = 0, i = 0; r < steps; r++) {
        for (let q = 0; q < steps; q++, i += 2) {
          points.data[i] = -extent + (q + 0.5) * step;
          points.data[i + 1] = extent - (r + 0.5) * step;
        }
      }
      return points;
    }

    // Shades a density, whose logarithm at `grid` is known, and draws the lines that hold half of
    // it and 95 %.
    density(logDensity, extent, colour) {
      this.shade(logDensity, extent, colour);
      this.outline(logDensity, extent, 0.95, { colour, alpha: 0.85 });
      this.outline(logDensity, extent, 0.5, { colour, width: 0.8, alpha: 0.85 });
    }

    // `most` of 255: how much of the colour the densest places have.
    shade(logDensity, extent, colour, most = 150) {
      const steps = Math.sqrt(logDensity.length), density = logDensity.map(Math.exp);
      const image = document.createElement("canvas");
      image.width = image.height = steps;
      const c = image.getContext("2d");
      c.fillStyle = this.colour(colour);
      c.fillRect(0, 0, steps, steps);
      const pixels = c.getImageData(0, 0, steps, steps);
      const half = level(density, 0.5);
      density.forEach((value, i) => {
        pixels.data[4 * i + 3] = most * Math.min(1, 0.45 * Math.sqrt(value / half));
      });
      c.putImageData(pixels, 0, 0);
      const [left, top] = this.place(-extent, extent), [right, bottom] = this.place(extent, -extent);
      this.context.imageSmoothingQuality = "high";
      this.context.drawImage(image, left, top, right - left, bottom - top);
    }

    // The line that holds this share of a density.
    outline(logDensity, extent, share, look) {
      const steps = Math.sqrt(logDensity.length), density = logDensity.map(Math.exp);
      const [left, top] = this.place(-extent, extent), [right] = this.place(extent, extent);
      const size = (right - left) / steps;
      const segments = contour(density, steps, level(density, share)).map((segment) =>
        segment.map(([x, y]) => [left + (x + 0.5) * size, top + (y + 0.5) * size]));
      this.paths(segments, look);
    }

    // Calls `point(x, y, kind)` for a pointer over the plane ("move", and "press" while it is
    // held down), and for the arrow keys ("key"), and space and enter ("press").
    listen(point) {
      const canvas = this.canvas;
      const tell = (kind) => point(...this.at, kind);
      const follow = (event) => {
        const box = canvas.getBoundingClientRect(), half = box.width / 2 / this.extent;
        this.at = [(event.clientX - box.left) / half - this.extent,
          this.extent - (event.clientY - box.top) / half];
        tell(event.buttons ? "press" : "move");
      };
      canvas.addEventListener("pointermove", follow);
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        follow(event);
      });
      for (const end of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(end, () => tell("release"));
      }
      canvas.addEventListener("pointerleave", () => tell("leave"));
      canvas.addEventListener("blur", () => tell("leave"));
      canvas.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
        const step = (event.shiftKey ? 5 : 1) * this.stride * this.extent;
        if (by[event.key]) {
          this.at = this.at.map((v, i) =>
            Math.max(-this.extent, Math.min(this.extent, v + step * by[event.key][i])));
          tell("key");
        } else if (event.key === " " || event.key === "Enter") {
          tell("press");
          tell("release");
        } else if (event.key === "Escape") {
          tell("leave");
        } else {
          return;
        }
        event.preventDefault();
      });
    }
  }

  // The height above which lies this share of a density, given on a grid.
  function level(density, share) {
    const sorted = density.slice().sort(), total = sorted.reduce((sum, value) => sum + value, 0);
    let sum = 0, i = sorted.length - 1;
    while (i > 0 && (sum += sorted[i]) < share * total) i--;
    return sorted[i];
  }

  // Where a function on a grid crosses a level: short lines between the grid's points, in its steps.
  function contour(values, steps, height) {
    const segments = [];
    for (let r = 0; r + 1 < steps; r++) {
      for (let q = 0; q + 1 < steps; q++) {
        const at = r * steps + q, above = values[at] > height;
        // In most squares nothing crosses, and these lists would cost the time of a frame.
        if (values[at + 1] > height === above && values[at + steps] > height === above
          && values[at + steps + 1] > height === above) continue;
        const corners = [[q, r], [q + 1, r], [q + 1, r + 1], [q, r + 1]];
        const heights = corners.map(([x, y]) => values[y * steps + x] - height);
        const crossings = [];
        for (let i = 0; i < 4; i++) {
          const j = (i + 1) % 4;
          if (heights[i] > 0 === heights[j] > 0) continue;
          const t = heights[i] / (heights[i] - heights[j]);
          crossings.push([0, 1].map((d) => corners[i][d] + t * (corners[j][d] - corners[i][d])));
        }
        for (let i = 0; i + 1 < crossings.length; i += 2) segments.push(crossings.slice(i, i + 2));
      }
    }
    return segments;
  }

  // Curves over the steps of a training. A line: `{points: [[x, y], …], colour, dash, label}`.
  class Chart extends Figure {
    // The first share `skip` of the steps is not looked at for the height of the chart: a steep part
    // would flatten all the rest. The height is `span` units at least, and if it is held, as it was.
    draw({ title, lines, last, level, least, across = "training steps", skip = 0.08, span = 1, held }) {
      this.clear();
      const right = this.width - 66, top = 26, bottom = this.height - 38;
      const late = lines.flatMap(({ points }) => points.filter(([x]) => x >= skip * last));
      const shown = late.length ? late : lines.flatMap(({ points }) => points);
      const values = [...shown.map(([, y]) => y), ...(level ? [level.y] : [])];
      let low = Math.min(...values), high = Math.max(...values);
      if (high - low < span) [low, high] = [(low + high - span) / 2, (low + high + span) / 2];
      // A distance is never negative.
      if (least !== undefined) [low, high] = [least, Math.max(high, least + 1)];
      [low, high] = [low - 0.06 * (high - low), high + (level ? 0.14 : 0.06) * (high - low)];
      if (held && this.range) [low, high] = this.range;
      this.range = [low, high];
      const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
      const unit = [0.2, 0.5, 1, 2, 5, 10, 20, 50].find((u) => (high - low) / u <= 5)
        || 10 ** Math.ceil(Math.log10((high - low) / 5));
      const ticks = [];
      for (let tick = Math.ceil(low / unit) * unit; tick <= high; tick += unit) {
        ticks.push({ tick, words: number(tick, unit < 1 ? 1 : 0) });
      }
      // As wide as the longest of these numbers.
      const widths = ticks.map(({ words }) => this.context.measureText(words).width);
      const left = Math.max(38, 10 + Math.max(...widths));
      const x = (steps) => left + (steps / last) * (right - left);
      for (const { tick, words } of ticks) {
        this.line([[left, y(tick)], [right, y(tick)]], { colour: "frame", width: 0.5 });
        this.text(words, left - 5, y(tick), { colour: "quiet", align: "right" });
      }
      for (let tick = 0; tick <= last; tick += last / 3) {
        this.text(String(Math.round(tick)), x(tick), bottom + 11, { colour: "quiet", align: "center" });
      }
      this.text(across, (left + right) / 2, bottom + 27, { colour: "quiet", align: "center" });
      this.text(title, 4, 10, { bold: true });
      if (level) {
        this.line([[left, y(level.y)], [right, y(level.y)]], { dash: [2, 3], width: 1.2 });
      }
      const ends = [];
      for (const { points, colour, dash, label } of lines) {
        if (!points.length) continue;
        this.context.save();
        this.context.beginPath();
        this.context.rect(left, top - 4, right - left + 2, bottom - top + 8);
        this.context.clip();
        this.line(points.map(([a, b]) => [x(a), y(b)]), { colour, dash, width: 1.8 });
        this.context.restore();
        const [a, b] = points.at(-1);
        if (points.length === 1 && b >= low && b <= high) this.dot(x(a), y(b), colour);
        ends.push({ x: x(a) + 5, y: Math.min(bottom, Math.max(top, y(b))), label, colour });
      }
      // Words last, so that no line crosses them. Those at the ends of lines are moved apart.
      if (level) this.text(level.label, left + 4, y(level.y) - 9);
      ends.sort((a, b) => a.y - b.y);
      ends.forEach((end, i) => {
        if (i) end.y = Math.max(end.y, ends[i - 1].y + 13);
      });
      ends.reverse().forEach((end, i) => {
        end.y = Math.min(end.y, i ? ends[i - 1].y - 13 : bottom - 6);
      });
      ends.forEach((end) => this.text(end.label, end.x, end.y, { colour: end.colour, bold: true }));
    }
  }

  Object.assign(FlowVAE, { element, number, calm, Plane, Chart });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
