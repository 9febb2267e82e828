"""Anything that clients can say and any process can do, in any order, against a plain record.

The record keeps all that ever happened and works out from it, after each step, what may still be
read or written, so what the ledger lets go can be compared with it at once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from greencache.errors import BlockStateError, RefusedError
from greencache.service.ledger import Effects, Holdings, Ledger

SHARDS = {b"": 1, b"one": 1, b"two": 2, b"three": 3}
PROCESSES = range(4)


@dataclass(eq=False)
class Session:
    process: int
    group: object
    """Its name, or what is its own alone."""
    shard: int | None
    connected: bool = True


@dataclass(eq=False)
class Lease:
    maker: Session
    blocks: int
    uses: int = 0
    over: bool = False
    """Nobody may read it any more but those who use it."""


@dataclass(eq=False)
class Reservation:
    maker: Session
    blocks: int
    shards: dict[int, str]
    """What became of each: open, committed or failed."""

    @property
    def over(self) -> bool:
        return "open" not in self.shards.values()

    @property
    def whole(self) -> bool:
        return set(self.shards.values()) == {"committed"}


@dataclass
class Record:
    sessions: dict[bytes, Session] = field(default_factory=dict)
    transactions: dict[int, Lease | Reservation] = field(default_factory=dict)
    """All there ever were."""
    let_go: set[int] = field(default_factory=set)
    dead: set[tuple[object, int]] = field(default_factory=set)
    """Shards whose process has ended, by group."""

    def of_group(self, group: object) -> list[Session]:
        return [each for each in self.sessions.values() if each.group == group]

    def open(self, group: object) -> list[Lease | Reservation]:
        return [
            each
            for each in self.transactions.values()
            if each.maker.group == group and not each.over
        ]

    def settle(self) -> Effects[int, int]:
        """What nobody can use any more ends; what ended since the last time."""
        groups = {each.maker.group for each in self.transactions.values()}
        groups |= {each.group for each in self.sessions.values()}
        groups |= {group for group, _ in self.dead}
        for group in groups:
            if not self.of_group(group):
                for each in self.open(group):
                    self.give_up(each)
            if not self.open(group) and not any(each.connected for each in self.of_group(group)):
                self.sessions = {
                    name: each for name, each in self.sessions.items() if each.group != group
                }
                self.dead = {(of, shard) for of, shard in self.dead if of != group}
        effects: Effects[int, int] = Effects()
        for number, each in self.transactions.items():
            if not each.over or number in self.let_go:
                continue
            if isinstance(each, Reservation):
                self.let_go.add(number)
                (effects.committed if each.whole else effects.aborted).append(number)
            elif each.uses == 0:
                self.let_go.add(number)
                effects.released.append(number)
        return effects

    @staticmethod
    def give_up(transaction: Lease | Reservation) -> None:
        if isinstance(transaction, Lease):
            transaction.over = True
        else:
            for shard, state in transaction.shards.items():
                if state == "open":
                    transaction.shards[shard] = "failed"

    def leave(self, names: list[bytes], *, died: bool) -> None:
        """Sessions are over, and so are their shards unless another session still writes them."""
        for name in names:
            gone = self.sessions.pop(name)
            others = [each for each in self.of_group(gone.group) if each.shard == gone.shard]
            if gone.shard is None or others:
                continue
            if died:
                self.dead.add((gone.group, gone.shard))
            for each in self.open(gone.group):
                if isinstance(each, Reservation) and each.shards[gone.shard] == "open":
                    each.shards[gone.shard] = "failed"


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger[int, int] = Ledger()
        self.record = Record()
        self.names = (number.to_bytes(4, "big") for number in itertools.count(1))
        self.handles = itertools.count(1)
        self.numbers: dict[int, int] = {}
        """Of the ledger, by handle."""

    def happened(self, effects: Effects[int, int]) -> None:
        expected = self.record.settle()
        for kind in ("released", "committed", "aborted"):
            assert sorted(getattr(effects, kind)) == sorted(getattr(expected, kind)), kind

    def a_session(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(sorted(self.record.sessions)))

    def a_transaction(self, data: st.DataObject, kind: type[Lease] | type[Reservation]) -> int:
        """Of any group, ended or not; or one that never was."""
        handles = [
            handle for handle, each in self.record.transactions.items() if type(each) is kind
        ]
        return data.draw(st.sampled_from([*handles[-6:], 0]))

    def known(self, name: bytes, handle: int) -> bool:
        """Whether a session's group has this transaction."""
        each = self.record.transactions.get(handle)
        session = self.record.sessions.get(name)
        alike = each is not None and session is not None and each.maker.group == session.group
        return alike and each is not None and not each.over

    # Sessions.

    @rule(process=st.sampled_from(PROCESSES), group=st.sampled_from(sorted(SHARDS)), data=st.data())
    def attach(self, process: int, group: bytes, data: st.DataObject) -> None:
        shards = SHARDS[group]
        shard = data.draw(st.none() | st.integers(0, shards - 1))
        name = next(self.names)
        new = Session(process, group or name, shard)
        alike = [each for each in self.record.of_group(new.group) if each.shard == shard]
        if shard is not None and any(each.process != process for each in alike):
            with pytest.raises(RefusedError):
                self.ledger.attach(name, process, group=group, shards=shards, shard=shard)
            return
        self.ledger.attach(name, process, group=group, shards=shards, shard=shard)
        makers = [each.maker for each in self.record.open(new.group)]
        self.record.sessions = {
            old: each
            for old, each in self.record.sessions.items()
            if not (
                each in alike
                and each.process == process
                and not each.connected
                and each not in makers
            )
        }
        self.record.sessions[name] = new
        self.record.dead.discard((new.group, shard or 0) if shard is not None else (None, -1))

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data())
    def lose_connection(self, data: st.DataObject) -> None:
        name = self.a_session(data)
        self.record.sessions[name].connected = False
        self.happened(self.ledger.lost(name))

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data())
    def goodbye(self, data: st.DataObject) -> None:
        name = self.a_session(data)
        self.record.leave([name], died=False)
        self.happened(self.ledger.goodbye(name))

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data(), process=st.sampled_from(PROCESSES))
    def ended(self, data: st.DataObject, process: int) -> None:
        """Only the process whose session it was may say so."""
        name = self.a_session(data)
        session = self.record.sessions[name]
        if session.process == process:
            for each in self.record.open(session.group):
                if each.maker is not session:
                    continue
                if isinstance(each, Lease):
                    each.over = True
                    continue
                failing = False
                for shard, state in each.shards.items():
                    writers = {
                        other.process
                        for other in self.record.of_group(session.group)
                        if other.shard == shard
                    }
                    failing |= state == "open"
                    if state == "open" and not writers - {process}:
                        each.shards[shard] = "failed"
                each.shards = {**each.shards, -1: "failed"}  # whatever the others do
            self.record.leave([name], died=False)
        self.happened(self.ledger.ended(name, process))

    @rule(process=st.sampled_from(PROCESSES))
    def die(self, process: int) -> None:
        """From now on its number stands for another process."""
        names = [name for name, each in self.record.sessions.items() if each.process == process]
        self.record.leave(names, died=True)
        self.happened(self.ledger.died(process))

    # Leases.

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data(), blocks=st.integers(1, 9))
    def lease(self, data: st.DataObject, blocks: int) -> None:
        name, handle = self.a_session(data), next(self.handles)
        self.numbers[handle] = self.ledger.lease(name, handle, blocks)
        self.record.transactions[handle] = Lease(self.record.sessions[name], blocks)

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name, handle = self.a_session(data), self.a_transaction(data, Lease)
        number = self.numbers.get(handle, 0)
        each = self.record.transactions.get(handle)
        own = each is not None and each.maker.process == self.record.sessions[name].process
        if not (self.known(name, handle) and own):
            with pytest.raises(BlockStateError):
                self.ledger.release(name, number)
            return
        assert isinstance(each, Lease)
        each.over = True
        self.happened(self.ledger.release(name, number))

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data())
    def begin_use(self, data: st.DataObject) -> None:
        name, handle = self.a_session(data), self.a_transaction(data, Lease)
        number = self.numbers.get(handle, 0)
        if not self.known(name, handle):
            with pytest.raises(BlockStateError):
                self.ledger.begin(name, number)
            return
        each = self.record.transactions[handle]
        assert isinstance(each, Lease)
        each.uses += 1
        assert self.ledger.begin(name, number) == handle

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def end_use(self, data: st.DataObject) -> None:
        handle, lease = data.draw(st.sampled_from(self.in_use()))
        lease.uses -= 1
        self.happened(self.ledger.end(self.numbers[handle]))

    def in_use(self) -> list[tuple[int, Lease]]:
        return [
            (handle, each)
            for handle, each in self.record.transactions.items()
            if isinstance(each, Lease) and each.uses
        ]

    # Reservations.

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data(), blocks=st.integers(1, 9))
    def reserve(self, data: st.DataObject, blocks: int) -> None:
        name, handle = self.a_session(data), next(self.handles)
        session = self.record.sessions[name]
        shards = SHARDS.get(session.group, 1) if isinstance(session.group, bytes) else 1
        if any(of == session.group for of, _ in self.record.dead):
            assert not self.ledger.may_reserve(name)
            with pytest.raises(BlockStateError):
                self.ledger.reserve(name, handle, blocks)
            return
        assert self.ledger.may_reserve(name)
        self.numbers[handle] = self.ledger.reserve(name, handle, blocks)
        states = dict.fromkeys(range(shards), "open")
        self.record.transactions[handle] = Reservation(session, blocks, states)

    @precondition(lambda self: self.record.sessions)
    @rule(data=st.data(), shard=st.none() | st.integers(0, 2), failed=st.booleans())
    def close_shard(self, data: st.DataObject, shard: int | None, failed: bool) -> None:
        name, handle = self.a_session(data), self.a_transaction(data, Reservation)
        number = self.numbers.get(handle, 0)
        close = self.ledger.abort if failed else self.ledger.commit
        each = self.record.transactions.get(handle)
        if (
            not self.known(name, handle)
            or not isinstance(each, Reservation)
            or (shard is not None and each.shards.get(shard) != "open")
        ):
            with pytest.raises(BlockStateError):
                close(name, number, shard)
            return
        shards = [shard] if shard is not None else list(each.shards)
        for one in shards:
            if each.shards[one] == "open":
                each.shards[one] = "failed" if failed else "committed"
        self.happened(close(name, number, shard))

    # What always holds.

    @invariant()
    def what_is_held_is_counted(self) -> None:
        for process in PROCESSES:
            own = [
                each
                for each in self.record.transactions.values()
                if each.maker.process == process and not each.over
            ]
            leased = sum(each.blocks for each in own if isinstance(each, Lease))
            reserved = sum(each.blocks for each in own if isinstance(each, Reservation))
            assert self.ledger.holdings(process) == Holdings(len(own), leased, reserved)

    @invariant()
    def sessions_are_known_as_long_as_they_matter(self) -> None:
        assert self.ledger.sessions == len(self.record.sessions)
        for process in PROCESSES:
            alive = any(each.process == process for each in self.record.sessions.values())
            assert self.ledger.knows(process) == alive

    def teardown(self) -> None:
        for process in PROCESSES:
            self.die(process)
        for handle, lease in self.in_use():
            for _ in range(lease.uses):
                lease.uses -= 1
                self.happened(self.ledger.end(self.numbers[handle]))
        assert self.record.let_go == set(self.record.transactions), "everything comes back"
        assert self.ledger.sessions == self.ledger.groups == self.ledger.transactions == 0


def run(examples: int) -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None),
    )


@pytest.mark.slow
def test_what_may_be_in_use_stays_and_all_else_comes_back() -> None:
    run(150)


@pytest.mark.soak
def test_what_may_be_in_use_stays_whatever_is_said() -> None:
    run(2000)
