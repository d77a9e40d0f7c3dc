"""The rows of output, and what they amount to."""

from __future__ import annotations

import tracemalloc

import pytest

from pgonly_django.context.output import RunOutput
from pgonly_django.context.unwritten import UnwrittenOutput
from pgonly_django.models import JobOutput
from pgonly_django.models.job import State
from pgonly_django.queue import output as module
from pgonly_django.queue.output import (
    PART_LENGTH,
    PartRow,
    SeenRow,
    keep,
    load_output,
    part_of_loop,
    place,
    read_output,
    write_output,
)
from tests.queue.rows import make_running, while_locked


def said(job, number, start, text, lease_epoch=1, **facts):
    return SeenRow(str(job.id), lease_epoch, place(lease_epoch, number), start, text, **facts)


def text_of(job):
    return read_output("default", job.id).text


def test_rows_are_applied_in_the_order_of_their_places(server):
    job = make_running()
    for number, start, text in [(1, 0, "Hello"), (3, 9, "!"), (2, 4, "o Bob")]:
        assert write_output(server, [said(job, number, start, text)]) == {str(job.id)}
    assert text_of(job) == "Hello Bob!"


def test_a_row_that_was_written_twice_does_no_harm(server):
    job = make_running()
    for number, start, text in [(1, 0, "Hello"), (2, 5, " Bob"), (3, 5, " Bob and"), (4, 13, " all")]:
        write_output(server, [said(job, number, start, text)])
    assert text_of(job) == "Hello Bob and all"


def test_a_reader_at_any_offset_gets_what_has_changed(server):
    job, seen = make_running(), [("", 0)]
    for number, (start, text) in enumerate(
        [(0, "abc"), (3, "def"), (1, "x"), (2, "yz"), (0, "new")], start=1
    ):
        write_output(server, [said(job, number, start, text)])
        seen.append((text_of(job), place(1, number)))
    for text, offset in seen:
        answer = read_output("default", job.id, offset)
        assert answer.applied_to(text) == "new"
        assert answer.offset == place(1, 5)


@pytest.mark.parametrize("facts", [{"lease_epoch": 2}, {"state": State.SUCCEEDED}])
def test_a_run_that_is_over_writes_no_output_and_has_none_left_to_write(server, facts):
    job = make_running(**facts)
    assert write_output(server, [said(job, 1, 0, "late")]) == {str(job.id)}
    assert text_of(job) == ""


def test_a_locked_row_is_left_out_and_holds_up_nothing(server, other):
    locked, free = make_running(), make_running()
    with while_locked(locked, other, server):
        assert write_output(server, [said(locked, 1, 0, "a"), said(free, 1, 0, "b")]) == {str(free.id)}
    assert (text_of(locked), text_of(free)) == ("", "b")


def test_output_passes_the_locks_of_the_jobs_own_transaction(server, other):
    job = make_running()
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("UPDATE pgonly_job SET priority = 1 WHERE id = %s", [job.id])
        assert write_output(server, [said(job, 1, 0, "a")]) == {str(job.id)}
    assert text_of(job) == "a"


def test_a_row_that_has_it_all_takes_the_place_of_the_others(server):
    job = make_running()
    keep("default", str(job.id), [PartRow("step a", place(1, 1), 0, "kept")])
    write_output(server, [said(job, 2, 0, "one")])
    write_output(server, [said(job, 3, 0, "two", starts_over=True)])
    assert (text_of(job), JobOutput.objects.filter(part="").count()) == ("two", 1)
    assert load_output("default", str(job.id))["step a"].text == "kept"


def emit_and_write(server, run, text):
    run.output.emit(text)
    row = run.take()
    assert write_output(server, [row]) == {row.id}
    run.note_written()


def test_many_rows_become_one_also_in_the_run_that_resumes_the_job(server, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_MOST", 5)
    job, text = make_running(), ""
    output = RunOutput(job.lease_epoch, 1000)
    run = UnwrittenOutput(output, str(job.id), job.lease_epoch)
    for number in range(13):
        text += f"{number} "
        emit_and_write(server, run, f"{number} ")
        assert (text_of(job), JobOutput.objects.count() <= 5) == (text, True)
    rows = JobOutput.objects.count()
    job.lease_epoch += 1
    job.save()
    again = RunOutput(job.lease_epoch, 1000, load_output("default", str(job.id)))
    run = UnwrittenOutput(again, str(job.id), job.lease_epoch)
    again.emit(text)
    assert (run.take(), JobOutput.objects.count()) == (None, rows)
    for number in range(5):
        text += f"more {number} "
        emit_and_write(server, run, f"more {number} ")
        assert (text_of(job), JobOutput.objects.count() <= 5) == (text, True)


def test_rows_that_hold_much_more_than_the_text_become_one(server, monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS_AT_MOST", 20)
    job = make_running()
    output = RunOutput(job.lease_epoch, 1000)
    run = UnwrittenOutput(output, str(job.id), job.lease_epoch)
    emit_and_write(server, run, "kept ")
    for number in range(6):
        emit_and_write(server, run, f"{number}" * 9)
        assert text_of(job) == "kept " + f"{number}" * 9
        assert sum(len(row.text) for row in JobOutput.objects.all()) <= 20 + 14 + 14
        output._cut(len("kept "))  # as a loop or the checkpoint does that is restored


def test_a_look_at_a_long_output_reads_and_copies_only_what_is_new():
    output = RunOutput(1, 2_000_000)
    run = UnwrittenOutput(output, "id", 1)
    for _ in range(1000):
        output.emit("a" * 1000)
    tracemalloc.start()
    try:
        run.take()
        run.note_written()
        held, _ = tracemalloc.get_traced_memory()
        assert held < 100_000  # and not a second copy of a million characters
        for number in range(3):
            output.emit("new")
            tracemalloc.reset_peak()
            row = run.take()
            run.note_written()
            _, most = tracemalloc.get_traced_memory()
            assert (row.start, row.text) == (1_000_000 + 3 * number, "new")
            assert most < 100_000
    finally:
        tracemalloc.stop()


def test_a_part_may_begin_anywhere_and_start_over(transactional_db):
    job = str(make_running().id)
    keep("default", job, [PartRow("loop a", 1, 7, "one "), PartRow("loop a", 2, 11, "two ")])
    part = load_output("default", job)["loop a"]
    assert (part.start, part.text, part.first_place, part.text_place) == (7, "one two ", 1, 2)
    keep("default", job, [PartRow("loop a", 1, 9, "", starts_over=True), PartRow("loop a", 3, 9, "new")])
    keep("default", job, [PartRow("loop a", 4, 12, "")])
    part = load_output("default", job)["loop a"]
    assert (part.start, part.text, part.first_place, part.text_place, part.last_place) == (9, "new", 1, 3, 4)


def test_a_kept_row_that_is_sent_again_is_there_once(transactional_db):
    job = str(make_running().id)
    for _ in range(2):
        keep("default", job, [PartRow("step a", 1, 0, "a")])
    assert JobOutput.objects.count() == 1


def test_the_name_of_a_loop_may_have_any_length(transactional_db):
    job = str(make_running().id)
    parts = [part_of_loop("x" * 1000), part_of_loop("x" * 1001), part_of_loop("y")]
    assert len(set(parts)) == 3
    assert max(map(len, parts)) <= PART_LENGTH
    keep("default", job, [PartRow(part, 1, 0, "a") for part in parts])
    assert load_output("default", job).keys() == set(parts)
