"""An ICE agent of other make, aioice, with the manners of `postern lab ice`.

Prints what the other agent has to know, reads the same about it from standard input, connects, and
exchanges datagrams on each component: those it sends have to come back.
"""

import argparse
import asyncio
import copy
import json
import sys

import aioice
import aioice.mdns

DATAGRAMS = 20
PATIENCE = 20


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


async def publish(connection: aioice.Connection) -> list[aioice.Candidate]:
    """The candidates with names in place of the addresses of hosts, which are answered for."""
    names = await aioice.mdns.create_mdns_protocol()
    candidates = []
    for candidate in connection.local_candidates:
        if candidate.type == "host":
            name = aioice.mdns.create_mdns_hostname()
            await names.publish(name, candidate.host)
            candidate = copy.copy(candidate)
            candidate.host = name
        candidates.append(candidate)
    return candidates


async def describe(connection: aioice.Connection, mdns: bool) -> None:
    await connection.gather_candidates()
    candidates = await publish(connection) if mdns else connection.local_candidates
    say(
        event="local",
        ufrag=connection.local_username,
        pwd=connection.local_password,
        candidates=["candidate:" + c.to_sdp() for c in candidates],
    )


async def listen(connection: aioice.Connection) -> None:
    line = await asyncio.to_thread(sys.stdin.readline)
    peer = json.loads(line)
    connection.remote_username = peer["ufrag"]
    connection.remote_password = peer["pwd"]
    for candidate in peer["candidates"]:
        text = candidate.removeprefix("candidate:")
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(text))
    await connection.add_remote_candidate(None)


async def exchange(connection: aioice.Connection, component: int) -> int:
    """How many datagrams come back unchanged."""
    sent = {b"%d/%d" % (component, number) for number in range(DATAGRAMS)}
    waiting = set(sent)
    for datagram in sorted(sent):
        await connection.sendto(datagram, component)
    while waiting:
        payload, came_on = await connection.recvfrom()
        if came_on == component:
            waiting.discard(payload)
    return len(sent)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--controlling", action="store_true")
    parser.add_argument("--stun", type=address)
    parser.add_argument("--turn", type=address)
    parser.add_argument("--user", default=":")
    parser.add_argument("--mdns", action="store_true")
    parser.add_argument("--components", type=int, default=1)
    options = parser.parse_args()
    name, password = options.user.split(":", 1)
    connection = aioice.Connection(
        ice_controlling=options.controlling,
        components=options.components,
        stun_server=options.stun,
        turn_server=options.turn,
        turn_username=name,
        turn_password=password,
    )
    await describe(connection, options.mdns)
    await listen(connection)
    await asyncio.wait_for(connection.connect(), PATIENCE)
    say(event="connected")
    for component in range(1, options.components + 1):
        echoed = exchange(connection, component)
        say(event="echoed", component=component, count=await asyncio.wait_for(echoed, PATIENCE))
    # The other side wants consent for as long as it is looked at.
    await asyncio.sleep(3600)


asyncio.run(main())
