"""HTTP/3 by aioquic: h3.py HOST:PORT does what clients do, good and bad, and prints what came of it, a line of JSON for each."""

import asyncio
import hashlib
import json
import os
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

host, port = sys.argv[1].split(":")


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.h3 = H3Connection(self._quic)
        self.streams = {}
        self.ended = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.streams:
            self.streams[event.stream_id].put_nowait(("reset", event.error_code))
        if isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result(event.error_code)
            for q in self.streams.values():
                q.put_nowait(("terminated", event.error_code))
        for e in self.h3.handle_event(event):
            q = self.streams.get(e.stream_id) if isinstance(e, (HeadersReceived, DataReceived)) else None
            if q is None:
                continue
            if isinstance(e, HeadersReceived):
                q.put_nowait(("headers", {k.decode(): v.decode() for k, v in e.headers}))
            else:
                q.put_nowait(("data", e.data))
            if e.stream_ended:
                q.put_nowait(("end", None))

    def begin(self, method, path, headers=(), body=None, end=True, authority=None):
        stream = self._quic.get_next_available_stream_id()
        self.streams[stream] = asyncio.Queue()
        fields = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", (authority or f"{host}:{port}").encode()), (b":path", path.encode())]
        self.h3.send_headers(stream, fields + [(k.encode(), v.encode()) for k, v in headers], end_stream=body is None and end)
        if body is not None:
            self.h3.send_data(stream, body, end_stream=end)
        self.transmit()
        return stream

    async def answer(self, stream):
        status, size, digest, trailers = 0, 0, hashlib.sha1(), {}
        while True:
            what, v = await asyncio.wait_for(self.streams[stream].get(), 60)
            if what == "headers" and not status:
                status = int(v[":status"])
                self.last = v
            elif what == "headers":
                trailers = v
            elif what == "data":
                size += len(v)
                digest.update(v)
            elif what == "end":
                return [status, size, digest.hexdigest()[:10] if size else "", trailers]
            else:
                return [what, v]

    async def ask(self, *args, **kwargs):
        return await self.answer(self.begin(*args, **kwargs))


def open_connection(**options):
    c = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name="localhost", max_data=16 << 20, max_stream_data=4 << 20, **options)
    return connect(host, int(port), configuration=c, create_protocol=Client)


def say(what, *detail):
    print(json.dumps([what, *detail]), flush=True)


async def main():
    async with open_connection() as c:
        say("GET", await c.ask("GET", "/bytes/1000?seed=1"), c.last.get("content-type"))
        say("HEAD", await c.ask("HEAD", "/get"))
        say("POST", (await c.ask("POST", "/post", [("content-length", "5")], b"hello"))[0])
        say("trailers", (await c.ask("GET", "/trailers?X-T=1"))[3])
        say("no body", await c.ask("GET", "/status/204"))
        body = os.urandom(1 << 20) * 16
        got = await c.ask("POST", "/raw", [("content-length", str(len(body)))], body)
        say("16 MiB up and down", got[:2], got[2] == hashlib.sha1(body).hexdigest()[:10])
        got = await c.ask("POST", "/raw", [], body[: 1 << 20])
        say("1 MiB without a length", got[:2], got[2] == hashlib.sha1(body[: 1 << 20]).hexdigest()[:10])
        streams = [c.begin("GET", f"/bytes/{1000 + i}?seed=1") for i in range(90)]
        say("ninety at once", sum(a[0] == 200 and a[1] == 1000 + i for i, a in enumerate([await c.answer(s) for s in streams])))

        # A client that changes its mind: the connection goes on.
        s = c.begin("POST", "/raw", [("content-length", "100000")], b"x" * 10, end=False)
        await asyncio.sleep(0.2)
        c._quic.reset_stream(s, 0x10C)
        c.transmit()
        s = c.begin("GET", "/slow")
        await c.streams[s].get()
        c._quic.stop_stream(s, 0x10C)
        c.transmit()
        say("after two resets", (await c.ask("GET", "/bytes/10?seed=1"))[:2])

        # What HTTP/1.1 would read in two ways.
        say("a length that is too large", (await c.ask("POST", "/raw", [("content-length", "100")], b"hello"))[0])
        say("a length that is too small", (await c.ask("POST", "/raw", [("content-length", "2")], b"hello"))[0])
        say("a space in the path", (await c.ask("GET", "/bytes/10 HTTP/1.1"))[0])
        say("two hosts", (await c.ask("GET", "/get", [("host", "other.test")]))[0])
        say("a method that is no token", (await c.ask("GE T", "/get"))[0])
        say("at the end", (await c.ask("GET", "/bytes/10?seed=1"))[:2])

    # Bodies that never come hold nothing up.
    for _ in range(20):
        async with open_connection() as c:
            c.begin("POST", "/raw", [("content-length", "10")], b"", end=False)
    async with open_connection() as c:
        say("a new connection", (await c.ask("GET", "/bytes/10?seed=1"))[:2])


asyncio.run(main())
