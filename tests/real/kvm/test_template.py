# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Templates on a real host: from a server, from files of every format, and from a VM."""

from __future__ import annotations

from typing import Any

import pytest

from ..real_host import OnHostError, RealHost
from .conftest import tiny_source

FORMATS = ("raw", "vmdk", "vhdx", "vhd", "ova", "qcow2")


def make_image(format: str) -> dict[str, Any]:
    """Make an image of a format out of the template tiny; return its path and checksum."""
    import hashlib
    import io
    import os
    import tarfile

    from host_tools import output

    drivers = {"vhd": "vpc", "ova": "vmdk"}
    options = {"ova": ["-o", "subformat=streamOptimized"]}.get(format, [])
    path = f"/var/tmp/image.{format}"
    target = f"{path}.disk.vmdk" if format == "ova" else path
    output(
        *("qemu-img", "convert", "-f", "qcow2", "-O", drivers.get(format, format), *options),
        *("/var/lib/bareforge/templates/tiny.qcow2", target),
    )
    if format == "ova":
        names = 'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
        text = (
            f'<Envelope {names}><References><File ovf:id="f" ovf:href="disk.vmdk"/></References>'
            '<DiskSection><Disk ovf:diskId="d" ovf:fileRef="f"/></DiskSection></Envelope>'
        ).encode()
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            member = tarfile.TarInfo("image.ovf")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
            archive.add(target, arcname="disk.vmdk")
        os.unlink(target)
    with open(path, "rb") as image:
        return {"path": path, "checksum": f"sha256:{hashlib.sha256(image.read()).hexdigest()}"}


def compare(name: str) -> str:
    """Return what qemu-img finds when it compares a template with tiny, without the space that formats round up."""
    from host_tools import output

    folder = "/var/lib/bareforge/templates"
    return output("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", f"{folder}/tiny.qcow2", f"{folder}/{name}.qcow2")


def facts_of_template(name: str) -> dict[str, Any]:
    import os
    import stat

    from host_tools import output

    path = f"/var/lib/bareforge/templates/{name}.qcow2"
    return {
        "mode": oct(stat.S_IMODE(os.stat(path).st_mode)),
        "attributes": output("lsattr", path).split()[0],
        "files": sorted(os.listdir("/var/lib/bareforge/templates")),
    }


@pytest.mark.capability(
    "kvm",
    "template",
    "template.source.url",
    "template.customization.cloud_init",
    "template.firmware.bios",
    ran_against="real",
)
def test_an_image_is_fetched_verified_and_sealed(tools: RealHost) -> None:
    document = {"templates": [{"name": "tiny", **tiny_source(tools)}]}
    wrong = {"templates": [{"name": "tiny", **tiny_source(tools), "checksum": "sha256:" + "0" * 64}]}
    with pytest.raises(OnHostError, match="has the checksum"):
        tools.apply(wrong)
    assert tools.gather("template") == {"templates": []}
    planned = tools.apply(document, check=True)
    made = tools.apply(document)
    assert made["changes"] == planned["changes"]
    assert tools.apply(document)["changed"] is False
    assert tools.apply(tools.gather("template"))["changed"] is False
    facts = tools.on_host(facts_of_template, name="tiny")
    assert facts["mode"] == "0o444"
    assert "i" in facts["attributes"]
    assert facts["files"] == ["tiny.json", "tiny.qcow2"]


@pytest.mark.capability(
    "kvm",
    "template.source.path",
    "template.customization.none",
    *(f"template.format.{format}" for format in FORMATS),
    ran_against="real",
)
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_of_every_format_holds_the_same_disk(tiny: RealHost, format: str) -> None:
    image = tiny.on_host(make_image, format=format)
    template = {
        "name": f"from-{format}",
        "source": {"path": image["path"], "format": format},
        "checksum": image["checksum"],
        "customization": "none",
    }
    try:
        assert tiny.apply({"templates": [template]})["changed"] is True
        assert tiny.apply({"templates": [template]})["changed"] is False
        assert "Images are identical" in tiny.on_host(compare, name=template["name"])
        tiny.apply({"templates": [{"name": template["name"], "state": "absent"}]})
        assert [entry["name"] for entry in tiny.gather("template")["templates"]] == ["tiny"]
    finally:
        tiny.run("rm", "-f", image["path"])


@pytest.mark.capability("kvm", "template.source.vm", ran_against="real")
def test_a_vm_that_is_off_becomes_a_template(tiny: RealHost) -> None:
    vm = {"name": "origin", "template": "tiny", "memory": {"size": 192}, "power": "stopped"}
    tiny.apply({"vms": [vm]})
    tiny.apply({"templates": [{"name": "taken", "source": {"vm": "origin"}}]})
    assert "Images are identical" in tiny.on_host(compare, name="taken")
    tiny.apply({"vms": [{"name": "origin", "state": "absent"}]})
    # It stands alone: neither the VM nor the template that the VM was made from is needed any more.
    assert "backing file" not in tiny.run("qemu-img", "info", "/var/lib/bareforge/templates/taken.qcow2")
    tiny.apply({"templates": [{"name": "taken", "state": "absent"}]})


def evil_image() -> dict[str, Any]:
    import hashlib

    from host_tools import output

    path = "/var/tmp/evil.qcow2"
    output("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1M")
    with open(path, "rb") as image:
        return {"path": path, "checksum": f"sha256:{hashlib.sha256(image.read()).hexdigest()}"}


def test_an_image_that_shows_the_hosts_secrets_is_refused(tiny: RealHost) -> None:
    image = tiny.on_host(evil_image)
    try:
        with pytest.raises(OnHostError, match="backing file '/etc/shadow'"):
            tiny.apply(
                {"templates": [{"name": "evil", "source": {"path": image["path"]}, "checksum": image["checksum"]}]}
            )
        assert [entry["name"] for entry in tiny.gather("template")["templates"]] == ["tiny"]
    finally:
        tiny.run("rm", "-f", image["path"])
