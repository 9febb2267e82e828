"""What a session makes of bytes, without any socket."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.client.arena import Extent, Part
from greencache.client.framing import Frames, decode_question, encode
from greencache.client.messages import (
    Abort,
    Acquire,
    Answer,
    Count,
    Done,
    Extents,
    Failed,
    Fetch,
    Found,
    Hello,
    Join,
    Leased,
    Lookup,
    Places,
    Question,
    Release,
    Reserve,
    Reserved,
    Welcome,
)
from greencache.client.pinning import Pins
from greencache.client.session import Call, Session
from greencache.errors import (
    BlockStateError,
    GreenCacheError,
    InputError,
    ProtocolError,
    RefusedError,
    TierError,
    UnavailableError,
)

BLOCK_BYTES = 4096
KEYS = bytes(range(48))
NAME = "greencache-of-a-test"


@pytest.fixture
def descriptors() -> Iterator[None]:
    """None is left open."""
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert set(Path("/proc/self/fd").iterdir()) <= before


def new_session(shards: int = 1, shard: int | None = None) -> Session:
    return Session(Part.of(BLOCK_BYTES, shards, shard), shard)


def asked(session: Session) -> list[Question]:
    """What it has to send; then that is sent."""
    found = [decode_question(body) for body in Frames().feed(bytes(session.outgoing))]
    session.outgoing.clear()
    return found


def answer(session: Session, *answers: Answer, descriptors: tuple[int, ...] = ()) -> None:
    session.receive(b"".join(map(encode, answers)), descriptors, 0.0)


def memory(size_bytes: int) -> int:
    descriptor = os.memfd_create(NAME)
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def mapped() -> int:
    """Memory files of these tests that this process has mapped."""
    return Path("/proc/self/maps").read_text().count(NAME)


def places(*at: tuple[int, int]) -> Places:
    extents, offsets = zip(*at, strict=True)
    return Places.of(np.array(extents, np.uint32), np.array(offsets, np.uint64))


def with_memory(session: Session, blocks: int = 4, number: int = 7) -> None:
    size_bytes = blocks * BLOCK_BYTES
    answer(session, Extents(0, [(number, size_bytes)]), descriptors=(memory(size_bytes),))


def test_answers_find_their_questions_in_any_order() -> None:
    session = new_session()
    calls = [session.ask(Lookup(0, KEYS), 0.0) for _ in range(3)]
    assert [question.number for question in asked(session)] == [1, 2, 3]
    woken: list[Call] = []
    calls[1].wake = woken.append
    answer(session, Found(3, {"dram": 3}), Found(2, {"dram": 2}))
    assert [call.done for call in calls] == [False, True, True]
    assert woken == [calls[1]]
    assert calls[2].checked().answer == Found(3, {"dram": 3})


def test_an_answer_may_come_byte_by_byte() -> None:
    session = new_session()
    call = session.ask(Lookup(0, KEYS), 0.0)
    for byte in encode(Found(1, {"dram": 1})):
        assert not call.done
        session.receive(bytes([byte]), (), 0.0)
    assert call.done


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("state", BlockStateError),
        ("input", InputError),
        ("tier", TierError),
        ("refused", RefusedError),
        ("protocol", ProtocolError),
        ("what is this", ProtocolError),
    ],
)
def test_a_failure_is_an_error_of_its_kind(kind: str, fault: type[GreenCacheError]) -> None:
    session = new_session()
    call, other = session.ask(Lookup(0, KEYS), 0.0), session.ask(Lookup(0, KEYS), 0.0)
    answer(session, Failed(1, kind, "so it is"))
    with pytest.raises(fault, match="so it is"):
        call.checked()
    assert session.lost == other.done == (fault is ProtocolError)


def test_a_failure_of_no_question_ends_the_connection() -> None:
    session = new_session()
    call = session.ask(Hello(0, 1, BLOCK_BYTES), 0.0)
    answer(session, Failed(0, "refused", "4,096 clients are connected"))
    with pytest.raises(RefusedError, match="4,096"):
        call.checked()
    with pytest.raises(RefusedError):
        session.ask(Lookup(0, KEYS), 0.0)


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        (Lookup(0, KEYS), Found(9, {})),
        (Lookup(0, KEYS), Done(1)),
        (Hello(0, 1, BLOCK_BYTES), Welcome(1, b"short", "1.0")),
        (Acquire(0, KEYS), Leased(1, 1, 3, {}, places((7, 0), (8, 0)))),
        (Acquire(0, KEYS), Leased(1, 1, 3, {}, places((7, 3 * BLOCK_BYTES + 1)))),
        (Acquire(0, KEYS), Leased(1, 1, 3, {}, places((7, 2**64 - 1)))),
        (Acquire(0, KEYS), Leased(1, 1, 3, {}, Places(b"123", b"123456"))),
        (Acquire(0, KEYS), Leased(1, 1, 1, {}, places((7, 0), (7, 0)))),
        (Acquire(0, KEYS), Leased(1, 1, 9, {}, places(*[(7, 0)] * 4))),
        (Reserve(0, KEYS), Reserved(1, 1, 0, places(*[(7, 0)] * 4))),
        (Fetch(0, 5), Leased(1, 6, 0, {}, Places())),
        (Lookup(0, KEYS), Extents(0, [(8, BLOCK_BYTES)])),
        (Lookup(0, KEYS), Extents(0, [(7, BLOCK_BYTES)])),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.usefixtures("descriptors")
def test_what_does_not_fit_ends_the_connection(question: Question, wrong: Answer) -> None:
    session = new_session()
    with_memory(session)
    call = session.ask(question, 0.0)
    answer(session, wrong)
    assert session.lost
    with pytest.raises(ProtocolError):
        call.checked()
    assert mapped() == 0


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_more_than_end_the_connection(data: bytes, framed: bool) -> None:
    session = new_session()
    call = session.ask(Acquire(0, KEYS), 0.0)
    session.receive(len(data).to_bytes(4, "little") + data if framed else data, (), 0.0)
    assert isinstance(session.fault, ProtocolError | None)
    assert call.done == session.lost


def answers_of_the_right_form() -> st.SearchStrategy[Answer]:
    number = st.integers(-1, 2**64 - 1)
    at = st.builds(Places, st.binary(max_size=16), st.binary(max_size=32)) | st.lists(
        st.tuples(st.integers(6, 8), st.integers(0, 5 * BLOCK_BYTES)), min_size=1, max_size=4
    ).map(lambda found: places(*found))
    return (
        st.builds(Leased, st.just(1), number, number, st.just({}), at)
        | st.builds(Reserved, st.just(1), number, number, at)
        | st.builds(Extents, st.just(0), st.lists(st.tuples(number, number)), st.just([7]))
    )


@given(st.sampled_from([Acquire(0, KEYS), Reserve(0, KEYS)]), answers_of_the_right_form())
def test_no_message_does_more_than_end_the_connection(question: Question, said: Answer) -> None:
    session = new_session()
    with_memory(session)
    call = session.ask(question, 0.0)
    answer(session, said)
    if call.standing is not None:
        for view in call.standing.views():
            assert view.size == BLOCK_BYTES
            assert int(view[-1]) == 0  # it is there to be read
    session.lose(UnavailableError("the test is over"))


@pytest.mark.usefixtures("descriptors")
def test_memory_stays_mapped_as_long_as_it_is_looked_at() -> None:
    session = new_session()
    with_memory(session)
    call = session.ask(Acquire(0, KEYS), 0.0)
    answer(session, Leased(1, 1, 2, {}, places((7, 0), (7, BLOCK_BYTES))), Extents(0, [], [7]))
    assert mapped() == 1
    assert call.standing is not None
    view = call.standing.views()[1]
    session.lose(UnavailableError("the daemon was killed"))
    del call, session
    assert view.sum() == 0
    assert mapped() == 1
    del view
    assert mapped() == 0


@pytest.mark.usefixtures("descriptors")
def test_memory_is_not_mapped_beyond_the_end_of_its_file() -> None:
    session = new_session()
    answer(session, Extents(0, [(1, 2 * BLOCK_BYTES)]), descriptors=(memory(BLOCK_BYTES),))
    assert isinstance(session.fault, ProtocolError)
    assert mapped() == 0


@pytest.mark.usefixtures("descriptors")
def test_descriptors_come_before_with_and_for_several_messages() -> None:
    session = new_session()
    message = encode(Extents(0, [(1, BLOCK_BYTES), (2, BLOCK_BYTES)]))
    session.receive(message[:3], (memory(BLOCK_BYTES), memory(BLOCK_BYTES)), 0.0)
    assert mapped() == 0
    session.receive(message[3:], (), 0.0)
    assert mapped() == 2
    session.receive(b"\xff\xff\xff\xff", (memory(BLOCK_BYTES),), 0.0)
    assert session.lost
    assert mapped() == 0


def test_late_answers_are_given_back() -> None:
    session = new_session(shards=2, shard=1)
    with_memory(session)
    questions: list[Question] = [
        Acquire(0, KEYS),
        Reserve(0, KEYS),
        Join(0, reservation=12),
        Join(0, lease=11),
        Fetch(0, 11),
    ]
    for question in questions:
        session.abandon(session.ask(question, 0.0), 1.0)
    asked(session)
    at = places((7, 0))
    answer(
        session,
        Leased(1, 11, 1, {}, at),
        Reserved(2, 12, 0, at),
        Reserved(3, 12, 0, at),
        Leased(4, 11, 1, {}, at),
        Leased(5, 11, 1, {}, at),
    )
    given_back = [msgspec.structs.replace(question, number=0) for question in asked(session)]
    assert given_back == [Release(0, [11]), Abort(0, 12, None), Abort(0, 12, 1)]
    assert session.uses == 0
    answer(session, Done(6), Failed(7, "state", "it has ended"), Done(8))
    assert not session.lost


def test_what_was_answered_just_before_it_was_given_up_is_given_back() -> None:
    session = new_session()
    with_memory(session)
    call = session.ask(Acquire(0, KEYS), 0.0)
    answer(session, Leased(1, 11, 1, {}, places((7, 0))))
    assert session.uses == 1
    asked(session)
    session.abandon(call, 1.0)
    assert session.uses == 0
    assert asked(session) == [Release(2, [11])]


def test_silence_counts_from_the_oldest_question() -> None:
    session = new_session()
    assert session.silent_s(99.0) == 0.0, "nothing was asked"
    session.ask(Lookup(0, KEYS), 100.0)
    session.ask(Lookup(0, KEYS), 105.0)
    assert session.silent_s(106.0) == 6.0
    session.receive(encode(Found(2, {})), (), 105.5)
    assert session.silent_s(106.0) == 0.5
    session.receive(encode(Found(1, {})), (), 105.6)
    assert session.silent_s(199.0) == 0.0
    session.ask(Lookup(0, KEYS), 200.0)
    assert session.silent_s(201.0) == 1.0


def test_a_question_too_long_is_refused_here() -> None:
    session = new_session()
    with pytest.raises(InputError, match="ask in parts"):
        session.ask(Lookup(0, bytes(5 << 20)), 0.0)
    session.ask(Lookup(0, KEYS), 0.0)
    answer(session, Found(asked(session)[0].number, {}))
    assert not session.lost
    session.ask(Lookup(0, KEYS), 0.0)
    answer(session, Count(3, 1))
    assert session.lost


class Recording:
    """Pins nothing, and notes what it should."""

    def __init__(self) -> None:
        self.pinned: dict[int, int] = {}

    def pin(self, address: int, size_bytes: int) -> None:
        self.pinned[address] = size_bytes

    def unpin(self, address: int) -> None:
        del self.pinned[address]


@pytest.mark.parametrize(
    "part",
    [
        (8, 0, BLOCK_BYTES),
        (7, -BLOCK_BYTES, BLOCK_BYTES),
        (7, 0, 0),
        (7, 0, 5 * BLOCK_BYTES),
        (7, 4 * BLOCK_BYTES, 1),
        (7, 2**63, 2**63),
        (7, BLOCK_BYTES, -1),
    ],
    ids=str,
)
@pytest.mark.usefixtures("descriptors")
def test_what_is_not_mapped_is_not_pinned(part: tuple[int, int, int]) -> None:
    gc.collect()  # sessions of other tests
    device = Recording()
    pins = Pins(device, lambda owner, number: None)
    session = Session(Part.of(BLOCK_BYTES, 1, None), None, pins)
    with_memory(session)
    with pins.in_use([]):
        answer(session, Extents(0, [], pin=[part]))
    assert isinstance(session.fault, ProtocolError)
    pins.close()
    assert device.pinned == {}
    assert mapped() == 0


@pytest.mark.usefixtures("descriptors")
def test_parts_of_an_extent_are_pinned_and_go_together() -> None:
    gc.collect()  # sessions of other tests
    device, given_back = Recording(), list[int]()
    threads = set(threading.enumerate())
    pins = Pins(device, lambda owner, number: given_back.append(number))
    session = Session(Part.of(BLOCK_BYTES, 1, None), None, pins)
    with_memory(session)
    parts = [(7, 0, BLOCK_BYTES), (7, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES)]
    answer(session, Extents(0, [], pin=parts), Extents(0, [], unpin=[99]))
    assert session.used
    with pins.in_use([]):
        answer(session, Extents(0, [], pin=parts))  # again, which means nothing
    while pins.pinned_bytes < 3 * BLOCK_BYTES:
        pass
    begin = min(device.pinned)
    assert device.pinned == {begin: BLOCK_BYTES, begin + 2 * BLOCK_BYTES: 2 * BLOCK_BYTES}
    answer(session, Extents(0, [], unpin=[7]), Extents(0, [], unpin=[7]))
    pins.close()  # which waits for that
    pins.close()
    assert device.pinned == {}
    assert set(threading.enumerate()) <= threads
    assert given_back == [7]
    session.lose(UnavailableError("the test is over"))
    assert mapped() == 0


class Slow(Recording):
    """Waits before it pins, and may fail to unpin."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.begun, self.goes_on, self.fails = threading.Event(), threading.Event(), fails

    def pin(self, address: int, size_bytes: int) -> None:
        self.begun.set()
        assert self.goes_on.wait(20.0)
        super().pin(address, size_bytes)

    def unpin(self, address: int) -> None:
        if self.fails:
            raise OSError("it stays pinned")
        super().unpin(address)


def extent(number: int) -> Extent:
    descriptor = os.memfd_create("an extent")
    os.ftruncate(descriptor, BLOCK_BYTES)
    return Extent(descriptor, BLOCK_BYTES, number)


def test_what_is_asked_back_goes_before_what_is_still_to_be_pinned() -> None:
    device, given_back = Slow(), list[tuple[int, int]]()
    pins = Pins(device, lambda owner, number: given_back.append((number, len(device.pinned))))
    extents = [extent(number) for number in range(4)]
    for each in extents:
        pins.offered(None, each, [(0, BLOCK_BYTES)])
    with pins.in_use([]):
        assert device.begun.wait(20.0)
    pins.asked_back(extents[3:])
    device.goes_on.set()
    with pins.in_use(extents[3:]):
        assert given_back == [(3, 1)], "when that was pinned which had begun"
    pins.close()
    assert sorted(number for number, _ in given_back) == [0, 1, 2, 3]
    assert device.pinned == {}


def test_without_a_thread_nobody_waits_and_what_is_offered_is_pinned_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, given_back = Recording(), list[int]()
    pins = Pins(device, lambda owner, number: given_back.append(number))
    first, second = extent(0), extent(1)
    pins.offered(None, first, [(0, BLOCK_BYTES)])

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pins.in_use([first]):
            pins.asked_back([first])
        with pins.in_use([first]):
            assert device.pinned == {}
    pins.offered(None, second, [(0, BLOCK_BYTES)])
    while pins.pinned_bytes < BLOCK_BYTES:
        pass
    pins.close()
    assert device.pinned == {}
    assert given_back == [1]


def test_what_cannot_be_unpinned_keeps_no_thread() -> None:
    threads = set(threading.enumerate())
    device = Slow(fails=True)
    device.goes_on.set()
    pins = Pins(device, lambda owner, number: None)
    pins.offered(None, extent(0), [(0, BLOCK_BYTES)])
    with pins.in_use([]):
        assert device.begun.wait(20.0)
    pins.close()
    assert len(device.pinned) == 1
    assert set(threading.enumerate()) <= threads


def test_who_pins_nothing_does_not_mind_what_it_may_pin() -> None:
    session = new_session()
    with_memory(session)
    answer(session, Extents(0, [], pin=[(1, 2, 3)], unpin=[4]))
    assert not session.lost
