"""Approvals, by themselves and against a model: whoever asks, gives and lets time pass."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anubis.approvals import APPROVAL_SECONDS, Approvals

pytestmark = pytest.mark.timeout(7200)  # the long profile takes its time

NAMES = ("ariadne", "luna", "xena")
APPROVERS = ("jacinth", "selen")


def test_it_is_asked_for_given_and_used() -> None:
    """Once; who asks again after that waits again."""
    approvals = Approvals()
    assert not approvals.give("xena", "selen", 0.0)
    assert approvals.ask("xena", "selen", 0.0)
    assert approvals.is_waiting("xena", "selen", 1.0)
    assert not approvals.has("xena", "selen", 1.0)
    assert approvals.give("xena", "selen", 1.0)
    assert not approvals.give("xena", "selen", 1.0)
    assert approvals.has("xena", "selen", 2.0)
    assert approvals.waiting(2.0) == ()
    approvals.forget("xena")
    assert not approvals.has("xena", "selen", 2.0)
    assert not approvals.is_pending("xena", 2.0)


def test_both_have_a_deadline() -> None:
    """Two minutes from the last asking, two minutes from the approval."""
    approvals = Approvals()
    approvals.ask("xena", "selen", 0.0)
    assert not approvals.ask("xena", "selen", 100.0)
    assert approvals.is_waiting("xena", "selen", 219.9)
    assert not approvals.give("xena", "selen", 220.0)
    assert approvals.ask("xena", "selen", 220.0)
    approvals.give("xena", "selen", 300.0)
    assert approvals.has("xena", "selen", 419.9)
    assert not approvals.has("xena", "selen", 420.0)
    assert not approvals.is_pending("xena", 420.0)


def test_it_is_one_approvers() -> None:
    """Another one neither sees who waits nor gives what he was not asked for."""
    approvals = Approvals()
    approvals.ask("xena", "selen", 0.0)
    assert approvals.waiting(1.0, "jacinth") == ()
    assert not approvals.give("xena", "jacinth", 1.0)
    assert [plea.name for plea in approvals.waiting(1.0, "selen")] == ["xena"]
    approvals.give("xena", "selen", 1.0)
    assert not approvals.has("xena", "jacinth", 2.0)


def test_who_asked_first_is_told_first() -> None:
    """Whose time is up first, that is; who was forgotten is not told at all."""
    approvals = Approvals()
    for at, name in enumerate(("xena", "ariadne", "luna")):
        approvals.ask(name, "selen", float(at))
    approvals.ask("xena", "selen", 5.0)
    approvals.forget("luna")
    assert [plea.name for plea in approvals.waiting(6.0)] == ["ariadne", "xena"]


def test_those_out_of_date_are_not_kept() -> None:
    """Who asks anew finds the table without them."""
    approvals = Approvals()
    for number in range(100):
        approvals.ask(f"peer{number}", "selen", 0.0)
    approvals.ask("xena", "selen", APPROVAL_SECONDS)
    assert [plea.name for plea in approvals] == ["xena"]


class ApprovalsModel(RuleBasedStateMachine):
    """What is remembered of each name: by whom, until when, and whether it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.approvals = Approvals()
        self.now = 0.0
        self.model: dict[str, tuple[str, float, bool]] = {}

    def alive(self, name: str, approver: str, *, given: bool) -> bool:
        """Tell what the model says."""
        whose, until, is_given = self.model.get(name, ("", 0.0, False))
        return (whose, is_given) == (approver, given) and self.now < until

    @rule(name=st.sampled_from(NAMES), approver=st.sampled_from(APPROVERS))
    def ask(self, name: str, approver: str) -> None:
        """Ask, unless it was given, as the gatekeeper does."""
        if not self.alive(name, approver, given=True):
            is_new = not self.alive(name, approver, given=False)
            assert self.approvals.ask(name, approver, self.now) is is_new
            self.model[name] = (approver, self.now + APPROVAL_SECONDS, False)

    @rule(name=st.sampled_from(NAMES), approver=st.sampled_from(APPROVERS))
    def give(self, name: str, approver: str) -> None:
        """Approve; that works exactly if it is waited for."""
        waits = self.alive(name, approver, given=False)
        assert self.approvals.give(name, approver, self.now) is waits
        if waits:
            self.model[name] = (approver, self.now + APPROVAL_SECONDS, True)

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        """Use it, or take it back."""
        self.approvals.forget(name)
        self.model.pop(name, None)

    @rule(seconds=st.one_of(st.floats(0.0, 300.0), st.just(APPROVAL_SECONDS)))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        """For each name and each approver, and in the lists."""
        for name in NAMES:
            for approver in APPROVERS:
                waits = self.alive(name, approver, given=False)
                assert self.approvals.is_waiting(name, approver, self.now) is waits
                has = self.alive(name, approver, given=True)
                assert self.approvals.has(name, approver, self.now) is has
        for approver in APPROVERS:
            told = {plea.name for plea in self.approvals.waiting(self.now, approver)}
            assert told == {name for name in NAMES if self.alive(name, approver, given=False)}
        assert len(list(self.approvals)) <= len(self.model)


TestApprovalsModel = ApprovalsModel.TestCase
