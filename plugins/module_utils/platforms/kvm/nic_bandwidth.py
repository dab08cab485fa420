# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The limits of a NIC's own bandwidth, as libvirt gives them to a port of Open vSwitch.

Source: libvirt, virNetDevOpenvswitchInterfaceSetQos: what goes to the guest passes a queue of linux-htb, whose min-rate is
the average and whose max-rate is the peak; what comes from it is policed at the average, and a peak is left out.
"""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple
from xml.etree import ElementTree

from ...model.network import Bandwidth, Rate

Element = ElementTree.Element

DIRECTIONS = ("inbound", "outbound")
KBIT_PER_KILOBYTE = 8


def problems(bandwidth: Optional[Bandwidth]) -> Iterator[Tuple[str, str]]:
    """Yield (field, message) for the limits of a NIC that libvirt or Open vSwitch cannot hold."""
    for direction in DIRECTIONS:
        rate: Optional[Rate] = getattr(bandwidth, direction) if bandwidth is not None else None
        if rate is None:
            continue
        if rate.average and rate.average % KBIT_PER_KILOBYTE:
            yield (
                f"bandwidth.{direction}.average",
                f"{rate.average} kbit/s is not allowed; allowed is a multiple of 8, since libvirt counts kilobytes",
            )
        if rate.peak is not None:
            yield (
                f"bandwidth.{direction}.peak",
                "is not allowed; allowed are average and burst, since Open vSwitch holds a port to one rate",
            )


def elements(bandwidth: Optional[Bandwidth]) -> List[Element]:
    """Return the <bandwidth> of an interface, in a list that is empty where nothing is limited."""
    root = ElementTree.Element("bandwidth")
    for direction in DIRECTIONS:
        rate: Optional[Rate] = getattr(bandwidth, direction) if bandwidth is not None else None
        if rate is None or not rate.average:
            continue
        average = str(rate.average // KBIT_PER_KILOBYTE)
        element = ElementTree.SubElement(root, direction, average=average)
        if direction == "inbound":
            # Without a peak the average would only be guaranteed, and nothing limited.
            element.set("peak", average)
        if rate.burst:
            element.set("burst", str(rate.burst))
    return [root] if len(root) else []


def read(interface: Element) -> Bandwidth:
    """Return the limits in the <bandwidth> of an interface; none where it has none."""
    rates = {direction: interface.find(f"bandwidth/{direction}") for direction in DIRECTIONS}
    return Bandwidth(**{direction: _rate(element) for direction, element in rates.items() if element is not None})


def _rate(element: Element) -> Rate:
    average, burst = (int(element.get(name) or 0) or None for name in ("average", "burst"))
    return Rate(average=average and average * KBIT_PER_KILOBYTE, burst=burst)
