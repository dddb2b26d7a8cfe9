// Uploads as people write them on Node: busboy takes the form apart, each file is piped to the disk, and the reply names them.
//
//   node busboy.js MODULES FOLDER PORT      (MODULES is the folder that has node_modules with busboy)
const fs = require("node:fs"), http = require("node:http"), path = require("node:path");
const { pipeline } = require("node:stream/promises");
const [modules, folder, port] = process.argv.slice(2);
const busboy = require(require.resolve("busboy", { paths: [modules] }));

const server = http.createServer((request, response) => {
  const answer = (status, body) =>
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  const fail = (error) => {
    request.unpipe();
    if (!response.headersSent) answer(400, { error: String(error) });
  };
  const files = [];
  let form;
  try {
    form = busboy({ headers: request.headers });
  } catch (error) {
    return fail(error);
  }
  form.on("file", (field, file, { filename }) => {
    const stored = pipeline(file, fs.createWriteStream(path.join(folder, path.basename(filename))));
    files.push(stored.then(() => ({ field, name: filename })));
  });
  form.on("error", fail);
  form.on("close", () => Promise.all(files).then((stored) => answer(201, { files: stored }), fail));
  request.pipe(form);
});
server.keepAliveTimeout = 0;
server.requestTimeout = 0;
server.listen(Number(port), "127.0.0.1");
