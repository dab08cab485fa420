# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a platform brings to hardening: the kinds of settings that rules can read, the conditions they can depend on.

A kind of setting is a frozen dataclass like the kinds of the model: its options are the fields under a rule's ``setting``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    ClassVar,
    ContextManager,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
)

from ..model.schema import ModelObject, Plain
from .expectation import TEXT, Found


@dataclass(frozen=True)
class Setting(ModelObject):
    """Base of the kinds of settings.

    NAME: how rules call the kind. SETTABLE: whether enforcing can set it; where not, people mend it by hand.
    """

    NAME: ClassVar[str] = ""
    SETTABLE: ClassVar[bool] = True

    def types(self) -> Mapping[str, str]:
        """Return the type of the found value by attribute; the one name '' where the setting is a single value."""
        return {"": TEXT}

    def remedy(self, wanted: str) -> str:
        """Return how to set it by hand.

        wanted: the expectation in words.
        """
        return f"Set {self.name()} to {wanted}."

    def name(self) -> str:
        """Return the setting as it is named to people, such as ``sysctl kernel.dmesg_restrict``."""
        raise NotImplementedError

    def check_wanted(self, attribute: str, value: Any) -> Optional[str]:
        """Return why a value cannot be written to this setting, or None where it can."""
        return None


@dataclass(frozen=True)
class Condition:
    """One thing that must be so for a rule to apply.

    name: one of the platform's conditions. values: any of them will do.
    """

    name: str
    values: Tuple[str, ...]

    def words(self) -> str:
        """Return the condition as it is shown to people."""
        return f"{self.name.replace('_', ' ')}: {' or '.join(self.values)}"


@dataclass
class Finding:
    """What was found of one setting.

    values: the found values by place and attribute. A setting that stands for one place has the one place ''; one that
        stands for several (every network interface, every host key) has an entry for each. No entry means that the
        host has nothing the setting could be read from.
    notes: what else should be said, such as that a value holds only until the next start.
    missing: why there is no entry. error: why it could not be read.
    later: values that the next start will bring, where they differ.
    """

    values: Dict[str, Dict[str, Found]] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    missing: Optional[str] = None
    error: Optional[str] = None
    later: Dict[str, Dict[str, Found]] = field(default_factory=dict)

    @classmethod
    def single(cls, value: Found) -> Finding:
        """Return the finding of a setting that is a single value."""
        return cls({"": {"": value}})


@dataclass
class Wanted:
    """A setting that shall be changed.

    rule: the id of the rule that wants it. values: what to write by place and attribute; a text, a list or ABSENT.
    keep: whether reverting leaves it as it is then.
    """

    rule: str
    setting: Setting
    values: Dict[str, Dict[str, Any]]
    keep: bool = False


@dataclass
class Step:
    """One change to the host.

    rules: the rules it is made for. summary: what it does, in words, without a full stop.
    before, after: the texts it changes, for a diff; None for what is not text.
    target: what is changed, such as a path. done: whether it was carried out.
    """

    rules: Tuple[str, ...]
    summary: str
    target: str
    before: Optional[str] = None
    after: Optional[str] = None
    done: bool = False


@dataclass
class Steps:
    """An ordered list of changes, made once and either shown or carried out.

    errors: by rule, why something cannot be done.
    """

    steps: List[Any] = field(default_factory=list)
    errors: Dict[str, str] = field(default_factory=dict)


Arm = Callable[[Sequence[str]], None]
"""Arms the guard over changes that are made for some rules."""


@dataclass
class Survey:
    """What one pass over a host has found.

    findings: by rule. conditions: whether each holds.
    """

    findings: Dict[str, Finding]
    conditions: Dict[Condition, bool]


class HardeningTarget:
    """What a platform implements so that its hosts can be hardened.

    SETTINGS: its kinds of settings. CONDITIONS: its conditions by name, with what their values are.
    """

    SETTINGS: ClassVar[Tuple[Type[Setting], ...]] = ()
    CONDITIONS: ClassVar[Mapping[str, str]] = {}

    def survey(self, settings: Mapping[str, Setting], conditions: Iterable[Condition]) -> Survey:
        """Read all settings and conditions in one pass.

        settings: by rule. A setting that cannot be read is told by its finding, it does not end the pass.
        """
        raise NotImplementedError

    def lock(self) -> ContextManager[None]:
        """Keep a second run off the host meanwhile. Raises ConnectError where one holds it for too long."""
        raise NotImplementedError

    def plan(self, wanted: Sequence[Wanted]) -> Steps:
        """Return the changes that set what is wanted; nothing is changed by it."""
        raise NotImplementedError

    def plan_revert(self, rules: Optional[Sequence[str]]) -> Steps:
        """Return the changes that bring back what was before; nothing is changed by it.

        rules: their ids; None stands for everything that was ever enforced.
        """
        raise NotImplementedError

    def enforced_rules(self) -> List[str]:
        """Return the ids of the rules for which there is something to bring back."""
        raise NotImplementedError

    def carry_out(self, steps: Steps, arm: Optional[Arm] = None) -> Dict[str, str]:
        """Carry out changes, mark them done, and return by rule why one failed. One that fails does not stop the others.

        arm: called once, before the first change that could cut the controller off, with the rules that all such changes
            are made for; None makes them without a guard. Where it raises GuardError they are left out.
        Killed at any point, a second run finishes the job, and reverting brings back what was before the first.
        """
        raise NotImplementedError

    def guard(self, timeout: int) -> Optional[Plain]:
        """Store on the host how changes that could cut the controller off are undone, and start its timer.

        timeout: seconds without confirmation after which the host undoes. Returns the guard's `token`, or None where the
        platform has no guard. Raises GuardError where it cannot be armed.
        """
        return None

    def undo(self, token: str) -> None:
        """Undo what is guarded, at once. Raises GuardError."""
        raise NotImplementedError

    def describe(self) -> Dict[str, str]:
        """Return what a report says of the host: operating system, kernel."""
        return {}


def known_settings(target: Type[HardeningTarget]) -> Dict[str, Type[Setting]]:
    """Return the kinds of settings of a platform by name."""
    return {cls.NAME: cls for cls in target.SETTINGS}
