// The noise of the study's images, from their seeds: the library's runtime/seeds.py, and torch's generator and normal numbers on a CPU.
"use strict";
const studyNoise = (() => {
  const MASK = (1n << 64n) - 1n, turned = (x, n) => (x >> n | x << (64n - n)) & MASK;
  const IV = [
    0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
    0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
  ];
  const ORDERS = [
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
  ].map((row) => [...row].map((digit) => parseInt(digit, 16)));
  const QUARTERS = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];

  // BLAKE2b of at most 128 characters of ASCII, 8 bytes as a number, the lowest first   (RFC 7693)
  function blake2b(text) {
    const bytes = new Uint8Array(128), h0 = IV[0] ^ 0x01010008n;
    new TextEncoder().encodeInto(text, bytes);
    const words = new BigUint64Array(bytes.buffer), v = [h0, ...IV.slice(1), ...IV];
    v[12] ^= BigInt(text.length);
    v[14] ^= MASK;
    for (let round = 0; round < 12; round++) {
      QUARTERS.forEach(([a, b, c, d], i) => {
        const order = ORDERS[round % 10];
        for (const [word, right, left] of [[order[2 * i], 32n, 24n], [order[2 * i + 1], 16n, 63n]]) {
          v[a] = (v[a] + v[b] + words[word]) & MASK;
          v[d] = turned(v[d] ^ v[a], right);
          v[c] = (v[c] + v[d]) & MASK;
          v[b] = turned(v[b] ^ v[c], left);
        }
      });
    }
    return h0 ^ v[0] ^ v[8];
  }

  // MT19937: 32 random bits a call   (Matsumoto & Nishimura 1998)
  function twister(seed) {
    const state = new Uint32Array(624).fill(seed);
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    let next = 624;
    return () => {
      if (next === 624) {
        for (let i = 0; i < 624; i++) {
          const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
          state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 && 0x9908b0df);
        }
        next = 0;
      }
      let y = state[next++];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      return (y ^ (y >>> 18)) >>> 0;
    };
  }

  // torch.randn of n ≥ 16 numbers: pairs 8 apart in each 16 (Box & Muller 1958); the last 16 anew where 16 does not divide n
  function normal(bits, n) {
    const made = new Float32Array(n);
    const fill = (from, to) => { for (let i = from; i < to; i++) made[i] = (bits() & 0xffffff) / 2 ** 24; };
    function turn(from) {
      for (let i = from; i < from + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - made[i])), angle = 2 * Math.PI * made[i + 8];
        made[i] = radius * Math.cos(angle);
        made[i + 8] = radius * Math.sin(angle);
      }
    }
    fill(0, n);
    for (let i = 0; i + 16 <= n; i += 16) turn(i);
    if (n % 16) {
      fill(n - 16, n);
      turn(n - 16);
    }
    return made;
  }

  // Draws n normal numbers a call: first the noise that image number i begins with, then that of its steps. `seed` is the run's, in digits
  return (seed, i, n) => {
    const hash = blake2b(`${(BigInt(seed) << 32n) + BigInt(i)}/image`) >> 1n, bits = twister(Number(hash & 0xffffffffn));
    return () => normal(bits, n);
  };
})();
