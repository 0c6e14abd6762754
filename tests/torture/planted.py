"""Mutations that once went unnoticed, each with the tests that must notice it. `mutations.py` plants them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    what: str
    path: str
    old: str
    """Text that occurs once in the file."""
    new: str
    tests: tuple[str, ...]


PLANTED = (
    Planted(
        "_SUCCESS is not removed before publishing",
        "pipeline/committing/stage.py",
        "            if staged or withdrawing:\n                lake.storage.delete(partition.success)\n",
        "",
        ("tests/committing/test_stage.py::test_commit_that_is_killed_after_publishing_leaves_no_mark_of_before",),
    ),
    Planted(
        "an imbalance without a second look at the base",
        "pipeline/committing/stage.py",
        "    except LedgerImbalance as error:\n        check()\n",
        "    except LedgerImbalance as error:\n",
        ("tests/committing/test_stage.py::test_commit_that_does_not_add_up_because_of_a_rollback_is_planned_again",),
    ),
    Planted(
        "a rest file is not recognised after a lost answer",
        "pipeline/committing/publication.py",
        "for entry in [entry for entry in pending if entry[0].name.removeprefix(REST) == name]:",
        "for entry in [entry for entry in pending if entry[0].name == name]:",
        ("tests/committing/test_publication.py::test_commit_lost_response_for_the_rest_of_a_file_is_recognised",),
    ),
    Planted(
        "parts without the files of other runs",
        "pipeline/committing/stage.py",
        '"parts": (*record.plan.base, *published.seen),',
        '"parts": (*record.plan.base, *published.own),',
        (
            "tests/committing/test_stage.py::test_commit_same_changes_by_two_runs_are_counted_once_and_both_see_all_parts",
        ),
    ),
    Planted(
        "the second removal of the mark in rollback",
        "pipeline/care/rollback.py",
        "sees the emptied files.\n    lake.storage.delete(partition.success)\n",
        "sees the emptied files.\n",
        ("tests/care/test_care.py::test_rollback_removes_a_mark_that_is_set_while_it_empties_files",),
    ),
    Planted(
        "meanwhile.sql with arg_min",
        "sql/committing/meanwhile.sql",
        "arg_max_null(fingerprint, revision)",
        "arg_min_null(fingerprint, revision)",
        ("tests/committing/test_stage.py::test_commit_row_published_twice_meanwhile_counts_by_its_newest_revision",),
    ),
    Planted(
        "meanwhile.sql without its anti-join with the scored rows",
        "sql/committing/meanwhile.sql",
        "FROM staged AS s ANTI JOIN scored AS p ON p.__key = s.__key",
        "FROM staged AS s",
        (
            "tests/committing/test_stage.py::test_commit_repeated_after_another_run_has_changed_its_rows_counts_them_once",
        ),
    ),
    Planted(
        "meanwhile.sql without its anti-join with the staged rows",
        "sql/committing/meanwhile.sql",
        "    ANTI JOIN staged AS s ON s.__key = p.__key\n",
        "",
        (
            "tests/committing/test_stage.py::test_commit_same_changes_by_two_runs_are_counted_once_and_both_see_all_parts",
        ),
    ),
    Planted(
        "meanwhile.sql without its anti-join with the rejected rows",
        "sql/committing/meanwhile.sql",
        "    ANTI JOIN rejected AS q ON q.__key = p.__key\n",
        "",
        ("tests/committing/test_stage.py::test_commit_row_that_is_rejected_here_and_published_meanwhile_counts_once",),
    ),
    Planted(
        "hash sums are not recounted under another version of DuckDB",
        "pipeline/committing/ledger.py",
        "if plan.duckdb != duckdb.__version__:",
        "if False:",
        (
            "tests/committing/test_stage.py::test_commit_under_another_version_of_duckdb_counts_the_hashes_of_the_candidates_anew",
        ),
    ),
    Planted(
        "a file gets its name without fsync",
        "pipeline/storage/local.py",
        "    sync_file(temporary)\n    temporary.replace(target)\n",
        "    temporary.replace(target)\n",
        ("tests/storage/test_local.py",),
    ),
    Planted(
        "create does not sync the parents",
        "pipeline/storage/local.py",
        "for folder in (target.parent, *_between(target.parent, self.root)):",
        "for folder in (target.parent,):",
        ("tests/storage/test_local.py",),
    ),
    Planted(
        "staged work of a stopped run is taken for dead",
        "pipeline/staging/folders.py",
        "return other.state is not State.stopped and is_at_work(ctx.lake, other) is False",
        "return is_at_work(ctx.lake, other) is False",
        ("tests/committing/test_stage.py::test_run_staged_by_a_run_that_was_stopped_for_its_data_is_not_cleared_away",),
    ),
    Planted(
        "adoption without the check of the columns",
        "pipeline/staging/adopting.py",
        "            if not file.schema_arrow.equals(schema):\n                return False\n",
        "",
        ("tests/committing/test_stage.py::test_run_staged_file_that_was_changed_is_not_adopted",),
    ),
    Planted(
        "erase drops rows with a NULL key",
        "pipeline/care/erase.py",
        '~of_key | ColumnExpression("key_text").isnull()',
        "~of_key",
        ("tests/care/test_erase.py::test_erase_keeps_rows_whose_key_is_null",),
    ),
    Planted(
        "drift without the factor 2 for missing values",
        "pipeline/drift/comparing.py",
        "min(1.0, 2 * min(p_value, p_missing))",
        "min(1.0, min(p_value, p_missing))",
        ("tests/drift/test_comparing.py",),
    ),
    Planted(
        "dropout_p is let through in a program",
        "pipeline/model/operations.py",
        ' or given.get("dropout_p", 0) != 0',
        "",
        ("tests/model/test_program.py",),
    ),
    Planted(
        "min_val is let through in a program",
        "pipeline/model/program.py",
        ' or (limits.get("min_val") or 0) > 2:',
        ":",
        ("tests/model/test_program.py",),
    ),
    Planted(
        "a run that was rolled back between two stages is taken up again",
        "pipeline/flow/single_stage.py",
        'return None if early or name == "commit" else record',
        "return record",
        (
            "tests/care/test_care.py::test_rollback_between_two_stages_of_a_run_that_has_published_nothing_ends_that_run",
        ),
    ),
    Planted(
        "two lakes publish under one prefix",
        "pipeline/publish/redis_sender.py",
        '"target": self._target.name, "lake": self._lake}',
        '"target": self._target.name}',
        ("tests/publish/test_redis_sender.py::test_another_lake_with_the_same_job_is_refused",),
    ),
    Planted(
        "the id of a lake is made again each time",
        "pipeline/lake/layout.py",
        'if isinstance(found := marker.get("id"), str):',
        'if isinstance(found := marker.get("id"), bytes):',
        ("tests/lake/test_layout.py::test_identity_is_made_once_and_is_that_of_the_lake_wherever_it_lies",),
    ),
    Planted(
        "an erasure leaves the examples of validations",
        "pipeline/care/erase.py",
        "            remove_examples(lake, file, folder)\n",
        "            pass\n",
        ("tests/care/test_examples.py::test_erase_removes_the_examples_of_the_job_and_their_pages",),
    ),
    Planted(
        "an erasure leaves the pages with examples",
        "pipeline/care/examples.py",
        "    lake.storage.delete(f",
        "    lake.storage.head(f",
        ("tests/care/test_examples.py::test_erase_removes_the_examples_of_the_job_and_their_pages",),
    ),
    Planted(
        "an erasure without a trace removes examples",
        "pipeline/care/examples.py",
        "return found if traced else []",
        "return found",
        ("tests/care/test_examples.py::test_erase_of_a_key_without_a_trace_leaves_the_examples",),
    ),
    Planted(
        "an example that is the key is no trace",
        "pipeline/care/examples.py",
        "traced = traced or values <= {text for each in examples for text in each}",
        "traced = traced or False",
        ("tests/care/test_examples.py::test_example_that_is_the_key_is_a_trace_of_its_own",),
    ),
    Planted(
        "a server that does not tell its policy is no answer",
        "pipeline/publish/redis_memory.py",
        'found.get("maxmemory_policy", "")',
        'found["maxmemory_policy"]',
        ("tests/publish/test_redis_sender.py::test_server_that_does_not_tell_its_memory_is_written_to_with_a_warning",),
    ),
    Planted(
        "rollback says the same whatever there was to do",
        "pipeline/care/rollback.py",
        "        if self.before is State.rolled_back:\n",
        "        if True:\n",
        ("tests/cli/test_care.py::test_command_rollback_says_what_there_was_to_do",),
    ),
)
