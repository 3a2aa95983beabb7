"""How is each figure taken? One function a measure; each fills in `Figures`.

The proxy runs alone on one core, the load and the backend share another. Contenders take turns
within each round, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop

from tests.bench import load, wrk
from tests.bench.bench import UNBOUND, Bench
from tests.bench.contenders import (
    LITELLM,
    Contender,
    Running,
    await_answer,
    duty_in,
    python_module,
    sidecar_argv,
)
from tests.bench.origin import Mode
from tests.bench.process import BenchError, Cpu, Process, free_port, raise_file_limit
from tests.bench.series import percentile

CONNECTIONS = 32
STREAMS = 100
CHUNK_INTERVAL_S = 0.01
OPEN_STREAMS = 1000
# Nearly 10,000: the sidecar keeps two open files for each client and some to spare, and a limit
# of 20,000 files is as much as one often gets.
WAITING = 9_900
HERD_CLIENTS = 1000
HERD_SLOTS = 3
HERD_ANSWER_S = 0.05
# Each of 100 connections asks about 20 times a second: enough to meet each other, not enough to
# fill a core. At full load a latency only says how long the line is.
THINKING_CONNECTIONS = 100
THINK_MS = (20, 80)
# What a process takes to come to rest after the last change: a guess.
SETTLE_S = 0.3
# More wrong answers than this, and the figure is of something else.
MAX_ERRORS_RATIO = 0.01

MEGABYTE = 1e6
KILOBYTE = 1e3

DIRECT = "direct"

_WAITING = re.compile(r'^openclaw_sidecar_waiting\{route="inference"\} (\S+)$', re.MULTILINE)

T = TypeVar("T")


def in_turns(items: Sequence[T], turn: int) -> list[T]:
    """All of them, beginning with another one each round: nobody is always first."""
    at = turn % len(items) if items else 0
    return [*items[at:], *items[:at]]


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run our own load."""
    return uvloop.run(main)


# -- start-up time and memory at rest ---------------------------------------------------------


def start(bench: Bench) -> None:
    """From start to the first answer from the backend, and the memory then; fresh processes."""
    with bench.origin() as origin_port:
        _start_all_once(bench, origin_port)
        for turn in range(bench.pace.start_rounds):
            for contender in in_turns(bench.contenders, turn):
                if contender is LITELLM and turn:
                    continue  # takes 10 s and more
                try:
                    with bench.one(contender, origin_port, UNBOUND) as fresh:
                        time.sleep(SETTLE_S if turn == 0 else 0)
                        memory = fresh.process.memory()
                        bench.figures.add(contender.name, start_s=fresh.start_s)
                        if turn == 0:
                            bench.figures.add(
                                contender.name,
                                idle_rss_mb=memory.rss / MEGABYTE,
                                idle_pss_mb=memory.pss / MEGABYTE,
                            )
                except BenchError as error:
                    bench.figures.add_failure(contender.name, str(error), "start_s")


def _start_all_once(bench: Bench, origin_port: int) -> None:
    """What was never started before may have to be compiled, or to be read from disk."""
    for contender in bench.contenders:
        if contender is not LITELLM:
            with contextlib.suppress(BenchError), bench.one(contender, origin_port, UNBOUND):
                pass  # a failure is told when it counts


# -- requests ---------------------------------------------------------------------------------


def requests(bench: Bench) -> None:
    """CPU per request and requests per second, 32 connections without a pause."""
    script = _script(bench, None)
    figures = ("cpu_us_per_request", "user_us_per_request", "sys_us_per_request",
               "requests_per_s", "busy_ratio")  # fmt: skip
    with bench.plain_origin() as port, bench.all_of(bench.contenders, port) as fleet:
        for one in fleet:
            wrk.run(one.url, script, connections=CONNECTIONS, seconds=1)  # warm
        for turn in range(bench.pace.rounds):
            for one in in_turns(fleet, turn):
                try:
                    cost = _cost_of_load(one, script, bench.pace.load_s)
                except BenchError as error:
                    bench.figures.add_failure(one.name, str(error), *figures)
                else:
                    bench.figures.add(
                        one.name,
                        cpu_us_per_request=cost.cpu.total_s / cost.load.requests * 1e6,
                        user_us_per_request=cost.cpu.user_s / cost.load.requests * 1e6,
                        sys_us_per_request=cost.cpu.sys_s / cost.load.requests * 1e6,
                        requests_per_s=cost.load.requests_per_s,
                        busy_ratio=cost.cpu.total_s / cost.wall_s,
                    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a load took from a proxy."""

    load: wrk.Load
    cpu: Cpu
    wall_s: float


def _cost_of_load(one: Running, script: Path, seconds: int) -> Cost:
    before, began_s = one.process.cpu(), time.monotonic()
    seen = wrk.run(one.url, script, connections=CONNECTIONS, seconds=seconds)
    wall_s = time.monotonic() - began_s
    return Cost(_checked(seen), one.process.cpu().since(before), wall_s)


def _checked(seen: wrk.Load) -> wrk.Load:
    wrong = seen.not_2xx + seen.errors
    if seen.requests == 0 or wrong / seen.requests > MAX_ERRORS_RATIO:
        raise BenchError(f"{wrong} of {seen.requests} requests failed")
    return seen


def _script(bench: Bench, think_ms: tuple[int, int] | None) -> Path:
    path = bench.new_folder("wrk") / "load.lua"
    path.write_text(wrk.script(think_ms))
    return path


# -- latency ----------------------------------------------------------------------------------


def latency(bench: Bench) -> None:
    """What the proxy adds to the backend's own latency: at one connection and at 100."""
    among = bench.pace.latency_of
    contenders = [one for one in bench.contenders if among is None or one.name in among]
    scripts = {1: _script(bench, None), THINKING_CONNECTIONS: _script(bench, THINK_MS)}
    with bench.plain_origin() as port, bench.all_of(contenders, port) as fleet:
        for turn in range(bench.pace.latency_rounds):
            for connections, script in scripts.items():
                direct = _latency(f"http://127.0.0.1:{port}/v1", script, connections)
                bench.figures.add(DIRECT, **_named(direct, "{}", connections))
                for one in in_turns(fleet, turn):
                    _add_latency(bench, one, script, connections, direct)


def _add_latency(
    bench: Bench, one: Running, script: Path, connections: int, direct: tuple[float, float]
) -> None:
    try:
        p50_us, p99_us = _latency(one.url, script, connections)
    except BenchError as error:
        names = _named((0, 0), "added_{}", connections)
        bench.figures.add_failure(one.name, str(error), *names)
    else:
        added = p50_us - direct[0], p99_us - direct[1]
        bench.figures.add(one.name, **_named(added, "added_{}", connections))


def _latency(url: str, script: Path, connections: int) -> tuple[float, float]:
    seen = _checked(wrk.run(url, script, connections=connections, seconds=1))
    return seen.p50_us, seen.p99_us


def _named(values: tuple[float, float], form: str, connections: int) -> dict[str, float]:
    return {
        form.format(f"{share}_us_at_{connections}"): value
        for share, value in zip(("p50", "p99"), values, strict=True)
    }


# -- streams ----------------------------------------------------------------------------------


def chunks(bench: Bench) -> None:
    """CPU per streamed chunk: 100 streams, a chunk each 10 ms on each."""
    figures = ("cpu_us_per_chunk", "user_us_per_chunk", "sys_us_per_chunk", "chunks_per_s")
    with bench.origin() as port, bench.all_of(bench.contenders, port) as fleet:
        load.set_mode(port, Mode("stream", interval_s=CHUNK_INTERVAL_S))
        for turn in range(bench.pace.rounds):
            for one in in_turns(fleet, turn):
                try:
                    run_async(_stream_through(bench, one))
                except (BenchError, OSError, TimeoutError) as error:
                    bench.figures.add_failure(one.name, f"streams: {error}", *figures)


async def _stream_through(bench: Bench, one: Running) -> None:
    async with load.crowd_of(STREAMS, one.duty.port, stream=True) as crowd:
        await load.until(lambda: crowd.first_chunks() == STREAMS, "a first chunk on every stream")
        await asyncio.sleep(SETTLE_S)
        received, before, began_s = crowd.chunks, one.process.cpu(), time.monotonic()
        await asyncio.sleep(bench.pace.stream_s)
        received, cpu = crowd.chunks - received, one.process.cpu().since(before)
        took_s = time.monotonic() - began_s
        if crowd.closed or not received:
            raise BenchError(f"{crowd.closed} of {STREAMS} streams broke off")
    bench.figures.add(
        one.name,
        cpu_us_per_chunk=cpu.total_s / received * 1e6,
        user_us_per_chunk=cpu.user_s / received * 1e6,
        sys_us_per_chunk=cpu.sys_s / received * 1e6,
        chunks_per_s=received / took_s,
    )


# -- memory -----------------------------------------------------------------------------------


def memory(bench: Bench) -> None:
    """What 1,000 streams cost that are open and silent; a fresh process."""
    with bench.origin() as port:
        for contender in bench.contenders:
            load.set_mode(port, Mode())
            try:
                with bench.one(contender, port, UNBOUND) as fresh:
                    load.set_mode(port, Mode("hold"))
                    run_async(_hold_streams(bench, fresh))
            except (BenchError, OSError, TimeoutError) as error:
                bench.figures.add_failure(contender.name, f"open streams: {error}")


async def _hold_streams(bench: Bench, fresh: Running) -> None:
    port = fresh.duty.port
    async with load.crowd_of(1, port, stream=True) as first:
        # The first one, so that what is only made once is not counted for each.
        await load.until(lambda: first.first_chunks() == 1, "a first stream")
        await asyncio.sleep(SETTLE_S)
        before = fresh.process.memory()
        async with load.crowd_of(OPEN_STREAMS, port, stream=True) as crowd:
            await load.until(
                lambda: crowd.first_chunks() == OPEN_STREAMS, "a first chunk on every stream"
            )
            await asyncio.sleep(SETTLE_S)
            after = fresh.process.memory()
    bench.figures.add(
        fresh.name,
        streams_rss_mb=after.rss / MEGABYTE,
        streams_pss_mb=after.pss / MEGABYTE,
        kb_per_stream=(after.pss - before.pss) / OPEN_STREAMS / KILOBYTE,
    )


def waiting(bench: Bench) -> None:
    """The sidecar's memory while 9,900 requests wait for three slots."""
    allowed = raise_file_limit()
    if allowed < 2 * WAITING:
        bench.figures.note(
            f"waiting requests not measured: {allowed} open files are allowed (ulimit -Hn), "
            f"{2 * WAITING} are needed"
        )
        return
    many = ("--limits.max-connections", "100000", "--limits.max-connections-per-address", "100000")
    with bench.origin() as origin_port:
        folder = bench.new_folder("waiting")
        duty = duty_in(folder, origin_port, HERD_SLOTS)
        argv = sidecar_argv(duty, *many)
        with bench.process("sidecar", argv, folder, core=bench.proxy_core) as process:
            await_answer(process, duty.port, 15)
            load.set_mode(origin_port, Mode(answer_s=600))
            run_async(_wait_in_line(bench, process, duty.port, duty.spare_port))


async def _wait_in_line(bench: Bench, process: Process, port: int, admin_port: int) -> None:
    async with load.crowd_of(WAITING, port, stream=False) as crowd:
        await load.until(
            lambda: waiting_now(admin_port) >= WAITING - HERD_SLOTS or crowd.closed > 0,
            "all requests in the queue",
        )
        if crowd.closed:
            raise BenchError(f"{crowd.closed} of {WAITING} waiting requests were turned away")
        await asyncio.sleep(SETTLE_S)
        seen = process.memory()
    bench.figures.add("sidecar", waiting_rss_mb=seen.rss / MEGABYTE)


def waiting_now(admin_port: int) -> int:
    """How many wait, as the sidecar's own metrics say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return int(float(_WAITING.findall(text)[0]))


# -- refusals ---------------------------------------------------------------------------------


def refusals(bench: Bench) -> None:
    """Refusals per second while the circuit is open, and what an empty aiohttp handler does."""
    script = _script(bench, None)
    duty = duty_in(bench.new_folder("refusals"), free_port(), HERD_SLOTS)  # nobody listens there
    empty_port = free_port()
    empty = python_module("tests.bench.refuser", str(empty_port)).argv
    argv = sidecar_argv(duty, "--breaker.open-s", "3600")
    core = bench.proxy_core
    with (
        bench.process("sidecar", argv, duty.folder, core=core) as guard,
        bench.process("empty handler", empty, bench.new_folder("empty"), core=core) as handler,
    ):
        sides = [("sidecar", guard, duty.port), ("empty handler", handler, empty_port)]
        for _, process, port in sides:
            await_answer(process, port, 15, expected=503)
            wrk.run(f"http://127.0.0.1:{port}/v1", script, connections=CONNECTIONS, seconds=1)
        for turn in range(bench.pace.rounds):
            for name, process, port in in_turns(sides, turn):
                _add_refusals(bench, name, process, port, script)


def _add_refusals(bench: Bench, name: str, process: Process, port: int, script: Path) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    before = process.cpu()
    seen = wrk.run(url, script, connections=CONNECTIONS, seconds=1)
    cpu = process.cpu().since(before)
    if seen.not_2xx != seen.requests or seen.errors:
        raise BenchError(f"{name} did not refuse everything: {seen}")
    bench.figures.add(
        name,
        refusals_per_s=seen.requests_per_s,
        cpu_us_per_refusal=cpu.total_s / seen.requests * 1e6,
    )


# -- the herd ---------------------------------------------------------------------------------


def herd(bench: Bench) -> None:
    """1,000 clients ask all the time for three slots: how idle is the backend?"""
    figures = ("herd_useful_ratio", "herd_gap_p50_ms", "herd_gap_p99_ms", "herd_peak")
    contenders = [one for one in bench.contenders if _in_herd(bench, one)]
    with bench.origin() as port:
        for turn in range(bench.pace.herd_rounds):
            for contender in in_turns(contenders, turn):
                load.set_mode(port, Mode())
                try:
                    with bench.one(contender, port, HERD_SLOTS) as fresh:
                        load.set_mode(port, Mode(answer_s=HERD_ANSWER_S))
                        run_async(_stampede(bench, fresh, port))
                except (BenchError, OSError, TimeoutError) as error:
                    bench.figures.add_failure(contender.name, f"herd: {error}", *figures)


def _in_herd(bench: Bench, contender: Contender) -> bool:
    if not contender.queues:
        bench.figures.note(f"{contender.name} has no queue, so it takes no part in the herd")
        return False
    return bench.pace.herd_of is None or contender.name in bench.pace.herd_of


async def _stampede(bench: Bench, fresh: Running, origin_port: int) -> None:
    async with load.crowd_of(HERD_CLIENTS, fresh.duty.port, stream=False, again=True) as crowd:
        await asyncio.sleep(bench.pace.herd_s)
        seen = load.counts(origin_port)
        refused, closed = crowd.refused, crowd.closed
    if closed:
        raise BenchError(f"{closed} of {HERD_CLIENTS} clients were turned away ({refused} refused)")
    window_s = seen["now_s"] - seen["first_arrival_s"]
    bench.figures.add(
        fresh.name,
        herd_useful_ratio=seen["busy_s"] / (HERD_SLOTS * window_s),
        herd_gap_p50_ms=percentile(seen["gaps_s"], 0.5) * 1e3,
        herd_gap_p99_ms=percentile(seen["gaps_s"], 0.99) * 1e3,
        herd_peak=seen["peak"],
    )


MEASURES: dict[str, Callable[[Bench], None]] = {
    "start": start,
    "memory": memory,
    "requests": requests,
    "chunks": chunks,
    "latency": latency,
    "refusals": refusals,
    "waiting": waiting,
    "herd": herd,
}
