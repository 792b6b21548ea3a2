"""The login of a home's pages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.credentials import login_file, read_login


def test_the_first_call_makes_a_login_that_only_its_owner_reads_and_later_ones_read_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = read_login(home)
    assert login_file(home).stat().st_mode & 0o777 == 0o600
    assert home.secrets.stat().st_mode & 0o777 == 0o700
    assert read_login(home) == made
    assert made.user == "medml"
    assert len(made.password) >= 24
    assert made.password not in repr(made)


def test_two_homes_have_two_passwords_and_callers_at_once_share_one(tmp_path: Path) -> None:
    assert read_login(Home(tmp_path / "a")) != read_login(Home(tmp_path / "b"))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(read_login, [Home(tmp_path / "c")] * 32))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "c" / "secrets").iterdir()] == ["login"]


def test_a_login_that_others_may_read_is_refused(tmp_path: Path) -> None:
    read_login(Home(tmp_path))
    login_file(Home(tmp_path)).chmod(0o644)
    with pytest.raises(ConfigError, match=r"has mode 644, so others may read the password; expected 600"):
        read_login(Home(tmp_path))


@pytest.mark.parametrize("text", ["", "medml", "medml:short", ":averylongpassword"])
def test_a_file_that_is_no_login_is_refused(tmp_path: Path, text: str) -> None:
    path = login_file(Home(tmp_path))
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected one line user:password with 12 characters or more"):
        read_login(Home(tmp_path))
