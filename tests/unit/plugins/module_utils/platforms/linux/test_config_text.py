# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.bareforge.hypervisor.plugins.module_utils.hardening.expectation import ABSENT
from ansible_collections.bareforge.hypervisor.plugins.module_utils.platforms.linux.config_text import (
    CONFIG_FORMATS,
    Assignment,
    modprobe_drop_in,
    parse_blocks,
    parse_modprobe_file,
    parse_sshd_output,
    parse_sysctl_file,
    sshd_drop_in,
    sysctl_drop_in,
    sysctl_name,
    sysctl_path,
)

LIBVIRT = CONFIG_FORMATS["libvirt"]
QEMU_CONF = """# Master configuration file
#security_driver = "selinux"
user = "libvirt-qemu"   # who
 vnc_listen="0.0.0.0"
seccomp_sandbox = -1
namespaces = [ ]
cgroup_device_acl = [
    "/dev/null", "/dev/full",
    # "/dev/zero",
    '/dev/random'
]
user_too = 'x'
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("security_driver", None),
        ("user", "libvirt-qemu"),
        ("user_too", "x"),
        ("vnc_listen", "0.0.0.0"),
        ("seccomp_sandbox", "-1"),
        ("namespaces", ()),
        ("cgroup_device_acl", ("/dev/null", "/dev/full", "/dev/random")),
        ("max_core", None),
    ],
)
def test_libvirt_files_are_read_as_libvirt_reads_them(key, value):
    assert LIBVIRT.get(QEMU_CONF, key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("security_driver", "apparmor"),
        ("user", "nobody"),
        ("seccomp_sandbox", "1"),
        ("namespaces", ("mount",)),
        ("cgroup_device_acl", ("/dev/null",)),
    ],
)
def test_libvirt_files_keep_every_other_line(key, value):
    text = LIBVIRT.put(QEMU_CONF, key, value)
    assert LIBVIRT.get(text, key) == value
    assert LIBVIRT.put(text, key, value) == text
    for other in ("user", "user_too", "vnc_listen", "seccomp_sandbox", "namespaces", "cgroup_device_acl"):
        if other != key:
            assert LIBVIRT.get(text, other) == LIBVIRT.get(QEMU_CONF, other)
    assert text.startswith("# Master configuration file\n#security_driver")


def test_libvirt_values_are_taken_out_by_a_comment_also_over_several_lines():
    text = LIBVIRT.put(QEMU_CONF, "cgroup_device_acl", ABSENT)
    assert LIBVIRT.get(text, "cgroup_device_acl") is None
    assert LIBVIRT.get(text, "user_too") == "x"
    assert LIBVIRT.put(QEMU_CONF, "max_core", ABSENT) == QEMU_CONF


def test_quotes_cannot_be_smuggled_into_libvirt_files():
    assert LIBVIRT.problem('a" b = "c')
    assert not LIBVIRT.problem("a'b")


def test_a_file_without_a_last_line_break_is_not_spoilt():
    assert CONFIG_FORMATS["key_space_value"].put("A 1", "B", "2") == "A 1\nB 2\n"


@pytest.mark.parametrize(("name", "separator"), [("key_space_value", "\t"), ("key_equals_value", "=")])
def test_key_value_files(name, separator):
    form = CONFIG_FORMATS[name]
    text = f"# A{separator}0\nA{separator}1\nAB{separator}3\nA{separator}2\n"
    assert form.get(text, "A") == "2"
    assert form.get(form.put(text, "A", "9"), "A") == "9"
    assert form.get(form.put(text, "A", "9"), "AB") == "3"
    assert form.get(form.put(text, "A", ABSENT), "A") is None
    assert form.get(form.put(text, "C", r"\1"), "C") == r"\1"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("kernel.kptr_restrict", "kernel/kptr_restrict"),
        ("net/ipv4/conf/eth0.10/rp_filter", "net/ipv4/conf/eth0.10/rp_filter"),
        ("net.ipv4.conf.eth0/10.rp_filter", "net/ipv4/conf/eth0.10/rp_filter"),
        ("net.ipv4.conf.*.rp_filter", "net/ipv4/conf/*/rp_filter"),
    ],
)
def test_kernel_parameters_are_named_as_sysctl_d_has_it(key, path):
    assert sysctl_path(key) == path
    assert sysctl_path(sysctl_name(path)) == path


def test_sysctl_files():
    text = "; c\n# c\n kernel.sysrq=0 \n-net.ipv4.conf.all.rp_filter = 2\nnonsense\nkernel.core_pattern = |/bin/x a=b\n"
    assert parse_sysctl_file(text) == [
        ("kernel/sysrq", "0"),
        ("net/ipv4/conf/all/rp_filter", "2"),
        ("kernel/core_pattern", "|/bin/x a=b"),
    ]
    written = sysctl_drop_in([Assignment("kernel.sysrq", "0"), Assignment("net.ipv4.conf.*.rp_filter", "2")])
    assert parse_sysctl_file(written) == [("kernel/sysrq", "0"), ("net/ipv4/conf/*/rp_filter", "2")]


def test_sshd_output_and_drop_in():
    values = parse_sshd_output("port 22\nport 2222\nciphers a,b\npermitrootlogin no\n")
    assert values == {"port": ("22", "2222"), "ciphers": ("a,b",), "permitrootlogin": ("no",)}
    text = sshd_drop_in([Assignment("Ciphers", ("a", "b")), Assignment("MaxAuthTries", "4")])
    assert text.splitlines()[1:] == ["Ciphers a,b", "MaxAuthTries 4"]


def test_modprobe_files():
    assert parse_modprobe_file(modprobe_drop_in([Assignment("usb_storage", "blocked")])) == {
        "usb_storage": "/bin/false"
    }
    text = "blacklist a\n#install b /bin/true\ninstall usb-storage \\\n /bin/true\n"
    assert parse_modprobe_file(text) == {"usb_storage": "/bin/true"}


def test_blocks_of_systemctl_show():
    assert parse_blocks("A=1\nB=x=y\n\nA=2\n") == [{"A": "1", "B": "x=y"}, {"A": "2"}]
