"""Break, one at a time, the lines that keep the invariants, and require that the named test fails without each.

Run as ``python tests/mutations.py``; works on a copy of the tree. With ``--write`` it writes mutations.md, the same
table for people, which otherwise must say the same already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "tests/mutations.md"
PATIENCE = 300  # seconds for one test
FAILED = 1  # pytest's exit code for tests that failed, and not for tests that could not be run


@dataclass(frozen=True)
class Mutation:
    """A line that keeps an invariant, and what it looks like broken.

    Args:
        invariant: Which, as the page of invariants numbers them.
        broken: What is wrong with the mutant, in words.
        file: Below ``src/holdfast``.
        line: The text; it is there exactly once.
        mutant: What stands there instead.
        test: The test that fails then, as pytest names it.
    """

    invariant: str
    broken: str
    file: str
    line: str
    mutant: str
    test: str


MUTATIONS = (
    Mutation(
        "I1",
        "a shard of another save passes in a folder",
        "catalog/directories.py",
        "if file not in listed and file != INDEX]",
        "if False]",
        "tests/engine/test_sharded.py::test_pain_46_a_stale_or_missing_shard_is_noticed",
    ),
    Mutation(
        "I1",
        "nobody looks at the shards that other ranks read",
        "training/resume.py",
        "                found.verify()\n",
        "                pass\n",
        "tests/strategies/test_folders.py::test_a_damaged_shard_fails_on_all_ranks_or_is_walked_back_from",
    ),
    Mutation(
        "I2",
        "a folder goes file by file",
        "store/folders.py",
        "        os.rename(path, aside)\n",
        "        os.rename(path, path)\n        aside = path\n",
        "tests/store/test_folder_names.py::test_a_folder_goes_as_a_whole_before_its_first_object",
    ),
    Mutation(
        "I1",
        "a file bears a checkpoint's name while it is written",
        "store/base.py",
        'hidden = f".{base}.{owner}.tmp"',
        'hidden = f"{base}.{owner}.ckpt"',
        "tests/torture/test_order.py::test_what_goes_goes_after_its_replacement_is_durable",
    ),
    Mutation(
        "I1",
        "a name is made before its bytes are durable",
        "store/local.py",
        "            files.sync(self._fd)\n",
        "            pass\n",
        "tests/torture/test_order.py::test_what_goes_goes_after_its_replacement_is_durable",
    ),
    Mutation(
        "I1",
        "checksums are not those of the bytes",
        "engine/archive.py",
        "entries = [entry._replace(crc=crc) for",
        "entries = [entry for",
        "tests/torture/test_faults.py::test_a_save_survives_short_writes",
    ),
    Mutation(
        "I1",
        "an entry in several regions keeps the checksum of one",
        "engine/stream.py",
        "            self._sink.write_at(start, bytes(block))\n",
        "            pass\n",
        "tests/engine/test_stream.py::test_a_large_checkpoint_comes_back_and_verifies",
    ),
    Mutation(
        "I1",
        "a write that failed on another thread is passed over",
        "catalog/parallel.py",
        "                self.failure = self.failure or error\n",
        "                pass\n",
        "tests/engine/test_stream.py::test_whichever_write_fails_on_whichever_thread_the_save_fails_once_with_the_path",
    ),
    Mutation(
        "I1",
        "a step does not wait until the save has read what it changes",
        "engine/fence.py",
        "            window.fence()\n",
        "            pass\n",
        "tests/engine/test_lending.py::test_training_goes_on_while_a_save_reads_and_the_step_waits_for_it",
    ),
    Mutation(
        "I1",
        "what changed while it was read is published",
        "engine/fence.py",
        "        if self.moved:\n            raise Moved",
        "        if False:\n            raise Moved",
        "tests/engine/test_lending.py::test_a_save_found_moved_is_thrown_away_and_taken_again_by_copy",
    ),
    Mutation(
        "I1",
        "a change that only a version tells of is not seen",
        "engine/fence.py",
        "return _versions(self.lent) != self.versions or not",
        "return not",
        "tests/engine/test_lending.py::test_a_save_found_moved_is_thrown_away_and_taken_again_by_copy",
    ),
    Mutation(
        "I1",
        "what forward renormalises is lent",
        "engine/lending.py",
        "and table.max_norm is not None",
        "and False",
        "tests/engine/test_lending.py::test_what_may_change_without_a_step_is_copied",
    ),
    Mutation(
        "I2",
        "what is replaced goes although part of the save failed",
        "engine/shelf.py",
        "            if not troubles:\n",
        "            if True:\n",
        "tests/torture/test_order.py::test_a_failed_save_evicts_nothing",
    ),
    Mutation(
        "I2",
        "what is replaced goes before the new name is durable",
        "store/local.py",
        "            move(self._path, path)\n            files.sync_folder(folder)\n",
        "            move(self._path, path)\n",
        "tests/torture/test_order.py::test_what_goes_goes_after_its_replacement_is_durable",
    ),
    Mutation(
        "I2",
        "what is replaced goes before the ledger's line is durable",
        "store/local.py",
        '                files.append(fd, b"\\n" + data if torn else data)\n                files.sync(fd)\n',
        '                files.append(fd, b"\\n" + data if torn else data)\n',
        "tests/torture/test_order.py::test_what_goes_goes_after_its_replacement_is_durable",
    ),
    Mutation(
        "I3",
        "a failure is told again at every later step",
        "engine/engine.py",
        "        self._flight = None\n        try:\n",
        "        try:\n",
        "tests/torture/test_faults.py::test_a_first_failure_warns_once_and_the_next_trigger_tries_again",
    ),
    Mutation(
        "I3",
        "failures in a row never raise",
        "engine/engine.py",
        "_FAILURES_IN_A_ROW = 3",
        "_FAILURES_IN_A_ROW = 300",
        "tests/torture/test_faults.py::test_the_third_failure_in_a_row_raises_and_is_told_once",
    ),
    Mutation(
        "I3",
        "failures add up though saves between them succeeded",
        "engine/engine.py",
        "        self._failures = 0\n        troubles",
        "        troubles",
        "tests/torture/test_faults.py::test_a_success_between_failures_starts_the_count_anew",
    ),
    Mutation(
        "I3",
        "a save by hand fails in silence",
        "engine/engine.py",
        "if last or manual or",
        "if last or",
        "tests/torture/test_faults.py::test_a_save_by_hand_always_raises",
    ),
    Mutation(
        "I3",
        "the last save of a run fails in silence",
        "engine/engine.py",
        "if last or manual or",
        "if manual or",
        "tests/torture/test_faults.py::test_the_last_save_of_a_run_raises_where_it_fails",
    ),
    Mutation(
        "I3",
        "what fails after the commit point is swallowed",
        "engine/shelf.py",
        "        self.troubles = [after",
        "        _ = [after",
        "tests/torture/test_faults.py::test_whichever_call_of_a_save_fails_the_last_good_checkpoint_stands",
    ),
    Mutation(
        "I4",
        "each rank decides by what it sees of the folder",
        "engine/engine.py",
        "        if self._group.rank != 0:\n            told = ",
        "        if False:\n            told = ",
        "tests/torture/test_told.py::test_another_rank_does_what_it_is_told_and_nothing_else",
    ),
    Mutation(
        "I5",
        "the checkpoint that was resumed from may go",
        "engine/shelf.py",
        "len(self._durable) >= 2",
        "len(self._durable) >= 0",
        "tests/checkpointer/test_runs.py::test_the_checkpoint_resumed_from_stays_until_two_newer_ones_are_durable",
    ),
    Mutation(
        "I5",
        "the last healthy checkpoint goes for one whose weights are NaN",
        "engine/shelf.py",
        "going = decided.evict if healthy else",
        "going = decided.evict if True else",
        "tests/engine/test_health.py::test_the_last_healthy_checkpoint_outlives_sick_ones_of_whatever_number",
    ),
    Mutation(
        "I5",
        "what was pinned meanwhile goes",
        "catalog/publish.py",
        "(record.run != run or record.pinned)",
        "record.run != run",
        "tests/checkpointer/test_runs.py::test_a_checkpoint_that_is_pinned_while_its_eviction_is_planned_stays",
    ),
    Mutation(
        "I5",
        "another run's checkpoints are ranked and let go",
        "policy/plan.py",
        "self.before = {r.id: r for r in records if r.run == run}",
        "self.before = {r.id: r for r in records}",
        "tests/checkpointer/test_runs.py::test_a_fresh_run_in_the_same_folder_leaves_the_old_ones_alone",
    ),
    Mutation(
        "I6",
        "a broadcast is begun outside the main thread",
        "engine/group.py",
        "    if threading.current_thread() is not threading.main_thread():\n",
        "    if False:\n",
        "tests/engine/test_group.py::test_solo_refuses_the_same_threads_as_a_larger_group",
    ),
    Mutation(
        "I6",
        "a wait that is over names another rank than the missing one",
        "engine/group.py",
        'absent = [rank for rank in wanted if not self._store.check([f"{key}/{rank}"])]',
        "absent = wanted",
        "tests/engine/test_group.py::test_a_rank_that_does_not_come_is_named_when_the_deadline_passes",
    ),
    Mutation(
        "I6",
        "a rank does not tell the others that it has failed",
        "training/saving.py",
        "        self._agreement.fail(error)\n",
        "        pass\n",
        "tests/strategies/test_failures.py::test_pain_43_the_others_name_the_rank",
    ),
    Mutation(
        "I6",
        "a rescue asks ranks of which one has failed",
        "training/saving.py",
        "                place.engine.alone()\n",
        "                pass\n",
        "tests/strategies/test_failures.py::test_what_is_listed_verifies_and_ddp_leaves_a_rescue",
    ),
    Mutation(
        "I7",
        "a step that is on disk is written again",
        "policy/plan.py",
        "record = next((r for r in reversed(same) if r.progress == now), None)",
        "record = None",
        "tests/policy/test_plan.py::test_a_step_on_disk_is_not_written_again_at_fit_end",
    ),
    Mutation(
        "I7",
        "a save begins while another is being written",
        "engine/mover.py",
        "            ticket.wait()",
        "            pass",
        "tests/torture/test_order.py::test_one_save_is_in_flight_whichever_folder_it_is_of",
    ),
    Mutation(
        "I7",
        "each folder's callbacks write a file of their own",
        "engine/mover.py",
        "(group for group in groups if _can_share(group, taker[0]))",
        "(group for group in groups if False)",
        "tests/training/test_several_folders.py::test_three_callbacks_in_three_folders_write_once_a_step",
    ),
    Mutation(
        "I1",
        "a copy in another file system is published unread",
        "catalog/second.py",
        "if found.verdict is not Verdict.WHOLE:",
        "if False:",
        "tests/catalog/test_second.py::test_a_copy_that_is_not_what_was_saved_is_no_checkpoint",
    ),
    Mutation(
        "I8",
        "a part is loaded before all are known to fit",
        "strategies/single.py",
        "        require_none(problems, checkpoint=checkpoint, remedy=remedy)\n        for",
        "        for",
        "tests/checkpointer/test_bad_input.py::test_all_that_does_not_fit_is_in_one_error_and_nothing_is_changed",
    ),
    Mutation(
        "I8",
        "a trainer loads a part before all are known to fit",
        "training/checkpoint.py",
        "    require_none(problems,",
        "    require_none([],",
        "tests/training/test_resume_refused.py::test_another_models_checkpoint_is_one_clear_error",
    ),
    Mutation(
        "I8",
        "parts are loaded in the order in which they were given",
        "strategies/single.py",
        "for name in sorted(parts, key=lambda n: not isinstance(objects[n], torch.nn.Module)):",
        "for name in parts:",
        "tests/checkpointer/test_checkpointer.py::test_models_are_restored_before_all_else",
    ),
    Mutation(
        "I8",
        "the random state is put back before the loop has begun",
        "training/running.py",
        "                loop.restore_random = resumed.restore_random\n",
        "                resumed.restore_random()\n",
        "tests/training/test_resume_exact.py"
        "::test_a_run_resumed_from_any_of_its_checkpoints_equals_the_uninterrupted_one[hooks that draw]",
    ),
    Mutation(
        "I9",
        "a stale metric ranks a later step",
        "policy/values.py",
        "for name, m in self.metrics.items() if m.step == self.progress.steps}",
        "for name, m in self.metrics.items()}",
        "tests/policy/test_plan.py::test_a_score_of_another_step_is_not_used",
    ),
    Mutation(
        "I9",
        "a stale metric ranks once the ledger is lost",
        "catalog/manifest.py",
        "for n, s in self.metrics.items() if s.step == self.progress.steps}",
        "for n, s in self.metrics.items()}",
        "tests/catalog/test_manifest.py::test_scores_are_those_of_the_own_step",
    ),
    Mutation(
        "I9",
        "weights that are NaN rank",
        "policy/which.py",
        "healthy = [r for r in ordered if r.healthy]",
        "healthy = list(ordered)",
        "tests/policy/test_healthy.py::test_sick_weights_do_not_rank",
    ),
    Mutation(
        "I9",
        "NaN ranks",
        "policy/which.py",
        "if not math.isnan(r.scores.get(self.metric, math.nan))]",
        "if self.metric in r.scores]",
        "tests/policy/test_which.py::test_nan_never_ranks_and_never_displaces",
    ),
    Mutation(
        "I10",
        "what is done is read again",
        "state/order.py",
        "        for begin in range(first, count, at_once):\n",
        "        for begin in range(0, count, at_once):\n",
        "tests/state/test_loader_places.py::test_it_goes_on_at_any_batch",
    ),
    Mutation(
        "I10",
        "what workers draw hangs on what they have drawn before",
        "state/workers.py",
        "    np.random.seed(seed & 0xFFFFFFFF)\n",
        "    pass\n",
        "tests/state/test_loader_workers.py::test_what_workers_draw_hangs_on_the_batch_alone",
    ),
    Mutation(
        "I10",
        "a save at the last batch of a stateful loader loses an epoch",
        "state/feeds.py",
        "        return started(self.loader)\n\n    @property",
        "        return source\n\n    @property",
        "tests/state/test_loader_workers.py::test_a_loader_with_a_state_loses_no_epoch",
    ),
    Mutation(
        "I10",
        "gradients that wait for more batches are lost",
        "training/checkpoint.py",
        '    parts.strategy.load_gradients(parts.module, root.get(OWN, {}).get("gradients", {}))\n',
        "",
        "tests/training/test_resume_exact.py"
        "::test_a_run_resumed_from_any_of_its_checkpoints_equals_the_uninterrupted_one[gradients that wait]",
    ),
    Mutation(
        "I10",
        "a checkpoint inside a step goes on as if it were exact",
        "training/resume.py",
        '    if not loop.get("at_boundary", True):\n',
        "    if False:\n",
        "tests/training/test_saving_interrupted.py::test_a_rescue_not_at_a_steps_end_is_marked_and_going_on_says_so",
    ),
)


def main() -> int:
    """Run all; the exit code says whether each mutant was caught."""
    page = render()
    if "--write" in sys.argv:
        PAGE.write_text(page)
        return 0
    problems = [] if PAGE.read_text() == page else ["mutations.md is not what mutations.py --write would write"]
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        code, reason = run(tree, *dict.fromkeys(mutation.test for mutation in MUTATIONS))
        if code != 0:
            problems.append(f"the named tests do not all pass without any mutation: {reason}")
        else:
            problems += [problem for mutation in MUTATIONS if (problem := trial(tree, mutation))]
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def trial(tree: Path, mutation: Mutation) -> str:
    """Break one line and run its test: what is wrong with the outcome, or nothing."""
    path = tree / "src/holdfast" / mutation.file
    whole = path.read_text()
    if whole.count(mutation.line) != 1:
        return f"{mutation.file} holds {whole.count(mutation.line)} times: {mutation.line.strip()}"
    start = time.monotonic()
    path.write_text(whole.replace(mutation.line, mutation.mutant))
    try:
        code, reason = run(tree, mutation.test)
    finally:
        path.write_text(whole)
    caught = code == FAILED
    outcome = f"caught by '{reason}'" if caught else f"NOT CAUGHT (pytest ended with {code})"
    print(f"{mutation.invariant} {mutation.broken}: {outcome}, {time.monotonic() - start:.0f} s", flush=True)
    return "" if caught else f"{mutation.invariant}: {mutation.broken}: {mutation.test} ended with {code}"


def run(tree: Path, *tests: str) -> tuple[int | str, str]:
    """Pytest's exit code for these tests of the tree, or that they did not end; and the first reason for it."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    paths = os.pathsep.join(filter(None, [str(tree / "src"), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    environment.pop("HOLDFAST_TORTURE", None)  # the sample must catch it
    try:
        ended = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=PATIENCE * len(tests)
        )
    except subprocess.TimeoutExpired:
        return "no end", ""
    reasons = [line.partition(" - ")[2] for line in ended.stdout.splitlines() if line.startswith("FAILED ")]
    return ended.returncode, reasons[0][:120] if reasons else ""


def render() -> str:
    """The table as a page."""
    rows = [
        f"| {m.invariant} | {m.broken} | `{m.file}`: `{_told(m.line)}` "
        f"| `{m.test.partition('::')[2]}` in `{m.test.partition('::')[0]}` |"
        for m in MUTATIONS
    ]
    return "\n".join(
        [
            "# What fails when an invariant is broken",
            "",
            "Written by `python tests/mutations.py --write`. `make torture` breaks each line in a copy of the tree,",
            "and requires that its test fails there.",
            "",
            "| invariant | broken, | the line that keeps it | the test that fails |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _told(line: str) -> str:
    """The text of a line, or of several, in one."""
    return " ".join(line.split())


if __name__ == "__main__":
    sys.exit(main())
