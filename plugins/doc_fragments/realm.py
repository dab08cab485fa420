# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Written by tests/tools/generate_documentation.py from the model; change the descriptions there.

from __future__ import annotations


class ModuleDocFragment:
    """The options of the module realm."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - The realm's name.
      - Allowed is a name of 1 to 255 characters without control or invisible characters or blanks at
        its ends.
    type: str
  type:
    description:
      - What it is. V(pam) are the users of the host's operating system, V(own) those that the platform
        keeps itself; both are there already and can be changed only.
      - Must be given with O(state=present).
      - Settled when the object is made.
      - A platform offers this by its capability C(realm.type.*).
    type: str
    choices:
      - ldap
      - active_directory
      - openid
      - pam
      - own
  servers:
    description:
      - The directory's servers, the one that is asked first in front.
      - Each entry is a host name such as ntp1.example.org, or an IP address.
    type: list
    elements: str
  port:
    description:
      - The port of the servers; that of the protocol where not given.
      - Allowed is a whole number from 1 to 65535.
    type: int
  encryption:
    description:
      - How the way to the servers is encrypted; with V(none) passwords travel in the clear. A new realm
        of a directory has V(tls) where not given.
    type: str
    choices:
      - none
      - starttls
      - tls
  verify:
    description:
      - Whether the servers' certificates are verified. They are for a new realm of a directory where
        not given.
    type: bool
  base_dn:
    description:
      - Below which entry users are looked for, for ldap.
    type: str
  user_attribute:
    description:
      - The attribute with the user's name, for ldap.
      - Allowed is the name of an attribute, such as uid.
    type: str
  domain:
    description:
      - The domain, for active_directory.
      - Allowed is a host name such as ntp1.example.org, or an IP address.
    type: str
  bind_dn:
    description:
      - Who looks for users; nobody in particular where not given.
      - An empty text takes it away.
    type: str
  bind_password:
    description:
      - 'The password of O(bind_dn). It is not compared: one that changed is set where another field of
        the realm changes too.'
    type: str
  issuer_url:
    description:
      - The identity provider, for openid.
      - Allowed is an http, https or file URL without user name or password in it.
    type: str
  client_id:
    description:
      - What the host is called at the identity provider.
    type: str
  client_secret:
    description:
      - 'The secret that goes with it. It is not compared: one that changed is set where another field
        of the realm changes too.'
    type: str
  username_claim:
    description:
      - Which claim tells the user's name, for openid; the subject where not given.
      - Settled when the object is made.
    type: str
  create_users:
    description:
      - Whether users are made when they log in for the first time, for openid.
    type: bool
  second_factor:
    description:
      - What every user of the realm has to show beside the password.
      - The default is V(none).
      - A platform offers this by its capability C(realm.second_factor).
    type: str
    choices:
      - none
      - totp
  preselected:
    description:
      - Whether it is the one that is offered first to who logs in.
      - The default is V(false).
    type: bool
  description:
    description:
      - What it is for.
      - An empty text takes it away.
    type: str
  realms:
    description:
      - Several objects in one task, instead of O(name) and the options that describe one. Each has these
        options as its fields, and may have a C(state) of its own, V(present) or V(absent).
    type: list
    elements: dict
  exact:
    description:
      - Whether every realm that O(realms) does not list is removed. What carries the path that the host
        is managed through, and a VM that runs, is kept with a warning.
    type: bool
    default: false
  state:
    description:
      - With V(present) the host is made to show what the options say; what they leave open stays as it
        is. With V(absent) what O(name) or O(realms) names is removed. With V(gathered) nothing is changed,
        and RV(realms) tells what is there, all of it or what O(name) names.
    type: str
    choices:
      - present
      - absent
      - gathered
    default: present
"""
