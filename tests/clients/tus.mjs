// tus-js-client as people use it, and a client that dies in the middle of an upload.
//
//   node tus.mjs ENDPOINT FILE CHUNK_SIZE [--cut-after BYTES] [--resume URL]
//
// CHUNK_SIZE 0 sends what is left in one PATCH. With --cut-after the process ends in the middle of a request as soon as this run
// has handed that many bytes of the file to the connection, with the upload's URL on standard output; --resume goes on from what
// the server has. An upload that is whole ends with one line of JSON: url, size, and the offset that it was resumed from.
//
// tus-js-client is looked for in target/clients, where tools/clients puts it, and in NODE_PATH.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const clients = fileURLToPath(new URL('../../target/clients', import.meta.url));
const tus = require(require.resolve('tus-js-client', { paths: [clients] }));

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'cut-after': { type: 'string' }, resume: { type: 'string' } },
});
const [endpoint, file, chunkSize] = positionals;
const size = fs.statSync(file).size;

// A write that is done before the process ends, whatever standard output is.
const say = text => fs.writeSync(1, `${text}\n`);

let resumedFrom = null;
const upload = new tus.Upload(fs.createReadStream(file), {
  endpoint,
  uploadUrl: values.resume,
  chunkSize: Number(chunkSize) || Infinity,
  // A stream is not rewound, and its length is not looked up.
  uploadSize: size,
  // A test is to see the first failure.
  retryDelays: null,
  metadata: { filename: path.basename(file), filetype: 'application/octet-stream' },
  onAfterResponse: (request, response) => {
    if (request.getMethod() === 'HEAD') resumedFrom = Number(response.getHeader('Upload-Offset'));
  },
  onSuccess: () => {
    say(JSON.stringify({ url: upload.url, size, resumed_from: resumedFrom }));
    // A connection that is kept alive would keep the process.
    process.exit(0);
  },
  onError: error => {
    console.error(String(error));
    process.exit(1);
  },
});
if (values['cut-after'] !== undefined) cut(Number(values['cut-after']));
upload.start();

// Lets the next `left` bytes of bodies pass, and ends the process when the connection has them. (The library's own progress is
// told ten times a second, when a loopback has long taken the whole file.)
function cut(left) {
  const write = http.ClientRequest.prototype.write;
  http.ClientRequest.prototype.write = function (data, ...rest) {
    if (data.length <= left) {
      left -= data.length;
      return write.call(this, data, ...rest);
    }
    write.call(this, data.subarray(0, left), () => {
      say(upload.url);
      process.exit(0);
    });
    left = 0;
    return false;
  };
}
