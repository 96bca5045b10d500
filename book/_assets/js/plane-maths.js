// The mathematics of the plane of guidance, for many points at once: x, x0 and ε are Float64Array, x and y of one point after another.
// Ways to guide are those of the same names in the library's diffusion/guidance.py, on EDM's path x = x0 + σ ε.
"use strict";
const guidancePlane = (() => {
  const {SOLVERS, mixed} = solvers;
  const BLOBS = [[1.56, -0.9], [0.4, 0.35], [-1.55, -0.55], [-0.35, -1], [-0.55, 1], [0.65, 1.3]]; // the images
  const CAPTION = BLOBS.slice(0, 2); // those that the caption describes
  const SD = 0.3, WORSE = 0.6, RADIUS = 2 * SD; // of a blob; as the worse network of autoguidance knows it; of its circle
  const PHI = 0.7, ETA = 0, NORM = 0.5, MOMENTUM = -0.5; // of rescaled and of projected guidance
  const LARGEST = 20, LAST = 0.002, RHO = 7; // noise levels σ
  const POINTS = 1000, CELL = 0.1, CELLS = 96; // samples; side of a cell in sums over the plane, and cells in a row

  // Of a point x: least |x − m|², and of the weights r = exp((least − |x − m|²) / 2 v) the sum, Σ r m in x and in y
  const weighed = new Float64Array(4), squares = new Float64Array(BLOBS.length);
  function weigh(blobs, twice, x, y) {
    let least = Infinity, total = 0, a = 0, b = 0;
    for (let k = 0; k < blobs.length; k++) {
      const p = x - blobs[k][0], q = y - blobs[k][1];
      squares[k] = p * p + q * q;
      if (squares[k] < least) least = squares[k];
    }
    for (let k = 0; k < blobs.length; k++) {
      const r = Math.exp((least - squares[k]) / twice);
      total += r;
      a += r * blobs[k][0];
      b += r * blobs[k][1];
    }
    [weighed[0], weighed[1], weighed[2], weighed[3]] = [least, total, a, b];
    return weighed;
  }

  // x0 = Σ r (m + sd² / v (x − m)) / Σ r,  v = sd² + σ²
  function denoiser(blobs, sd) {
    return (x, sigma) => {
      const v = sd * sd + sigma * sigma, keep = sd * sd / v, x0 = new Float64Array(x.length), eps = new Float64Array(x.length);
      for (let i = 0; i < x.length; i += 2) {
        const sums = weigh(blobs, 2 * v, x[i], x[i + 1]);
        x0[i] = keep * x[i] + (1 - keep) * sums[2] / sums[1];
        x0[i + 1] = keep * x[i + 1] + (1 - keep) * sums[3] / sums[1];
        eps[i] = (x[i] - x0[i]) / sigma;
        eps[i + 1] = (x[i + 1] - x0[i + 1]) / sigma;
      }
      return [x0, eps];
    };
  }

  const withNoise = (x0, x, sigma) => [x0, x.map((value, i) => (value - x0[i]) / sigma)];
  const first = (i) => i - i % 2; // index of the x of the point that number i belongs to
  const length = (x, i) => Math.sqrt(x[first(i)] ** 2 + x[first(i) + 1] ** 2);

  function linear({positive, negative}, w) {
    if (w === 0 || w === 1) return w ? positive : negative;
    return (x, sigma) => {
      const [x0, eps] = positive(x, sigma), [x0Neg, epsNeg] = negative(x, sigma);
      return [mixed(x0Neg, x0, w), mixed(epsNeg, eps, w)];
    };
  }

  // EDM's F is −v,  v = (ε − σ x0) / √(1 + σ²)
  function rescaled({positive, negative}, w) {
    if (w === 1) return positive;
    return (x, sigma) => {
      const root = Math.sqrt(1 + sigma * sigma), v = ([x0, eps]) => eps.map((e, i) => (e - sigma * x0[i]) / root);
      const out = v(positive(x, sigma)), mix = mixed(v(negative(x, sigma)), out, w);
      const found = mix.map((f, i) => f * (PHI * length(out, i) / length(mix, i) + 1 - PHI));
      return withNoise(x.map((value, i) => (value / root - sigma * found[i]) / root), x, sigma);
    };
  }

  function cfgPlusPlus({positive, negative}, w) {
    if (w === 0) return negative;
    return (x, sigma) => {
      const [x0Neg, epsNeg] = negative(x, sigma);
      return [mixed(x0Neg, positive(x, sigma)[0], w), epsNeg];
    };
  }

  function projected({positive, negative}, w) {
    if (w === 1) return positive;
    let average = null;
    return (x, sigma) => {
      const [x0] = positive(x, sigma), [x0Neg] = negative(x, sigma), before = average;
      average = x0.map((value, i) => value - x0Neg[i] + (before ? MOMENTUM * before[i] : 0));
      const cut = average.map((value, i) => value * Math.min(1, NORM / length(average, i)));
      const along = x0.map((value, i) => value / Math.max(length(x0, i), 1e-12));
      const share = (i) => cut[i] * along[i] + cut[i + 1] * along[i + 1];
      return withNoise(x0.map((value, i) => value + (w - 1) * (cut[i] + (ETA - 1) * share(first(i)) * along[i])), x, sigma);
    };
  }

  const between = (inside, outside, low, high) => (x, sigma) => (low < sigma && sigma <= high ? inside : outside)(x, sigma);

  const WAYS = {linear, rescaled, "cfg-plus-plus": cfgPlusPlus, projected, autoguidance: linear};

  // The denoiser of settings; `asked` is called for each answer of a network
  function guide({way, w, low, high}, asked = () => {}) {
    const counted = (answer) => (x, sigma) => (asked(), answer(x, sigma));
    const negative = way === "autoguidance" ? denoiser(CAPTION, WORSE) : denoiser(BLOBS, SD);
    const pair = {positive: counted(denoiser(CAPTION, SD)), negative: counted(negative)};
    return between(WAYS[way](pair, w), pair.positive, low, high);
  }

  // Karras et al.'s noise levels (steps + 1), the image's last
  function levels(steps) {
    const high = LARGEST ** (1 / RHO), low = LAST ** (1 / RHO);
    return [...Array(steps).keys()].map((i) => (high + (steps > 1 ? i / (steps - 1) : 0) * (low - high)) ** RHO).concat(0);
  }

  // States (steps + 1) of points that start as `start`, noise of deviation 1; `noise` draws more of it where η > 0
  function walk(settings, start, noise) {
    let asked = 0;
    const denoise = guide(settings, () => asked++), sigmas = levels(settings.steps), states = [];
    const walked = SOLVERS[settings.solver](start.map((value) => LARGEST * value), sigmas.map((sigma) => [1, sigma]), {eta: settings.eta, noise});
    let now = walked.next();
    for (; !now.done; now = walked.next(denoise(now.value.x, sigmas[now.value.k]))) if (!now.value.ahead) states.push(now.value.x);
    return {states: [...states, now.value], asked};
  }

  // log p, but for a constant: log Σ exp(−|x − m|² / 2 sd²) / sd², of each point
  function logDensity(blobs, sd, points) {
    const found = new Float64Array(points.length / 2);
    for (let n = 0; n < found.length; n++) {
      const sums = weigh(blobs, 2 * sd * sd, points[2 * n], points[2 * n + 1]);
      found[n] = Math.log(sums[1] / (sd * sd)) - sums[0] / (2 * sd * sd);
    }
    return found;
  }

  // The densities of points: of the caption's images, of all, and of the caption's as the worse network knows them
  const densities = (points) => ({caption: logDensity(CAPTION, SD, points), all: logDensity(BLOBS, SD, points), worse: logDensity(CAPTION, WORSE, points)});

  // p₊^w p₋^(1 − w), 1 where it is largest: the density that guidance is said to sample. CFG++ names none, and has the caption's
  function sharpened({way, w}, {caption, all, worse}) {
    const logs = mixed(way === "autoguidance" ? worse : all, caption, way === "cfg-plus-plus" ? 1 : w);
    const most = logs.reduce((a, b) => Math.max(a, b));
    return logs.map((log) => Math.exp(log - most));
  }

  // Of points, or of cells of a side with weights: the mean of p(c | x), the share nearest to each blob of c, the share outside their
  // circles, and the distance from the mean, root of its mean square
  function summary(points, {caption, all}, weights, side = 0) {
    const shares = CAPTION.map(() => 0);
    let total = 0, a = 0, b = 0, squares = 0, obeyed = 0, outside = 0;
    for (let n = 0; n < caption.length; n++) {
      const x = points[2 * n], y = points[2 * n + 1], weight = weights ? weights[n] : 1;
      let nearest = 0, least = Infinity;
      for (let k = 0; k < CAPTION.length; k++) {
        const square = (x - CAPTION[k][0]) ** 2 + (y - CAPTION[k][1]) ** 2;
        if (square < least) [nearest, least] = [k, square];
      }
      total += weight;
      a += weight * x;
      b += weight * y;
      squares += weight * (x * x + y * y);
      obeyed += weight * Math.exp(caption[n] - all[n]);
      shares[nearest] += weight;
      outside += weight * Math.min(1, Math.max(0, (Math.sqrt(least) - RADIUS) / side + 0.5));
    }
    const spread = Math.sqrt(squares / total - (a * a + b * b) / total ** 2);
    return {obeyed: obeyed / total, shares: shares.map((share) => share / total), outside: outside / total, spread};
  }

  // Points (N) of a normal distribution, from as many pairs of uniform numbers   (Box and Muller 1958)
  function normal(n, pair) {
    const made = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const [u, v] = pair(i), radius = Math.sqrt(-2 * Math.log(1 - u));
      made[2 * i] = radius * Math.cos(2 * Math.PI * v);
      made[2 * i + 1] = radius * Math.sin(2 * Math.PI * v);
    }
    return made;
  }

  // mulberry32: uniform numbers, the same ones for a seed
  const uniform = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    const t = Math.imul(seed ^ (seed >>> 15), 1 | seed), mixed = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };

  // Start of POINTS samples, spread over the normal distribution more evenly than chance would   (Roberts 2018)
  const start = normal(POINTS, (i) => [((i + 1) * 0.7548776662466927) % 1, ((i + 1) * 0.5698402909980532) % 1]);
  // Centres of CELLS × CELLS cells around the middle, row by row from below
  const centre = (n) => (n + 0.5 - CELLS / 2) * CELL;
  const cells = Float64Array.from({length: 2 * CELLS ** 2}, (_, i) => centre(i % 2 ? Math.floor(i / 2 / CELLS) : (i / 2) % CELLS));

  const ofCells = densities(cells);

  // All that the pictures and the table of one setting are made of
  function results(settings) {
    const next = uniform(1), {states, asked} = walk(settings, start, () => normal(POINTS, () => [next(), next()]));
    const last = states[settings.steps], aim = sharpened(settings, ofCells);
    return {states, asked, aim, sampled: summary(last, densities(last)), aimed: summary(cells, ofCells, aim, CELL)};
  }
  return {BLOBS, CAPTION, RADIUS, CELL, CELLS, guide, levels, results, start, walk};
})();
