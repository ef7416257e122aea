// Judges captured webhooks with npm `standardwebhooks`, and with the README's own lines:
// node verify.mjs DIRECTORY NODE_MODULES.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [directory, modules] = process.argv.slice(2);
const { Webhook } = createRequire(join(resolve(modules), "package.json"))("standardwebhooks");

// The function that the README shows to those who receive webhooks, beside the modules that it imports.
const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const shown = join(resolve(modules), "..", "readme.mjs");
writeFileSync(shown, readme.split("```js\n")[1].split("```")[0]);
const { handle } = await import(pathToFileURL(shown));

function shownRefuses(headers, body, secret) {
  try {
    handle(headers, body, secret);
    return false;
  } catch (error) {
    if (error.constructor.name !== "WebhookVerificationError") throw error;
    return true;
  }
}

function refused(secret, body, headers) {
  try {
    new Webhook(secret).verify(body, headers);
    return false;
  } catch (error) {
    if (error.name !== "WebhookVerificationError" && error.constructor.name !== "WebhookVerificationError") throw error;
    return true;
  }
}

const files = readdirSync(directory).filter((name) => name.endsWith(".json")).sort();
let failed = 0;
for (const name of files) {
  const captured = JSON.parse(readFileSync(join(directory, name), "utf8"));
  const { headers, secrets } = captured;
  const body = Buffer.from(captured.body, "base64").toString("utf8");
  const accepted =
    secrets.every((secret) => !refused(secret, body, headers)) &&
    JSON.stringify(handle(headers, body, secrets[0])) === JSON.stringify(JSON.parse(body));
  const foreign = "whsec_" + Buffer.alloc(32, 7).toString("base64");
  const tampered = [
    refused(secrets[0], body + " ", headers),
    refused(secrets[0], body, { ...headers, "webhook-id": "msg_other" }),
    refused(foreign, body, headers),
    shownRefuses(headers, body + " ", secrets[0]),
  ];
  if (!accepted || tampered.includes(false)) {
    failed += 1;
    console.log(`${name}: accepted ${accepted}, forgeries refused ${tampered}`);
  }
}
console.log(`node standardwebhooks: ${files.length - failed} passed, ${failed} failed`);
process.exit(failed || files.length < 6 ? 1 : 0);
