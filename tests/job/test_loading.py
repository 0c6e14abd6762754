"""`job.toml`: errors name the exact key, and any file content results in a Job or a JobError."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError, UsageError
from pipeline.job.config import Engine, Job
from pipeline.job.input import VIEWS_OF_A_RUN
from pipeline.job.loading import digest, find_job, read_job
from pipeline.job.project import job_names
from pipeline.packaged import resources
from pipeline.settings import Settings

PATH = 'path = "unscored/ds={ds}/*.parquet"'
SELECT = 'select = "features.sql"'
SOURCES = '[input.sources]\norders = "orders/ds={ds}/*.parquet"\n'
JOB = f"""
[model]
name = "churn"

[input]
{PATH}
key = ["id"]
"""

Read = Callable[..., Job]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes a job.toml and other files beside it, and reads the job."""

    def write_and_read(text: str = JOB, settings: Settings | None = None, **files: str) -> Job:
        folder = tmp_path / "churn"
        folder.mkdir(exist_ok=True)
        for name, content in {"job.toml": text, **files}.items():
            (folder / name).write_text(content, "utf-8")
        return read_job(folder, settings or Settings())

    return write_and_read


def replaced(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


def table(name: str, line: str) -> str:
    return f"{JOB}\n[{name}]\n{line}\n"


def target(lines: str) -> str:
    return f"{JOB}\n[[publish]]\n{lines}\n"


def test_job_with_the_least_has_defaults(read: Read) -> None:
    job = read()
    assert (job.name, job.model.version, job.input.carry, job.input.features) == ("churn", "production", (), None)
    assert (job.policy.null_features, job.policy.max_quarantined, job.lookback) == ("quarantine", 0.05, 0)
    assert (job.engine.device, job.engine.memory_limit, job.engine.threads) == ("auto", None, None)
    assert (job.engine.batch_rows, job.engine.precision, job.engine.compile) == (None, "float32", False)


def test_job_that_is_shipped_is_valid() -> None:
    job = read_job(resources() / "dags" / "jobs" / "batch_inference", Settings())
    assert job.input.key == ("id",)


MISTAKES = {
    # An unknown or misspelt key, at each level, comes with the nearest valid one.
    "top": ("modle = 1\n" + JOB, r"unknown key `modle`, did you mean 'model'\?"),
    "table": (table("polcy", "x = 1"), r"unknown key `polcy`, did you mean 'policy'\?"),
    "model": (replaced('"churn"', '"churn"\nverison = "v1"'), r"unknown key `model.verison`, did you mean 'version'\?"),
    "input": (JOB + 'cary = ["x"]', r"unknown key `input.cary`, did you mean 'carry'\?"),
    "policy": (table("policy", "nul_keys = 'fail'"), r"unknown key `policy.nul_keys`, did you mean 'null_keys'\?"),
    "schedule": (table("schedule", "tz = 'UTC'"), r"unknown key `schedule.tz`(?s:.)*expected +every, timezone, lag"),
    "engine": (table("engine", "thread = 2"), r"unknown key `engine.thread`, did you mean 'threads'\?"),
    "misspelt and so missing": (replaced("name", "nmae"), r"unknown key `model.nmae`, did you mean 'name'\?"),
    "key in the plural": (replaced("key", "keys"), r"unknown key `input.keys`, did you mean 'key'\?"),
    "name": ('name = "x"\n' + JOB, r"`name` cannot be set(?s:.)*the folder's name is the job's name"),
    "folder": ('folder = "/"\n' + JOB, r"`folder` cannot be set"),
    "digest": ('digest = "0"\n' + JOB, r"`digest` cannot be set"),
    # Something is missing.
    "empty file": ("", r"`model` is missing"),
    "no input": ('[model]\nname = "churn"', r"`input` is missing"),
    "no model name": (replaced('name = "churn"', ""), r"`model.name` is missing"),
    "no key": (replaced('key = ["id"]', ""), r"`input.key` is missing"),
    # A value of the wrong type, or out of range.
    "model is no table": (replaced('[model]\nname = "churn"', 'model = "churn"'), r"`model` is not(?s:.)*a table"),
    "input is a list": ("input = [1]\n[model]\nname = 'churn'", r"`input` is not valid(?s:.)*a table"),
    "key is text": (replaced('["id"]', '"id"'), r"`input.key` is not valid(?s:.)*a list(?s:.)*got +'id'"),
    "key is a number": (replaced('["id"]', "[1]"), r"`input.key.0`: Input should be a valid string"),
    "key is empty": (replaced('["id"]', "[]"), r"`input.key` is not valid(?s:.)*at least one"),
    "key is blank": (replaced('["id"]', '[""]'), r"`input.key.0` is not valid(?s:.)*some text"),
    "features are empty": (JOB + "features = []", r"`input.features` is not valid(?s:.)*at least one"),
    "share as text": (table("policy", "max_quarantined = '0.5'"), r"`policy.max_quarantined`: .*number(?s:.)*'0.5'"),
    "share as percent": (
        table("policy", "max_quarantined = 5"),
        r"`policy.max_quarantined`: .*less than or equal to 1",
    ),
    "share is NaN": (table("policy", "max_quarantined = nan"), r"`policy.max_quarantined`"),
    "share is true": (table("policy", "max_quarantined = true"), r"`policy.max_quarantined`: .*number"),
    "unknown policy": (table("policy", "null_keys = 'drop'"), r"`policy.null_keys`: .*'quarantine' or 'fail'"),
    "negative lookback": (table("schedule", "lookback_days = -1"), r"`schedule.lookback_days`: .*or equal to 0"),
    "half a day": (table("schedule", "lookback_days = 1.5"), r"`schedule.lookback_days`: .*integer"),
    "no device": (table("engine", "device = 'gpu'"), r"`engine.device` is not valid(?s:.)*auto, cpu, cuda"),
    "no size": (table("engine", "memory_limit = 'lots'"), r"`engine.memory_limit` is not valid(?s:.)*such as 400MB"),
    "no thread": (table("engine", "threads = 0"), r"`engine.threads`: .*greater than 0"),
    "a million threads": (table("engine", "threads = 1000000"), r"`engine.threads`: .*less than or equal to 1024"),
    "half precision": (table("engine", "precision = 'float16'"), r"`engine.precision`: .*'float32' or 'bfloat16'"),
    "compile as text": (table("engine", "compile = 'yes'"), r"`engine.compile`: .*boolean"),
    "no rows": (table("engine", "batch_rows = 0"), r"`engine.batch_rows`: .*greater than 0"),
    "time as description": ("description = 2026-01-01\n" + JOB, r"`description`: Input should be a valid string"),
    "bad time zone": (
        table("schedule", "timezone = 'Mars/Olympus'"),
        r"`schedule.timezone`: 'Mars/Olympus' is not a time",
    ),
    "time zone as a path": (
        table("schedule", "timezone = '../UTC'"),
        r"`schedule.timezone`: '../UTC' is not a time zone",
    ),
    "no time zone": (table("schedule", "timezone = ''"), r"`schedule.timezone`: '' is not a time zone"),
    "model as a path": (replaced('"churn"', '"../churn"'), r"`model.name` is not valid(?s:.)*letters, digits"),
    "version with a line": (replaced('"churn"', '"churn"\nversion = "v1\\n"'), r"`model.version` is not valid"),
    # Where the rows are.
    "other placeholder": (replaced("{ds}", "{date}"), r"`input.path`: the placeholders are \{ds\}, \{year\}"),
    "part of a day": (replaced("*.parquet", "{hour}.parquet"), r"\{hour\} in .* is the same for all days"),
    "day without its month": (replaced("{ds}", "{day}"), "is the same for 2026-01-01 and 2026-02-01"),
    "unknown directive": (replaced("{ds}", "{ds:%Q}"), "`input.path`: %Q is not supported"),
    "format of a part": (replaced("{ds}", "{day:%d}"), r"only \{ds\} takes a format"),
    "every": (table("schedule", "every = 'fortnight'"), "`schedule.every`"),
    "lookback in days": (table("schedule", "every = 'week'\nlookback_days = 3"), "a job of weeks says `lookback`"),
    "both lookbacks": (table("schedule", "lookback = 1\nlookback_days = 3"), "are the same; give one"),
    "weekdays of hours": (
        table("schedule", "every = 'hour'\n[drift]\nsame_weekday = true"),
        "same_weekday is for jobs of",
    ),
    "hours twice": (
        replaced("{ds}", "{ds:%Y%m%dT%H}").replace(
            "[input]", "[schedule]\nevery = 'hour'\ntimezone = 'Europe/Berlin'\n[input]"
        ),
        "is the same for 2026-10-25T00Z and 2026-10-25T01Z.*%z",
    ),
    "negative lag": (table("schedule", "lag = '-1h'"), "`schedule.lag`"),
    "no placeholder": (replaced("ds={ds}", "all"), r"no path contains \{ds\}"),
    "up and out": (replaced("unscored", "../unscored"), r"`input.path`: a path pattern may not contain '\.\.'"),
    "NUL in the path": (replaced("unscored", "un\\u0000scored"), r"`input.path`: .*NUL"),
    "empty path": (replaced("unscored/ds={ds}/*.parquet", ""), r"`input.path` is not valid"),
    "two inputs": (replaced(PATH, f"{PATH}\n{SELECT}") + SOURCES, r"`input`: give either `path` or `select`"),
    "none": (replaced(PATH, ""), r"`input`: give either `path` or `select`"),
    "select alone": (replaced(PATH, SELECT), r"`input`: `select` and `sources` belong together"),
    "path with sources": (JOB + SOURCES, r"`input`: `select` and `sources` belong together"),
    "source out": (replaced(PATH, SELECT) + SOURCES.replace("orders/", "../"), r"`input.sources.orders`: .*'\.\.'"),
    "source's name": (
        replaced(PATH, SELECT) + SOURCES.replace("orders =", "'a b' ="),
        r"`input.sources.a b` is not valid",
    ),
    "select outside": (
        replaced(PATH, 'select = "../x.sql"') + SOURCES,
        r"must be in the job's folder(?s:.)*\.\./x.sql",
    ),
    "select absolute": (replaced(PATH, 'select = "/etc/passwd"') + SOURCES, r"must be in the job's folder"),
    "select absent": (replaced(PATH, SELECT) + SOURCES, r"the SELECT file does not exist(?s:.)*churn/features.sql"),
    "NUL in select": (replaced(PATH, 'select = "x\\u0000"') + SOURCES, r"`input.select`"),
    # Columns.
    "reserved key": (replaced('"id"', '"prediction"'), r"`input`: a prediction has a column 'prediction' of its own"),
    "reserved in capitals": (replaced('"id"', '"Run_ID"'), r"`input`: a prediction has a column 'Run_ID' of its own"),
    "partition as key": (replaced('"id"', '"ds"'), r"`input`: a prediction has a column 'ds' of its own"),
    "class as carried": (JOB + 'carry = ["prob_class_0"]', r"a prediction has a column 'prob_class_0' of its own"),
    "ours as carried": (JOB + 'carry = ["quarantined_at"]', r"a prediction has a column 'quarantined_at' of its own"),
    "key twice": (replaced('["id"]', '["id", "id"]'), r"`input`: key names 'id' twice"),
    "key twice, capitals": (replaced('["id"]', '["id", "ID"]'), r"`input`: key names 'id' twice"),
    "carried twice": (JOB + 'carry = ["x", "x"]', r"`input`: carry names 'x' twice"),
    "feature twice": (JOB + 'features = ["x", "x"]', r"`input`: features names 'x' twice"),
    "key is carried": (JOB + 'carry = ["id"]', r"`input`: id is in both key and carry"),
    # No TOML.
    "not TOML": (JOB + "x = \n", r"job.toml cannot be read: Invalid value \(at line 8, column 5\)"),
    "twice": (JOB + 'key = ["id"]', r"job.toml cannot be read: Cannot overwrite a value "),
    "deep": ("x = " + "[" * 5000, r"job.toml cannot be read"),
    "long number": ("x = " + "9" * 5000, r"job.toml cannot be read"),
    "target without a kind": (target('name = "t"'), r"`publish\.0\.kind` is missing(?s:.*)add publish\.0\.kind to job"),
    "unknown kind of target": (
        target('name = "t"\nkind = "redsi"'),
        "`publish.0.kind` is not valid, did you mean 'redis'(?s:.*)redis, export, flags(?s:.*)got       'redsi'",
    ),
    "target without a name": (target('kind = "redis"'), "`publish.0.name` is missing"),
    "misspelt key of a target": (
        target('name = "t"\nkind = "redis"\nfromat = "json"'),
        "unknown key `publish.0.fromat`, did you mean 'format'",
    ),
    "secret instead of its variable": (
        target('name = "t"\nkind = "redis"\nurl = "redis://:pw@host"'),
        "`publish.0.url` is not valid(?s:.*)the name of an environment variable((?!pw@)(?s:.))*$",
    ),
    "columns that are a number": (
        target('name = "t"\nkind = "redis"\ncolumns = 3'),
        "`publish.0.columns` is not valid",
    ),
    "one table for all targets": (table("publish", 'name = "t"'), r"expected  \[\[publish\]\], in double brackets"),
    "two targets of one name": (
        target('name = "t"\nkind = "redis"\n[[publish]]\nname = "t"\nkind = "redis"'),
        r"two \[\[publish\]\] tables are called 't'",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_job_with_a_mistake_is_refused_and_the_key_named(read: Read, text: str, message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        read(text)
    assert caught.value.where is not None
    assert "/churn/" in caught.value.where
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (replaced("key =", "kye ="), 7),
        (replaced('name = "churn"', "nmae = 'x'"), 3),
        (table("policy", "# a comment\nmax_quarantined = 2"), 11),
        (table("drift", 'slices = [\n  "a",\n  3,\n]'), 10),
        (replaced(PATH, f"{PATH}\npartition_by = 'seen'\nselect = 'x'"), 5),
        ('[model]\nname = "a"\n[input]\n' + PATH + "\nkey =\n", None),
    ],
)
def test_mistake_in_a_job_names_its_line(read: Read, text: str, line: int | None) -> None:
    with pytest.raises(JobError) as caught:
        read(text)
    if line is None:
        assert "line" in caught.value.what  # of what is no TOML, as tomllib says it
    else:
        assert str(caught.value.where).endswith(f"job.toml, line {line}")


@pytest.mark.parametrize(("text", "share"), [("'5%'", 0.05), ("'0.5 %'", 0.005), ("0.2", 0.2), ("'100%'", 1.0)])
def test_share_may_be_written_in_percent(read: Read, text: str, share: float) -> None:
    assert read(table("policy", f"max_quarantined = {text}")).policy.max_quarantined == share


@pytest.mark.parametrize("text", ["'5'", "'120%'", "'-1%'", "5", "'%'"])
def test_share_that_is_none_is_refused(read: Read, text: str) -> None:
    with pytest.raises(JobError, match=r"policy\.max_quarantined"):
        read(table("policy", f"max_quarantined = {text}"))


def test_job_not_in_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b'description = "\xff"')
    with pytest.raises(JobError, match=r"job\.toml cannot be read"):
        read_job(tmp_path, Settings())


def test_job_select_through_a_link_out_of_the_folder_is_refused(read: Read, tmp_path: Path) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "secret.sql").write_text("SELECT 1")
    (tmp_path / "churn" / "features.sql").symlink_to(tmp_path / "secret.sql")
    with pytest.raises(JobError, match="must be in the job's folder"):
        read(replaced(PATH, SELECT) + SOURCES)


def test_job_select_not_in_utf8_is_refused(read: Read, tmp_path: Path) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / "features.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(JobError, match=r"cannot be read(?s:.)*features\.sql"):
        assert read(replaced(PATH, SELECT) + SOURCES).select_text


def test_job_with_a_select_has_its_text_and_views(read: Read) -> None:
    job = read(replaced(PATH, SELECT) + SOURCES, **{"features.sql": "SELECT 1 AS é"})
    assert job.select_text == "SELECT 1 AS é"
    assert job.input.patterns == {"orders": "orders/ds={ds}/*.parquet"}


def test_job_digest_follows_what_matters_alone(read: Read, tmp_path: Path) -> None:
    first = read().digest
    folder = tmp_path / "churn"
    for ignored in (".job.toml.swp", "__pycache__/x.pyc", ".git/HEAD"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / ignored).write_text("x")
    assert digest(folder) == first
    assert read(JOB + "\n# a remark").digest != first
    assert read(JOB, **{"input.json": "{}"}).digest != first
    assert read(JOB, **{"input.json": "{ }"}).digest != read(JOB, **{"input.json": "{}"}).digest


def test_job_days_look_back_from_the_last_day_that_is_over(read: Read) -> None:
    job = read(table("schedule", "timezone = 'Pacific/Auckland'\nlookback_days = 2"))
    assert job.last_due(datetime(2026, 3, 1, 10, 30, tzinfo=UTC)).ds == "2026-02-28"  # 23:30 there
    assert job.last_due(datetime(2026, 3, 1, 11, 30, tzinfo=UTC)).ds == "2026-03-01"  # 00:30 of the next day there
    assert job.days("2026-03-01") == ["2026-03-01", "2026-02-28", "2026-02-27"]


def test_find_job_misspelt_name_names_the_nearest(tmp_path: Path, read: Read) -> None:
    read()
    settings = Settings(jobs=tmp_path)
    assert job_names(settings) == ["churn"]
    with pytest.raises(JobError, match=r"no job is called 'chrun', did you mean 'churn'\?") as caught:
        find_job("chrun", settings)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a\n", "a" * 65, "é"])
def test_find_job_by_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used as a name"):
        find_job(name, Settings(jobs=tmp_path))


@pytest.mark.parametrize("name", ["../churn", "/etc", "..", ".", "nowhere/"])
def test_find_job_by_a_folder_without_job_toml_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"has no job\.toml"):
        find_job(name, Settings(jobs=tmp_path / "jobs"))


def test_find_job_by_its_folder_is_found(tmp_path: Path, read: Read) -> None:
    expected = read()
    assert find_job(str(tmp_path / "churn"), Settings()) == expected


# Overrides by the machine's settings


def test_settings_from_the_environment_override_the_job(read: Read) -> None:
    environ = {
        "LAKESCORE_LAKE": "/data/lake",
        "LAKESCORE_JOBS": "/data/jobs",
        "LAKESCORE_MODELS": "/data/models",
        "LAKESCORE_DEVICE": "cpu",
        "LAKESCORE_MEMORY_LIMIT": "2GiB",
        "LAKESCORE_THREADS": "3",
    }
    settings = Settings.from_environment(environ)
    assert (settings.lake, settings.jobs, settings.models) == ("/data/lake", Path("/data/jobs"), "/data/models")
    text = table("engine", "device = 'cuda:1'\nmemory_limit = '1GB'\nthreads = 8\nbatch_rows = 100")
    assert read(text, settings).engine == Engine(device="cpu", memory_limit="2GiB", threads=3, batch_rows=100)
    assert read(text, Settings.from_environment({})).engine == Engine(
        device="cuda:1", memory_limit="1GB", threads=8, batch_rows=100
    )


def test_settings_address_of_the_pages_overrides_that_of_the_job(read: Read) -> None:
    text = table("report", "address = 'https://lake.example.org/shop'")
    assert read(text).report.address == "https://lake.example.org/shop"
    pages = Settings.from_environment({"LAKESCORE_PAGES": "http://127.0.0.1:8000"})
    assert read(text, pages).report.address == read(settings=pages).report.address == "http://127.0.0.1:8000"
    assert read(text, Settings.from_environment({"LAKESCORE_PAGES": ""})).report.address == read(text).report.address


def test_settings_do_not_change_the_digest_of_the_job(read: Read) -> None:
    assert read(settings=Settings(threads=1)).digest == read(settings=Settings(threads=2)).digest


@pytest.mark.parametrize("threads", ["", "0", "-1", "two", "1.5", " ", "0x2"])
def test_settings_bad_number_of_threads_is_refused(threads: str) -> None:
    with pytest.raises(UsageError, match="LAKESCORE_THREADS is not a number of threads"):
        Settings.from_environment({"LAKESCORE_THREADS": threads})


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (Settings(device="gpu"), "LAKESCORE_DEVICE"),
        (Settings(memory_limit="lots"), "LAKESCORE_MEMORY_LIMIT"),
        (Settings(threads=100_000), "LAKESCORE_THREADS"),
        (Settings(pages="lake.example.org"), "LAKESCORE_PAGES"),
    ],
)
def test_settings_bad_engine_names_the_variable(read: Read, settings: Settings, variable: str) -> None:
    with pytest.raises(JobError) as caught:
        read(settings=settings)
    assert caught.value.where == f"the environment variable {variable}"


# Arbitrary content

TEXTS = st.sampled_from(["id", "ds={ds}", "..", "features.sql", "UTC", "fail", "cpu", "1GB", "\0", "é"]) | st.text()
SCALARS = st.booleans() | st.integers() | st.floats() | st.dates() | TEXTS
VALUES = st.recursive(
    SCALARS | st.lists(TEXTS, max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)
KEYS = {
    "model": ["name", "version"],
    "input": ["path", "select", "sources", "key", "features", "carry"],
    "policy": ["null_features", "extra_columns", "missing_input", "max_quarantined"],
    "schedule": ["timezone", "lookback_days"],
    "engine": ["device", "memory_limit", "threads", "batch_rows", "precision", "compile"],
}
PLACES = st.sampled_from([(name, key) for name, keys in KEYS.items() for key in keys]) | st.tuples(
    st.sampled_from(list(KEYS)), TEXTS
)


def toml(value: Any) -> str:
    """Writes a value as TOML, on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(str(name))} = {toml(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def read_anything(content: bytes) -> Job | None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "features.sql").write_text("SELECT 1")
        (Path(folder) / "job.toml").write_bytes(content)
        try:
            return read_job(Path(folder), Settings())
        except JobError:
            return None


@pytest.mark.slow
@given(st.lists(st.tuples(PLACES, VALUES), max_size=3))
def test_job_with_any_values_is_a_job_or_a_job_error(changes: list[tuple[tuple[str, str], Any]]) -> None:
    document: dict[str, dict[str, Any]] = {
        "model": {"name": "churn"},
        "input": {"path": "unscored/ds={ds}/*.parquet", "key": ["id"]},
    }
    for (name, key), value in changes:
        document.setdefault(name, {})[key] = value
    job = read_anything("\n".join(f"{name} = {toml(value)}" for name, value in document.items()).encode())
    assert job is None or job.config()["input"]["key"]
    assert job is not None or changes


@given(st.binary() | st.text().map(str.encode))
def test_job_from_any_file_is_a_job_error(content: bytes) -> None:
    assert read_anything(content) is None


@pytest.mark.parametrize("name", sorted(VIEWS_OF_A_RUN))
def test_source_named_like_a_view_of_a_run_is_refused(read: Read, name: str) -> None:
    source = f'select = "rows.sql"\nsources = {{ {name.upper()} = "x/{{ds}}/*.parquet" }}'
    text = re.sub(r'path = ".*"', source, JOB)
    with pytest.raises(JobError, match="a run has a view of that name"):
        read(text, **{"rows.sql": "SELECT 1"})


def test_views_of_a_run_are_those_that_its_rooms_create() -> None:
    """Read from the source: a view that is created anywhere in a run has its name in the list, unless no source can."""
    package = Path(__file__).parent.parent.parent / "pipeline"
    created = {
        name
        for room in ("selecting", "scoring", "committing", "profiles")
        for path in (package / room).glob("*.py")
        for name in re.findall(r'(?:create_view|create|stored_view)\(\s*"([a-z][a-z_]*)"', path.read_text("utf-8"))
    }
    assert created <= VIEWS_OF_A_RUN
