"""Drives py-eureka-client as a service would, on orders from pyeureka_test.go: one order per line on standard input,
one answer per line on standard output."""
import asyncio
import json
import sys

from py_eureka_client.eureka_client import EurekaClient

url, name, port = sys.argv[1:]
client = EurekaClient(
    eureka_server=url, app_name=name, instance_id=f"127.0.0.1:{name}:{port}", instance_host="127.0.0.1",
    instance_ip="127.0.0.1", instance_port=int(port), vip_adr=f"{name}.test", metadata={"user_id": "7"},
    renewal_interval_in_secs=1, duration_in_secs=5)


async def say(what, detail=None):
    print(json.dumps({"what": what, "detail": detail}), flush=True)


async def known():
    """What the client has by its own heartbeats' deltas."""
    await say("known", sorted(f"{a.name}/{i.instanceId}/{i.status}" for a in client.applications.applications for i in a.instances))


async def serve():
    """Calls another service through the client's own discovery, as do_service does."""
    await say("served", [await client.do_service(name, "/hello", return_type="string")])


async def status(to):
    await client.status_update(to)
    await say("status")


async def clear():
    await client.delete_status_override()
    await say("cleared")


async def main():
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        order, *words = line.split()
        match order:
            case "start":
                await client.start()
                await say("started")
            case "known":
                await known()
            case "serve":
                await serve()
            case "status":
                await status(*words)
            case "clear":
                await clear()
            case "stop":
                await client.stop()
                await say("stopped")
                return
            case _:
                raise ValueError(f"no order {line}")


asyncio.run(main())
