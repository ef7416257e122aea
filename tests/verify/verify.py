"""Judges captured webhooks with PyPI `standardwebhooks`: verify.py DIRECTORY."""

import base64
import json
import pathlib
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def refused(secret, body, headers):
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    failed = 0
    for file in files:
        captured = json.loads(file.read_text())
        body, headers = base64.b64decode(captured["body"]), captured["headers"]
        accepted = all(not refused(secret, body, headers) for secret in captured["secrets"])
        foreign = "whsec_" + base64.b64encode(bytes(range(32))).decode()
        tampered = [
            refused(captured["secrets"][0], body + b" ", headers),
            refused(captured["secrets"][0], body, {**headers, "webhook-id": "msg_other"}),
            refused(foreign, body, headers),
        ]
        if not (accepted and all(tampered)):
            failed += 1
            print(f"{file.name}: accepted {accepted}, forgeries refused {tampered}")
    print(f"python standardwebhooks: {len(files) - failed} passed, {failed} failed")
    sys.exit(1 if failed or len(files) < 6 else 0)


main()
