# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How work grows with the number of objects, counted in calls of functions and not in seconds."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.engine.runner import Request, run
from ansible_collections.bareforge.hypervisor.plugins.module_utils.errors import ValidateError
from ansible_collections.bareforge.hypervisor.plugins.module_utils.model.document import Document
from support.memory_platform import MemoryHost, MemoryPlatform


def many_vms(count, network="n{number}"):
    return {
        "virtual_switches": [{"name": "br0", "uplinks": ["eth1"]}],
        "virtual_networks": [
            {"name": f"n{number}", "switch": "br0", "subnets": ["10.0.0.0/8"]} for number in range(20)
        ],
        "templates": [{"name": "t", "source": {"path": "/t.qcow2"}, "checksum": f"sha256:{'0' * 64}"}],
        "vms": [
            {
                "name": f"vm{number}",
                "template": "t",
                "memory": {"size": "1 GiB"},
                "disks": [{"name": "root"}, {"name": "data", "size": "10 GiB"}],
                "nics": [
                    {
                        "name": "e0",
                        "network": network.format(number=number % 20),
                        "mac": f"52:54:00:00:{number // 256:02x}:{number % 256:02x}",
                        "addresses": [f"10.0.{number // 200}.{number % 200 + 1}/8"],
                    }
                ],
            }
            for number in range(count)
        ],
    }


def calls_of(function):
    """Return how many functions, of Python and of C, were called meanwhile."""
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def plan(data, host=None, exact=()):
    request = Request(Document.parse(data, exact), check=True)
    return run(MemoryPlatform(host or MemoryHost()), request)


def apply(data, host):
    return run(MemoryPlatform(host), Request(Document.parse(data)))


def refused(data):
    with pytest.raises(ValidateError):
        plan(data)


def built(count):
    host = MemoryHost()
    apply(many_vms(count), host)
    return host


def planning_to_build(count):
    data = many_vms(count)
    return lambda: plan(data)


def building(count):
    data, host = many_vms(count), MemoryHost()
    return lambda: apply(data, host)


def planning_nothing(count):
    data, host = many_vms(count), built(count)
    return lambda: plan(data, host)


def planning_to_remove_all(count):
    host = stopped(built(count))
    data = {"vms": [], "virtual_networks": [], "virtual_switches": []}
    return lambda: plan(data, host, ["vm", "virtual_network", "virtual_switch"])


def refusing_all(count):
    data = many_vms(count, "missing")
    return lambda: refused(data)


def stopped(host):
    vms = host.objects["vm"]
    for key, vm in vms.items():
        vms[key] = dataclasses.replace(vm, power="stopped")
    return host


@pytest.mark.parametrize(
    "job",
    [planning_to_build, building, planning_nothing, planning_to_remove_all, refusing_all],
    ids=lambda job: job.__name__,
)
def test_four_times_the_objects_take_four_times_the_work(job):
    job(10)()
    few, many = (calls_of(job(count)) for count in (60, 240))
    assert many < 4.5 * few


def test_a_vm_takes_no_more_than_so_many_calls():
    """A guard against creeping: planning a VM with two disks and a NIC took 2,830 calls when this was written."""
    few, many = (calls_of(planning_to_build(count)) for count in (50, 100))
    assert (many - few) / 50 < 3400


def test_a_swap_among_many_switches_is_not_searched_for_again_and_again():
    def swaps(count):
        names = [f"s{number}" for number in range(count)]
        host = MemoryHost.holding(
            {"virtual_switches": [{"name": name, "uplinks": [f"e{number}"]} for number, name in enumerate(names)]}
        )
        wanted = [{"name": name, "uplinks": [f"e{number ^ 1}"]} for number, name in enumerate(names)]
        return lambda: plan({"virtual_switches": wanted}, host)

    swaps(4)()
    few, many = (calls_of(swaps(count)) for count in (40, 160))
    assert many < 4.6 * few
