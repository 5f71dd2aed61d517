"""What the README of actguard takes for granted: its gateway, OpenAI, a search, a database and a configuration file."""

import io
import json
import os
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace as Bag

USAGE = {"prompt_tokens": 1000, "completion_tokens": 400, "total_tokens": 1400}
TARIFF = {
    "tariff_version": "v1",
    "cu_per_usd": 1000,
    "registry_version": "r1",
    "llm": {"default": {"input_cu_per_1k": 3, "output_cu_per_1k": 15, "cached_cu_per_1k": 1}},
}
asked: list[str] = []


def gateway(request, timeout, context=None):
    """Answer as api.actguard.ai does."""
    asked.append(request.full_url)
    answers = {"cu-tariff": TARIFF, "reserve": {"reserve_id": "res-1"}}
    body = answers.get(request.full_url.rpartition("/")[2], {})
    reply = io.BytesIO(json.dumps(body).encode())
    reply.status = 200
    return reply


class OpenAI(BaseHTTPRequestHandler):
    """Answers as api.openai.com does."""

    def do_POST(self):
        """Answer a chat completion, whole or streamed."""
        asked_for = json.loads(self.rfile.read(int(self.headers["content-length"])))
        head = {"id": "chatcmpl-1", "created": 1, "model": asked_for["model"]}
        if not asked_for.get("stream"):
            message = {"role": "assistant", "content": "Rome fell."}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            reply = {**head, "object": "chat.completion", "choices": choices, "usage": USAGE}
            self.answer("application/json", json.dumps(reply).encode())
            return
        head["object"] = "chat.completion.chunk"
        pieces = [
            {"index": 0, "delta": {"content": text}, "finish_reason": None} for text in ("Once", " upon")
        ]
        events = [{**head, "choices": [piece]} for piece in pieces]
        if (asked_for.get("stream_options") or {}).get("include_usage"):
            events.append({**head, "choices": [], "usage": USAGE})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self.answer("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())

    def answer(self, kind, body):
        """Send a whole answer."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()
urllib.request.urlopen = gateway
os.environ.update(
    OPENAI_BASE_URL=f"http://127.0.0.1:{server.server_port}/v1",
    OPENAI_API_KEY="sk-readme",
    NO_PROXY="127.0.0.1",
    ACTGUARD_CONFIG="./actguard.json",
)
Path("actguard.json").write_text(json.dumps({"gateway_url": "https://api.actguard.ai", "api_key": "k"}))
tavily_client = Bag(search=lambda query: [query])
db = Bag(execute=lambda statement: [statement])
