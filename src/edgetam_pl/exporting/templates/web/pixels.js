// Frames in, masks out: the resampling of training and evaluation, so that masks equal those of the Python client.

// Weights of one axis of a resize, as torch's antialiased bicubic of bytes: for each output, where its inputs begin and what
// each counts, in whole numbers of 1 / 2 ** precision.
function taps(from, to) {
  const scale = from / to, stretch = Math.max(scale, 1), support = 2 * stretch;
  const exact = Array.from({length: to}, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0), end = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = Array.from({length: end - first}, (_, j) => cubic((first + j + 0.5 - centre) / stretch));
    const sum = weights.reduce((a, b) => a + b);
    return {first, weights: weights.map(weight => weight / sum)};
  });
  const most = exact.reduce((most, {weights}) => Math.max(most, ...weights), 0);
  let precision = 0;  // the largest with which every weight fits into 16 bits
  while (precision < 22 && Math.trunc(0.5 + most * 2 ** (precision + 1)) < 2 ** 15) precision++;
  const whole = weight => Math.trunc(weight * 2 ** precision + (weight < 0 ? -0.5 : 0.5));
  return {precision, axis: exact.map(({first, weights}) => ({first, weights: Int32Array.from(weights, whole)}))};
}

function cubic(x) {  // a = -0.5
  x = Math.abs(x);
  return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// RGBA bytes of a frame -> (3, S, S) floats, 0 ... 255, stretched to the square: what ImageEncoder takes.
export function resized(rgba, width, height, side) {
  const rows = new Uint8ClampedArray(3 * height * side);  // (3, height, S); bytes, rounded, between the two passes
  const across = taps(width, side), down = taps(height, side);
  for (let c = 0; c < 3; c++) for (let y = 0; y < height; y++) for (let x = 0; x < side; x++) {
    const {first, weights} = across.axis[x];
    let sum = 1 << (across.precision - 1);
    for (let j = 0, at = 4 * (y * width + first) + c; j < weights.length; j++, at += 4) sum += weights[j] * rgba[at];
    rows[(c * height + y) * side + x] = sum >> across.precision;
  }
  const bytes = new Uint8ClampedArray(3 * side * side);
  for (let c = 0; c < 3; c++) for (let y = 0; y < side; y++) {
    const {first, weights} = down.axis[y];
    for (let x = 0; x < side; x++) {
      let sum = 1 << (down.precision - 1);
      for (let j = 0, at = (c * height + first) * side + x; j < weights.length; j++, at += side) sum += weights[j] * rows[at];
      bytes[(c * side + y) * side + x] = sum >> down.precision;
    }
  }
  return Float32Array.from(bytes);
}

// Logits (low, low) -> (height, width), bilinear.
export function enlarged(logits, low, width, height) {
  const axis = to => Array.from({length: to}, (_, i) => {
    const at = Math.max((i + 0.5) * low / to - 0.5, 0), first = Math.min(Math.trunc(at), low - 1);
    return [first, Math.min(first + 1, low - 1), at - first];
  });
  const values = new Float32Array(width * height), across = axis(width);
  axis(height).forEach(([top, bottom, below], y) => {
    for (let x = 0; x < width; x++) {
      const [left, right, beside] = across[x];
      const above = logits[top * low + left] * (1 - beside) + logits[top * low + right] * beside;
      const under = logits[bottom * low + left] * (1 - beside) + logits[bottom * low + right] * beside;
      values[y * width + x] = above * (1 - below) + under * below;
    }
  });
  return values;
}

// The object of each pixel, 0 for none; where masks overlap, the highest logit. Answers are {number, logits}.
export function labelMap(answers, low, width, height) {
  const labels = new Uint8Array(width * height), best = new Float32Array(width * height);
  for (const {number, logits} of answers) {
    enlarged(logits, low, width, height).forEach((value, i) => { if (value > best[i]) { best[i] = value; labels[i] = number; } });
  }
  return labels;
}

// Tint objects in their colours and outline them, in the RGBA bytes of the frame.
export function paint(rgba, labels, width, height, colours) {
  const tints = colours.map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    const label = labels[i];
    if (!label) continue;
    const edge = (x && labels[i - 1] !== label) || (x < width - 1 && labels[i + 1] !== label)
      || (y && labels[i - width] !== label) || (y < height - 1 && labels[i + width] !== label);
    const tint = tints[(label - 1) % tints.length], share = edge ? 1 : 0.5;
    for (let c = 0; c < 3; c++) rgba[4 * i + c] += share * (tint[c] - rgba[4 * i + c]);
  }
}
