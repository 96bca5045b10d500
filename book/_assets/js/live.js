// Sampling in the page: a run's network in a worker, the solvers of solvers.js, the noise of noise.js. Every place `.live` holds what its
// run says of itself as JSON. The runtime and the network are scripts that are loaded when a button is pressed: a page that was opened
// from a folder may load scripts, and nothing else.
"use strict";
(() => {
  const ROOT = new URL("..", document.currentScript.src), KEPT = 8; // samples that stay on the page
  const NAMES = {ddpm: "DDPM", ddim: "DDIM", "dpmpp-2m": "DPM-Solver++ (2M)", heun: "Heun"};

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // The network

  const scripts = new Map();
  function asset(name, file) {
    if (!scripts.has(name)) {
      scripts.set(name, new Promise((done, failed) => {
        const script = element("script", {src: new URL(file, ROOT)});
        script.onload = () => done(globalThis.guidebookAssets[name]);
        script.onerror = () => (scripts.delete(name), failed(new Error(`${file} is not in the book's folder`)));
        document.head.append(script);
      }));
    }
    return scripts.get(name);
  }

  // What the worker does, as source: it can load nothing by itself
  function worker() {
    let ort, session, tokens, shape;
    function unpacked(text) {
      const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    }
    async function load({runtime, network, ...given}) {
      const [wasm, graph, embeddings] = await Promise.all([runtime.wasm, network, given.tokens].map(unpacked));
      const module = new Blob([await unpacked(runtime.module)], {type: "text/javascript"});
      ort = await import(URL.createObjectURL(module));
      Object.assign(ort.env.wasm, {wasmBinary: wasm, numThreads: 1});
      session = await ort.InferenceSession.create(new Uint8Array(graph), {logSeverityLevel: 3});
      [tokens, shape] = [new Float32Array(embeddings), given.shape];
    }
    // F of an image with prompt number `row`, and without one: the embeddings' last
    async function answer({x, t, row, rows}) {
      const each = tokens.length / rows, pair = new Float32Array(2 * each), both = new Float32Array(2 * x.length);
      [row, rows - 1].forEach((from, i) => pair.set(tokens.subarray(from * each, (from + 1) * each), i * each));
      both.set(x);
      both.set(x, x.length);
      const width = shape.width, given = {
        x: new ort.Tensor("float32", both, [2, ...shape.image]), t: new ort.Tensor("float32", [t, t], [2]),
        tokens: new ort.Tensor("float32", pair, [2, each / width, width]),
      };
      return (await session.run(given)).F.data;
    }
    onmessage = async ({data}) => {
      try {
        postMessage({value: data.network ? await load(data) : await answer(data)});
      } catch (error) {
        postMessage({error: String(error.message ?? error)});
      }
    };
  }

  async function network(run) {
    const [runtime, own] = await Promise.all([asset("runtime", "vendor/onnxruntime/ort.js"), asset(run.name, `live/${run.name}.js`)]);
    const hired = new Worker(URL.createObjectURL(new Blob([`(${worker})()`], {type: "text/javascript"})));
    let last = Promise.resolve();
    const ask = (message) => (last = last.catch(() => {}).then(() => new Promise((done, failed) => {
      hired.onmessage = ({data}) => (data.error ? failed(new Error(data.error)) : done(data.value));
      hired.onerror = (event) => failed(new Error(event.message));
      hired.postMessage(message);
    })));
    await ask({runtime, network: own.network, tokens: own.tokens, shape: {image: run.shape, width: run.width}});
    return {walks: own.walks, ask};
  }

  // One sample: calls `show` with each state and what the network makes of it, as long as it gives true, and returns the image
  async function sample(run, net, {prompt, w, seed, steps, solver}, show) {
    const rows = net.walks[steps], draw = studyNoise(run.seed, seed, run.shape.reduce((a, b) => a * b));
    const settings = {eta: run.own.sampler === solver ? run.own.eta : 0, v: run.own.sampler === solver ? run.own.v : 0, noise: draw};
    const walk = solvers.SOLVERS[solver](draw().map((z) => run.std * z), rows.map(([, , a, s]) => [a, s]), settings);
    let now = walk.next();
    while (!now.done) {
      const {x, k, ahead} = now.value, [t, scale, a, s, p, q] = rows[k], n = x.length, det = a * q - s * p;
      const out = await net.ask({x: x.map((value) => scale * value), t, row: prompt, rows: run.prompts.length + 1});
      const [positive, negative] = [out.subarray(0, n), out.subarray(n)].map((f) => f.map((value, i) => (q * x[i] - s * value) / det));
      const x0 = solvers.mixed(negative, positive, w).map((value) => Math.min(1, Math.max(-1, value)));
      if (!ahead && !show(k, {x, negative, positive, x0})) return null;
      now = walk.next([x0, x0.map((value, i) => (x[i] - a * value) / s)]);
    }
    return now.value;
  }

  // The page

  const about = (place) => JSON.parse(place.querySelector("script").textContent);
  function build(place) {
    const run = about(place), [channels, side] = run.shape, [low, high] = run.range;
    const inputs = {}, outputs = {}, spoken = element("p", {class: "live-said", role: "status"});
    let net = null, turn = 0;

    function control(name, label, input) {
      inputs[name] = input;
      outputs[name] = element("output", {for: (input.id = `live-${run.name}-${name}`)});
      input.addEventListener("input", () => {
        outputs[name].textContent = name === "w" ? (+input.value).toFixed(1) : "";
        if (net) draw().catch(failed);
      });
      return element("div", {}, element("label", {for: input.id}, label), input, outputs[name]);
    }
    const choice = (pairs, usual) => element("select", {}, ...pairs.map(([value, text]) => new Option(text, value, false, value === usual)));
    const controls = element("div", {class: "plane-controls"},
      control("prompt", "prompt", choice(run.prompts.map((text, i) => [i, text]), 0)),
      control("solver", "solver", choice(Object.entries(NAMES), run.own.sampler in NAMES ? run.own.sampler : "dpmpp-2m")),
      control("w", "scale w", element("input", {type: "range", min: 0, max: 10, step: 0.1, value: 3})),
      control("steps", "steps", choice(run.steps.map((n) => [n, n]), run.own.steps)),
      control("seed", "seed", element("input", {type: "number", min: 0, max: 2 ** 32 - 1, step: 1, value: 0, inputmode: "numeric"})));
    outputs.w.textContent = "3.0";
    const start = element("button", {type: "button"}, `Load the network (${(run.bytes / 1e6 + 4.9).toFixed(1)} MB) and sample`);

    function picture(text) {
      const canvas = element("canvas", {role: "img", width: side, height: side, "aria-label": text});
      return {canvas, figure: element("figure", {}, canvas, element("figcaption", {}, text))};
    }
    function paint({canvas}, x) {
      const shown = new ImageData(side, side), pixels = side * side;
      for (let i = 0; i < 4 * pixels; i++) {
        const value = x[channels === 1 ? i >> 2 : (i % 4) * pixels + (i >> 2)];
        shown.data[i] = i % 4 === 3 ? 255 : Math.round((value - low) / (high - low) * 255);
      }
      canvas.getContext("2d").putImageData(shown, 0, 0);
    }
    const parts = {x: "noisy image x", negative: "x̂₀ without the prompt", positive: "x̂₀ with the prompt", x0: "x̂₀ guided"};
    const pictures = Object.fromEntries(Object.entries(parts).map(([name, text]) => [name, picture(text)]));
    const now = element("div", {class: "live-pictures"}, ...Object.values(pictures).map((p) => p.figure));
    const kept = element("div", {class: "live-kept", role: "group", "aria-label": "samples so far, the newest first"});

    function keep(x, words) {
      const made = picture(words);
      paint(made, x);
      kept.prepend(made.figure);
      if (kept.children.length > KEPT) kept.lastChild.remove();
    }

    const say = (text) => (spoken.textContent = text);
    const failed = (error) => say(`No sample was drawn here (${error.message}). ${run.instead}`);

    async function draw() {
      const mine = ++turn, {prompt, w, seed, steps, solver} = inputs, began = performance.now();
      const settings = {prompt: +prompt.value, w: +w.value, seed: Math.trunc(+seed.value), steps: +steps.value, solver: solver.value};
      if (!(settings.seed >= 0 && settings.seed < 2 ** 32)) return say("A seed is a whole number from 0 to 4,294,967,295.");
      const image = await sample(run, net, settings, (k, found) => {
        if (mine !== turn) return false;
        for (const [name, each] of Object.entries(pictures)) paint(each, found[name]);
        now.dataset.step = k + 1;
        return true;
      });
      if (!image) return;
      paint(pictures.x, image);
      keep(image, `${run.prompts[settings.prompt]}, w = ${settings.w}, seed ${settings.seed}, ${NAMES[settings.solver]}, ${settings.steps} steps`);
      say(`${settings.steps} steps in ${((performance.now() - began) / 1000).toFixed(1)} s: ${run.prompts[settings.prompt]}, w = ${settings.w}, seed ${settings.seed}.`);
    }
    start.addEventListener("click", async () => {
      start.disabled = true;
      try {
        if (!net) {
          say("Loading the runtime and the network.");
          net = await network(run);
          start.textContent = "Sample the next seed";
        } else {
          inputs.seed.value = (Math.trunc(+inputs.seed.value) + 1) % 2 ** 32;
        }
        now.hidden = start.disabled = false;
        await draw();
      } catch (error) {
        start.disabled = false;
        failed(error);
      }
    });
    now.hidden = true;
    place.append(controls, start, now, spoken, kept);
  }

  for (const place of document.querySelectorAll(".live")) {
    if (typeof WebAssembly === "object" && typeof DecompressionStream === "function") build(place);
    else place.append(element("p", {}, `This browser runs no WebAssembly, so nothing is sampled here. ${about(place).instead}`));
  }
})();
