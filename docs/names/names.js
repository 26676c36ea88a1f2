// The networks of the course once more, in JavaScript: one character at a time, from ring buffers.
//
//     const network = new Network(readSafetensors(buffer));
//     generate(network, { prefix: "ma", temperature: 1, uniform: Math.random });
//
// Notebook 09 has the same in Python: course/wavenet.py and course/memory.py. Here a vector of C
// channels is a Float32Array, and a Linear is {weight, bias, width}, its rows one after the other.
"use strict";

/** A float16 number from its 16 bits: a sign, 5 bits of the exponent, 10 of the fraction. */
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
  const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
  return bits & 0x8000 ? -size : size;
}

/** {about, tensors} of a safetensors file: the header's length, the header as JSON, the numbers. */
function readSafetensors(buffer) {
  try {
    const start = 8 + Number(new DataView(buffer).getBigUint64(0, true)), tensors = {};
    const header = new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8));
    const { __metadata__: about = {}, ...entries } = JSON.parse(header);
    for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
      const bytes = buffer.slice(start + from, start + to);
      const numbers = { F32: () => new Float32Array(bytes),
                        F16: () => Float32Array.from(new Uint16Array(bytes), half) }[dtype]();
      tensors[name] = { numbers, shape };
    }
    return { about, tensors };
  } catch {
    throw new Error("This isn't a safetensors file with numbers in float32 or float16.");
  }
}

/** weight @ x + bias, four rows at a time: they read x once, and none waits for another's sum. */
function linear({ weight, bias, width }, x) {
  if (x.length !== width) throw new Error(`A layer expects ${width} numbers and gets ${x.length}.`);
  const y = new Float32Array(bias.length);
  for (let block = 0; block < y.length; block += 4) {
    const row = Math.min(block, y.length - 4);                  // the last four may overlap
    const a = row * width, b = a + width, c = b + width, d = c + width;
    let ya = bias[row], yb = bias[row + 1], yc = bias[row + 2], yd = bias[row + 3];
    for (let i = 0; i < width; i++) {
      ya += weight[a + i] * x[i];
      yb += weight[b + i] * x[i];
      yc += weight[c + i] * x[i];
      yd += weight[d + i] * x[i];
    }
    y.set([ya, yb, yc, yd], row);
  }
  return y;
}

const add = (x, y) => x.map((value, i) => value + y[i]);
const relu = (x) => x.map((value) => Math.max(0, value));
const sigmoid = (value) => 1 / (1 + Math.exp(-value));

/** value · Φ(value). The error function is Abramowitz and Stegun's 7.1.26, to 1.5e-7. */
function gelu(value) {
  const x = Math.abs(value) / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741
    + t * (-1.453152027 + t * 1.061405429))));
  const tail = 0.5 * p * Math.exp(-x * x);                      // Φ(-|value|)
  return value * (value < 0 ? tail : 1 - tail);
}

/** The inputs some calls earlier, for one position at a time: the last `size` inputs. */
class RingBuffer {
  constructor(size, C) {
    this.values = Array.from({ length: size }, () => new Float32Array(C));
    this.t = 0;
  }

  call(x, offsets) {
    const size = this.values.length;
    const taps = offsets.map((offset) => this.values[(this.t - offset + size) % size]);
    this.values[this.t % size] = x;
    this.t += 1;
    return taps;
  }
}

// What a layer makes of its input x and its convolution y: the next x, and a skip if it has one.
const LAYERS = {
  WaveNet(layer, x, y) {                                        // y = f and g, side by side
    const C = x.length, z = x.map((_, i) => Math.tanh(y[i]) * sigmoid(y[C + i]));
    const next = layer.last ? x : add(x, linear(layer.residual, z));
    return { x: next, skip: linear(layer.skip, z) };
  },
  MemoryNet(layer, x, y, ring) {                                // y = z, o and f, side by side
    const C = x.length, old = ring.c ?? new Float32Array(C);
    ring.c = old.map((c, i) => {
      const z = Math.tanh(y[i]), f = sigmoid(y[2 * C + i]);
      return f * c + (1 - f) * z;
    });
    return { x: x.map((value, i) => value + sigmoid(y[C + i]) * ring.c[i]) };
  },
  Stack: (layer, x, y) => ({ x: layer.first ? y.map(gelu) : add(x, y.map(gelu)) }),
  Tree: (layer, x, y) => ({ x: y.map(Math.tanh) }),             // as course/web.py writes it
};

/** A network that reads one character at a time and predicts the next. */
class Network {
  constructor({ about, tensors }) {
    if (!about.model)
      throw new Error("This file doesn't say which model it holds. Save yours with web.export.");
    if (!(about.model in LAYERS))
      throw new Error(`This page can't run a ${about.model}. It runs `
        + `a ${Object.keys(LAYERS).join(", a ")}, as web.export writes it.`);
    const linearOf = (name) => {
      const weight = tensors[`${name}.weight`], bias = tensors[`${name}.bias`];
      if (!weight || !bias) throw new Error(`The ${about.model} has no ${name} in this file.`);
      return { weight: weight.numbers, bias: bias.numbers, width: weight.shape[1] };
    };
    const offsets = JSON.parse(about.offsets);                  // of each layer, as [4] or [4, 2]
    this.about = about;
    this.characters = Array.from(about.characters);
    this.parameters = Object.values(tensors).reduce((sum, { numbers }) => sum + numbers.length, 0);
    this.embedding = tensors["embedding.0.weight"] ?? tensors["embedding.weight"];
    this.layers = offsets.map((back, i) => {
      const first = i === 0, last = i === offsets.length - 1, name = `layers.${i}`;
      const layer = { offsets: back, first, last, conv: linearOf(`${name}.conv.linear`) };
      if (about.model === "WaveNet") layer.skip = linearOf(`${name}.skip`);
      if (about.model === "WaveNet" && !last) layer.residual = linearOf(`${name}.residual`);
      return layer;
    });
    this.head = Object.keys(tensors).filter((name) => /^head\.\d+\.weight$/.test(name)).sort()
      .map((name) => linearOf(name.replace(".weight", "")));
    const logits = this.read("").logits;                        // does everything fit?
    if (logits.length !== this.characters.length || !logits.every(Number.isFinite))
      throw new Error(`Its ${logits.length} logits aren't numbers, one for each character.`);
  }

  /** One step: the logits after the character `id`. The rings remember what came before. */
  step(id, rings) {
    const C = this.embedding.shape[1];
    let x = this.embedding.numbers.slice(id * C, (id + 1) * C), skips = null;
    this.layers.forEach((layer, i) => {
      const joined = new Float32Array(layer.conv.width);        // what came earlier, and x
      [...rings[i].call(x, layer.offsets), x].forEach((part, k) => joined.set(part, k * x.length));
      const out = LAYERS[this.about.model](layer, x, linear(layer.conv, joined), rings[i]);
      x = out.x;
      if (out.skip) skips = skips ? add(skips, out.skip) : out.skip;
    });
    const deep = this.head.length > 1;
    return this.head.reduce((h, layer) => linear(layer, deep ? relu(h) : h), skips ?? x);
  }

  /** The state after the dots that start a name (the tree wants a window full) and `letters`. */
  read(letters) {
    const rings = this.layers.map(({ offsets, conv }) =>
      new RingBuffer(offsets[0], conv.width / (offsets.length + 1)));
    const state = { rings, logits: null };
    const ids = Array.from(letters, (letter) => this.characters.indexOf(letter));
    for (const id of [...Array(Number(this.about.dots)).fill(0), ...ids])
      state.logits = this.step(id, rings);
    return state;
  }
}

/** The probabilities of the next character. */
function softmax(logits, temperature = 1) {
  const most = Math.max(...logits);
  const sizes = Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
  const sum = sizes.reduce((a, b) => a + b);
  return sizes.map((size) => size / sum);
}

/** The character at which the running sum of the probabilities passes u, from 0 to below 1. */
function draw(probabilities, u) {
  let sum = 0;
  const drawn = probabilities.findIndex((p) => u < (sum += p));
  return drawn < 0 ? probabilities.length - 1 : drawn;
}

/** A new name. `uniform()` gives a random number from 0 to below 1 for each character. */
function generate(network, { prefix = "", temperature = 1, uniform, longest = 30 }) {
  let name = prefix;
  for (let { rings, logits } = network.read(prefix); name.length < longest;) {
    const id = draw(softmax(logits, temperature), uniform());
    if (id === 0) break;
    name += network.characters[id];
    logits = network.step(id, rings);
  }
  return name;
}

/** How surprising each character of a name is, its end included: -ln of its probability. */
function surprises(network, name) {
  let { rings, logits } = network.read("");
  return [...name, "."].map((character) => {
    const id = network.characters.indexOf(character), nats = -Math.log(softmax(logits)[id]);
    logits = network.step(id, rings);
    return { character, nats };
  });
}
