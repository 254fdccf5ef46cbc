"""A service of somebody's in Python, and its calls through a sidecar. Run by go test: python3 sidecar.py PORT SIDECAR"""
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

port, sidecar = int(sys.argv[1]), sys.argv[2]
calls = requests.Session()
calls.proxies = {"http": "http://" + sidecar}


def say(what, *detail):
    print(json.dumps({"What": what, "Detail": [str(d) for d in detail]}), flush=True)


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/relay":  # it hands on the id of its request and nothing else
            answer = requests.get("http://noderecs/headers", proxies=calls.proxies,
                                  headers={"X-Request-Id": self.headers["X-Request-Id"]})
            return self.answer(answer.status_code, answer.content)
        self.answer(200, b"python says hello")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def pieces(size):
    piece = bytes(1 << 20)
    for _ in range(size >> 20):
        yield piece


server = ThreadingHTTPServer(("127.0.0.1", port), Shop)
threading.Thread(target=server.serve_forever, daemon=True).start()
say("ready")
for line in sys.stdin:
    what, *args = line.split()
    try:
        if what == "get":
            r = calls.get(args[0])
            say("got", r.status_code, r.headers.get("Content-Encoding"), r.text)
        elif what == "upload":
            r = calls.post(args[0], data=pieces(int(args[1])), headers={"X-Ipc-Timeout-Ms": "240000"})
            say("uploaded", r.status_code, r.text)
    except Exception as err:  # the test says what it waited for
        say("failed", err)
