// Solvers on any path x = a x0 + s ε, for many numbers at once: those of the same names in the library's diffusion/solvers.py.
// `levels` are [a, s] at each time, the image's last. Each solver is a generator that yields {x, k}, wants [x0, ε] at level k for it,
// and returns the image. What it yields are the states, but those marked `ahead`, at which a step looks forward.
"use strict";
const solvers = (() => {
  function* ddim(x, levels, {eta = 0, v = 0, noise}) {
    for (let k = 0; k + 1 < levels.length; k++) {
      const [a, s] = levels[k], [a2, s2] = levels[k + 1], [x0, eps] = yield {x, k};
      const lower = eta ** 2 * s2 ** 2 * (1 - (a * s2 / (a2 * s)) ** 2), kept = Math.sqrt(Math.max(s2 ** 2 - lower, 0));
      const z = lower > 0 ? noise() : eps, drawn = lower > 0 ? Math.sqrt(lower * (s / s2) ** (2 * v)) : 0;
      x = x0.map((value, i) => a2 * value + kept * eps[i] + drawn * z[i]);
    }
    return x;
  }

  function* heun(x, levels) {
    for (let k = 0; k + 1 < levels.length; k++) {
      const [a, s] = levels[k], [a2, s2] = levels[k + 1], [x0, eps] = yield {x, k};
      x = x0.map((value, i) => a2 * value + s2 * eps[i]);
      if (s2 > 0 && a > 0) {
        const [, after] = yield {x, k: k + 1, ahead: true}, half = (s2 - a2 * s / a) / 2;
        x = x.map((value, i) => value + half * (after[i] - eps[i]));
      }
    }
    return x;
  }

  function* dpmpp2m(x, levels) {
    let before = null;
    for (let k = 0; k + 1 < levels.length; k++) {
      const [a, s] = levels[k], [a2, s2] = levels[k + 1], [x0] = yield {x, k};
      const h = a * s2 > 0 ? Math.log(a2 * s / (a * s2)) : Infinity, old = before ? before.x0 : x0;
      const more = before && h < Infinity ? h / before.h / 2 : 0, kept = s2 / s, put = a2 - a * s2 / s;
      x = x.map((value, i) => kept * value + put * (x0[i] + more * (x0[i] - old[i])));
      before = {x0, h};
    }
    return x;
  }

  // ỹ = y₋ + w (y₊ − y₋), of guidance
  function mixed(negative, positive, w) {
    const found = new negative.constructor(negative.length);
    for (let i = 0; i < found.length; i++) found[i] = negative[i] + w * (positive[i] - negative[i]);
    return found;
  }

  return {SOLVERS: {ddpm: (x, levels, more) => ddim(x, levels, {...more, eta: 1}), ddim, heun, "dpmpp-2m": dpmpp2m}, mixed};
})();
