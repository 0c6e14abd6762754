"""Path patterns: the files of a period, the periods of a file, and patterns that cannot tell periods apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.lake.patterns import Pattern
from pipeline.periods import Grain, Period
from tests import lakes

PATHS = [
    (Grain.day, "UTC", "unscored/{ds}/data.csv", "unscored/2026-03-09/data.csv"),
    (Grain.day, "UTC", "in/{year}/{month}/{day}/*.parquet", "in/2026/03/09/x.parquet"),
    (Grain.day, "UTC", "in/{ds:%Y%m%d}.parquet", "in/20260309.parquet"),
    (Grain.day, "UTC", "in/{ds:%Y/%m}/{ds:%d}/x.parquet", "in/2026/03/09/x.parquet"),
    (Grain.day, "UTC", "in/year={year}/{ds:%Y-%m-%d}.parquet", "in/year=2026/2026-03-09.parquet"),
    (Grain.day, "UTC", "in/{ds:%Y-%j}.parquet", "in/2026-068.parquet"),
    (Grain.day, "UTC", "in/{ds:%-d.%-m.%Y}.parquet", "in/9.3.2026.parquet"),
    (Grain.day, "UTC", "in/{ds:%y%m%d}[ab]?.parquet", "in/260309b7.parquet"),
    (Grain.week, "UTC", "in/{ds:%G-W%V}.parquet", "in/2026-W11.parquet"),
    (Grain.week, "UTC", "in/{ds:%Y-%W}/**/*.parquet", "in/2026-10/a/b/x.parquet"),
    (Grain.month, "UTC", "in/{ds:%Y%m}*.parquet", "in/202603-final.parquet"),
    (Grain.hour, "UTC", "in/{year}-{month}-{day}/{hour}.parquet", "in/2026-03-09/00.parquet"),
    (Grain.hour, "Asia/Tokyo", "in/{ds:%Y%m%dT%H}.parquet", "in/20260309T09.parquet"),
    (Grain.hour, "Europe/Berlin", "in/{ds}.parquet", "in/2026-03-09T00Z.parquet"),
    (Grain.hour, "Europe/Berlin", "in/{ds:%Y%m%dT%H%z}.parquet", "in/20260309T01+0100.parquet"),
]


@pytest.mark.parametrize(("grain", "zone", "text", "path"), PATHS)
def test_files_of_a_period_and_periods_of_a_file_agree(
    tmp_path: Path, grain: Grain, zone: str, text: str, path: str
) -> None:
    pattern = Pattern(text, grain, zone)
    assert (pattern.problem, pattern.same_paths, pattern.unreadable, pattern.constant) == (None, None, None, None)
    ds = "2026-03-09T00Z" if grain is Grain.hour else "2026-03-01" if grain is Grain.month else "2026-03-09"
    lake = lakes.open_lake(tmp_path / "2020-01-01" / "lake")
    (lake.workspace.path(path)).parent.mkdir(parents=True)
    lake.workspace.path(path).write_bytes(b"x")
    absolute = Pattern(f"{lake.workspace.root}/{text}", grain, zone)
    for each in (pattern, absolute):
        (found,) = lake.input_files({"unscored": each}, ds)["unscored"]
        assert found.path.endswith(path)
        assert lake.input_days([each]) == [ds]
        after = (Period.parse(ds, grain) + 1).ds
        assert lake.input_files({"unscored": each}, after)["unscored"] == ()


@pytest.mark.parametrize(
    ("grain", "text", "two"),
    [
        (Grain.day, "in/{year}/{month}.parquet", ("2026-01-01", "2026-01-02")),
        (Grain.day, "in/{month}/{day}.parquet", ("2026-01-01", "2027-01-01")),
        (Grain.day, "in/{ds:%Y%-m%-d}.parquet", ("2026-01-11", "2026-11-01")),
        (Grain.week, "in/{year}/{month}.parquet", ("2026-01-05", "2026-01-12")),
        (Grain.hour, "in/{year}/{month}/{day}.parquet", ("2026-01-01T00Z", "2026-01-01T01Z")),
    ],
)
def test_pattern_that_two_periods_share_names_them(grain: Grain, text: str, two: tuple[str, str]) -> None:
    same = Pattern(text, grain).same_paths
    assert same is not None
    assert tuple(each.ds for each in same) == two


def test_local_hours_are_shared_when_the_clocks_go_back() -> None:
    same = Pattern("in/{ds:%Y%m%dT%H}", Grain.hour, "Europe/Berlin").same_paths
    assert same is not None
    assert [each.ds for each in same] == ["2026-10-25T00Z", "2026-10-25T01Z"]
    assert Pattern("in/{ds:%Y%m%dT%H}", Grain.hour, "Asia/Kolkata").same_paths is None


def test_pattern_that_cannot_be_read_back_is_found() -> None:
    assert Pattern("in/{ds:%Y%m}/{ds:%m%d}.parquet").unreadable is not None


def test_file_that_may_be_of_two_periods_is_refused(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path)
    (tmp_path / "sales-20260101-exported-20260102.parquet").write_bytes(b"x")
    pattern = {"unscored": Pattern("*{ds:%Y%m%d}*.parquet")}
    for ds in ("2026-01-01", "2026-01-02"):
        with pytest.raises(InputError, match="2026-01-01 or 2026-01-02"):
            lake.input_files(pattern, ds)
    precise = Pattern("sales-{ds:%Y%m%d}-*.parquet")
    assert lake.input_days([precise]) == ["2026-01-01"]


def test_file_whose_name_goes_on_with_digits_is_of_its_own_day(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path)
    for name in ("2026-1-1.parquet", "2026-1-11.parquet"):
        (tmp_path / name).write_bytes(b"x")
    pattern = {"unscored": Pattern("{ds:%Y-%-m-%-d}*.parquet")}
    found = [[file.path for file in lake.input_files(pattern, ds)["unscored"]] for ds in ("2026-01-01", "2026-01-11")]
    assert found == [["2026-1-1.parquet"], ["2026-1-11.parquet"]]


def test_hours_that_share_a_file_of_their_day_all_have_it(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path)
    (tmp_path / "20260329.parquet").write_bytes(b"x")
    found = lake.input_days([Pattern("{ds:%Y%m%d}.parquet", Grain.hour, "Europe/Berlin")])
    assert (found[0], found[-1], len(found)) == ("2026-03-28T23Z", "2026-03-29T21Z", 23)
