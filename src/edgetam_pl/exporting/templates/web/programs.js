// The four programs under onnxruntime-web: on the graphics processor where the browser offers one (WebGPU), else by
// WebAssembly, with several threads where the server's headers allow them.

const KINDS = {fp32: 'float32', int32: 'int32'};
const MOST_THREADS = 4;  // more only wait for one another on parts of this size

// Returns {run(role, inputs) -> outputs, device, notes}: typed arrays by name; what a visitor should know, in sentences.
// `wanted`: 'webgpu' or 'wasm' to ask for one; null: the best that works.
export async function loadPrograms(manifest, wanted, progress) {
  const notes = [];
  if (wanted !== 'wasm') {
    if (await globalThis.navigator.gpu?.requestAdapter()) {
      try {
        return {...await load(manifest, 'webgpu', progress), device: 'WebGPU', notes};
      } catch (error) {
        notes.push(`WebGPU failed (${error.message}), so WebAssembly runs the model.`);
      }
    } else if (wanted === 'webgpu') {
      notes.push('This browser offers no WebGPU here, so WebAssembly runs the model.');
    }
  }
  const cores = globalThis.navigator.hardwareConcurrency || 1, reason = whyOneThread();
  const threads = reason ? 1 : Math.min(cores, MOST_THREADS);
  if (reason) notes.push(`One thread only: ${reason}`);
  const device = `WebAssembly, ${threads} thread${threads > 1 ? 's' : ''}`;
  return {...await load(manifest, 'wasm', progress, threads), device, notes};
}

// What keeps this page from several threads, as the end of a sentence; an empty text where nothing does.
function whyOneThread() {
  if (!globalThis.isSecureContext) {
    return 'this page came by http from another machine, and browsers give threads to pages from https or from this machine.';
  }
  if (globalThis.crossOriginIsolated === false) {
    return 'this server does not send the headers Cross-Origin-Opener-Policy: same-origin and '
      + 'Cross-Origin-Embedder-Policy: require-corp, without which a browser has no SharedArrayBuffer. edgetam app --web DIR sends them.';
  }
  try {
    new SharedArrayBuffer(new WebAssembly.Memory({initial: 1, maximum: 1, shared: true}).buffer.byteLength);
    return '';
  } catch (error) {
    return 'this browser has no SharedArrayBuffer, and so no threads of WebAssembly. A newer browser has them.';
  }
}

async function load(manifest, provider, progress, threads = 1) {
  const ort = await import(`./ort/ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  const sessions = {}, parts = Object.fromEntries(manifest.parts.map(part => [part.role, part]));
  for (const part of manifest.parts) {
    progress(`Loading ${part.name} (${(part.bytes / 1e6).toFixed(1)} MB) ...`);
    sessions[part.role] = await ort.InferenceSession.create(await fetched(part), {executionProviders: [provider]});
  }
  const run = async (role, inputs) => {
    const feeds = Object.fromEntries(parts[role].inputs.map(
      ({name, dtype, shape}) => [name, new ort.Tensor(KINDS[dtype], inputs[name], shape)]));
    const results = await sessions[role].run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.data]));
  };
  return {run};
}

async function fetched(part) {
  const answer = await fetch(new URL(part.file, import.meta.url));
  if (!answer.ok) throw new Error(`${part.file} is not there (${answer.status}); copy the whole folder to the server.`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes.length !== part.bytes) {
    throw new Error(`${part.file} has ${bytes.length} bytes; the manifest says ${part.bytes}. Copy the folder again.`);
  }
  return bytes;
}
