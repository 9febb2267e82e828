"""Composes a load shape and a library of sessions into a request stream of days or weeks.

Sessions start as an inhomogeneous Poisson process; each start is a copy of a recorded session, with
its gaps, lengths and chains of blocks. Private blocks are new in each copy, shared ones are not.

Requests come after their session's start, so starts that followed the load would give a request
rate that lags behind it. With ``k[j]`` the mean number of requests that a session makes ``j``
windows after the window of its start, and ``s`` the starts in each window, the expected requests
are the convolution ``k * s``. The starts are found from the wanted requests by Richardson-Lucy
deconvolution (Richardson, JOSA 62(1), 1972; Lucy, Astron. J. 79, 1974), which keeps them positive.
They begin as long before the stream as the longest session lasts, and what these sessions ask
before the stream begins is cut off.

Sessions are drawn in turn from random permutations of the library (the balanced bootstrap of
Davison, Hinkley and Schechtman, Biometrika 73(3), 1986): as with drawing with replacement each copy
is equally likely to be any session, but a day holds all of them about equally often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.errors import InputError
from greencache.quantities import HOUR_S
from greencache.traces.loads import LoadSeries, SpanOfLoad
from greencache.traces.requests import RequestTrace
from greencache.traces.sessions import SessionLibrary, entries_of, session_library

__all__ = ["ComposedWorkload", "compose", "compose_sessions", "starts_for"]

_DECONVOLUTION_STEPS = 50
"""Then the expected requests of each hour of ServeGen's services are within 0.3 % of the wanted
(conversation, document), or 6 % (agentic, whose sessions outlast the falls of the load). More steps
change little."""

_MOST_ENTRIES = 2**30
"""Block ids have 32 bits; half of them leaves room for what a draw has more than its mean."""


@dataclass(frozen=True)
class ComposedWorkload:
    """A composed stream and all that a result must say about it.

    Attributes
    ----------
    workload:
        ``conversation``, ``document`` or ``agentic``.
    trace:
        The requests, from the beginning of the warm-up; ``sessions`` tells the copies apart.
    warmup_s:
        Where the measured part begins.
    span_s:
        Length of the stream, warm-up included.
    mean_rate:
        Wanted requests per second over the measured part.
    load:
        The wanted load, window by window; its time 0 is ``warmup_s`` of the trace.
    earlier_load:
        The same before the stream begins, as far as the series is not used in it; as long as that
        is none, None.
    load_repeats:
        Whether the load series is shorter than the stream, and so used more than once.
    library:
        The sessions.
    composed_from:
        For the result: ``role``, ``name``, ``source`` and ``licence`` of each recording.
    notes:
        What a reader of the result must know, a sentence each.
    """

    workload: str
    trace: RequestTrace
    warmup_s: float
    span_s: float
    mean_rate: float
    load: SpanOfLoad
    earlier_load: SpanOfLoad | None
    load_repeats: bool
    library: SessionLibrary = field(repr=False)
    composed_from: list[dict[str, str]]
    notes: list[str]


def _earlier(
    load: LoadSeries, before_s: float, span_s: float, mean_rate: float
) -> SpanOfLoad | None:
    """What the series was before a stream, without what the stream is made of."""
    windows = math.floor((load.duration_s - before_s - span_s) / load.window_s)
    if windows <= 0:
        return None
    whole = load.over(span_s, before_s=before_s + windows * load.window_s, mean_rate=mean_rate)
    return replace(whole, requests_per_s=whole.requests_per_s[:windows])


def _requests_by_window(library: SessionLibrary, window_s: float) -> NDArray[np.float64]:
    """Mean requests of a session in the window of its start and in each one after.

    A session starts anywhere in its window, so a request at an offset of ``m + f`` windows falls
    into the window ``m`` after it with probability ``1 - f``, else into the next.
    """
    windows = library.offset_s / window_s
    whole = np.floor(windows).astype(np.int64)
    part = windows - whole
    size = int(whole.max()) + 2
    here = np.bincount(whole, 1 - part, minlength=size)
    following = np.bincount(whole + 1, part, minlength=size)
    expected: NDArray[np.float64] = (here + following) / len(library)
    return expected


def starts_for(
    requests: NDArray[np.float64], requests_by_window: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Session starts in each window from which the wanted requests follow.

    Before the first window, sessions are taken to have started as often as its rate needs.

    Parameters
    ----------
    requests:
        Wanted requests in each window.
    requests_by_window:
        Mean requests of a session in the window of its start and in each one after.

    Returns
    -------
    numpy.ndarray
        Expected starts in each window.
    """
    windows, total = len(requests), requests_by_window.sum()
    size = windows + len(requests_by_window)
    transform = np.fft.rfft(requests_by_window, size)
    earlier = np.zeros(windows)
    later_requests = (total - np.cumsum(requests_by_window))[:windows]
    earlier[: len(later_requests)] = requests[0] / total * np.maximum(later_requests, 0.0)

    def expected(starts: NDArray[np.float64]) -> NDArray[np.float64]:
        return earlier + np.fft.irfft(np.fft.rfft(starts, size) * transform, size)[:windows]

    def blamed(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.fft.irfft(np.fft.rfft(ratio, size) * transform.conj(), size)[:windows]

    within = np.maximum(blamed(np.ones(windows)), requests_by_window[0] / 2)
    smallest = requests.max() * 1e-9
    starts: NDArray[np.float64] = requests / total
    for _ in range(_DECONVOLUTION_STEPS):
        ratio = requests / np.maximum(expected(starts), smallest)
        starts = starts * np.maximum(blamed(ratio), 0.0) / within
    return starts


def _start_times_s(
    load: SpanOfLoad, library: SessionLibrary, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Starts of sessions, in order, on the load's clock."""
    by_window = _requests_by_window(library, load.window_s)
    expected = starts_for(load.requests_per_s * load.window_s, by_window)
    blocks = expected.sum() * len(library.blocks) / len(library)
    if blocks > _MOST_ENTRIES:
        raise InputError(
            f"a stream with some {blocks:.2g} blocks in its prompts is too large: compose fewer "
            "hours, a lower rate or larger blocks"
        )
    counts = rng.poisson(expected)
    window = np.repeat(np.arange(len(counts)), counts)
    times_s = load.start_s + (window + rng.random(len(window))) * load.window_s
    times_s.sort()
    return times_s


def _draw(library: SessionLibrary, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sessions of the library, in turn from random permutations of it."""
    rounds = -(-count // len(library))
    turns = np.tile(np.arange(len(library)), (rounds, 1))
    return rng.permuted(turns, axis=1).ravel()[:count]


@kernel
def _name_blocks(
    copies: NDArray[np.int64],
    requests: NDArray[np.int64],
    block_starts: NDArray[np.int64],
    blocks: NDArray[np.int32],
    first_private: NDArray[np.int64],
    id_of: NDArray[np.int32],
    ids: NDArray[np.int32],
) -> None:
    """Write the ids of all requests, new ones numbered as they appear.

    ``id_of`` has a place for each shared block and then for each private block of each copy.
    """
    at = 0
    following = 0
    for r in range(len(requests)):
        base = first_private[copies[r]]
        for entry in range(block_starts[requests[r]], block_starts[requests[r] + 1]):
            block = blocks[entry]
            place = base + block if block >= 0 else -1 - block
            if id_of[place] < 0:
                id_of[place] = following
                following += 1
            ids[at] = id_of[place]
            at += 1


def compose_sessions(
    library: SessionLibrary, load: SpanOfLoad, *, before_s: float, span_s: float, seed: int
) -> RequestTrace:
    """Requests of copies of a library's sessions, whose rate follows a load.

    Parameters
    ----------
    library:
        The sessions.
    load:
        The wanted load, from at least twice `SessionLibrary.longest_s` before the stream on.
    before_s, span_s:
        The stream reaches from ``-before_s`` to ``span_s`` on the load's clock; its arrivals count
        from its beginning.
    seed:
        Of numpy's PCG64; the same seed gives the same arrays.

    Raises
    ------
    InputError
        If no request falls into the stream, or more blocks than ids of 32 bits can name.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    starts_s = _start_times_s(load, library, rng)
    drawn = _draw(library, len(starts_s), rng)
    alive = (starts_s + library.longest_s >= -before_s) & (starts_s < span_s)
    starts_s, drawn = starts_s[alive], drawn[alive]
    lengths = np.diff(library.session_starts)[drawn]
    copies = np.repeat(np.arange(len(drawn)), lengths)
    requests = entries_of(library.session_starts, drawn)
    arrival_s = before_s + np.repeat(starts_s, lengths) + library.offset_s[requests]
    within = np.flatnonzero((arrival_s >= 0) & (arrival_s < before_s + span_s))
    order = within[np.argsort(arrival_s[within], kind="stable")]
    if not len(order):
        raise InputError("no request falls into the stream: compose more hours or a higher rate")
    copies, requests = copies[order], requests[order]
    first_private = library.shared_blocks + np.cumsum(library.private_blocks[drawn])
    places = int(first_private[-1])
    entries = np.diff(library.block_starts)[requests]
    ids = np.empty(int(entries.sum()), np.int32)
    _name_blocks(
        copies,
        requests,
        library.block_starts,
        library.blocks,
        first_private - library.private_blocks[drawn],
        np.full(places, -1, np.int32),
        ids,
    )
    return RequestTrace(
        name=library.name,
        arrival_s=arrival_s[order],
        input_tokens=library.input_tokens[requests],
        output_tokens=library.output_tokens[requests],
        block_tokens=library.block_tokens,
        block_names=ids,
        block_starts=np.concatenate([[0], np.cumsum(entries)]).astype(np.int64),
        sessions=np.unique(copies, return_inverse=True)[1],
        chained=True,
    )


def _notes(workload: str, library: SessionLibrary, load: LoadSeries, repeats: bool) -> list[str]:
    notes = [
        f"semi-synthetic: copies of {len(library):,} recorded sessions, started so that requests "
        f"follow the load {load.name}"
    ]
    if load.start is None and load.name != "flat":
        notes.append("the hour of the day at which the load begins is not known")
    if repeats:
        notes.append(f"the load lasts {load.duration_s / HOUR_S:g} h and is repeated")
    if workload == "agentic":
        notes.append("blocks shared between agentic sessions are not recorded: each is alone")
    else:
        notes.append("the sessions' recording lasts 59 min: no gap or session is longer")
    return notes


def compose(
    workload: str,
    load: LoadSeries,
    *,
    hours: float,
    warmup_hours: float = 0.0,
    mean_rate: float,
    seed: int,
    block_tokens: int | None = None,
) -> ComposedWorkload:
    """Compose a stream of requests.

    Parameters
    ----------
    workload:
        ``conversation``, ``document`` or ``agentic``.
    load:
        The shape of the load; the measured hours begin where it begins.
    hours:
        Length of the measured part.
    warmup_hours:
        Length of the part before, under the load that lies before the series' start if it is
        taken to repeat.
    mean_rate:
        Expected requests per second over the measured part.
    seed:
        The same seed gives the same arrays.
    block_tokens:
        Tokens to a block, a multiple of the recording's own; by default 512.

    Raises
    ------
    UnknownNameError
        If there is no such workload.
    InputError
        If an amount is out of range, such blocks cannot be made, or the stream is empty or too
        large.
    """
    if not (0 < hours < math.inf and 0 <= warmup_hours < math.inf):
        raise InputError(
            f"a stream has more than 0 hours and a warm-up of 0 or more: {hours:g}, "
            f"{warmup_hours:g}"
        )
    if seed < 0:
        raise InputError(f"a seed is 0 or more: {seed}")
    library = session_library(workload, block_tokens)
    span_s, before_s = hours * HOUR_S, warmup_hours * HOUR_S
    # Once the longest session for the requests of those that have begun, and once more because
    # the starts before those are not known but guessed.
    span = load.over(span_s, before_s=before_s + 2 * library.longest_s, mean_rate=mean_rate)
    trace = compose_sessions(library, span, before_s=before_s, span_s=span_s, seed=seed)
    repeats = load.repeats_within(before_s + span_s)
    name = f"{workload}-{load.name}-{hours:g}h-seed{seed}"
    return ComposedWorkload(
        workload=workload,
        trace=replace(trace, name=name),
        warmup_s=before_s,
        span_s=before_s + span_s,
        mean_rate=mean_rate,
        load=span,
        earlier_load=_earlier(load, before_s, span_s, mean_rate),
        load_repeats=repeats,
        library=library,
        composed_from=[
            {
                "role": "sessions",
                "name": library.name,
                "source": library.source,
                "licence": library.licence,
            },
            {
                "role": "load",
                "name": load.name,
                "source": load.source,
                "licence": load.licence,
            },
        ],
        notes=_notes(workload, library, load, repeats),
    )
