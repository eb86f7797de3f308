"""The storage log's rules 1 to 5, without any storage: what a set of records means, and each step of a writer that can go wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flinkray.core.log_records import (
    Draft,
    Link,
    RecordFormatError,
    RecordHeader,
    RecordKind,
    decode,
    digest,
    encode,
    encode_header,
    place,
)
from flinkray.core.log_writer import (
    Confirmed,
    CreateAt,
    Created,
    Deposed,
    Doubtful,
    ListAbove,
    Listed,
    ListFailed,
    LogCommand,
    LogEvent,
    LogWriter,
    Taken,
    Voided,
    Want,
    WriterState,
)
from flinkray.core.storage_log import LogEntry, LogView, fold
from flinkray.errors import ProtocolError

# -- records ----------------------------------------------------------------------------------------------------------

MANIFEST = Draft(RecordKind.MANIFEST, "token", claim=3, checkpoint=7, attempt=2)


def header_bytes() -> bytes:
    return encode_header(place(MANIFEST, 5, Link(4, "ab"), "app", "c3-00", 1_700_000_000_000_000))


def test_a_record_comes_back_as_it_was_written() -> None:
    data = encode(header_bytes(), b"sealed\nbody\x00")
    header, line, body = decode(data)
    assert header == place(MANIFEST, 5, Link(4, "ab"), "app", "c3-00", 1_700_000_000_000_000)
    assert (line, body) == (header_bytes(), b"sealed\nbody\x00")


def test_the_number_of_a_claim_is_the_claim() -> None:
    assert place(Draft(RecordKind.CLAIM, "t"), 9, None, "app", "k", 0).claim == 9


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FRLOG1",
        b"FRLOG1\n",
        b"FRLOG1\n{}",
        b"FRLOG1\n{}\n",
        b"FRLOG1\nnull\n",
        b"FRLOG1\n[]\nbody",
        b"garbage" * 10,
        encode(header_bytes().replace(b'"format":1', b'"format":2'), b""),
        encode(header_bytes().replace(b'"kind":"manifest"', b'"kind":"other"'), b""),
        encode(header_bytes().replace(b'"parent":{', b'"parent": {'), b""),
        encode(header_bytes().replace(b'"token"', b'"tokem"'), b""),
    ],
)
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(RecordFormatError):
        decode(data)


def test_every_prefix_of_a_header_is_refused() -> None:
    data = encode(header_bytes(), b"")
    for length in range(len(data)):
        with pytest.raises(RecordFormatError):
            decode(data[:length])


# -- reading ----------------------------------------------------------------------------------------------------------


def chain(*drafts: Draft, first: int = 1) -> list[LogEntry]:
    """Records that were written one after the other, oldest first; each has the digest `d<number>`."""
    entries: list[LogEntry] = []
    for number, draft in enumerate(drafts, first):
        parent = Link(number - 1, f"d{number - 1}") if number > 1 else None
        entries.append(LogEntry(number, f"d{number}", place(draft, number, parent, "app", "key", 0)))
    return entries


def claim(token: str = "c") -> Draft:
    return Draft(RecordKind.CLAIM, token)


def manifest(checkpoint: int, claim: int = 1, attempt: int = 1) -> Draft:
    return Draft(RecordKind.MANIFEST, f"m{checkpoint}", claim, checkpoint, attempt)


def checkpoints(view: LogView) -> list[int]:
    return [entry.header.checkpoint for entry in view.manifests if entry.header]


def test_an_empty_log_has_nothing_to_restore() -> None:
    view = fold([])
    assert view.empty
    assert (view.newest, view.claim, view.ended, view.manifests) == (None, None, None, ())
    assert (view.next_checkpoint, view.next_attempt) == (1, 1)


def test_manifests_come_newest_first_and_ids_go_on_above_all() -> None:
    view = fold(chain(claim(), manifest(1), replace(manifest(2), kind=RecordKind.VOID), manifest(3, attempt=4)))
    assert checkpoints(view) == [3, 1]
    assert (view.newest, view.claim, view.ended) == (Link(4, "d4"), 1, None)
    assert (view.next_checkpoint, view.next_attempt) == (4, 5)


def test_a_voided_checkpoint_is_not_complete_but_its_id_is_used_up() -> None:
    view = fold(chain(claim(), replace(manifest(9), kind=RecordKind.VOID)))
    assert view.manifests == ()
    assert view.next_checkpoint == 10


def test_a_run_that_ended_says_how_until_somebody_claims_again() -> None:
    ended = Draft(RecordKind.ENDED, "e", claim=1, ended="FINISHED")
    assert fold(chain(claim(), manifest(1), ended)).ended == "FINISHED"
    assert fold(chain(claim(), manifest(1), ended, claim("again"))).ended is None


def test_what_was_written_up_to_a_finished_end_is_not_gone_on_with_also_when_the_next_run_failed_at_once() -> None:
    ended = Draft(RecordKind.ENDED, "e", claim=1, ended="FINISHED")

    def since_finished(*drafts: Draft) -> list[int]:
        return checkpoints(LogView(fold(chain(*drafts)).since_finished))

    assert since_finished(claim(), manifest(1), ended, claim("d")) == []
    assert since_finished(claim(), manifest(1), ended, claim("d"), manifest(2, claim=4)) == [2]
    assert since_finished(claim(), manifest(1), replace(ended, ended="CANCELLED"), claim("d")) == [1]


def test_the_owner_is_known_where_retention_has_deleted_the_claim() -> None:
    view = fold(chain(claim(), manifest(1), manifest(2), manifest(3))[2:])
    assert view.claim == 1
    assert checkpoints(view) == [3, 2]


def test_a_number_that_was_freed_and_then_won_by_a_deposed_writer_counts_for_nothing() -> None:
    entries = chain(claim(), manifest(1), manifest(2), claim("new"), manifest(3, claim=4))
    frozen = LogEntry(3, "late", place(manifest(99), 3, Link(2, "d2"), "app", "key", 0))
    view = fold([frozen, *entries[3:]])
    assert checkpoints(view) == [3]
    assert [entry.number for entry in view.damaged] == [3]


def test_nothing_leads_past_a_gap() -> None:
    entries = chain(claim(), manifest(1), manifest(2), manifest(3))
    stale = [entries[0], *entries[2:]]
    assert checkpoints(fold(stale)) == [3, 2]


def test_a_late_manifest_of_a_deposed_owner_counts_for_nothing() -> None:
    view = fold(chain(claim(), manifest(1), claim("new"), manifest(2, claim=1), manifest(3, claim=3)))
    assert checkpoints(view) == [3, 1]
    assert "deposed" in view.damaged[0].damage


def test_a_damaged_record_is_kept_as_damaged_and_those_below_still_count() -> None:
    entries = chain(claim(), manifest(1), manifest(2), manifest(3))
    unreadable = LogEntry(4, "flipped", None, "its header cannot be read")
    view = fold([*entries[:3], unreadable])
    assert checkpoints(view) == [2, 1]
    assert view.damaged == (unreadable,)
    assert view.newest == Link(4, "flipped")
    assert not view.empty


def test_a_changed_record_is_told_by_its_successors_link() -> None:
    entries = chain(claim(), manifest(1), manifest(2))
    entries[1] = replace(entries[1], digest="changed")
    view = fold(entries)
    assert checkpoints(view) == [2]
    assert view.damaged[0].number == 2


# -- writing ----------------------------------------------------------------------------------------------------------

LAST = Link(6, "d6")
VOID = replace(MANIFEST, kind=RecordKind.VOID, token="void-token")
CLAIM = Draft(RecordKind.CLAIM, "token")
CREATE = CreateAt(7, LAST, MANIFEST)
CREATE_VOID = CreateAt(7, LAST, VOID, again=True)


def drive(draft: Draft, *events: LogEvent, last: Link | None = LAST) -> tuple[LogWriter, list[LogCommand]]:
    """The writer after these events, and the commands of the last one."""
    writer = LogWriter(last)
    commands = writer.step(Want(draft))
    for event in events:
        commands = writer.step(event)
    return writer, commands


def test_a_record_is_created_at_the_next_free_number() -> None:
    assert drive(MANIFEST)[1] == [CREATE]
    assert drive(MANIFEST, last=None)[1] == [CreateAt(1, None, MANIFEST)]


def test_a_created_record_counts_only_after_the_numbers_above_were_listed() -> None:
    writer, commands = drive(MANIFEST, Created(7, "d7"))
    assert commands == [ListAbove(7)]
    assert writer.in_doubt
    assert writer.step(Listed(7, ())) == [Confirmed(7)]
    assert (writer.last, writer.state) == (Link(7, "d7"), WriterState.IDLE)


def test_the_next_record_follows_the_confirmed_one() -> None:
    writer, _ = drive(MANIFEST, Created(7, "d7"), Listed(7, ()))
    assert writer.step(Want(VOID)) == [CreateAt(8, Link(7, "d7"), VOID)]


def test_ones_own_retry_that_is_answered_with_taken_is_ones_own() -> None:
    assert drive(MANIFEST, Taken(7, "token", "d7"))[1] == [ListAbove(7)]
    assert drive(MANIFEST, Taken(7, "token", "d7"), Listed(7, ()))[1] == [Confirmed(7)]


def test_a_number_that_somebody_else_took_deposes() -> None:
    writer, commands = drive(MANIFEST, Taken(7, "another", "x"))
    assert commands == [Deposed(7)]
    assert writer.state is WriterState.DEPOSED


def test_a_number_with_an_unreadable_record_deposes() -> None:
    assert drive(MANIFEST, Taken(7, "", "x"))[1] == [Deposed(7)]


def test_an_owner_frozen_at_a_number_that_retention_freed_meanwhile_is_deposed_though_it_won() -> None:
    writer, commands = drive(MANIFEST, Created(7, "d7"), Listed(7, (12, 13)))
    assert commands == [Deposed(7)]
    assert writer.last == LAST


def test_a_deposed_writer_writes_nothing_any_more() -> None:
    writer, _ = drive(MANIFEST, Taken(7, "another", "x"))
    assert writer.step(Want(MANIFEST)) == [Deposed(7)]


def test_a_manifest_in_doubt_is_voided_at_the_same_number() -> None:
    writer, commands = drive(MANIFEST, Doubtful(7))
    assert commands == [CREATE_VOID]
    assert writer.state is WriterState.VOIDING


def test_a_manifest_that_turns_out_to_stand_is_complete() -> None:
    events = [Doubtful(7), Taken(7, "token", "d7")]
    assert drive(MANIFEST, *events)[1] == [ListAbove(7)]
    writer, commands = drive(MANIFEST, *events, Listed(7, ()))
    assert commands == [Confirmed(7)]
    assert writer.last == Link(7, "d7")


def test_a_manifest_whose_void_stands_never_will() -> None:
    writer, commands = drive(MANIFEST, Doubtful(7), Created(7, "v7"), Listed(7, ()))
    assert commands == [Voided(7)]
    assert writer.last == Link(7, "v7")


def test_a_void_in_doubt_is_put_again_until_the_number_is_occupied() -> None:
    doubts = [Doubtful(7)] * 5
    assert drive(MANIFEST, *doubts)[1] == [CREATE_VOID]
    assert drive(MANIFEST, *doubts, Taken(7, "void-token", "v7"), Listed(7, ()))[1] == [Voided(7)]
    assert drive(MANIFEST, *doubts, Taken(7, "token", "d7"), Listed(7, ()))[1] == [Confirmed(7)]
    assert drive(MANIFEST, *doubts, Taken(7, "another", "x"))[1] == [Deposed(7)]


def test_a_void_at_a_number_that_retention_freed_deposes() -> None:
    """The manifest may have stood, and been built upon by a new owner, before its number was freed."""
    assert drive(MANIFEST, Doubtful(7), Created(7, "v7"), Listed(7, (8,)))[1] == [Deposed(7)]


@pytest.mark.parametrize("draft", [CLAIM, Draft(RecordKind.ENDED, "token", 3, ended="FINISHED")])
def test_a_claim_or_end_in_doubt_is_put_again_as_it_is(draft: Draft) -> None:
    assert drive(draft, Doubtful(7), Doubtful(7))[1] == [CreateAt(7, LAST, draft, again=True)]
    assert drive(draft, Doubtful(7), Taken(7, "token", "d7"), Listed(7, ()))[1] == [Confirmed(7)]


def test_a_listing_without_answer_is_asked_again() -> None:
    writer, commands = drive(MANIFEST, Created(7, "d7"), ListFailed(7))
    assert commands == [ListAbove(7, again=True)]
    assert writer.step(Listed(7, ())) == [Confirmed(7)]


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ([], Want(MANIFEST)),
        ([], Listed(7, ())),
        ([], ListFailed(7)),
        ([], Created(8, "d8")),
        ([], Doubtful(6)),
        ([Doubtful(7)], Want(MANIFEST)),
        ([Doubtful(7)], Listed(7, ())),
        ([Created(7, "d7")], Created(7, "d7")),
        ([Created(7, "d7")], Taken(7, "token", "d7")),
        ([Created(7, "d7")], Doubtful(7)),
        ([Created(7, "d7")], Want(MANIFEST)),
        ([Created(7, "d7"), Listed(7, ())], Created(8, "d8")),
        ([Taken(7, "another", "x")], Created(7, "d7")),
    ],
)
def test_an_event_that_does_not_fit_is_refused_and_changes_nothing(before: list[LogEvent], event: LogEvent) -> None:
    writer, _ = drive(MANIFEST, *before)
    as_it_was = replace(writer)
    with pytest.raises(ProtocolError):
        writer.step(event)
    assert writer == as_it_was


def test_a_digest_tells_two_records_apart() -> None:
    assert digest(b"a") != digest(b"b")
    assert isinstance(decode(encode(header_bytes(), b""))[0], RecordHeader)
