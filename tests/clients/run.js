// Runs a workflow with @stable-canvas/comfyui-client: node run.js HOST:PORT WORKFLOW OUT; prints what it saw as JSON.
import { readFileSync, writeFileSync } from "node:fs";
import { Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [host, workflow, out] = process.argv.slice(2);
const client = new Client({ api_host: host, WebSocket, fetch });
await client.connect();
let steps = 0;
const result = await client.enqueue(JSON.parse(readFileSync(workflow, "utf8")), {
  disable_random_seed: true, // the client would put a seed of its own into every node that has one
  progress: () => steps++,
});
const images = await Promise.all(
  result.images.map(async (image) =>
    Buffer.from(image.type === "buff" ? image.data : await (await fetch(image.data)).arrayBuffer()),
  ),
);
images.forEach((image, index) => writeFileSync(`${out}/${index}.png`, image));
console.log(JSON.stringify({ images: images.length, steps }));
client.close();
process.exit(0);
