"""Python's HTTP clients: client.py httpx|httpx2|requests|curl3 BASE reads calls from standard input, a line each of method, target,
body's form (none, length or chunked) and body in base64, and prints what came back as JSON, a line each."""

import base64
import json
import sys

import curl_cffi
import httpx
import requests

kind, base = sys.argv[1:]


def pieces(body):
    for i in range(0, len(body), 10000):
        yield body[i : i + 10000]


def calls():
    for line in sys.stdin:
        method, target, form, encoded = line.rstrip("\n").split("\t")
        body = base64.b64decode(encoded)
        headers = {} if form == "none" else {"Content-Type": "application/octet-stream"}
        yield method, base + target, headers, {"none": None, "length": body, "chunked": pieces(body)}[form]


def say(status, headers, body):
    print(json.dumps({"Status": status, "Headers": {k.lower(): v for k, v in headers.items()}, "Body": base64.b64encode(body).decode()}), flush=True)


if kind == "requests":
    with requests.Session() as session:
        for method, url, headers, body in calls():
            try:
                r = session.request(method, url, headers=headers, data=body, timeout=20)
                say(r.status_code, r.headers, r.content)
            except requests.RequestException as e:
                say(0, {}, repr(e).encode())
elif kind == "curl3":  # curl with ngtcp2, by HTTP/3 and nothing else where there is TLS
    version = curl_cffi.CurlHttpVersion.V3ONLY if base.startswith("https:") else curl_cffi.CurlHttpVersion.V1_1
    with curl_cffi.Session(http_version=version, verify=False, timeout=20, default_headers=False) as session:
        for method, url, headers, body in calls():
            try:
                r = session.request(method, url, headers=headers, data=body if body is None or isinstance(body, bytes) else b"".join(body))
                if r.http_version != (30 if base.startswith("https:") else 2):
                    raise RuntimeError(f"it went by version {r.http_version} of HTTP")
                lines = {}
                for k, v in r.headers.multi_items():
                    lines[k] = lines[k] + ", " + v if k in lines else v
                say(r.status_code, lines, r.content)
            except Exception as e:
                say(0, {}, repr(e).encode())
else:
    with httpx.Client(http2=kind == "httpx2", verify=False, follow_redirects=True, timeout=20) as client:
        for method, url, headers, body in calls():
            try:
                r = client.request(method, url, headers=headers, content=body)
                say(r.status_code, r.headers, r.content)
            except httpx.HTTPError as e:
                say(0, {}, repr(e).encode())
