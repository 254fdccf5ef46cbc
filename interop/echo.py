"""A WSGI application that says what its server understood of each request."""

import base64
import json


def app(environ, start_response):
    stream = environ["wsgi.input"]
    seen = {
        "Method": environ["REQUEST_METHOD"],
        "Target": environ["RAW_URI"],
        "Host": environ.get("HTTP_HOST", ""),
        "Body": base64.b64encode(stream.read()).decode(),
    }
    text = base64.b64encode(json.dumps(seen).encode()).decode()
    start_response("200 OK", [("X-Echo", text), ("Content-Length", "3")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"ok\n"]  # gunicorn would send it
