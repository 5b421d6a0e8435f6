"""What a program does that uses async-upnp-client: finds the gateway, maps, reads, deletes.

Arguments: the address of this host, the only remote host that is let in, and whether the
mapping is to be deleted. Prints what it has learnt as a line of JSON.
"""

import asyncio
import json
import sys
from datetime import timedelta
from ipaddress import ip_address

from async_upnp_client.aiohttp import AiohttpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.exceptions import UpnpError
from async_upnp_client.profiles.igd import IgdDevice


async def count(igd):
    mappings = 0
    try:
        while await igd.async_get_generic_port_mapping_entry(mappings):
            mappings += 1
    except UpnpError:
        return mappings


async def main(host, remote, delete):
    found = await IgdDevice.async_search(source=(host, 0), timeout=2)
    locations = sorted({answer["location"] for answer in found})
    device = await UpnpFactory(AiohttpRequester()).async_create_device(locations[0])
    igd = IgdDevice(device, None)
    remote = ip_address(remote)
    if delete:
        await igd.async_delete_port_mapping(remote, 4001, "TCP")
    else:
        await igd.async_add_port_mapping(
            remote, 4001, "TCP", 4000, ip_address(host), True, "a program", timedelta(hours=1)
        )
    entry = None if delete else await igd.async_get_specific_port_mapping_entry(remote, 4001, "TCP")
    status = await igd.async_get_status_info()
    print(
        json.dumps(
            {
                "locations": locations,
                "device": device.device_type,
                "external_address": await igd.async_get_external_ip_address(),
                "status": status.connection_status,
                "bytes_received": await igd.async_get_total_bytes_received(),
                "packets_sent": await igd.async_get_total_packets_sent(),
                "mappings": await count(igd),
                "description": entry and entry.description,
                "internal_port": entry and entry.internal_port,
            }
        )
    )


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["delete"]))
