"""No writer but those that are known; kills at a few steps of a few kinds of write; and a short storm of two servers."""

import os

from reliability.kills import points
from reliability.storm import storm
from reliability.writers import KNOWN, writers

KINDS, STEPS = 4, 3
SECONDS = 2.0
SEED = os.environ["RESIDSCOPE_SEED"]


def test_every_writer_is_known_to_leave_files_whole() -> None:
    assert writers() == set(KNOWN)


def test_a_process_killed_at_any_step_of_a_write_has_written_or_has_not() -> None:
    *tried, planted = points(KINDS, STEPS, SEED)
    assert {told["kind"]: told["wrong"] for told in tried if told["wrong"]} == {}
    assert all(told["kills"] == min(STEPS, told["steps"]) > 0 for told in tried)
    assert planted["wrong"]


def test_two_servers_that_are_killed_keep_what_they_have_acknowledged() -> None:
    told = storm(SECONDS, SEED, "")
    assert told.kills > 0
    assert {*told.journal.acknowledged} >= {"prompt", "stack", "item", "direction"}
    assert (told.journal.lost, told.journal.doubled, told.wrong) == ([], [], [])
