"""Judges captured webhooks with PyPI `standardwebhooks`, and with the README's own lines: verify.py DIRECTORY."""

import base64
import json
import pathlib
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def of_readme():
    """The function that the README shows to those who receive webhooks."""
    readme = pathlib.Path(__file__).parents[2] / "README.md"
    shown = readme.read_text().split("```python\n", 1)[1].split("```", 1)[0]
    names = {}
    exec(compile(shown, "README.md", "exec"), names)
    return names["handle"]


def shown_refuses(handle, headers, body, secret):
    try:
        handle(headers, body, secret)
    except WebhookVerificationError:
        return True
    return False


def refused(secret, body, headers):
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    failed = 0
    handle = of_readme()
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
        accepted = accepted and handle(headers, body, captured["secrets"][0]) == json.loads(body)
        tampered.append(shown_refuses(handle, headers, body + b" ", captured["secrets"][0]))
        if not (accepted and all(tampered)):
            failed += 1
            print(f"{file.name}: accepted {accepted}, forgeries refused {tampered}")
    print(f"python standardwebhooks: {len(files) - failed} passed, {failed} failed")
    sys.exit(1 if failed or len(files) < 6 else 0)


main()
