"""Is there an order of the operations that explains every answer? (Wing and Gong 1993, Lowe 2017.)

A history is linearizable if its operations can be put in one order in which each takes effect at
once, somewhere between its call and its return, and in which a sequential model gives the same
answers. Operations whose outcome is unknown take effect at any time after their call, or never.

The search is depth first: what comes next is any operation that was called before every other
that is left has returned. A set of operations done that has led to the same state before is not
searched again. Three rules keep it small, and none of them loses an order:

1. A model may split a history into parts that do not influence each other.
2. An operation that fits and changes nothing is taken at once: any order that has it later can
   have it now.
3. A pending operation is tried only where `Model.helps` says that it may matter for what can come
   next: any order that has it earlier can have it right before the first that it matters for.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from attrs import field, frozen

from tests.simulation.history import Operation, pending_from

MAX_SEARCH_STEPS = 200_000
"""Orders tried for one part of a history; a few seconds."""

MAX_EXPLAINED_OPERATIONS = 12
"""Of the longest order found, how many of the last an explanation shows."""

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """What is promised, one operation after the other. States are frozen and can be hashed."""

    @property
    def initial(self) -> S: ...

    def partitions(self, history: Sequence[Operation]) -> Mapping[str, Sequence[Operation]]:
        """By name, the parts that can be judged on their own, without what no model can judge."""
        ...

    def knowing(self, operations: Sequence[Operation]) -> Self:
        """The model for exactly these operations: it may foresee from answers what must happen."""
        ...

    def step(self, state: S, operation: Operation) -> Collection[S]:
        """The states after `operation`, if it gives its result; none if it cannot.

        Without a result: all states that it can lead to.
        """
        ...

    def helps(self, pending: Operation, following: Sequence[Operation]) -> bool:
        """Whether `pending`, done now, can matter for one of `following`, directly or not."""
        ...


@frozen
class Linearizable:
    steps: int


@frozen
class Violation:
    """No order explains the answers of `prefix`, the shortest part from the beginning of which
    that could be shown: all that was called until `culprit` returned, the rest of it pending."""

    partition: str
    prefix: tuple[Operation, ...]
    culprit: Operation
    explanation: str


@frozen
class Undecided:
    """The search has ended at its bound."""

    steps: int


Verdict: TypeAlias = Linearizable | Violation | Undecided


def check(
    model: Model[S], history: Sequence[Operation], max_steps: int = MAX_SEARCH_STEPS
) -> Verdict:
    """Judge a history; `max_steps` bounds each search in each part. A violation comes first."""
    steps, undecided = 0, False
    for name, operations in model.partitions(history).items():
        found = _Search(model, operations).run(max_steps)
        steps += found.steps
        if isinstance(found, _Stuck):
            return _violation(model, name, operations, found, max_steps)
        undecided = undecided or isinstance(found, Undecided)
    return Undecided(steps) if undecided else Linearizable(steps)


@frozen(eq=False)
class _Node(Generic[S]):
    """An order found so far. `done`: its operations, a bit each; `first`: the first not done."""

    done: int
    first: int
    state: S
    last: int = -1
    before: _Node[S] | None = field(default=None, repr=False)

    def order(self) -> list[int]:
        node: _Node[S] | None = self
        order = []
        while node is not None and node.last >= 0:
            order.append(node.last)
            node = node.before
        return order[::-1]


@frozen
class _Stuck(Generic[S]):
    """All orders were tried; `longest` is one that answers the most in the order of returns."""

    steps: int
    longest: _Node[S]


class _Search(Generic[S]):
    """Operations are numbered in the order of their returns, and after them the pending ones."""

    def __init__(self, model: Model[S], operations: Sequence[Operation]) -> None:
        self._model = model.knowing(operations)
        self.completed = by_return(operations)
        pending = sorted((each for each in operations if each.pending), key=lambda each: each.call)
        self.operations = self.completed + pending
        self._windows = list(self._find_windows())

    def _find_windows(self) -> Iterator[list[int]]:
        """For each first operation not done: itself and all that was called before it returned."""
        calls = sorted(range(len(self.operations)), key=lambda i: self.operations[i].call)
        called, window = 0, list[int]()
        for first, operation in enumerate(self.completed):
            assert operation.returned is not None
            end = called
            while end < len(calls) and self.operations[calls[end]].call <= operation.returned:
                end += 1
            window = sorted(i for i in window + calls[called:end] if i >= first)
            called = end
            yield window

    def run(self, max_steps: int) -> Linearizable | _Stuck[S] | Undecided:
        start = longest = _Node(0, 0, self._model.initial)
        if not self.completed:
            return Linearizable(0)
        seen = {(start.done, start.state)}
        path = [self._next(start)]
        steps = 0
        while path:
            node = next(path[-1], None)
            if node is None:
                path.pop()
                continue
            if steps == max_steps:
                return Undecided(steps)
            steps += 1
            if node.first == len(self.completed):
                return Linearizable(steps)
            if (node.done, node.state) not in seen:
                seen.add((node.done, node.state))
                path.append(self._next(node))
                longest = max(longest, node, key=lambda each: (each.first, each.done.bit_count()))
        return _Stuck(steps, longest)

    def _next(self, node: _Node[S]) -> Iterator[_Node[S]]:
        possible = [i for i in self._windows[node.first] if not node.done >> i & 1]
        answered = [i for i in possible if i < len(self.completed)]
        steps = {i: self._model.step(node.state, self.operations[i]) for i in answered}
        for i, states in steps.items():
            if len(states) == 1 and node.state in states:
                yield self._after(node, i, node.state)
                return
        for i, states in steps.items():
            for state in states:
                yield self._after(node, i, state)
        following = [self.operations[i] for i in answered]
        for i in possible[len(answered) :]:
            if self._model.helps(self.operations[i], following):
                for state in self._model.step(node.state, self.operations[i]):
                    if state != node.state:
                        yield self._after(node, i, state)

    def _after(self, node: _Node[S], i: int, state: S) -> _Node[S]:
        done, first = node.done | 1 << i, node.first
        while first < len(self.completed) and done >> first & 1:
            first += 1
        return _Node(done, first, state, i, node)


def by_return(operations: Sequence[Operation]) -> list[Operation]:
    """Those that have returned, in the order in which they did."""
    returned = [
        (each.returned, i) for i, each in enumerate(operations) if each.returned is not None
    ]
    return [operations[i] for _, i in sorted(returned)]


# Explanations.


def _violation(
    model: Model[S], name: str, operations: Sequence[Operation], stuck: _Stuck[S], max_steps: int
) -> Violation:
    """Every beginning of a linearizable history is one, so the shortest other one can be bisected.

    A beginning for which the search ends undecided counts as one that is not shown to be wrong.
    """
    completed = by_return(operations)
    fine, wrong, prefix = -1, len(completed) - 1, operations
    while wrong - fine > 1:
        middle = (fine + wrong) // 2
        shorter = _until(operations, completed[middle])
        found = _Search(model, shorter).run(max_steps)
        if isinstance(found, _Stuck):
            wrong, prefix, stuck = middle, shorter, found
        else:
            fine = middle
    culprit = completed[wrong]
    return Violation(name, tuple(prefix), culprit, _explain(model, name, prefix, culprit, stuck))


def _until(operations: Sequence[Operation], last: Operation) -> list[Operation]:
    """What was known when `last` returned."""
    end = last.returned
    assert end is not None
    return [
        pending_from(each) if each.latest > end else each for each in operations if each.call <= end
    ]


def _explain(
    model: Model[S],
    name: str,
    prefix: Sequence[Operation],
    culprit: Operation,
    stuck: _Stuck[S],
) -> str:
    operations = _Search(model, prefix).operations
    order = [operations[i] for i in stuck.longest.order()]
    shown = order[-MAX_EXPLAINED_OPERATIONS:]
    lines = [
        f"{name}: no order of the {len(prefix)} operations called until then explains the answer",
        f"  {culprit.to_line()}",
        f"The longest order found has {len(order)} of them and ends so:",
        *(f"  {each.to_line()}" for each in shown),
        f"in the state {stuck.longest.state}. None of these can follow:",
        *(f"  {each.to_line()}" for each in prefix if not each.pending and each not in order),
    ]
    return "\n".join(lines)
