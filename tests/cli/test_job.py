"""`lakescore init` without an example, and `lakescore job new`, `check` and `reference`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from pipeline.errors import SchemaMismatch, UsageError
from pipeline.job.loading import read_job
from pipeline.settings import Settings
from tests.calling import Cli
from tests.workspace import DAY, Workspace, changed, table

ROWS = "customer,order_no,country,signup,amount,items\n" + "".join(
    f"{row // 2:03},{row % 2},{'DE' if row % 3 else 'AT'},2026-01-0{row % 9 + 1},{row * 1.5},{row % 7}\n"
    for row in range(60)
)


@pytest.fixture
def project(cli: Cli, tmp_path: Path) -> Path:
    """A new project, with rows and a model file beside it."""
    cli("init")
    (tmp_path / "rows.csv").write_text(ROWS)
    torch.manual_seed(0)
    layers = {"fc1": torch.nn.Linear(2, 8), "fc2": torch.nn.Linear(8, 8), "fc3": torch.nn.Linear(8, 2)}
    state = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    dimensions = {"input_dim": 2, "hidden_dim": 8, "output_dim": 2}
    torch.save({"model_state_dict": state, **dimensions}, tmp_path / "model.pt")
    return tmp_path


def test_init_makes_a_project_whose_files_it_names(cli: Cli, tmp_path: Path) -> None:
    said = cli("init", "a shop").stdout
    assert f"a new project in {tmp_path}/a shop" in said
    assert "cd 'a shop' && lakescore job new NAME --from" in said
    there = {path.relative_to(tmp_path / "a shop").as_posix() for path in (tmp_path / "a shop").rglob("*")}
    assert there >= {"lakescore.toml", ".gitignore", "dags/jobs", "dags/batch_inference.py"}
    assert "/lake/\n/models/\n" in (tmp_path / "a shop" / ".gitignore").read_text()


def test_init_keeps_what_is_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    cli("init")
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    error = cli("init", expect=UsageError).stderr
    assert "the folder is not empty" in error
    assert "lakescore init FOLDER" in error


def test_job_new_finds_key_features_and_rules_and_is_the_default(cli: Cli, project: Path) -> None:
    said = cli("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt").stdout
    assert "key customer, order_no; 2 features: amount, items" in said
    job = read_job(project / "dags" / "jobs" / "orders", Settings())
    assert (job.input.key, job.input.features) == (("customer", "order_no"), ("amount", "items"))
    assert (job.model.name, job.policy.max_quarantined) == ("orders", 0.05)
    names = {rule["meta"]["name"] for rule in json.loads((job.folder / "input.json").read_text())["expectations"]}
    assert names == {"amount_not_null", "amount_range", "items_not_null", "items_range"}
    assert (project / "lakescore.toml").read_text().endswith('\njob = "orders"\n')
    text = (job.folder / "job.toml").read_text()
    assert re.search(r'"items", +# BIGINT\n', text)
    assert '# carry = ["country", "signup"]' in text


def test_job_new_says_what_becomes_of_empty_features(cli: Cli, project: Path) -> None:
    lines = (project / "rows.csv").read_text().splitlines()
    amount = lines[0].split(",").index("amount")
    cells = lines[1].split(",")
    cells[amount] = ""
    (project / "rows.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    said = cli("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt").stdout
    assert "rows with an empty feature go to quarantine" in said
    assert f"\n  amount is empty in 1 of {len(lines) - 1} rows\n" in said


def test_job_new_prints_commands_that_lead_to_a_run(cli: Cli, project: Path) -> None:
    said = cli("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt").stdout
    steps = [shlex.split(line, comments=True)[1:] for line in said.partition("Next:\n")[2].splitlines()]
    assert [step[0] for step in steps] == ["models", "import", "job", "run"]
    printed = [cli(*step).stdout for step in steps]
    assert "nothing would stop a run" in printed[2]
    assert "60 new" in printed[3]
    assert "customer VARCHAR" in cli(*steps[1], "--replace").stdout  # `007` of a later day is the same key


def test_job_new_takes_the_features_of_a_registered_model(cli: Cli, project: Path) -> None:
    Workspace(project).model(name="other", features=("items", "amount"))
    cli("job", "new", "orders", "--from", "rows.csv", "--model", "other")
    job = read_job(project / "dags" / "jobs" / "orders", Settings())
    assert (job.model.name, job.model.version, job.input.features) == ("other", "production", ("items", "amount"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--key", "custmer"), "no column is called 'custmer', did you mean 'customer'"),
        (("--features", "amount,itms"), "no column is called 'itms', did you mean 'items'"),
        (
            ("--key", "customer"),
            r"the features cannot(?s:.)*expected  2 features\n +got +3 columns with numbers",
        ),
        (("--model", "nowhere"), "no model is called 'nowhere', and no file"),
        (
            ("--types", "customer=VARCHAR,order_no=VARCHAR", "--rename", "amount=customer2"),
            "the features cannot be told",
        ),
    ],
)
def test_job_new_says_what_it_cannot_tell_and_writes_nothing(
    cli: Cli, project: Path, options: tuple[str, ...], said: str
) -> None:
    given = {"--model": "model.pt", **dict(zip(options[::2], options[1::2], strict=True))}
    if "--rename" in given:
        given["--key"] = "customer,order_no,items"
    words = [word for pair in given.items() for word in pair]
    done = cli("job", "new", "orders", "--from", "rows.csv", *words, expect=2 if "cannot" in said else 1)
    assert re.search(said, done.stderr)
    assert not (project / "dags" / "jobs" / "orders").exists()


def test_job_new_asks_for_a_key_that_it_does_not_find(cli: Cli, project: Path) -> None:
    (project / "rows.csv").write_text("a,b\n1.5,2\n1.5,2\n")
    said = cli("job", "new", "orders", "--from", "rows.csv", expect=UsageError).stderr
    assert "next      name the columns: --key a,b" in said


def test_job_new_leaves_a_job_alone(cli: Cli, project: Path) -> None:
    cli("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt")
    assert "there is a job 'orders' already" in cli("job", "new", "orders", "--from", "rows.csv", expect=2).stderr


def test_job_check_tells_all_problems_and_writes_nothing(workspace: Workspace, cli: Cli) -> None:
    workspace.job(model="gone")
    (workspace.settings.jobs / "toy" / "input.json").write_text("{")
    said = cli("job", "check", "--job", "toy", "--date", DAY, expect=1).stdout
    assert "3 problems found" in said
    for subject in ("model", "suites", f"input of {DAY}"):
        assert f"problem  {subject}: " in said
    assert f"lakescore import FILES --job toy --date {DAY}" in said
    assert not workspace.lake.exists()


def test_job_check_tells_what_would_stop_a_run(workspace: Workspace, cli: Cli) -> None:
    path = workspace.job() / "job.toml"
    path.write_text(path.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.1"))
    workspace.day(changed(table(10), "a", dict.fromkeys(range(5))))
    before = workspace.files()
    (*_, run) = json.loads(cli("job", "check", "--json", expect=1).stdout)
    assert run["subject"] == f"run of {DAY}"
    assert "5 of 10 rows would be quarantined, 50.0%" in run["error"]["got"]
    assert workspace.files() == before


def test_job_reference_explains_each_key(cli: Cli) -> None:
    said = cli("job", "reference").stdout
    assert "max_quarantined = 0.05" in said
    assert "[schedule]" in said


COMMAS = "customer;country;amount;items\n" + "".join(f"c{row:03};DE;{row},{row % 9};{row % 7}\n" for row in range(60))


def test_job_new_proposes_the_decimal_comma_and_then_keeps_it(cli: Cli, project: Path) -> None:
    (project / "rows.csv").write_text(COMMAS)
    new = ("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt")
    for options in ((), ("--features", "amount,items")):
        said = cli(*new, *options, expect=SchemaMismatch).stderr
        assert re.search(r"got +amount, such as '\d+,\d'\n", said)
        assert "--decimal ," in said
    said = cli(*new, "--decimal", ",").stdout
    assert "2 features: amount, items" in said
    assert re.search(r"lakescore import rows.csv .* --decimal ,", said)


def test_job_new_refuses_text_as_a_feature_of_a_model_of_numbers(cli: Cli, project: Path) -> None:
    new = ("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt")
    said = cli(*new, "--features", "country,items", expect=SchemaMismatch).stderr
    assert "a feature is text, and the model takes numbers: country" in said
    assert not (project / "dags" / "jobs" / "orders").exists()


@pytest.mark.parametrize("model", ["../gone.pt2", "/tmp/gone.pt"])
def test_job_new_says_that_there_is_no_such_model_file(cli: Cli, project: Path, model: str) -> None:
    said = cli("job", "new", "orders", "--from", "rows.csv", "--model", model, expect=UsageError).stderr
    assert "no such file" in said
    assert model in said


def test_job_check_before_the_model_and_the_first_import_says_what_to_do(cli: Cli, project: Path) -> None:
    cli("job", "new", "orders", "--from", "rows.csv", "--model", "model.pt")
    said = cli("job", "check", expect=1).stdout
    assert re.search(r"next +lakescore models register CHECKPOINT --name orders", said)
    assert "expected" not in said.partition("suites")[0]
    assert "lakescore import FILES" in cli("plan", expect=UsageError).stderr


def test_job_check_finds_a_misspelt_feature_in_the_job(cli: Cli, workspace: Workspace) -> None:
    workspace.day(20)
    folder = workspace.job(features='features = ["a", "bb"]')
    said = cli("job", "check", "--job", "toy", expect=1).stdout
    assert "ok       model" not in said
    assert "the job's features include bb (did you mean 'b'?)" in said
    run = cli("run", "--job", "toy", "--date", DAY, expect=1).stderr
    assert re.search(rf"where +\S*{folder.relative_to(workspace.root)}/job.toml", run)


def test_plan_without_a_date_names_the_newest_day_with_input(cli: Cli, workspace: Workspace) -> None:
    workspace.day(20)
    assert f"the newest with input is {DAY}: --date {DAY}" in cli("plan", "--job", "toy", expect=1).stderr
