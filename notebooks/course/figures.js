// Figures that answer to the hand, in JupyterLab and on any page: each <div data-figure="tree"> is
// filled by the function of that name below, with data-options as JSON. No kernel and no library.
(() => {
  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const [BLUE, ORANGE] = COLORS, GRAY = "#797979", SKY = "#bfe0f5", PEACH = "#f7d0b5";
  const range = (n) => [...Array(n).keys()];
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  function set(shape, attributes) {
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    return shape;
  }

  function draw(parent, tag, attributes, text = "") {
    const shape = set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
    shape.textContent = text;
    parent.append(shape);
    return shape;
  }

  function write(svg, x, y, text, size = 15, attributes = {}) {
    return draw(svg, "text", {
      x, y, "font-size": size, "text-anchor": "middle", "dominant-baseline": "central",
      "font-family": "monospace", fill: "currentColor", "pointer-events": "none",
      ...attributes }, text);
  }

  /** A rounded box with black letters on a light ground. */
  function box(svg, x, y, width, height, text, fill = SKY) {
    const group = draw(svg, "g", {});
    const rect = draw(group, "rect", {
      x: x - width / 2, y: y - height / 2, width, height, rx: 4, fill, "stroke-width": 1.5 });
    write(group, x, y, text, Math.min(15, (1.6 * width) / text.length), { fill: "#000" });
    return { group, rect };
  }

  /** `act` when the pointer or the keyboard's focus reaches a shape. */
  function answer(shape, label, act) {
    set(shape, { tabindex: 0, role: "img", "aria-label": label, cursor: "pointer" });
    for (const event of ["pointerenter", "focus"]) shape.addEventListener(event, act);
  }

  /** Controls, a sentence that says what the picture shows, and the picture that `build` draws. */
  function figure(root, controls, build) {
    const names = Object.keys(controls), font = 'style="font: inherit"';
    const fields = Object.values(controls).map(([label, choices]) => `<label>${label} ${choices
      ? `<select ${font}>${choices.map((c) => `<option>${c}</option>`).join("")}</select>`
      : `<input maxlength="15" size="12" ${font}>`}</label>`);
    root.innerHTML = `<div style="display: flex; flex-wrap: wrap; gap: 0.3em 1.2em">
      ${fields.join("")}</div><p aria-live="polite"></p>
      <div style="overflow-x: auto"><svg></svg></div>`;
    const [svg, said] = [root.querySelector("svg"), root.querySelector("p")];
    const inputs = [...root.querySelectorAll("select, input")];
    function redraw() {
      svg.replaceChildren();
      const values = Object.fromEntries(names.map((name, i) => [name, inputs[i].value]));
      const [width, height] = build(svg, values, (text) => { said.textContent = text; });
      const style = `display: block; max-width: ${width}px; min-width: ${0.62 * width}px`;
      set(svg, { viewBox: `0 0 ${width} ${height}`, style });
    }
    inputs.forEach((input, i) =>
      Object.assign(input, { value: controls[names[i]][2], oninput: redraw }));
    redraw();
  }

  const FIGURES = {
    windows(root, { name = "emma", block_size = 3 }) {
      const sizes = range(Math.max(16, block_size)).map((i) => i + 1);
      const controls = { name: ["name", null, name], size: ["block_size", sizes, block_size] };
      figure(root, controls, (svg, values, say) => {
        const size = Number(values.size), letters = [...values.name], unit = 30;
        const text = [...Array(size).fill("."), ...letters, "."];
        text.forEach((ch, x) => write(svg, (x + 0.6) * unit, 18, ch));
        const frame = draw(svg, "rect", {
          y: 4, width: size * unit, height: 28, fill: "none", stroke: BLUE, "stroke-width": 2 });
        const rows = range(letters.length + 1).map((row) => {
          const group = draw(svg, "g", {}), y = 56 + row * unit;
          const before = text.slice(row, row + size).join(""), next = text[row + size];
          for (const i of range(size + 1))
            box(group, (row + i + 0.6) * unit, y, 26, 24, text[row + i],
                i === size ? PEACH : text[row + i] === "." ? "#e8e8e8" : SKY);
          const label = `Window ${row + 1} of ${letters.length + 1}: after ${before} comes ${next}`;
          answer(group, label, () => choose(row, label));
          return { group, label };
        });
        function choose(row, label) {
          frame.setAttribute("x", (row + 0.1) * unit);
          rows.forEach(({ group }, i) => group.setAttribute("opacity", i === row ? 1 : 0.6));
          say(label);
        }
        choose(0, rows[0].label);
        return [(text.length + 0.4) * unit, 48 + rows.length * unit];
      });
    },

    tree(root, { vocab_size = 27, n_embd = 10, n_hidden = 68 }) {
      const pairs = [[2, 1], [2, 2], [2, 3], [2, 4], [2, 5], [3, 2], [3, 3], [4, 2], [8, 1]];
      const trees = Object.fromEntries(pairs.map(([n, depth]) => [
        `${n ** depth} characters in groups of ${n}`, [n, depth]]));
      const controls = { tree: ["tree", Object.keys(trees), "8 characters in groups of 2"] };
      figure(root, controls, (svg, values, say) => {
        const [n, depth] = trees[values.tree], T = n ** depth, unit = Math.min(44, 880 / T);
        const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEF", boxes = [], lines = [];
        const count = vocab_size * n_embd + depth * 2 * n_hidden + (n_hidden + 1) * vocab_size
          + n * n_embd * n_hidden + (depth - 1) * n * n_hidden ** 2;
        const place = (level, i) => [(i + 0.5) * n ** level * unit, 26 + 62 * level];
        for (const level of range(depth + 1)) {
          const span = n ** level;
          for (const i of range(T / span)) {
            const [x, y] = place(level, i);
            for (const j of level ? range(n) : []) {
              const [x1, y1] = place(level - 1, i * n + j);
              lines.push([level, i, draw(svg, "line", { x1, y1: y1 + 15, x2: x, y2: y - 15 })]);
            }
            const label = span <= 9 ? alphabet.slice(i * span, (i + 1) * span) : `${span} letters`;
            const width = Math.min(span * unit - 4, Math.max(unit - 6, 10 * label.length + 10));
            const { group, rect } = box(svg, x, y, width, 30, label);
            const sees = `Box ${i} of level ${level} sees ` + (span === 1 ? `position ${i}`
              : `positions ${i * span} to ${(i + 1) * span - 1}`);
            answer(group, sees, () => choose(level, i, sees));
            boxes.push([level, i, rect, sees]);
          }
          write(svg, T * unit + 12, place(level, 0)[1],
            `(T, C) = (${T / span}, ${level ? n_hidden : n_embd})`, 14, { "text-anchor": "start" });
        }
        function choose(level, i, sees) {
          const part = (l, j) => l <= level && Math.floor(j / n ** (level - l)) === i;
          for (const [l, j, rect] of boxes)
            set(rect, part(l, j) ? { fill: PEACH, stroke: ORANGE } : { fill: SKY, stroke: BLUE });
          for (const [l, j, line] of lines)
            set(line, part(l, j) ? { stroke: ORANGE, "stroke-width": 2.5 }
              : { stroke: GRAY, "stroke-width": 1 });
          say(`${sees}. Orange: what it is made of. The tree has ${plural(count, "parameter")}.`);
        }
        const [level, i, , sees] = boxes.find(([level]) => level === Math.min(2, depth));
        choose(level, i, sees);
        return [T * unit + 175, 52 + 62 * depth];
      });
    },

    dilation(root, { name = "isabella" }) {
      const controls = { kernel: ["kernel size", [2, 3], 2], levels: ["levels", [1, 2, 3, 4], 3],
        growth: ["dilations grow by a factor of", [1, 2, 3], 2], other: ["compare with output",
          ["none", ...range(name.length + 1)], Math.max(0, name.length - 4)] };
      figure(root, controls, (svg, values, say) => {
        const { kernel, levels, growth } = Object.fromEntries(
          Object.entries(values).map(([key, value]) => [key, Number(value)]));
        const dilations = range(levels).map((level) => growth ** level);
        const field = 1 + (kernel - 1) * dilations.reduce((a, b) => a + b);
        const text = ".".repeat(field) + name, unit = Math.min(40, 860 / text.length);
        const at = (x, level) => [(x + 0.6) * unit, 24 + 58 * (levels - level)];
        const inputsOf = (x, d) => range(kernel).map((j) => x - j * d);
        function cone(output) {                 // a set of positions for the inputs and each level
          const sets = [new Set(output === null ? [] : [field - 1 + output])];
          for (const d of [...dilations].reverse())
            sets.unshift(new Set([...sets[0]].flatMap((x) => inputsOf(x, d))));
          return sets;
        }
        let lines = [], nodes = [], first = 0;
        for (const level of range(levels + 1)) {
          const d = dilations[level - 1] ?? 0;
          first += (kernel - 1) * d;
          for (let x = first; x < text.length; x++) {
            const [x2, y2] = at(x, level);
            for (const from of level ? inputsOf(x, d) : []) {
              const [x1, y1] = at(from, level - 1);
              lines.push([x, level, draw(svg, "line", { x1, y1, x2, y2 })]);
            }
          }
          write(svg, (text.length + 0.5) * unit, at(0, level)[1], level ? `dilation ${d}` : "input",
            14, { "text-anchor": "start" });
          nodes.push(...range(text.length - first).map((i) => [first + i, level]));
        }
        const circles = nodes.map(([x, level]) => {              // above all lines
          const [cx, cy] = at(x, level), group = draw(svg, "g", {}), output = x - field + 1;
          const circle = draw(group, "circle",
            { cx, cy, r: 0.36 * unit, "stroke-width": unit / 12 });
          const label = level === levels ? output : level ? "" : text[x];
          write(group, cx, cy, label, 0.42 * unit, { fill: "#000" });
          if (level === levels) answer(group, `Output ${output}`, () => choose(output));
          return [x, level, circle];
        });
        const other = values.other === "none" ? null : Number(values.other), theirs = cone(other);
        function choose(output) {
          const ours = cone(output), seen = ours[0].size;
          const count = ours.slice(1).reduce((sum, set) => sum + set.size, 0);
          for (const [x, level, shape] of [...circles, ...lines]) {
            const [blue, orange] = [ours, theirs].map((sets) => sets[level].has(x));
            set(shape, shape.tagName === "circle"
              ? { fill: blue ? COLORS[5] : "#bbb", stroke: orange ? ORANGE : "none" }
              : { stroke: blue ? BLUE : orange ? ORANGE : GRAY,
                  "stroke-width": blue || orange ? 2 : 0.5 });
          }
          const shared = circles.filter(([x, level]) =>
            level && ours[level].has(x) && theirs[level].has(x)).length, holes = seen < field;
          say(`Output ${output} sees ${holes ? `only ${seen} of the ` : ""}${field} characters`
            + `${holes ? " that it spans" : ""}, through ${plural(count, "node")}`
            + (other === null ? "." : `, and shares ${shared} of them with output ${other}.`));
        }
        choose(name.length);
        requestAnimationFrame(() => { svg.parentNode.scrollLeft = 1e4; });    // to the outputs
        return [text.length * unit + 130, 48 + 58 * levels];
      });
    },

    cube(root, { sizes = [32, 4, 68] }) {
      const controls = { dims: ["mean over", ["0", "1", "0, 1", "0, 1, 2"], "0"] };
      figure(root, controls, (svg, values, say) => {
        const dims = values.dims.split(", ").map(Number);
        const [B, T, C] = sizes.map((size, i) => Math.min(size, [6, 4, 5][i]));
        const u = 40, top = 0.3 * C * u + 10, cells = [];
        function cell(place, ...corners) {
          const [b, t, c] = place.map((i, dim) => (dims.includes(dim) ? 0 : i));
          const points = corners.map(([x, y, z]) =>
            `${50 + (x + 0.4 * z) * u},${top + (y - 0.3 * z) * u}`).join(" ");
          const shape = draw(svg, "polygon", { points, fill: COLORS[(b + t) % 6], stroke: "#fff" });
          cells.push([[b, t, c].join(), shape, 0.9 - 0.13 * c]);
          shape.addEventListener("pointerenter", () => choose([b, t, c].join()));
        }
        for (const b of range(B)) for (const t of range(T))           // the front
          cell([b, t, 0], [b, t, 0], [b + 1, t, 0], [b + 1, t + 1, 0], [b, t + 1, 0]);
        for (const t of range(T)) for (const c of range(C))           // the right side
          cell([B - 1, t, c], [B, t, c], [B, t, c + 1], [B, t + 1, c + 1], [B, t + 1, c]);
        for (const b of range(B)) for (const c of range(C))           // the top
          cell([b, 0, c], [b, 0, c], [b + 1, 0, c], [b + 1, 0, c + 1], [b, 0, c + 1]);
        const each = dims.reduce((product, dim) => product * sizes[dim], 1);
        const means = sizes.reduce((a, b) => a * b) / each;
        function choose(key) {
          for (const [other, shape, opacity] of cells)
            shape.setAttribute("fill-opacity", key === null || other === key ? opacity : 0.12);
          say(`${plural(means, "mean")}, each of ${plural(each, "number")}. `
            + (key === null ? "Point at a number: what shares its mean with it?"
              : "Those that you still see share its mean."));
        }
        choose(null);
        svg.onpointerleave = () => choose(null);
        write(svg, 50 + B * u / 2, top + T * u + 16, `B = ${sizes[0]} examples`, 14);
        write(svg, 20, top + T * u / 2, `T = ${sizes[1]}`, 12);
        write(svg, 60 + (B + 0.2 * C) * u, top + T * u - 16, `C = ${sizes[2]}`, 14,
          { "text-anchor": "start" });
        return [50 + (B + 0.4 * C) * u + 40, top + T * u + 34];
      });
    },
  };

  for (const root of document.querySelectorAll("[data-figure]:not([data-drawn])")) {
    root.dataset.drawn = "yes";
    FIGURES[root.dataset.figure](root, JSON.parse(root.dataset.options || "{}"));
  }
})();
