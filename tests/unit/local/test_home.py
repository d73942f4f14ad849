"""The folder of the local mode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeus_operator.local.home import Home, HomeError, socket_path


def test_the_folder_given_wins_over_the_environment(tmp_path: Path) -> None:
    environ = {"ZEUS_HOME": "/elsewhere", "XDG_STATE_HOME": "/state"}
    assert Home.find(tmp_path, environ).root == tmp_path
    assert Home.find(None, environ).root == Path("/elsewhere")


def test_without_zeus_home_it_is_in_the_users_folder_for_state() -> None:
    assert Home.find(None, {"XDG_STATE_HOME": "/state"}).root == Path("/state/zeus")
    assert Home.find(None, {}).root == Path.home() / ".local" / "state" / "zeus"


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    Home(folder).create()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_place_where_no_folder_can_be_is_said_with_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(HomeError, match=r"file.*ZEUS_HOME"):
        Home(file / "home").create()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a folder of another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(HomeError, match="belongs to another user"):
        Home(folder).create()


def test_a_socket_in_a_deep_folder_gets_a_short_path_that_is_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    deep = tmp_path / ("d" * 100)
    path = socket_path(deep, "agent.sock")
    try:
        assert len(str(path)) < 90
        assert path == socket_path(deep, "agent.sock")
        assert path != socket_path(tmp_path / ("e" * 100), "agent.sock")
        assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        path.parent.rmdir()
        socket_path(tmp_path / ("e" * 100), "agent.sock").parent.rmdir()


def test_a_socket_stays_in_its_folder_where_that_is_short() -> None:
    assert socket_path(Path("/var/zeus"), "agent.sock") == Path("/var/zeus/agent.sock")
