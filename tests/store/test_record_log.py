"""The log alone: what was appended is read back, torn tails are cut, damage is refused."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from atoll.store.disk import LocalDisk
from atoll.store.errors import LogDamaged, StoreError
from atoll.store.log import LogWriter
from atoll.store.records import HEADER_BYTES, BadRecord, Record, encode_record, read_record
from atoll.store.segments import list_segments, read_span, spans_of_epoch


def write_records(directory: Path, count: int, segment_bytes: int = 1 << 20) -> list[Path]:
    writer = LogWriter(directory, 3, 1, LocalDisk(), segment_bytes)
    for number in range(count):
        lsn = writer.append(number, {"n": number}, [b"x" * number, bytes([number]) * 20])
        assert lsn == number + 1 == writer.last_lsn
    writer.close()
    return [directory / segment.file for segment in list_segments(directory)]


def read_all(directory: Path) -> tuple[list[Record], str]:
    spans, note = spans_of_epoch(directory, 3)
    return [record for span in spans for record in read_span(directory / span.file, span, 1)], note


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    write_records(tmp_path, 5)
    records, note = read_all(tmp_path)
    assert note == ""
    assert [record.lsn for record in records] == [1, 2, 3, 4, 5]
    assert [record.kind for record in records] == [0, 1, 2, 3, 4]
    assert records[3].decode(dict[str, int]) == {"n": 3}
    assert [bytes(payload) for payload in records[3].payloads] == [b"xxx", b"\3" * 20]


def test_segments_rotate_by_size_and_reading_may_start_anywhere(tmp_path: Path) -> None:
    files = write_records(tmp_path, 12, segment_bytes=200)
    assert len(files) > 3
    assert all(file.stat().st_size <= 200 for file in files)
    spans, _ = spans_of_epoch(tmp_path, 3)
    assert [span.first_lsn for span in spans[1:]] == [span.last_lsn + 1 for span in spans[:-1]]
    tail = list(read_span(tmp_path / spans[-1].file, spans[-1], 12))
    assert [record.lsn for record in tail] == [12]


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 3, 1, LocalDisk(), 10)
    for _ in range(3):
        writer.append(0, None, [memoryview(b"large" * 100)])
    writer.close()
    assert len(list_segments(tmp_path)) == 3
    assert len(read_all(tmp_path)[0]) == 3


def test_metadata_of_another_type_is_an_error_that_names_the_record(tmp_path: Path) -> None:
    write_records(tmp_path, 1)
    with pytest.raises(StoreError, match=r"log record 1 .*another version"):
        read_all(tmp_path)[0][0].decode(list[int])


def test_a_tail_torn_at_any_byte_is_cut_and_said(tmp_path: Path) -> None:
    (file,) = write_records(tmp_path, 3)
    whole = file.read_bytes()
    (two := tmp_path / "two").mkdir()
    (two_file,) = write_records(two, 2)
    start = two_file.stat().st_size
    for size in range(start, len(whole)):
        file.write_bytes(whole[:size])
        records, note = read_all(tmp_path)
        assert [record.lsn for record in records] == [1, 2]
        assert (note == "") == (size == start)
        assert size == start or (
            f"{size - start} bytes after record 2" in note and str(file) in note
        )
        file.write_bytes(whole[:size] + b"\0" * (len(whole) - size))
        assert len(read_all(tmp_path)[0]) == 2


def test_any_flipped_bit_in_the_middle_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    (file,) = write_records(tmp_path, 3)
    whole = bytearray(file.read_bytes())
    first_bytes = HEADER_BYTES + 16 + len('{"n":0}') + 20
    for at in range(first_bytes):
        whole[at] ^= 1 << (at % 8)
        file.write_bytes(whole)
        with pytest.raises(LogDamaged) as caught:
            read_all(tmp_path)
        assert caught.value.path == file and caught.value.offset == 0
        assert "byte 0" in str(caught.value)
        whole[at] ^= 1 << (at % 8)


def test_a_flipped_bit_in_a_full_segment_is_refused_even_in_its_last_record(tmp_path: Path) -> None:
    first, *_ = write_records(tmp_path, 6, segment_bytes=200)
    whole = bytearray(first.read_bytes())
    whole[-1] ^= 1
    first.write_bytes(whole)
    with pytest.raises(LogDamaged, match="wrong checksum"):
        read_all(tmp_path)


def test_a_huge_length_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "one"
    raw = bytearray(b"".join(encode_record(1, 1, 0, None, [b"abc"])))
    struct.pack_into("<Q", raw, HEADER_BYTES - 8, 1 << 60)
    path.write_bytes(raw)
    with path.open("rb") as file, pytest.raises(BadRecord, match="after the file"):
        read_record(file, 0, len(raw))


def test_records_of_another_epoch_or_out_of_order_are_refused(tmp_path: Path) -> None:
    (file,) = write_records(tmp_path, 2)
    good = file.read_bytes()
    foreign = b"".join(encode_record(3, 2, 0, None, []))
    file.write_bytes(good + foreign)
    with pytest.raises(LogDamaged, match="record 3 of epoch 2"):
        read_all(tmp_path)
    gap = b"".join(encode_record(5, 3, 0, None, []))
    file.write_bytes(good + gap)
    with pytest.raises(LogDamaged, match="record 5 of epoch 3 where 3"):
        read_all(tmp_path)


def test_appends_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 3, 1, LocalDisk(), 2000)

    def append_some(kind: int) -> None:
        for _ in range(10):
            writer.append(kind, {"n": kind}, [os.urandom(50)])

    threads = [threading.Thread(target=append_some, args=(kind,)) for kind in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    records, _ = read_all(tmp_path)
    assert [record.lsn for record in records] == list(range(1, 41))
    assert sorted(record.kind for record in records) == sorted([0, 1, 2, 3] * 10)


def test_a_record_that_does_not_fit_its_header_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        encode_record(1, 1, 1 << 16, None, [])
