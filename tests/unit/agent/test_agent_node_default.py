"""One precedence: the administrator's bounds, then the lease, the node default, the limit found."""

from __future__ import annotations

from tests.support.lease_steps import ADMIN_CAP, GPU, apply, hold, machine, restore
from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import Apply, Bounds, Forget, HoldDefault, Restore, Rules, SavedLimit, Sight

DEFAULT = 180_000
RULES = Rules(default_milliwatts=DEFAULT)


def with_default() -> LeaseMachine:
    made = machine()
    made.set_rules(RULES)
    return made


def holding_default() -> LeaseMachine:
    made = with_default()
    assert hold(made, ADMIN_CAP) == DEFAULT
    return made


def test_without_a_lease_the_node_default_holds_and_what_was_found_is_saved_first() -> None:
    m = with_default()
    work = m.next_work(0.0)
    assert work == HoldDefault(DEFAULT)
    saved = m.approve_default(HoldDefault(DEFAULT), ADMIN_CAP)
    assert saved == SavedLimit(GPU, ADMIN_CAP, (DEFAULT,))
    assert m.claim.must_store(saved)
    m.claim.stored(saved)
    m.default_held(HoldDefault(DEFAULT), DEFAULT)
    assert m.next_work(0.0) is None
    assert m.is_settled()
    assert not m.restore_pending


def test_a_lease_goes_above_the_node_default_and_after_it_the_default_holds_again() -> None:
    m = holding_default()
    m.request("a", 150_000, 0)
    view = apply(m, DEFAULT)
    assert view is not None
    assert (view.applied_milliwatts, view.previous_milliwatts) == (150_000, ADMIN_CAP)
    m.release("a")
    assert m.restore_pending, "the lease's limit is still on the device"
    assert hold(m, 150_000) == DEFAULT
    assert m.claim.saved is not None
    assert m.claim.saved.previous_milliwatts == ADMIN_CAP


def test_when_the_agent_stops_what_was_found_comes_back_and_not_the_node_default() -> None:
    m = holding_default()
    m.give_up_default()
    assert restore(m, DEFAULT) == ADMIN_CAP


def test_a_policy_without_a_default_any_more_puts_back_what_was_found() -> None:
    m = holding_default()
    m.set_rules(Rules())
    assert restore(m, DEFAULT) == ADMIN_CAP
    m.set_rules(RULES)
    assert hold(m, ADMIN_CAP) == DEFAULT, "and it may come again"


def test_another_default_replaces_the_one_before_and_keeps_what_was_found() -> None:
    m = holding_default()
    m.set_rules(Rules(default_milliwatts=220_000))
    assert hold(m, DEFAULT) == 220_000
    assert m.claim.saved == SavedLimit(GPU, ADMIN_CAP, (DEFAULT, 220_000))


def test_a_default_outside_the_bounds_is_clamped_to_the_policys_and_the_devices() -> None:
    m = machine()
    m.set_rules(Rules(default_milliwatts=500_000))
    assert m.next_work(0.0) == HoldDefault(300_000)
    m.set_rules(Rules(default_milliwatts=500_000, allowed=Bounds(0, 250_000)))
    assert m.next_work(0.0) == HoldDefault(250_000)


def test_a_foreign_change_of_the_default_is_yielded_to() -> None:
    m = holding_default()
    assert m.observed(DEFAULT) is Sight.EXPECTED
    assert m.observed(250_000) is Sight.FOREIGN
    assert m.default_yields
    assert isinstance(m.next_work(0.0), Forget)
    m.forgotten()
    assert m.next_work(0.0) is None, "the default is not set again"
    m.request("a", 150_000, 0)
    apply(m, 250_000)
    m.release("a")
    assert restore(m, 150_000) == 250_000, "somebody's decision holds over the default"


def test_a_foreign_change_found_just_before_the_default_is_set_is_yielded_to() -> None:
    m = with_default()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    assert m.approve_default(HoldDefault(DEFAULT), 260_000) is None
    assert m.default_yields
    assert isinstance(m.next_work(0.0), Forget)


def test_a_foreign_change_during_a_lease_is_not_undone_by_the_default_after_it() -> None:
    m = with_default()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    assert m.observed(260_000) is Sight.FOREIGN
    m.release("a")
    assert restore(m, 260_000) is None


def test_another_default_in_the_policy_ends_the_yielding() -> None:
    m = holding_default()
    m.observed(250_000)
    m.forgotten()
    m.set_rules(RULES)
    assert m.next_work(0.0) is None, "the same policy read again is no new decision"
    m.set_rules(Rules(default_milliwatts=220_000))
    assert hold(m, 250_000) == 220_000


def test_a_reset_while_the_default_is_held_sets_it_again_and_keeps_what_was_found() -> None:
    m = holding_default()
    m.device_reset()
    assert m.observed(300_000) is Sight.RESET
    assert hold(m, 300_000) == DEFAULT
    m.give_up_default()
    assert restore(m, DEFAULT) == ADMIN_CAP


def test_a_reset_to_a_lease_s_limit_from_before_sets_the_default_again() -> None:
    m = holding_default()
    m.request("a", 300_000, 0)
    apply(m, DEFAULT)
    m.release("a")
    assert hold(m, 300_000) == DEFAULT
    m.device_reset()
    assert m.observed(300_000) is Sight.RESET
    assert hold(m, 300_000) == DEFAULT
    m.give_up_default()
    assert restore(m, DEFAULT) == ADMIN_CAP


def test_a_reset_after_a_foreign_change_lets_the_default_hold_again_after_the_lease() -> None:
    m = holding_default()
    m.request("a", 150_000, 0)
    apply(m, DEFAULT)
    assert m.observed(260_000) is Sight.FOREIGN
    m.device_reset()
    assert m.observed(300_000) is Sight.EXPECTED, "the lease has yielded for good"
    m.release("a")
    assert isinstance(m.next_work(0.0), Forget)
    m.forgotten()
    assert hold(m, 300_000) == DEFAULT


def test_a_reset_ends_the_yielding_since_it_ends_the_decision_too() -> None:
    m = holding_default()
    m.observed(250_000)
    m.forgotten()
    m.device_reset()
    assert hold(m, 300_000) == DEFAULT


def test_an_agent_killed_while_it_held_the_default_leaves_what_the_next_one_gives_back() -> None:
    m = with_default()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (DEFAULT,)))
    assert hold(m, DEFAULT) == DEFAULT
    m.give_up_default()
    assert restore(m, DEFAULT) == ADMIN_CAP


def test_an_agent_killed_under_a_lease_is_followed_by_the_default_and_not_by_what_was_found() -> (
    None
):
    m = with_default()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (150_000,)))
    assert hold(m, 150_000) == DEFAULT
    assert m.claim.saved is not None
    assert m.claim.saved.previous_milliwatts == ADMIN_CAP


def test_a_lease_that_comes_while_the_default_is_being_set_is_set_after_it() -> None:
    m = with_default()
    work = m.next_work(0.0)
    assert isinstance(work, HoldDefault)
    saved = m.approve_default(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.request("a", 150_000, 0)
    assert not m.is_wanted(work)
    m.default_held(work, DEFAULT)  # it was on its way
    view = apply(m, DEFAULT)
    assert view is not None
    assert view.previous_milliwatts == ADMIN_CAP
    m.release("a")
    assert hold(m, 150_000) == DEFAULT


def test_a_default_that_could_not_be_set_is_tried_again_later() -> None:
    m = with_default()
    delay = m.failed(0.0)
    assert m.next_work(0.0) is None
    assert not m.is_settled()
    assert isinstance(m.next_work(delay), HoldDefault)


def test_a_default_whose_write_timed_out_and_came_late_counts_as_ours() -> None:
    m = with_default()
    work = m.next_work(0.0)
    assert isinstance(work, HoldDefault)
    saved = m.approve_default(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.failed(0.0)
    m.give_up_default()
    m.device_answers()
    assert restore(m, DEFAULT) == ADMIN_CAP


# ---- the administrator's bounds while a lease holds ------------------------------------


def test_tighter_bounds_move_a_limit_that_is_held_at_once_and_looser_ones_move_it_back() -> None:
    m = machine()
    m.request("a", 280_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(Rules(allowed=Bounds(100_000, 250_000)))
    view = apply(m, 280_000)
    assert view is not None
    assert (view.applied_milliwatts, view.clamped) == (250_000, True)
    assert view.previous_milliwatts == ADMIN_CAP
    m.set_rules(Rules())
    view = apply(m, 250_000)
    assert view is not None
    assert (view.applied_milliwatts, view.clamped) == (280_000, False)


def test_a_limit_that_could_not_be_moved_within_the_bounds_is_tried_again() -> None:
    m = machine()
    m.request("a", 280_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(Rules(allowed=Bounds(100_000, 250_000)))
    now = 0.0
    for _ in range(3):
        work = m.next_work(now)
        assert isinstance(work, Apply)
        assert work.target_milliwatts == 250_000
        m.apply_failed(work, now)
        assert m.next_work(now) is None
        now = m.retry_at_seconds
    m.request("a", 150_000, 0)
    assert isinstance(m.next_work(0.0), Apply), "a wish does not wait for that"
    apply(m, 280_000)
    assert m.is_settled()


def test_a_driver_that_rounds_to_outside_the_bounds_is_not_asked_for_ever() -> None:
    m = machine()
    m.set_rules(Rules(allowed=Bounds(100_000, 250_000)))
    m.request("a", 280_000, 0)
    apply(m, ADMIN_CAP, readback=255_000)
    assert m.next_work(0.0) is None


def test_bounds_that_do_not_matter_for_a_limit_write_nothing() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(Rules(allowed=Bounds(100_000, 250_000)))
    assert m.next_work(0.0) is None


def test_a_lease_that_has_yielded_is_not_moved_by_new_bounds() -> None:
    m = machine()
    m.request("a", 280_000, 0)
    apply(m, ADMIN_CAP)
    m.observed(290_000)
    m.set_rules(Rules(allowed=Bounds(100_000, 250_000)))
    assert m.next_work(0.0) is None


def test_the_devices_bounds_go_above_the_administrators() -> None:
    m = machine()
    m.set_rules(Rules(allowed=Bounds(400_000, 500_000)))
    m.request("a", 450_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    assert work.target_milliwatts == 300_000


def test_the_bounds_do_not_hold_for_what_was_found() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(Rules(allowed=Bounds(100_000, 160_000)))
    m.release("a")
    assert restore(m, 150_000) == ADMIN_CAP


# ---- dry run ---------------------------------------------------------------------------


def test_a_dry_run_answers_with_what_was_found_and_saves_and_writes_nothing() -> None:
    m = machine()
    m.set_rules(Rules(dry_run=True, default_milliwatts=DEFAULT))
    assert m.next_work(0.0) is None, "the node default is not set either"
    m.request("a", 150_000, 0)
    view = apply(m, ADMIN_CAP)
    assert view is not None
    assert view.dry_run
    assert view.requested_milliwatts == 150_000
    assert view.applied_milliwatts == view.previous_milliwatts == ADMIN_CAP
    assert m.claim.saved is None
    assert m.observed(170_000) is Sight.EXPECTED, "nothing of ours is there to be changed"
    assert m.release("a")
    assert m.is_settled()


def test_a_dry_run_that_begins_ends_the_lease_and_puts_back_what_was_found() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(Rules(dry_run=True))
    assert m.holder is None
    m.request("a", 150_000, 0)
    apply(m, 150_000)  # a new lease, dry, while the old one's limit is still there
    assert m.restore_pending
    assert restore(m, 150_000) == ADMIN_CAP
    assert m.holder == "a"


def test_a_dry_run_that_ends_ends_its_leases_too() -> None:
    m = machine()
    m.set_rules(Rules(dry_run=True))
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(RULES)
    assert m.view() is None
    assert hold(m, ADMIN_CAP) == DEFAULT


# ---- persistence mode --------------------------------------------------------------------

ENABLE = Rules(enable_persistence=True)


def test_persistence_mode_found_off_is_saved_with_the_limit_and_put_back_with_it() -> None:
    m = machine()
    m.set_rules(ENABLE)
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP, found_persistence=False)
    assert saved == SavedLimit(GPU, ADMIN_CAP, (150_000,), previous_persistence=False)
    m.claim.stored(saved)
    m.applied(work, 150_000)
    m.request("a", 160_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, 150_000, found_persistence=True)  # by us
    assert saved is not None
    assert saved.previous_persistence is False, "what was found stays the first that was found"
    m.claim.stored(saved)
    m.applied(work, 160_000)
    m.release("a")
    assert m.next_work(0.0) == Restore(ADMIN_CAP, persistence=False)


def test_persistence_mode_found_on_or_to_be_kept_is_left_alone() -> None:
    for rules, found in ((ENABLE, True), (ENABLE, None), (Rules(), False)):
        m = machine()
        m.set_rules(rules)
        m.request("a", 150_000, 0)
        work = m.next_work(0.0)
        assert isinstance(work, Apply)
        saved = m.approve_apply(work, ADMIN_CAP, found)
        assert saved is not None
        assert saved.previous_persistence is None


def test_a_policy_that_comes_to_want_persistence_mode_gets_it_under_a_lease_that_holds() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.set_rules(ENABLE)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, 150_000, found_persistence=False)
    assert saved is not None
    assert saved.previous_persistence is False


def test_a_policy_that_comes_to_want_persistence_mode_gets_it_with_the_default_that_holds() -> None:
    m = holding_default()
    m.set_rules(Rules(default_milliwatts=DEFAULT, enable_persistence=True))
    work = m.next_work(0.0)
    assert work == HoldDefault(DEFAULT)
    saved = m.approve_default(HoldDefault(DEFAULT), DEFAULT, found_persistence=False)
    assert saved is not None
    assert saved.previous_persistence is False
