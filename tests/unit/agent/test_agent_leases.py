"""The pure machine of one GPU's power limit, walked through every order of events."""

from __future__ import annotations

import pytest

from tests.support.lease_steps import ADMIN_CAP, GPU, apply, machine, restore
from zeus_agent.leases import RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS
from zeus_agent.limits import (
    Apply,
    Approval,
    Bounds,
    Forget,
    Refused,
    Restore,
    Rules,
    SavedLimit,
    Sight,
)
from zeus_runtime.protocol import ErrorCode


def test_what_was_found_is_saved_before_the_first_write_and_put_back() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert work == Apply(1, 1, 150_000, 150_000)
    assert not work.clamped
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved == SavedLimit(GPU, ADMIN_CAP, (150_000,))
    assert m.claim.saved is None, "nothing counts as saved before it is on disk"
    m.claim.stored(saved)
    view = m.applied(work, 150_000)
    assert view is not None
    assert (view.previous_milliwatts, view.applied_milliwatts) == (ADMIN_CAP, 150_000)
    assert m.release("a")
    assert restore(m, 150_000) == ADMIN_CAP


def test_the_previous_limit_stays_the_first_one_over_many_wishes() -> None:
    m = machine()
    for found, wish in ((ADMIN_CAP, 150_000), (150_000, 175_000), (175_000, 250_000)):
        m.request("a", wish, 0)
        apply(m, found)
    assert m.claim.saved == SavedLimit(GPU, ADMIN_CAP, (175_000, 250_000))
    m.release("a")
    assert restore(m, 250_000) == ADMIN_CAP


def test_a_wish_outside_the_bounds_is_clamped_and_says_so() -> None:
    m = machine()
    m.request("a", 999_000, 0)
    view = apply(m, ADMIN_CAP)
    assert view is not None
    assert view.clamped
    assert (view.requested_milliwatts, view.applied_milliwatts) == (999_000, 300_000)


def test_another_session_is_refused_until_the_lease_ends_and_then_has_a_larger_fence() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    first = apply(m, ADMIN_CAP)
    with pytest.raises(Refused) as refused:
        m.request("b", 120_000, 0)
    assert refused.value.code is ErrorCode.GPU_LEASED
    m.release("a")
    restore(m, 150_000)
    m.request("b", 120_000, 0)
    second = apply(m, ADMIN_CAP)
    assert first is not None
    assert second is not None
    assert second.fence > first.fence


def test_of_several_waiting_wishes_only_the_newest_is_done() -> None:
    m = machine()
    for watts in (110, 120, 130):
        m.request("a", watts * 1000, watts)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    assert work.target_milliwatts == 130_000
    apply(m, ADMIN_CAP)
    assert m.next_work(0.0) is None


def test_a_sequence_older_than_one_seen_is_refused_and_an_equal_one_is_not() -> None:
    m = machine()
    m.request("a", 150_000, 5)
    apply(m, ADMIN_CAP)
    with pytest.raises(Refused) as refused:
        m.request("a", 160_000, 4)
    assert refused.value.code is ErrorCode.STALE_SEQUENCE
    m.request("a", 150_000, 5)


def test_a_session_that_ends_before_its_turn_leaves_nothing_to_write() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.release("a")
    assert m.approve_apply(work, ADMIN_CAP) is None
    assert m.is_settled()


def test_a_session_that_ends_during_the_write_is_restored() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.release("a")
    assert not m.is_wanted(work)
    assert m.applied(work, 150_000) is None
    assert restore(m, 150_000) == ADMIN_CAP


def test_a_write_of_an_ended_lease_is_not_taken_for_the_next_ones() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.release("a")
    m.request("b", 120_000, 0)
    assert m.applied(work, 150_000) is None
    assert m.view() is None
    view = apply(m, 150_000)
    assert view is not None
    assert (view.session, view.previous_milliwatts) == ("b", ADMIN_CAP)


def test_a_failed_first_wish_ends_the_lease_and_what_may_be_written_is_restored() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.apply_failed(work, 0.0)
    assert m.holder is None
    assert restore(m, 150_000) == ADMIN_CAP


def test_a_wish_that_could_not_be_saved_leaves_nothing_to_restore() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.approve_apply(work, ADMIN_CAP)
    m.apply_failed(work, 0.0)
    assert m.holder is None
    assert m.next_work(0.0) is None
    assert m.is_settled()


def test_a_failed_later_wish_keeps_the_lease_and_its_limit() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 175_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.apply_failed(work, 0.0)
    view = m.view()
    assert view is not None
    assert view.applied_milliwatts == 150_000
    assert m.next_work(0.0) is None


def test_a_write_that_timed_out_and_came_late_is_no_foreign_change_and_is_undone() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 175_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, 150_000)
    assert saved is not None
    m.claim.stored(saved)
    m.apply_failed(work, 0.0)
    assert m.observed(175_000) is Sight.LATE
    view = m.view()
    assert view is not None
    assert view.applied_milliwatts == 175_000, "that is what is there now"
    view = apply(m, 175_000)
    assert view is not None
    assert (view.requested_milliwatts, view.applied_milliwatts) == (150_000, 150_000)


def test_a_late_write_outside_the_bounds_of_now_is_moved_until_it_is_within_them() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 250_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, 150_000)
    assert saved is not None
    m.claim.stored(saved)
    m.apply_failed(work, 0.0)
    m.set_rules(Rules(allowed=Bounds(100_000, 160_000)))
    assert m.observed(250_000) is Sight.LATE
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.apply_failed(work, 0.0)
    assert m.next_work(0.0) is None
    again = m.next_work(m.retry_at_seconds)
    assert isinstance(again, Apply)
    assert again.target_milliwatts == 150_000


def test_a_wish_that_was_refused_is_not_done_later_whatever_the_policy_says_again() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 250_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.apply_failed(work, 0.0)
    view = m.view()
    assert view is not None
    assert view.requested_milliwatts == 150_000
    m.set_rules(m.rules)
    assert m.next_work(0.0) is None
    m.set_rules(Rules(allowed=Bounds(100_000, 260_000)))
    assert m.next_work(0.0) is None


def test_a_wish_that_waits_while_another_is_refused_is_still_done() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 250_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    m.request("a", 260_000, 0)
    m.apply_failed(work, 0.0)
    newest = m.next_work(0.0)
    assert isinstance(newest, Apply)
    assert newest.target_milliwatts == 260_000
    m.apply_failed(newest, 0.0)
    view = m.view()
    assert view is not None
    assert (view.requested_milliwatts, view.applied_milliwatts) == (150_000, 150_000)


def test_a_foreign_change_is_left_alone_during_the_lease_and_after_it() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    assert m.observed(150_000) is Sight.EXPECTED
    assert m.observed(180_000) is Sight.FOREIGN
    with pytest.raises(Refused) as refused:
        m.request("a", 160_000, 0)
    assert refused.value.code is ErrorCode.FOREIGN_CHANGE
    view = m.view()
    assert view is not None
    assert view.foreign
    m.release("a")
    assert restore(m, 180_000) is None


def test_a_foreign_change_found_just_before_a_write_stops_the_write() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.request("a", 175_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    assert m.approve_apply(work, 180_000) is None
    view = m.view()
    assert view is not None
    assert view.foreign
    assert m.next_work(0.0) is None


def test_a_foreign_change_found_at_restoring_is_left_alone() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    assert restore(m, 180_000) is None


def test_a_lease_after_a_foreign_change_gives_back_the_foreign_limit() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.observed(180_000)
    m.release("a")
    m.request("b", 120_000, 0)
    view = apply(m, 180_000)
    assert view is not None
    assert view.previous_milliwatts == 180_000


def test_a_new_lease_before_the_restore_keeps_the_first_previous_limit() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    m.request("b", 120_000, 0)
    view = apply(m, 150_000)
    assert view is not None
    assert view.previous_milliwatts == ADMIN_CAP
    m.release("b")
    assert restore(m, 120_000) == ADMIN_CAP


def test_a_new_lease_while_the_saved_limit_is_removed_saves_anew() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    assert m.approve_restore(150_000) is Approval.WRITE
    m.restored()
    assert isinstance(m.next_work(0.0), Forget)
    m.request("b", 120_000, 0)
    m.forgotten()
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    assert m.approve_apply(work, ADMIN_CAP) == SavedLimit(GPU, ADMIN_CAP, (120_000,))


def test_a_reset_device_gets_the_leases_limit_again_and_the_previous_one_at_the_end() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.device_reset()
    assert m.observed(300_000) is Sight.RESET
    view = apply(m, 300_000)
    assert view is not None
    assert (view.applied_milliwatts, view.previous_milliwatts) == (150_000, ADMIN_CAP)
    m.device_reset()
    m.release("a")
    assert restore(m, 300_000) == ADMIN_CAP


def test_a_reset_to_a_limit_of_ours_from_before_sets_the_leases_limit_again() -> None:
    m = machine()
    for found, wish in ((ADMIN_CAP, 300_000), (300_000, 150_000)):
        m.request("a", wish, 0)  # a profile ends at the device's default, then comes the optimum
        apply(m, found)
    m.device_reset()
    assert m.observed(300_000) is Sight.RESET
    view = apply(m, 300_000)
    assert view is not None
    assert view.applied_milliwatts == 150_000
    assert m.observed(150_000) is Sight.EXPECTED
    m.release("a")
    assert restore(m, 150_000) == ADMIN_CAP


def test_a_device_that_kept_its_limit_over_a_reset_is_watched_as_before() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.device_reset()
    assert m.observed(150_000) is Sight.EXPECTED
    assert m.observed(180_000) is Sight.FOREIGN


def test_restoring_is_tried_again_with_back_off_and_keeps_what_was_saved() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    now, delays = 0.0, []
    for _ in range(8):
        assert isinstance(m.next_work(now), Restore)
        delays.append(m.failed(now))
        assert m.next_work(now) is None
        now += delays[-1]
    assert delays == sorted(delays)
    assert delays[-1] == RETRY_LAST_SECONDS
    assert m.restore_pending
    m.device_answers()
    assert isinstance(m.next_work(0.0), Restore)


def test_an_agent_that_stops_does_not_wait_for_the_back_off() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    for _ in range(6):
        m.failed(100.0)
    assert m.next_work(100.0) is None
    m.give_up_default()
    assert isinstance(m.next_work(100.0), Restore)
    assert m.failed(100.0) == RETRY_FIRST_SECONDS, "and it begins anew"


def test_what_an_earlier_agent_saved_is_restored_first_thing() -> None:
    m = machine()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (150_000,)))
    assert restore(m, 150_000) == ADMIN_CAP


def test_what_an_earlier_agent_saved_is_dropped_if_somebody_else_has_set_it_since() -> None:
    m = machine()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (150_000,)))
    assert restore(m, 250_000) is None


def test_a_limit_that_is_back_already_is_not_written_again() -> None:
    m = machine()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (150_000,)))
    assert restore(m, ADMIN_CAP) is None


def test_rounding_by_the_driver_is_no_foreign_change() -> None:
    m = machine()
    m.request("a", 150_400, 0)
    apply(m, ADMIN_CAP, readback=150_000)
    assert m.observed(150_000) is Sight.EXPECTED
    assert m.observed(150_400) is Sight.EXPECTED
    m.release("a")
    assert restore(m, 150_000) == ADMIN_CAP


def test_a_previous_limit_outside_the_present_bounds_is_restored_to_the_nearest() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    m.bounds = Bounds(100_000, 190_000)
    assert restore(m, 150_000) == 190_000


def test_what_an_earlier_lease_left_counts_as_ours_until_the_new_limit_is_written() -> None:
    m = machine()
    m.adopt(SavedLimit(GPU, ADMIN_CAP, (150_000,)))
    m.request("b", 120_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, 150_000)
    assert saved == SavedLimit(GPU, ADMIN_CAP, (150_000, 120_000)), "for the next agent"
    m.claim.stored(saved)
    m.apply_failed(work, 0.0)
    assert restore(m, 150_000) == ADMIN_CAP, "for this one"


def test_a_lease_that_comes_while_restoring_looks_is_restored_when_its_write_fails() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    assert isinstance(m.next_work(0.0), Restore)
    m.request("b", 120_000, 0)
    assert m.approve_restore(ADMIN_CAP) is Approval.NOT_NOW
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    m.claim.stored(saved)
    m.apply_failed(work, 0.0)  # it timed out and comes late
    assert restore(m, 120_000) == ADMIN_CAP


def test_an_entry_that_may_be_gone_is_stored_again_before_the_next_write() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    apply(m, ADMIN_CAP)
    m.release("a")
    assert m.approve_restore(150_000) is Approval.WRITE
    m.restored()
    assert isinstance(m.next_work(0.0), Forget)
    m.forget_failed(0.0)
    m.request("b", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    assert saved == m.claim.saved, "the same as before, and yet"
    assert m.claim.must_store(saved)
    m.claim.stored(saved)
    assert not m.claim.must_store(saved)


def test_an_entry_that_may_be_there_although_storing_it_failed_is_removed() -> None:
    m = machine()
    m.request("a", 150_000, 0)
    work = m.next_work(0.0)
    assert isinstance(work, Apply)
    saved = m.approve_apply(work, ADMIN_CAP)
    assert saved is not None
    m.claim.not_stored(saved)
    m.apply_failed(work, 0.0)
    # Somebody sets just what the lease wanted: nothing of ours was written, so it is theirs.
    assert restore(m, 150_000) is None
