// Answers jobs as the page's worker does, for tests/test_page.py: a line of JSON in, a line out.
// node engine.mjs FOLDER_OF_THE_PAGE CHECKPOINT < jobs
import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page, checkpoint] = process.argv.slice(2).map((name) => pathToFileURL(`${name}/`));
const { normalise } = await import(new URL("bpe.js", page));
const { loadModel, work } = await import(new URL("worker.js", page));
const read = (name) => readFileSync(new URL(name, checkpoint));
const [config, tokenizer] = ["config.json", "tokenizer.json"].map((name) => JSON.parse(read(name)));
const weights = new Uint8Array(read("model.safetensors")).buffer;
const counted = new URL("seen.safetensors", checkpoint);
const seen = existsSync(counted) ? new Uint8Array(readFileSync(counted)).buffer : null;
const model = loadModel({ config, tokenizer, weights, seen });
const plain = (name, value) => name === "attention" && !job.attention ? undefined : (value instanceof Float32Array ? [...value] : value);
let job;
for (const line of readFileSync(0, "utf-8").split("\n").filter(Boolean)) {
  job = JSON.parse(line);
  const answers = [];
  if (job.bpe !== undefined) {
    const ids = model.bpe.encode(job.bpe);
    answers.push({ normal: normalise(job.bpe), pieces: model.bpe.pieces(job.bpe), ids, back: model.bpe.decode(ids) });
  } else {
    await work(model, job, (answer) => answers.push(answer));
  }
  process.stdout.write(`${JSON.stringify(answers, plain)}\n`);
}
