# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The limits of bandwidth, of a NIC or of the ports of a network, as libvirt gives them to a port.

Source: libvirt, virNetDevOpenvswitchInterfaceSetQos and virNetDevBandwidthSet: what goes to the guest passes a queue of htb,
which guarantees the average and limits to the peak; what comes from it is policed at the average, and a peak is left out.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple
from xml.etree import ElementTree

from ...model.network import Bandwidth, Rate

Element = ElementTree.Element

DIRECTIONS = ("inbound", "outbound")
KBIT_PER_KILOBYTE = 8


def problems(bandwidth: Optional[Bandwidth]) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for limits that libvirt, Open vSwitch or the kernel cannot hold."""
    for direction, rate in _rates(bandwidth):
        if rate.average and rate.average % KBIT_PER_KILOBYTE:
            yield (
                f"bandwidth.{direction}.average",
                f"{rate.average} kbit/s is not allowed; allowed is a multiple of 8, since libvirt counts kilobytes",
            )
        if rate.peak is not None:
            yield (
                f"bandwidth.{direction}.peak",
                "is not allowed; allowed are average and burst, since a port's queue holds it to one rate",
            )


def _rates(bandwidth: Optional[Bandwidth]) -> Iterator[Tuple[str, Rate]]:
    for direction in DIRECTIONS:
        rate: Optional[Rate] = getattr(bandwidth, direction) if bandwidth is not None else None
        if rate is not None:
            yield direction, rate


def attributes(bandwidth: Optional[Bandwidth]) -> Dict[str, Dict[str, int]]:
    """Return what libvirt is told of each direction that is limited: kilobytes a second, and KiB for the burst."""
    told: Dict[str, Dict[str, int]] = {}
    for direction, rate in _rates(bandwidth):
        if not rate.average:
            continue
        average = rate.average // KBIT_PER_KILOBYTE
        told[direction] = {"average": average}
        if direction == "inbound":
            # Without a peak the average would only be guaranteed, and nothing limited.
            told[direction]["peak"] = average
        if rate.burst:
            told[direction]["burst"] = rate.burst
    return told


def elements(bandwidth: Optional[Bandwidth]) -> List[Element]:
    """Return the <bandwidth> of an interface or a port group, in a list that is empty where nothing is limited."""
    root = ElementTree.Element("bandwidth")
    for direction, told in attributes(bandwidth).items():
        ElementTree.SubElement(root, direction, {name: str(value) for name, value in told.items()})
    return [root] if len(root) else []


def read(holder: Element) -> Bandwidth:
    """Return the limits in the <bandwidth> of an interface or a port group; none where it has none."""
    rates = {direction: holder.find(f"bandwidth/{direction}") for direction in DIRECTIONS}
    return Bandwidth(**{direction: _rate(element) for direction, element in rates.items() if element is not None})


def _rate(element: Element) -> Rate:
    average, burst = (int(element.get(name) or 0) or None for name in ("average", "burst"))
    return Rate(average=average and average * KBIT_PER_KILOBYTE, burst=burst)
