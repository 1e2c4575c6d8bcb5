// The session in a thread of its own, so that the page answers while the model works. Takes {id, verb, args}, one after the
// other, and answers {id, value} or {id, error}; {progress} while it loads.

import {loadPrograms} from './programs.js';
import {Session} from './session.js';

let session, before = Promise.resolve();

async function load(manifest, wanted) {
  const {run, device, notes} = await loadPrograms(manifest, wanted, progress => postMessage({progress}));
  session = new Session({...manifest.loop, low: manifest.loop.size / 4}, run);
  return {device, notes};
}

async function answer({id, verb, args}) {
  try {
    postMessage({id, value: verb === 'load' ? await load(...args) : await session[verb](...args)});
  } catch (error) {
    postMessage({id, error: error.message ?? String(error)});
  }
}

onmessage = ({data}) => { before = before.then(() => answer(data)); };
