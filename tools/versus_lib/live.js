// Live media as people write it on Node: what comes by PUT is kept, and written to every response that has asked for it.
//
//   node live.js PORT      (PUT /live/NAME, GET /live/NAME)
const http = require("node:http");
const streams = new Map();

const take = (request, response) => {
  const stream = { chunks: [], readers: new Set() };
  streams.set(request.url, stream);
  request.on("data", (chunk) => {
    stream.chunks.push(chunk);
    for (const reader of stream.readers) reader.write(chunk);
  });
  request.on("close", () => {
    stream.ended = true;
    for (const reader of stream.readers) reader.end();
  });
  request.on("end", () => response.writeHead(201, { "Content-Length": 0 }).end());
};

const follow = (stream, response) => {
  response.writeHead(200, { "Content-Type": "video/mp4" });
  for (const chunk of stream.chunks) response.write(chunk);
  if (stream.ended) return response.end();
  stream.readers.add(response);
  response.on("close", () => stream.readers.delete(response));
};

const server = http.createServer((request, response) => {
  if (request.method === "PUT") return take(request, response);
  const stream = streams.get(request.url);
  if (!stream) return response.writeHead(404, { "Content-Length": 0 }).end();
  follow(stream, response);
});
server.keepAliveTimeout = 0;
server.requestTimeout = 0;
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
