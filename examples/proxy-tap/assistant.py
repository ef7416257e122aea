"""A chat assistant that streams its answers and knows nothing of webhooks: python3 assistant.py [PORT]"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Chat(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        answer = f"You said {asked['text']}"
        for word in answer.split():
            self.say("word", {"text": word})
            time.sleep(0.05)
        self.say("answer", {"conversation": asked["conversation"], "text": answer})
        if asked["text"] == "bye":
            self.say("bye", {"conversation": asked["conversation"]})

    def say(self, event, data):
        self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    ThreadingHTTPServer(("127.0.0.1", port), Chat).serve_forever()
