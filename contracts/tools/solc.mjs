#!/usr/bin/env node
// A `solc` for forge, made of the WebAssembly compiler that npm holds. It answers the two calls that
// forge makes: `--version`, and standard JSON from stdin to stdout.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);

if (process.argv.includes("--version")) {
  // Loading the compiler takes a second, and forge asks often; the package's own version says the same.
  const { version } = require("solc/package.json");
  console.log("solc, the solidity compiler commandline interface");
  console.log(`Version: ${version}+commit.00000000.Emscripten.clang`);
} else if (process.argv.includes("--standard-json")) {
  const solc = require("solc");
  process.stdout.write(solc.compile(readFileSync(0, "utf8")));
} else {
  console.error("solc.mjs: only --version and --standard-json are supported; call npx solcjs for anything else");
  process.exit(2);
}
