// Judges captured webhooks with npm `standardwebhooks`: node verify.mjs DIRECTORY NODE_MODULES.

import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [directory, modules] = process.argv.slice(2);
const { Webhook } = createRequire(join(resolve(modules), "package.json"))("standardwebhooks");

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
  const accepted = secrets.every((secret) => !refused(secret, body, headers));
  const foreign = "whsec_" + Buffer.alloc(32, 7).toString("base64");
  const tampered = [
    refused(secrets[0], body + " ", headers),
    refused(secrets[0], body, { ...headers, "webhook-id": "msg_other" }),
    refused(foreign, body, headers),
  ];
  if (!accepted || tampered.includes(false)) {
    failed += 1;
    console.log(`${name}: accepted ${accepted}, forgeries refused ${tampered}`);
  }
}
console.log(`node standardwebhooks: ${files.length - failed} passed, ${failed} failed`);
process.exit(failed || files.length < 6 ? 1 : 0);
