from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.net.frames import MAX_FRAME_BYTES, Frame, FrameReader, Kind, header
from nefia.wire import Malformed

frames = st.lists(
    st.builds(Frame, st.sampled_from(Kind), st.binary(max_size=40)), min_size=1, max_size=8
)


def encoded(frame: Frame) -> bytes:
    return header(frame.kind, frame.body) + frame.body


def drained(reader: FrameReader) -> list[Frame]:
    return list(iter(reader.next, None))


@given(frames, st.data())
def test_any_split_of_the_bytes_gives_the_same_frames(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(map(encoded, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader(100)
    received: list[Frame] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[begin:end])
        received += drained(reader)
    assert received == sent


@given(st.binary(max_size=200), st.integers(1, 20))
def test_garbage_gives_frames_or_malformed_and_nothing_else(data: bytes, step: int) -> None:
    reader = FrameReader(64)
    try:
        for begin in range(0, len(data), step):
            reader.feed(data[begin : begin + step])
            for frame in drained(reader):
                assert len(frame.body) < 64
    except Malformed:
        pass


@pytest.mark.parametrize("length", [0, 101, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_its_body_comes(length: int) -> None:
    reader = FrameReader(100)
    reader.feed(length.to_bytes(4, "big"))
    with pytest.raises(Malformed, match=f"a frame of {length} bytes"):
        reader.next()


def test_an_unknown_kind_is_refused() -> None:
    reader = FrameReader(100)
    reader.feed(b"\x00\x00\x00\x01\xff")
    with pytest.raises(Malformed, match="unknown kind 255"):
        reader.next()


def test_the_limit_holds_for_the_frames_after_it_was_set() -> None:
    reader = FrameReader(10)
    big = Frame(Kind.MESSAGE, bytes(50))
    reader.feed(encoded(Frame(Kind.HANDSHAKE, b"hi")) + encoded(big))
    assert reader.next() == Frame(Kind.HANDSHAKE, b"hi")
    reader.max_frame_bytes = 100
    assert reader.next() == big


def test_the_reader_forgets_what_it_has_returned() -> None:
    reader = FrameReader(100)
    for _ in range(1000):
        reader.feed(encoded(Frame(Kind.PING, b"x" * 50)))
        assert len(drained(reader)) == 1
    assert len(reader._buffer) == 0


def test_a_body_that_fits_no_frame_is_our_own_mistake() -> None:
    header(Kind.MESSAGE, bytes(MAX_FRAME_BYTES - 1))
    with pytest.raises(AssertionError):
        header(Kind.MESSAGE, bytes(MAX_FRAME_BYTES))
