"""Who has which board: the kubelet's list joined with the live pods."""

from __future__ import annotations

from zeus_agent.cluster.live_pods import LivePod
from zeus_agent.cluster.ownership import DeviceSet, Ownership, PodDevices, Share, join

A = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
B = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
MIG_1 = "MIG-11111111-0000-5000-8000-000000000001"
MIG_2 = "MIG-22222222-0000-5000-8000-000000000002"


def pod(name: str, uid: str = "", namespace: str = "team") -> LivePod:
    return LivePod(uid or f"uid-{name}", namespace, name, "default")


def has(name: str, *device_ids: str, resource: str = "nvidia.com/gpu") -> PodDevices:
    return PodDevices("team", name, (DeviceSet(resource, device_ids),))


def shares(ownership: Ownership) -> dict[tuple[str, str], bool]:
    """Return whether each (pod, board) is exclusive."""
    return {
        (uid, board): share.exclusive
        for uid, boards in ownership.shares.items()
        for board, share in boards.items()
    }


def test_a_pod_with_whole_gpus_has_them_alone() -> None:
    joined = join([has("train", A, B)], [pod("train")], {})
    assert shares(joined) == {("uid-train", A): True, ("uid-train", B): True}
    assert joined.share("uid-train", A) == Share(True)
    assert joined.share("uid-train", "GPU-cc-1") is None
    assert joined.share("uid-other", A) is None


def test_devices_of_all_containers_count_and_are_one_pods() -> None:
    both = PodDevices(
        "team", "train", (DeviceSet("nvidia.com/gpu", (A,)), DeviceSet("nvidia.com/gpu", (A, B)))
    )
    assert shares(join([both], [pod("train")], {})) == {
        ("uid-train", A): True,
        ("uid-train", B): True,
    }


def test_a_pod_that_is_over_owns_nothing_and_shares_with_nobody() -> None:
    listed = [has("done", A), has("train", A)]
    assert shares(join(listed, [pod("train")], {})) == {("uid-train", A): True}


def test_a_pod_of_the_same_name_in_another_namespace_is_another_pod() -> None:
    assert shares(join([has("train", A)], [pod("train", namespace="other")], {})) == {}


def test_two_live_pods_of_one_board_share_it() -> None:
    joined = join([has("one", A), has("two", A)], [pod("one"), pod("two")], {})
    assert shares(joined) == {("uid-one", A): False, ("uid-two", A): False}
    assert joined.owners(A) == ("uid-one", "uid-two")
    assert joined.shares["uid-one"][A].reason == "2 pods have the GPU"


def test_a_replica_is_shared_also_while_nobody_else_has_one() -> None:
    joined = join([has("train", f"{A}::0", B)], [pod("train")], {})
    assert shares(joined) == {("uid-train", A): False, ("uid-train", B): True}
    assert "time-sliced" in joined.shares["uid-train"][A].reason


def test_a_mig_device_is_a_share_of_its_board() -> None:
    joined = join(
        [has("train", MIG_1, resource="nvidia.com/mig-1g.5gb")], [pod("train")], {MIG_1: A}
    )
    assert shares(joined) == {("uid-train", A): False}
    assert "MIG" in joined.shares["uid-train"][A].reason


def test_who_has_the_whole_board_shares_it_with_a_mig_device() -> None:
    listed = [has("whole", A), has("part", MIG_1)]
    joined = join(listed, [pod("whole"), pod("part")], {MIG_1: A})
    assert shares(joined) == {("uid-whole", A): False, ("uid-part", A): False}


def test_a_legacy_mig_device_names_its_board_itself() -> None:
    assert shares(join([has("train", f"MIG-{A}/1/0")], [pod("train")], {})) == {
        ("uid-train", A): False
    }


def test_a_mig_device_of_an_unknown_board_gives_nothing_and_is_told() -> None:
    joined = join([has("train", MIG_1, MIG_2)], [pod("train")], {MIG_1: A})
    assert shares(joined) == {("uid-train", A): False}
    assert joined.unknown_names == {MIG_2}
    assert joined.unsure == {"uid-train"}
    assert [each.device_id for each in joined.ignored] == [MIG_2]


def test_two_entries_of_one_name_give_nothing_since_nobody_knows_whose_they_are() -> None:
    # A pod deleted by force still has its devices while the next one of its name starts.
    joined = join([has("train", A), has("train", B)], [pod("train", "uid-new")], {})
    assert shares(joined) == {}
    assert {each.device_id for each in joined.ignored} == {A, B}


def test_an_ambiguous_entry_keeps_another_pod_from_having_the_board_alone() -> None:
    listed = [has("other", A), has("train", A), has("train")]
    joined = join(listed, [pod("train", "uid-new"), pod("other")], {})
    assert shares(joined) == {("uid-other", A): False}


def test_an_entry_of_a_name_that_was_just_another_pods_gives_nothing() -> None:
    listed = [has("train", A), has("other", A, B)]
    now = [pod("train", "uid-new"), pod("other")]
    joined = join(listed, now, {}, reused={("team", "train")})
    assert shares(joined) == {("uid-other", A): False, ("uid-other", B): True}


def test_devices_of_others_are_left_out() -> None:
    entry = PodDevices(
        "team", "train", (DeviceSet("rdma/hca", ("0",)), DeviceSet("nvidia.com/gpu", (A, "0")))
    )
    joined = join([entry], [pod("train")], {})
    assert shares(joined) == {("uid-train", A): True}
    assert [(each.device_id, each.is_nvidias) for each in joined.ignored] == [
        ("0", False),
        ("0", True),
    ]


NAMED = {"nvidia0": A, "nvidia1": B}


def test_a_pod_with_a_gpu_named_by_its_device_file_has_it_alone() -> None:
    joined = join([has("one", "nvidia1"), has("two", "nvidia0")], [pod("one"), pod("two")], NAMED)
    assert shares(joined) == {("uid-one", B): True, ("uid-two", A): True}
    assert joined.names == {"nvidia0", "nvidia1"}
    assert joined.unknown_names == joined.unsure == frozenset()


def test_partitions_and_replicas_named_by_device_files_are_shares_of_the_board() -> None:
    for device_id, reason in (
        ("nvidia0/gi1", "MIG"),
        ("nvidia0/vgpu0", "time-sliced"),
        ("nvidia0/gi1/vgpu0", "MIG"),
    ):
        joined = join([has("train", device_id)], [pod("train")], NAMED)
        assert shares(joined) == {("uid-train", A): False}, device_id
        assert reason in joined.shares["uid-train"][A].reason


def test_one_board_under_two_kinds_of_ids_is_one_board() -> None:
    joined = join([has("one", A), has("two", "nvidia0")], [pod("one"), pod("two")], NAMED)
    assert shares(joined) == {("uid-one", A): False, ("uid-two", A): False}


def test_a_device_file_that_the_driver_does_not_know_gives_nothing_and_is_told() -> None:
    joined = join([has("train", "nvidia0", "nvidia7/vgpu1")], [pod("train")], NAMED)
    assert shares(joined) == {("uid-train", A): True}
    assert joined.unknown_names == {"nvidia7"}
    assert joined.unsure == {"uid-train"}
    [ignored] = joined.ignored
    assert ignored.device_id == "nvidia7/vgpu1"
    assert "as nvidia7" in ignored.reason


def test_drivers_of_claims_are_told_for_live_pods() -> None:
    drivers = frozenset({"gpu.nvidia.com", "dra.example.com"})
    listed = [PodDevices("team", name, (), drivers) for name in ("train", "over")]
    joined = join(listed, [pod("train")], {})
    assert shares(joined) == {}
    assert [each.resource for each in joined.ignored] == ["dra.example.com", "gpu.nvidia.com"]
