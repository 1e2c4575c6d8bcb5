// For a Linux that has no Chromium: unpack the one that npm's @sparticuz/chromium has brought into FOLDER/node_modules, with
// the libraries and fonts that a bare machine lacks. It is started by FOLDER/chromium/run.
//
//     node tests/support/chromium.mjs FOLDER
import { mkdirSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';

const folder = resolve(process.argv[2]);
const place = `${folder}/chromium`;
const brought = `${folder}/node_modules/@sparticuz/chromium`;
mkdirSync(place, { recursive: true });
process.env.TMPDIR = place; // where the package unpacks
const { inflate } = await import(`${brought}/build/index.js`);
for (const name of ['chromium.br', 'al2023.tar.br', 'fonts.tar.br', 'swiftshader.tar.br']) await inflate(`${brought}/bin/${name}`);
// its own fonts.conf names folders of another system, and without any font this Chromium ends where it draws text
const dirs = [`${place}/fonts/fonts`, '/usr/share/fonts'].map((dir) => `<dir>${dir}</dir>`).join('');
writeFileSync(`${place}/fonts/fonts.conf`, `<fontconfig>${dirs}<cachedir>${place}/fonts/cache</cachedir></fontconfig>\n`);
const set = `LD_LIBRARY_PATH='${place}/al2023/lib' FONTCONFIG_PATH='${place}/fonts'`;
writeFileSync(`${place}/run`, `#!/bin/sh\n${set} exec '${place}/chromium' "$@"\n`, { mode: 0o755 });
