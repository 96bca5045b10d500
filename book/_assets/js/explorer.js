// Explorers of samples: prompts and settings of one's choice in two panels, the same seeds in both, with what was measured of them.
// Each element of the class is filled from the JSON in it, whose words are text. Images lie beside the page, a file a setting:
// a prompt per row, a seed per column, as many pixels as the model made; each is fetched when it is to be shown.
"use strict";
(() => {
  const SIDES = ["A", "B"], LENGTH = 20; // panels; images in a panel that shows every prompt
  const GRAPH = {width: 300, height: 220, left: 44, right: 12, top: 26, bottom: 34};

  function made(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const element = (name, attributes = {}, ...children) => made(document.createElement(name), attributes, children);
  const shape = (name, attributes = {}, ...children) => made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const several = (n, of) => `${n}\u00a0${of}${n === 1 ? "" : "s"}`;

  function explorer(place) {
    const {name, files, prompts, size, axes, sets, metrics, first} = JSON.parse(place.querySelector("script").textContent);
    const turned = axes.map((_, k) => k).filter((k) => axes[k].values.length > 1), spectrum = turned.filter((k) => axes[k].numbers);
    const now = [...first], images = new Map(); // numbers of the settings in the panels
    let numbered = 0; // controls
    const setting = (side) => sets[now[side]];
    const value = (set, k) => axes[k].values[set.at[k]];
    const shown = () => (compare.checked ? [0, 1] : [0]);

    // The settings that differ from one in axis k alone, along it
    function along(set, k) {
      const same = sets.filter((other) => other.at.every((at, i) => i === k || at === set.at[i]));
      return same.sort((a, b) => a.at[k] - b.at[k]);
    }
    // The setting with the wanted value of axis k (null: of none), and of the others as many as there are: quantities give way first
    function nearest(at, k = null) {
      const cost = (set) => axes.reduce((sum, axis, i) => sum + (i === k ? 100 : axis.numbers ? 1 : 3) * (set.at[i] !== at[i])
        + (axis.numbers ? Math.abs(set.at[i] - at[i]) / 100 : 0), 0);
      return sets.reduce((best, set) => (cost(set) < cost(best) ? set : best));
    }

    // Controls

    function labelled(text, input, ...more) {
      input.id = `${name}-${numbered++}`;
      return element("div", {}, element("label", {for: input.id}, text), input, ...more);
    }
    function choice(text, of, changed) {
      const input = element("select", {}, ...of.map((words, i) => new Option(words, i)));
      input.addEventListener("change", () => changed(+input.value));
      return {input, row: labelled(text, input)};
    }
    function toggle(text, checked, changed) {
      const input = element("input", {type: "checkbox"});
      input.checked = checked;
      input.addEventListener("change", changed);
      return {input, row: labelled(text, input)};
    }
    function panel(title, side) {
      const rows = turned.map((k) => (axes[k].numbers ? range : list)(side, k));
      const grid = element("div", {class: "explorer-images", role: "img", "aria-label": "samples"}), text = element("figcaption");
      const box = element("div", {role: "group", "aria-label": `setting ${title}`}, element("strong", {}, title), ...rows.map((r) => r.row),
        element("figure", {}, grid, text));
      return {box, rows, grid, text};
    }
    function range(side, k) {
      const input = element("input", {type: "range", min: 0, step: 1}), output = element("output");
      input.addEventListener("input", () => turn(side, along(setting(side), k)[input.value]));
      input.addEventListener("change", settled);
      return {row: labelled(axes[k].name, input, output), update: () => {
        const line = along(setting(side), k);
        Object.assign(input, {max: line.length - 1, disabled: line.length < 2});
        input.value = line.indexOf(setting(side));
        output.textContent = value(setting(side), k);
        input.setAttribute("aria-valuetext", `${axes[k].name} = ${value(setting(side), k)}`);
      }};
    }
    function list(side, k) {
      const {input, row} = choice(axes[k].name, axes[k].values, (i) => {
        turn(side, nearest(setting(side).at.map((at, j) => (j === k ? i : at)), k));
        settled();
      });
      return {row, update: () => (input.value = setting(side).at[k])};
    }
    const panels = SIDES.map(panel);
    const settle = (draw) => () => (draw(), settled());
    const prompt = choice("prompt", ["all", ...prompts], settle(() => panels.forEach((_, side) => paint(side))));
    const {input: compare, row: comparing} = toggle("compare two settings", true, settle(draw));
    const {input: smooth, row: smoothing} = toggle("smooth pixels", false, () => place.classList.toggle("explorer-smooth", smooth.checked));
    const measure = choice("metric", Object.entries(metrics).map(([key, metric]) => `${key}: ${metric.name}`), settle(curve));
    const over = choice("over", spectrum.map((k) => axes[k].name), settle(curve));
    over.row.hidden = spectrum.length < 2;

    // Images

    function loaded(number) {
      if (!images.has(number)) {
        const image = Object.assign(new Image(), {src: `${files}${number}.png`});
        images.set(number, image.decode().then(() => image));
      }
      return images.get(number);
    }
    async function paint(side) {
      const {grid, text} = panels[side], number = now[side], set = sets[number], chosen = +prompt.input.value - 1;
      const kinds = chosen < 0 ? prompts.map((_, i) => i) : [chosen], each = Math.min(set.seeds, Math.max(1, Math.floor(LENGTH / kinds.length)));
      let image = null;
      try {
        image = await loaded(number);
      } catch {
        text.textContent = "The images of this setting cannot be read.";
      }
      if (!image || number !== now[side] || chosen !== +prompt.input.value - 1) return; // the reader went on
      const [width, height] = size, tiles = [];
      for (let seed = 0; seed < each; seed++) for (const kind of kinds) {
        const tile = element("canvas", {width, height, title: prompts[kind]});
        tile.getContext("2d").drawImage(image, seed * width, kind * height, width, height, 0, 0, width, height);
        tiles.push(tile);
      }
      grid.style.setProperty("--columns", kinds.length > 1 && kinds.length < 9 ? kinds.length : Math.max(2, Math.min(5, Math.ceil(tiles.length / 2))));
      grid.replaceChildren(...tiles);
      grid.setAttribute("aria-label", `${several(tiles.length, "sample")} at ${words(set)}, ${asked()}`);
      text.textContent = `${several(each, "seed")} of ${asked()}`;
    }
    const asked = () => (prompt.input.value > 0 ? `“${prompts[prompt.input.value - 1]}”` : `each of ${several(prompts.length, "prompt")}`);
    const words = (set) => turned.map((k) => `${axes[k].name} ${value(set, k)}`).join(", ");

    // Numbers

    const table = element("table", {class: "table"}), graph = shape("svg", {viewBox: `0 0 ${GRAPH.width} ${GRAPH.height}`, role: "img", "aria-label": "curve"});
    const says = (found) => (found ? `${found[4]}` : "not measured");
    const entry = (found) => element("td", {}, ...(found ? found[4].split(" [").flatMap((part, i) => (i ? [element("br"), ` [${part}`] : [part])) : ["–"]));
    function numbers() {
      const cell = (tag, text, scope) => element(tag, scope ? {scope} : {}, text);
      const heads = ["", ...shown().map((side) => SIDES[side]), "real images"].map((text, i) => cell(i ? "th" : "td", text, i && "col"));
      const rows = Object.entries(metrics).map(([key, {real}]) => element("tr", {}, cell("th", key, "row"),
        ...[...shown().map((side) => setting(side).numbers[key]), real].map(entry)));
      const counts = shown().map((side) => Math.max(0, ...Object.values(setting(side).numbers).map((found) => found[3])));
      const real = Math.max(0, ...Object.values(metrics).map((m) => (m.real ? m.real[3] : 0)));
      const n = [...counts, real].map((count) => cell("td", count ? count.toLocaleString("en") : "–"));
      table.replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows, element("tr", {}, cell("th", "n, up to", "row"), ...n)));
    }

    function ticks(low, high, log) {
      const found = [];
      if (log) for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) found.push(...[1, 2, 5].map((m) => m * 10 ** e));
      const step = 10 ** Math.floor(Math.log10((high - low) / 2)), wide = (high - low) / step > 5 ? 2 * step : step;
      if (!log) for (let i = Math.ceil(low / wide); i * wide <= high; i++) found.push(i * wide);
      return found.filter((v) => v >= low && v <= high);
    }
    function curve() {
      const key = Object.keys(metrics)[measure.input.value], k = spectrum[over.input.value], {width, height, left, right, top, bottom} = GRAPH;
      graph.replaceChildren();
      if (key === undefined || k === undefined) return;
      const lines = shown().map((side) => along(setting(side), k).filter((set) => set.numbers[key])), {real, log, name: title} = metrics[key];
      const same = lines.length > 1 && lines[0].includes(setting(1)), every = [...lines.flat().map((set) => set.numbers[key]), ...(real ? [real] : [])];
      const xs = lines.flat().map((set) => axes[k].numbers[set.at[k]]), ys = every.flatMap((found) => found.slice(0, 3));
      if (!xs.length) return graph.setAttribute("aria-label", "not measured");
      const scale = (values, from, to, f) => {
        const [low, high] = [Math.min(...values), Math.max(...values)].map(f), wide = high - low || 1;
        return (v) => from + (to - from) * (high === low ? 0.5 : (f(v) - low) / wide);
      };
      const x = scale(xs, left + 8, width - right, (v) => v), logarithmic = log && Math.min(...ys) > 0;
      const y = scale(ys, height - bottom - 6, top + 6, logarithmic ? Math.log : (v) => v);
      const text = (words, at) => graph.append(shape("text", at, words));
      ticks(Math.min(...ys), Math.max(...ys), logarithmic).forEach((v) => {
        graph.append(shape("line", {class: "rule", x1: left, x2: width - right, y1: y(v), y2: y(v)}));
        text(`${+v.toPrecision(4)}`, {x: left - 6, y: y(v) + 4, "text-anchor": "end"});
      });
      let last = -Infinity;
      for (const v of [...new Set(xs)].sort((a, b) => a - b)) if (x(v) - last > 26 || x(v) === x(Math.max(...xs))) {
        text(axes[k].values[axes[k].numbers.indexOf(v)], {x: (last = x(v)), y: height - bottom + 16, "text-anchor": "middle"});
      }
      text(`${key}${title.endsWith("(%)") ? " (%)" : ""}${logarithmic ? ", logarithmic" : ""}`, {x: left, y: 11});
      text(axes[k].name, {x: width - right, y: height - 3, "text-anchor": "end"});
      if (real) graph.append(shape("line", {class: "real", x1: left, x2: width - right, y1: y(real[0]), y2: y(real[0])}));
      lines.forEach((line, i) => {
        const side = SIDES[i].toLowerCase(), points = line.map((set) => [x(axes[k].numbers[set.at[k]]), set.numbers[key]]);
        if (!(same && i)) {
          const low = points.map(([px, found]) => `${px},${y(found[1])}`), high = points.map(([px, found]) => `${px},${y(found[2])}`);
          graph.append(shape("polygon", {class: `band ${side}`, points: [...low, ...high.reverse()].join(" ")}));
          points.forEach(([px, found]) => graph.append(shape("line", {class: side, x1: px, x2: px, y1: y(found[1]), y2: y(found[2])})));
          graph.append(shape("polyline", {class: side, points: points.map(([px, found]) => `${px},${y(found[0])}`).join(" ")}));
        }
        const found = setting(i).numbers[key];
        if (!found) return;
        const at = {cx: x(axes[k].numbers[setting(i).at[k]]), cy: y(found[0])};
        graph.append(shape("circle", {class: `mark ${side}`, ...at, r: 6}));
        text(SIDES[i], {class: "mark", x: at.cx, y: at.cy + (i ? 18 : -9), "text-anchor": "middle"});
      });
      graph.setAttribute("aria-label", `${title} over ${axes[k].name}: ${shown().map((side) => `${SIDES[side]} ${says(setting(side).numbers[key])}`).join(", ")}`);
    }

    // One setting for another

    function turn(side, set) {
      now[side] = sets.indexOf(set);
      panels[side].rows.forEach((row) => row.update());
      paint(side);
      numbers();
      curve();
    }
    function draw() {
      panels.forEach(({box}, side) => (box.hidden = !shown().includes(side)));
      shown().forEach((side) => turn(side, setting(side)));
    }
    const spoken = element("p", {class: "explorer-spoken", "aria-live": "polite"});
    function settled() {
      const measured = (set) => Object.entries(metrics).slice(0, 2).map(([key]) => `${key} ${says(set.numbers[key])}`).join(", ");
      spoken.textContent = shown().map((side) => `${SIDES[side]}: ${words(setting(side))}; ${measured(setting(side))}.`).join(" ");
      const state = new URLSearchParams({prompt: prompt.input.value, metric: Object.keys(metrics)[measure.input.value] ?? "", over: over.input.value});
      shown().forEach((side) => turned.forEach((k) => state.set(`${SIDES[side]}.${axes[k].name}`, value(setting(side), k))));
      history.replaceState(null, "", `#${name}?${state}`);
    }
    // What the address asks for, as far as it is there
    function address() {
      const [whose, asks] = location.hash.slice(1).split("?"), state = new URLSearchParams(asks);
      if (whose !== name || asks === undefined) return false;
      const among = (text, n) => (+text > 0 && +text < n ? Math.floor(+text) : 0);
      prompt.input.value = among(state.get("prompt"), prompts.length + 1);
      over.input.value = among(state.get("over"), spectrum.length);
      measure.input.value = Math.max(0, Object.keys(metrics).indexOf(state.get("metric")));
      compare.checked = [...state.keys()].some((key) => key.startsWith("B."));
      shown().forEach((side) => (now[side] = sets.indexOf(nearest(setting(side).at.map((at, k) => {
        const i = axes[k].values.indexOf(state.get(`${SIDES[side]}.${axes[k].name}`));
        return i < 0 ? at : i;
      })))));
      draw();
      place.scrollIntoView();
      return true;
    }

    const fixed = axes.filter((axis) => axis.values.length === 1 && axis.name !== "training").map((axis) => `${axis.name} ${axis.values[0]}`).join(", ");
    place.append(
      element("div", {class: "explorer-controls"}, prompt.row, comparing, smoothing),
      element("div", {class: "explorer-panels"}, ...panels.map(({box}) => box)),
      element("div", {class: "explorer-numbers"}, element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "numbers"}, table),
        element("div", {}, element("div", {class: "explorer-controls"}, measure.row, over.row), graph)),
      element("p", {class: "explorer-fixed"}, fixed && `The same everywhere: ${fixed}.`), spoken);
    addEventListener("hashchange", address);
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      if (!address()) draw();
    }, {rootMargin: "300px"});
    seen.observe(place);
    if (location.hash.startsWith(`#${name}?`)) place.scrollIntoView();
  }

  for (const place of document.querySelectorAll(".explorer:not([data-filled])")) {
    place.dataset.filled = "";
    explorer(place);
  }
})();
