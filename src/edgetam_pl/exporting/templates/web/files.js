// Files to be saved: label maps as PNGs with a palette (as edgetam reads and writes them), and a zip of files.

const CRC = Uint32Array.from({length: 256}, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const big = value => [value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255];
const little = (value, bytes) => Array.from({length: bytes}, (_, i) => value >>> 8 * i & 255);

// Labels (height, width) uint8; palette: 3 bytes a label.
export async function png(labels, width, height, palette) {
  const rows = new Uint8Array(height * (width + 1));  // each begins with the number of its filter, 0
  for (let y = 0; y < height; y++) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate')));
  const chunk = (name, bytes) => {
    const named = Uint8Array.from([...new TextEncoder().encode(name), ...bytes]);
    return [Uint8Array.from(big(bytes.length)), named, Uint8Array.from(big(crc32(named)))];
  };
  const DEPTH = 8, PALETTE = 3;
  const parts = [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    ...chunk('IHDR', [...big(width), ...big(height), DEPTH, PALETTE, 0, 0, 0]),
    ...chunk('PLTE', palette),
    ...chunk('IDAT', new Uint8Array(await packed.arrayBuffer())),
    ...chunk('IEND', []),
  ];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Files {name, bytes} one after the other, not compressed: PNGs are already.
export function zip(files) {
  const parts = [], index = [];
  let at = 0;
  for (const {name, bytes} of files) {
    const text = new TextEncoder().encode(name), date = [0, 0, 0x21, 0];  // 1980-01-01: files of one tracking are equal
    const common = [20, 0, 0, 0, 0, 0, ...date, ...little(crc32(bytes), 4), ...little(bytes.length, 4), ...little(bytes.length, 4),
      ...little(text.length, 2), 0, 0];
    parts.push(Uint8Array.from([...little(0x04034b50, 4), ...common, ...text]), bytes);
    index.push(Uint8Array.from([...little(0x02014b50, 4), 20, 0, ...common, ...Array(10).fill(0), ...little(at, 4), ...text]));
    at += 30 + text.length + bytes.length;
  }
  const size = index.reduce((sum, entry) => sum + entry.length, 0), count = little(files.length, 2);
  const end = Uint8Array.from([...little(0x06054b50, 4), 0, 0, 0, 0, ...count, ...count, ...little(size, 4), ...little(at, 4), 0, 0]);
  return new Blob([...parts, ...index, end], {type: 'application/zip'});
}
