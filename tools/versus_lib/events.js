// Server-sent events as people write them on Node: one process, a set of responses for each topic, and a write to each of them.
//
//   node events.js PORT      (POST /events/TOPIC publishes its body, GET /events/TOPIC subscribes)
const http = require("node:http");
const HISTORY = 1000;
const topics = new Map();

const topicOf = (url) => {
  if (!topics.has(url)) topics.set(url, { last: 0, history: [], subscribers: new Set() });
  return topics.get(url);
};

const subscribe = (topic, request, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  response.flushHeaders();
  const had = Number(request.headers["last-event-id"]);
  if (had) for (const { id, event } of topic.history) if (id > had) response.write(event);
  topic.subscribers.add(response);
  response.on("close", () => topic.subscribers.delete(response));
};

const publish = (topic, data) => {
  const id = ++topic.last;
  const event = `id: ${id}\ndata: ${data}\n\n`;
  topic.history.push({ id, event });
  if (topic.history.length > HISTORY) topic.history.shift();
  for (const response of topic.subscribers) response.write(event);
  return id;
};

const server = http.createServer((request, response) => {
  const topic = topicOf(request.url);
  if (request.method === "GET") return subscribe(topic, request, response);
  let data = "";
  request.setEncoding("utf8");
  request.on("data", (text) => (data += text));
  request.on("end", () => {
    const id = publish(topic, data);
    response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ id }));
  });
});
setInterval(() => {
  for (const { subscribers } of topics.values()) for (const response of subscribers) response.write(":\n\n");
}, 15_000);
server.keepAliveTimeout = 0;
server.requestTimeout = 0;
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
