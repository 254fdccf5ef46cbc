"""WebSocket by the package websockets: websocket.py URL talks to the server of websocket.js and prints what came of it, a line of
JSON for each conversation, which holds nothing that differs from run to run."""

import asyncio
import hashlib
import json
import sys

import websockets
from websockets.asyncio.client import connect

url = sys.argv[1]


def short(m):
    b = m if isinstance(m, bytes) else m.encode()
    return [type(m).__name__, len(b), hashlib.sha1(b).hexdigest() if len(b) > 60 else b.decode()]


async def conversation(name, script, **options):
    got = []
    try:
        async with asyncio.timeout(10):
            async with connect(url, max_size=32 << 20, **options) as ws:
                got.append(["open", ws.response.status_code, ws.response.headers.get("Sec-WebSocket-Extensions", ""), ws.subprotocol])
                await script(ws, got)
            got.append(["closed", ws.close_code, ws.close_reason])
    except websockets.ConnectionClosed as e:
        got.append(["broken", e.rcvd.code if e.rcvd else None, e.sent.code if e.sent else None])
    except (websockets.InvalidStatus, websockets.InvalidHandshake) as e:
        got.append(["refused", type(e).__name__])
    print(json.dumps([name, got]), flush=True)


def echo(*messages):
    async def script(ws, got):
        for m in messages:
            await ws.send(m)
        for _ in messages:
            got.append(short(await ws.recv()))

    return script


async def pieces(ws, got):
    await ws.send(["one ", "two ", "three"])
    got.append(short(await ws.recv()))
    await ws.send([b"one ", b"", b"three"])
    got.append(short(await ws.recv()))


async def received_in_pieces(ws, got):
    await ws.send("fragments")
    got.append([part async for part in ws.recv_streaming()])


async def pings(ws, got):
    for i in range(5):
        got.append(["pong", await (await ws.ping(f"p{i}")) >= 0])


async def closes(ws, got):
    await ws.send("close 4001")
    got.append(short(await ws.recv()))


async def breaks(ws, got):
    await ws.send("terminate")
    got.append(short(await ws.recv()))


async def quiet_then_talk(ws, got):
    await asyncio.sleep(0.5)
    await ws.send("still here")
    got.append(short(await ws.recv()))


async def both_ways(ws, got):
    async def say():
        for i in range(500):
            await ws.send("x" * i)

    async with asyncio.TaskGroup() as g:
        g.create_task(say())
        total = 0
        for _ in range(500):
            total += len(await ws.recv())
    got.append(total)


async def main():
    for size in [0, 1, 125, 126, 65535, 65536, 1 << 20, 8 << 20]:
        await conversation(f"echo of {size}", echo("t" * size, b"b" * size))
        await conversation(f"echo of {size}, not compressed", echo("t" * size, b"b" * size), compression=None)
    await conversation("letters", echo("h\u00e9llo \u2603 \U0001f600"))
    await conversation("pieces", pieces)
    await conversation("received in pieces", received_in_pieces, compression=None)
    await conversation("pings", pings)
    await conversation("closed with 4001", closes)
    await conversation("broken off", breaks)
    await conversation("protocol", echo("hi"), subprotocols=["other", "chat"])
    await conversation("origin", echo("hi"), origin="http://x.test")
    await conversation("quiet, then talk", quiet_then_talk)
    await conversation("both ways at once", both_ways)


asyncio.run(main())
