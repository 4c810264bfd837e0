"""A stand-in for a paid endpoint: OpenAI's chat completions on 127.0.0.1:8100. It sorts support requests by keywords.

python endpoint.py           answers with reason and label
python endpoint.py --think   thinks aloud first, as reasoning models do
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8100
WORDS = {
    "delivery": ("parcel", "ship", "courier", "tracking", "driver", "warehouse", "send order", "door"),
    "account": ("log in", "login", "password", "account", "profile", "sign"),
    "billing": ("charged", "invoice", "receipt", "debited", "refund", "bill", "pay", "vat"),
}
THOUGHT = "<think>It may be that the answer is {wrong}. No: it names a {word}.</think>"


def answer(text: str, think: bool) -> str:
    found = ((label, word) for label, words in WORDS.items() for word in words if word in text.lower())
    label, word = next(found, ("defect", "product that does not work"))
    wrong = "defect" if label != "defect" else "billing"
    thought = THOUGHT.format(wrong=wrong, word=word) if think else ""
    return f'{thought}The message speaks of "{word}", so {label} is right. The answer is {label}.'


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = answer(body["messages"][-1]["content"], "--think" in sys.argv)
        read = sum(len(message["content"].split()) for message in body["messages"])
        usage = {
            "prompt_tokens": read,
            "completion_tokens": len(text.split()),
            "total_tokens": read + len(text.split()),
        }
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
