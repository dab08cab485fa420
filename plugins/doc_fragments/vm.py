# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module vm."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The VM's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  template:
    description:
      - The template that it is made from.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
      - Settled when the object is made.
    type: str
  clone:
    description:
      - Whether the first disk refers to the template (linked) or is a copy of it (full).
      - Settled when the object is made.
      - A platform offers this by its capability C(vm.clone.*).
    type: str
    choices:
      - linked
      - full
  firmware:
    description:
      - What it boots with; the template's where not given.
      - Settled when the object is made.
      - A platform offers this by its capability C(vm.firmware.*).
    type: str
    choices:
      - bios
      - uefi
  secure_boot:
    description:
      - Whether only signed systems start.
      - The default is V(false).
      - A platform offers this by its capability C(vm.secure_boot).
    type: bool
  tpm:
    description:
      - Whether it has a TPM 2.0.
      - The default is V(false).
      - A platform offers this by its capability C(vm.tpm).
    type: bool
  cpu:
    description:
      - Its processors.
    type: dict
    suboptions:
      count:
        description:
          - How many vCPU.
          - Allowed is a whole number from 1 to 768 (vCPU).
          - The default is V(1).
        type: int
      sockets:
        description:
          - Sockets of the topology.
          - Allowed is a whole number from 1 to 64.
          - A platform offers this by its capability C(vm.cpu.topology).
        type: int
      cores:
        description:
          - Cores of each socket.
          - Allowed is a whole number from 1 to 512.
          - A platform offers this by its capability C(vm.cpu.topology).
        type: int
      threads:
        description:
          - Threads of each core.
          - Allowed is a whole number from 1 to 8.
          - A platform offers this by its capability C(vm.cpu.topology).
        type: int
      model:
        description:
          - 'The processor that the guest sees: the host''s own, or the nearest that a live migration
            can rely on.'
          - The default is V(host_compatible).
          - A platform offers this by its capability C(vm.cpu.model).
        type: str
        choices:
          - host
          - host_compatible
      nested:
        description:
          - Whether the guest may run VMs itself.
          - The default is V(false).
          - A platform offers this by its capability C(vm.cpu.nested).
        type: bool
      shares:
        description:
          - The weight against other VMs when the processors are busy.
          - Allowed is a whole number from 2 to 262144.
          - A platform offers this by its capability C(vm.cpu.shares).
        type: int
      limit:
        description:
          - The most, in percent of a core.
          - Allowed is a whole number from 1 to 100000 (percent of one core).
          - A platform offers this by its capability C(vm.cpu.limit).
        type: int
      reservation:
        description:
          - What is guaranteed, in percent of a core.
          - Allowed is a whole number from 0 to 100000 (percent of one core).
          - A platform offers this by its capability C(vm.cpu.reservation).
        type: int
      pinning:
        description:
          - The host's cores that it may run on.
          - Allowed is a list of cores such as 0-3,8.
          - An empty text takes it away.
          - A platform offers this by its capability C(vm.cpu.pinning).
        type: str
  memory:
    description:
      - Its memory.
    type: dict
    suboptions:
      size:
        description:
          - How much the VM starts with and can have at most.
          - Allowed is a whole number of MiB from 16 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
        type: str
        required: true
      minimum:
        description:
          - What ballooning may take it down to.
          - Allowed is a whole number of MiB from 16 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
          - A platform offers this by its capability C(vm.memory.ballooning).
        type: str
      shares:
        description:
          - The weight against other VMs.
          - Allowed is a whole number from 1 to 1000000.
          - A platform offers this by its capability C(vm.memory.shares).
        type: int
      reservation:
        description:
          - What is guaranteed.
          - Allowed is a whole number of MiB from 0 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
          - A platform offers this by its capability C(vm.memory.reservation).
        type: str
      limit:
        description:
          - The most of the host's memory.
          - Allowed is a whole number of MiB from 16 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
          - A platform offers this by its capability C(vm.memory.limit).
        type: str
      hugepages:
        description:
          - Whether it lies in huge pages.
          - The default is V(false).
          - A platform offers this by its capability C(vm.memory.hugepages).
        type: bool
  disks:
    description:
      - 'Its disks; the first is made from the template, further ones are empty. The whole list: a disk
        that is not in it is detached and kept.'
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The disk's name in the VM.
          - Allowed is 1 to 31 lower-case letters, digits, hyphens and underscores.
        type: str
        required: true
      size:
        description:
          - Its size; it can grow and not shrink. The template's size where not given, for the first disk.
          - Allowed is a whole number of MiB from 1 to 67108864, or text such as '512 MiB', '2 GiB' or
            '1 TiB'.
        type: str
      pool:
        description:
          - The storage pool that it lies in.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
          - Settled when the object is made.
          - A platform offers this by its capability C(vm.disk.pool).
        type: str
      bus:
        description:
          - The bus that the guest sees it on.
          - The default is V(virtio).
          - A platform offers this by its capability C(vm.disk.bus.*).
        type: str
        choices:
          - virtio
          - scsi
          - sata
          - nvme
      provisioning:
        description:
          - Whether its space is taken at once.
          - The default is V(thin).
          - Settled when the object is made.
          - A platform offers this by its capability C(vm.disk.provisioning.*).
        type: str
        choices:
          - thin
          - thick
      cache:
        description:
          - How the host caches it.
          - A platform offers this by its capability C(vm.disk.cache).
        type: str
        choices:
          - none
          - writeback
          - writethrough
          - unsafe
      limits:
        description:
          - What it may ask of the storage.
          - A platform offers this by its capability C(vm.disk.limits).
        type: dict
        suboptions:
          read_iops:
            description:
              - Read operations a second.
              - Allowed is a whole number from 1 to 10000000.
            type: int
          write_iops:
            description:
              - Write operations a second.
              - Allowed is a whole number from 1 to 10000000.
            type: int
          read_rate:
            description:
              - Reading, in KiB a second.
              - Allowed is a whole number from 1 to 10000000 (KiB/s).
            type: int
          write_rate:
            description:
              - Writing, in KiB a second.
              - Allowed is a whole number from 1 to 10000000 (KiB/s).
            type: int
  nics:
    description:
      - Its network adapters in the order that the guest sees; the whole list.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The adapter's name in the VM.
          - Allowed is 1 to 31 lower-case letters, digits, hyphens and underscores.
        type: str
        required: true
      network:
        description:
          - The virtual network that it is connected to.
          - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks
            at its ends.
        type: str
        required: true
      mac:
        description:
          - Its MAC address; made from the VM's and the adapter's name where not given.
          - Allowed is a unicast MAC address such as 52:54:00:12:34:56.
        type: str
      model:
        description:
          - The adapter that the guest sees.
          - The default is V(virtio).
          - A platform offers this by its capability C(vm.nic.model.*).
        type: str
        choices:
          - virtio
          - e1000
          - e1000e
          - vmxnet3
      connected:
        description:
          - Whether its cable is plugged.
          - The default is V(true).
          - A platform offers this by its capability C(vm.nic.connected).
        type: bool
      bandwidth:
        description:
          - Its own limits, in place of its network's.
          - A platform offers this by its capability C(vm.nic.bandwidth).
        type: dict
        suboptions:
          inbound:
            description:
              - Towards the guest.
            type: dict
            suboptions:
              average:
                description:
                  - The average rate in kbit/s.
                  - Allowed is a whole number from 1 to 400000000 (kbit/s).
                type: int
                required: true
              peak:
                description:
                  - The highest rate in kbit/s.
                  - Allowed is a whole number from 1 to 400000000 (kbit/s).
                type: int
              burst:
                description:
                  - How much may pass at the highest rate, in KiB.
                  - Allowed is a whole number from 1 to 16777216 (KiB).
                type: int
          outbound:
            description:
              - From the guest.
            type: dict
            suboptions:
              average:
                description:
                  - The average rate in kbit/s.
                  - Allowed is a whole number from 1 to 400000000 (kbit/s).
                type: int
                required: true
              peak:
                description:
                  - The highest rate in kbit/s.
                  - Allowed is a whole number from 1 to 400000000 (kbit/s).
                type: int
              burst:
                description:
                  - How much may pass at the highest rate, in KiB.
                  - Allowed is a whole number from 1 to 16777216 (KiB).
                type: int
      addresses:
        description:
          - The addresses that the guest is given; DHCP where none is.
          - Each entry is an address with its prefix length such as 192.0.2.10/24 or 2001:db8::10/64.
          - A platform offers this by its capability C(vm.guest).
        type: list
        elements: str
      gateway4:
        description:
          - The guest's IPv4 default gateway.
          - Allowed is an IPv4 address.
          - An empty text takes it away.
          - A platform offers this by its capability C(vm.guest).
        type: str
      gateway6:
        description:
          - The guest's IPv6 default gateway.
          - Allowed is an IPv6 address.
          - An empty text takes it away.
          - A platform offers this by its capability C(vm.guest).
        type: str
      dns_servers:
        description:
          - The guest's DNS servers.
          - Each entry is an IPv4 or IPv6 address.
          - A platform offers this by its capability C(vm.guest).
        type: list
        elements: str
  cdrom:
    description:
      - The image in its CD-ROM drive, as a path on the host or in the platform's own words; an empty
        text takes it out.
      - An empty text takes it away.
      - A platform offers this by its capability C(vm.cdrom).
    type: str
  pci_devices:
    description:
      - Devices of the host that are passed through to it; the whole list.
      - Each entry is a PCI address such as 0000:01:00.0.
      - A platform offers this by its capability C(vm.pci_devices).
    type: list
    elements: str
  guest:
    description:
      - What the guest is given when it first starts.
      - Settled when the object is made.
      - A platform offers this by its capability C(vm.guest).
    type: dict
    suboptions:
      hostname:
        description:
          - The guest's host name; the VM's name where not given and allowed as one.
          - Allowed is a host name of letters, digits, inner hyphens and dots, at most 253 characters.
        type: str
      users:
        description:
          - Its users.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - The user's name.
              - Allowed is a user name of lower-case letters, digits, hyphens and underscores.
            type: str
            required: true
          ssh_keys:
            description:
              - The public SSH keys that let the user in.
              - Each entry is a public SSH key in OpenSSH's one-line form.
            type: list
            elements: str
          password_hash:
            description:
              - The password as a hash of crypt(5); without one there is no login by password.
              - Allowed is a crypt(5) hash such as $6$... or $y$....
            type: str
          sudo:
            description:
              - Whether the user may do everything.
              - The default is V(false).
            type: bool
      packages:
        description:
          - Packages to install on the first start.
          - Each entry is a package name, with =VERSION if wanted.
        type: list
        elements: str
      timezone:
        description:
          - The guest's time zone.
          - Allowed is an IANA time zone such as Europe/Berlin or UTC.
        type: str
      user_data:
        description:
          - 'Further user-data of cloud-init, a #cloud-config document or a script, which is carried as
            it is.'
        type: str
  boot_order:
    description:
      - What it tries to boot from, in this order.
      - A platform offers this by its capability C(vm.boot_order).
    type: list
    elements: str
    choices:
      - disk
      - network
      - cdrom
  resource_pool:
    description:
      - The resource pool that it is in.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
      - A platform offers this by its capability C(vm.resource_pool).
    type: str
  autostart:
    description:
      - Whether it starts with the host.
      - The default is V(false).
      - A platform offers this by its capability C(vm.autostart).
    type: bool
  autostart_order:
    description:
      - 'When it starts with the host: those with lower numbers go first.'
      - Allowed is a whole number from 1 to 65535.
      - A platform offers this by its capability C(vm.autostart_order).
    type: int
  autostart_delay:
    description:
      - How long the next VM waits after this one has started, in seconds.
      - Allowed is a whole number from 0 to 3600 (seconds).
      - A platform offers this by its capability C(vm.autostart_order).
    type: int
  power:
    description:
      - Whether it runs.
      - The default is V(running).
      - A platform offers this by its capability C(vm.power.*).
    type: str
    choices:
      - running
      - stopped
      - suspended
  tags:
    description:
      - Words by which VMs are found; the whole list.
      - Each entry is a name of 1 to 80 characters without control or invisible characters or blanks at
        its ends.
      - A platform offers this by its capability C(vm.tags).
    type: list
    elements: str
  description:
    description:
      - What it is for.
      - An empty text takes it away.
    type: str
  vms:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every vm that O(vms) does not list is removed. What carries the path that the host is
        managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(vms) names is removed. With V(gathered) nothing is changed,
        and RV(vms) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
  allow_restart:
    description:
      - Whether a running VM may be stopped and started where a change needs it off. Without it such a
        change is refused.
      - The default is V(false).
    type: bool
  shutdown_timeout:
    description:
      - How long a guest is given to shut down, in seconds; 0 switches off at once.
      - Allowed is a whole number from 0 to 7200 (seconds).
      - The default is V(180).
    type: int
  force_off:
    description:
      - Whether a guest that has not shut down by then is switched off. Without it the task fails.
      - The default is V(false).
    type: bool
  delete_disks:
    description:
      - Whether the disks of a VM that is removed go with it.
      - The default is V(true).
    type: bool
  wait_for:
    description:
      - What has to be seen of the running VMs of this task before it is done.
    type: dict
    suboptions:
      what:
        description:
          - An address of the guest on any NIC, or an answer on its SSH port as seen from the host.
          - A platform offers this by its capability C(vm.wait_for.*).
        type: str
        required: true
        choices:
          - address
          - ssh
      timeout:
        description:
          - How long to wait, in seconds.
          - Allowed is a whole number from 1 to 7200 (seconds).
          - The default is V(300).
        type: int
"""
