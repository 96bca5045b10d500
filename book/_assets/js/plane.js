// The plane of guidance on the page: controls, three pictures, a table. Their numbers are those of plane-maths.js.
"use strict";
(() => {
  const plane = guidancePlane, place = document.getElementById("plane"), n = plane.CELLS;
  const VIEW = 3.2, PATHS = 40, SIDE = 21; // the pictures reach from −VIEW to VIEW; paths and rows of arrows in the first one
  const WAYS = {
    linear: "classifier-free", rescaled: "rescaled, φ = 0.7", "cfg-plus-plus": "CFG++", projected: "projected (APG)",
    autoguidance: "autoguidance",
  };
  const SOLVERS = {"dpmpp-2m": "DPM-Solver++ (2M)", heun: "Heun", ddim: "DDIM (Euler)"};
  const USUAL = {way: "linear", w: 3, scale: 0.6, low: 0, high: 100, solver: "dpmpp-2m", steps: 30, eta: 0, shown: 60};
  const TRIES = {
    "guidance off": {w: 1}, "a blob is lost": {w: 3}, overshoot: {w: 10}, "late steps only": {high: 60},
    "a worse network": {way: "autoguidance"}, "CFG++": {way: "cfg-plus-plus", solver: "ddim"},
    "fresh noise": {solver: "ddim", eta: 1}, "few steps": {solver: "ddim", steps: 6},
  };
  let found = null, waiting = false; // results of the present settings; whether a picture is due

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function button(text, pressed) {
    const made = element("button", {type: "button"}, text);
    made.addEventListener("click", pressed);
    return made;
  }

  // Controls

  const inputs = {}, outputs = {}, spoken = element("p", {class: "plane-spoken", "aria-live": "polite"});
  function control(name, label, input) {
    inputs[name] = input;
    outputs[name] = element("output", {for: `plane-${name}`});
    input.id = `plane-${name}`;
    input.addEventListener("input", () => changed(name));
    input.addEventListener("change", speak);
    return element("div", {}, element("label", {for: input.id}, label), input, outputs[name]);
  }
  const slider = (min, max, step) => element("input", {type: "range", min, max, step});
  const choice = (of) => element("select", {}, ...Object.entries(of).map(([value, text]) => new Option(text, value)));
  const controls = element("div", {class: "plane-controls"},
    control("way", "guidance", choice(WAYS)), control("solver", "solver", choice(SOLVERS)),
    control("w", "scale w", slider(0, 10, 0.1)), control("scale", "scale λ", slider(0, 1, 0.05)), control("steps", "steps", slider(2, 60, 1)),
    control("low", "guided above σ", slider(0, 99, 1)), control("high", "and up to σ", slider(1, 100, 1)),
    control("eta", "fresh noise η", slider(0, 1, 0.05)), control("shown", "moment shown", slider(0, 100, 1)));

  // Noise levels of the interval from positions 0 to 100, whose ends are none and all
  const level = (position) => position <= 0 ? 0 : position >= 100 ? 1e4 : 0.002 * 1e4 ** (position / 100);
  const says = (sigma) => sigma >= 1e4 ? "∞" : sigma >= 9.95 ? sigma.toFixed(0) : sigma >= 0.095 ? sigma.toFixed(2) : String(+sigma.toPrecision(1));
  const shown = () => Math.round(inputs.shown.value / 100 * inputs.steps.value);

  function settings() {
    const {way, w, scale, low, high, solver, steps, eta} = inputs;
    return {
      way: way.value, w: +(way.value === "cfg-plus-plus" ? scale : w).value, low: level(+low.value), high: level(+high.value),
      solver: solver.value, steps: +steps.value, eta: eta.disabled ? 0 : +eta.value,
    };
  }

  // What cannot go together, as in the library: CFG++ is a step of DDIM; projected guidance remembers one evaluation a step
  function changed(name) {
    const {way, w, scale, low, high, solver, eta} = inputs, plus = way.value === "cfg-plus-plus";
    if (+low.value >= +high.value) (name === "low" ? high : low).value = name === "low" ? +low.value + 1 : high.value - 1;
    for (const option of solver.options) {
      option.disabled = (plus && option.value !== "ddim") || (way.value === "projected" && option.value === "heun");
    }
    if (solver.selectedOptions[0].disabled) solver.value = "ddim";
    eta.disabled = plus || solver.value !== "ddim";
    w.parentElement.hidden = plus;
    scale.parentElement.hidden = !plus;
    if (name !== "shown") found = null;
    later();
  }

  function set(values) {
    for (const [name, value] of Object.entries({...USUAL, ...values})) inputs[name].value = value;
    changed();
    speak();
  }

  // Pictures

  function picture(caption) {
    const canvas = element("canvas", {role: "img", width: 1, height: 1}), text = element("figcaption", {}, caption);
    return {canvas, text, figure: element("figure", {}, canvas, text)};
  }
  const field = picture(""), sampled = picture("what is sampled"), aimed = picture("the sharpened density");
  const colour = (name) => getComputedStyle(place).getPropertyValue(name);

  // The pen of a picture in the coordinates of the plane, y upwards, as wide as a pixel of the page
  function cleared({canvas}) {
    const size = canvas.clientWidth, pen = canvas.getContext("2d"), dense = Math.min(devicePixelRatio, 2);
    canvas.width = canvas.height = Math.round(size * dense);
    pen.setTransform(canvas.width / 2 / VIEW, 0, 0, -canvas.width / 2 / VIEW, canvas.width / 2, canvas.width / 2);
    pen.lineWidth = 2 * VIEW / size;
    return pen;
  }

  function outlines(pen) {
    for (const blob of plane.BLOBS) {
      pen.strokeStyle = colour(plane.CAPTION.includes(blob) ? "--gb-accent" : "--pst-color-primary");
      pen.beginPath();
      pen.arc(...blob, plane.RADIUS, 0, 7);
      pen.stroke();
    }
  }

  const places = Float64Array.from({length: 2 * SIDE ** 2}, (_, i) => ((i % 2 ? Math.floor(i / 2 / SIDE) : i / 2 % SIDE) + 0.5) / SIDE * 2 * VIEW - VIEW);
  function arrows(pen, x0, eps, sigma, next) { // towards where a step of DDIM would end if it went on, which is x̃0 but with CFG++
    const to = x0.map((value, i) => (value + next * eps[i] - places[i]) / (1 - next / sigma));
    pen.beginPath();
    for (let i = 0; i < to.length; i += 2) {
      const far = Math.hypot(to[i], to[i + 1]) + 1e-9, long = 0.25 * Math.tanh(far), angle = Math.atan2(to[i + 1], to[i]);
      const x = places[i] + long * to[i] / far, y = places[i + 1] + long * to[i + 1] / far;
      pen.moveTo(places[i], places[i + 1]);
      for (const turn of [2.7, -2.7]) {
        pen.lineTo(x, y);
        pen.lineTo(x + 0.35 * long * Math.cos(angle + turn), y + 0.35 * long * Math.sin(angle + turn));
      }
    }
    pen.stroke();
  }

  function drawField(at) {
    const pen = cleared(field), sigmas = plane.levels(at.steps), now = shown(), k = Math.min(now, at.steps - 1);
    outlines(pen);
    pen.strokeStyle = colour("--gb-quiet");
    arrows(pen, ...plane.guide(at)(places, sigmas[k]), sigmas[k], sigmas[k + 1]);
    pen.strokeStyle = colour("--gb-accent");
    pen.globalAlpha = 0.6;
    pen.beginPath();
    for (let i = 0; i < 2 * PATHS; i += 2) found.states.forEach((x, step) => pen[step ? "lineTo" : "moveTo"](x[i], x[i + 1]));
    pen.stroke();
    pen.globalAlpha = 1;
    pen.fillStyle = colour("--pst-color-text-base");
    const x = found.states[now], dot = 2 * pen.lineWidth;
    for (let i = 0; i < x.length; i += 2) pen.fillRect(x[i] - dot / 2, x[i + 1] - dot / 2, dot, dot);
    field.text.textContent = `field, paths and samples after ${now} of ${at.steps} steps, σ\u00a0=\u00a0${says(sigmas[now])}`;
    field.canvas.setAttribute("aria-label", `Arrows of the guided field, ${PATHS} paths, and dots: the samples after ${now} of ${at.steps} steps.`);
  }

  // Shares of the points in the cells of the plane
  function histogram(points) {
    const counts = new Float64Array(n * n), cell = (x) => Math.floor(x / plane.CELL + n / 2);
    for (let i = 0; i < points.length; i += 2) {
      const [a, b] = [cell(points[i]), cell(points[i + 1])];
      if (Math.min(a, b) >= 0 && Math.max(a, b) < n) counts[b * n + a] += 2 / points.length;
    }
    return counts;
  }
  // Blurred by one cell
  function blurred(values) {
    for (const step of [1, 1, n, n]) {
      const found = new Float64Array(values.length); // nothing is near the edge
      for (let i = step; i < found.length - step; i++) found[i] = (values[i - step] + 2 * values[i] + values[i + step]) / 4;
      values = found;
    }
    return values;
  }
  function drawDensity(to, values, most, of) {
    const pen = cleared(to), canvas = element("canvas", {width: n, height: n}), brush = canvas.getContext("2d"), half = n * plane.CELL / 2;
    const shade = new ImageData(n, n);
    values.forEach((value, i) => (shade.data[4 * i + 3] = 255 * Math.min(1, Math.sqrt(value / most))));
    brush.putImageData(shade, 0, 0);
    brush.globalCompositeOperation = "source-in";
    brush.fillStyle = colour("--gb-accent");
    brush.fillRect(0, 0, n, n);
    pen.drawImage(canvas, -half, -half, 2 * half, 2 * half);
    outlines(pen);
    to.canvas.setAttribute("aria-label", `Density: ${words(of)}.`);
  }

  // Numbers

  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const ROWS = {
    "obey the caption": ({obeyed}) => percent(obeyed), "nearest the outer, the inner blob": ({shares}) => shares.map(percent).join(", "),
    "outside both circles": ({outside}) => percent(outside), "spread": ({spread}) => spread.toFixed(2),
  };
  const rows = Object.keys(ROWS).map((name) => element("tr", {}, element("th", {scope: "row"}, name), element("td"), element("td")));
  const heads = ["sampled", "sharpened"].map((text) => element("th", {scope: "col"}, text));
  const table = element("table", {class: "table"}, element("thead", {}, element("tr", {}, element("td"), ...heads)), element("tbody", {}, ...rows));
  const words = (of) => Object.entries(ROWS).map(([name, number]) => `${name} ${number(of)}`).join(", ");
  const cost = element("p");
  function speak() {
    found ??= plane.results(settings());
    spoken.textContent = `Sampled: ${words(found.sampled)}. Sharpened density: ${words(found.aimed)}.`;
  }

  function draw() {
    const at = settings();
    found ??= plane.results(at);
    const {states, asked, aim, sampled: drawn, aimed: said} = found;
    drawField(at);
    const blur = blurred(aim), total = blur.reduce((a, b) => a + b), most = blur.reduce((a, b) => Math.max(a, b)) / total;
    drawDensity(sampled, blurred(histogram(states[at.steps])), most, drawn);
    drawDensity(aimed, blur.map((value) => value / total), most, said);
    Object.values(ROWS).forEach((number, i) => [drawn, said].forEach((of, j) => (rows[i].children[j + 1].textContent = number(of))));
    cost.textContent = `${asked} evaluations of a network for each sample.`;
    const texts = {
      w: at.w.toFixed(1), scale: at.w.toFixed(2), steps: at.steps, low: says(at.low), high: says(at.high),
      eta: at.eta.toFixed(2), shown: shown(),
    };
    for (const [name, text] of Object.entries(texts)) {
      outputs[name].textContent = text;
      inputs[name].setAttribute("aria-valuetext", text);
    }
  }
  function later() {
    if (!waiting) requestAnimationFrame(() => ((waiting = false), draw()));
    waiting = true;
  }

  function play(time, began = time) {
    inputs.shown.value = Math.min(100, (time - began) / 40);
    changed("shown");
    if (inputs.shown.value < 100) requestAnimationFrame((now) => play(now, began));
  }

  field.figure.append(button("play", () => requestAnimationFrame(play)));
  const tries = Object.entries(TRIES).map(([text, values]) => button(text, () => set(values)));
  place.append(
    element("div", {class: "plane-tries", role: "group", "aria-label": "settings to try"}, ...tries),
    element("div", {class: "plane-pictures"}, field.figure, sampled.figure, aimed.figure),
    controls, table, cost, spoken);
  set({});
  new ResizeObserver(later).observe(field.canvas);
  new MutationObserver(later).observe(document.documentElement, {attributeFilter: ["data-theme"]});
})();
