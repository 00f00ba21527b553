"""`atoll simulate bandwidth`: what each way of training asks of the line between data centres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.cli.quantities import count_of
from atoll.merge.codecs import Codec
from atoll.simulator.bandwidth import (
    SYSTEMS,
    UTILISATIONS,
    Job,
    Need,
    System,
    average_bytes_s,
    gigabits,
    need_of,
    needed_bytes_s,
)
from atoll.simulator.bandwidth_published import PAIRS, UTILISATION, compare
from atoll.simulator.bandwidth_wire import Counted, Thin, count, thin_line

HEADROOM = 1.1
"""Decoupled is counted on lines of so many times the average rate."""
THIN_SHARES = (0.5, 0.75, 1.0, 1.25, 2.0)
TITLES: dict[System, str] = {
    "data-parallel": "data-parallel",
    "diloco": "DiLoCo",
    "streaming": "Streaming",
    "decoupled": "decoupled",
    "decoupled-apart": "  apart",
}


def bandwidth(
    params: Annotated[str, typer.Option(help="Parameters of the model: 5e9, 5B.")] = "5e9",
    step_s: Annotated[float, typer.Option(help="Seconds of computing in a step.")] = 1.0,
    datacenters: Annotated[int, typer.Option(help="Data centres, a learner in each.")] = 2,
    precision: Annotated[str, typer.Option(help="On the wire: fp32, bf16, int8, int4.")] = "bf16",
    fragments: Annotated[int, typer.Option(help="P, parts of the parameters.")] = 24,
    every_steps: Annotated[int, typer.Option(help="H, steps between merges of a part.")] = 24,
    overlap_steps: Annotated[int, typer.Option(help="tau, steps a part may be on its way.")] = 2,
    count_bytes: Annotated[
        bool, typer.Option("--count/--no-count", help="Count bytes on the simulated wire too.")
    ] = True,
    published: Annotated[
        bool, typer.Option("--published", help="The published figures beside ours, counted.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare what ways of training ask of the lines between data centres.

    Average and peak per link and direction at full speed, and the rate that 50 to 99 % compute
    utilisation take, as formulas and as bytes counted on the simulated wire.
    """
    job = Job(
        count_of(params, "--params"),
        step_s,
        datacenters,
        cast(Codec, precision),
        fragments,
        every_steps,
        overlap_steps,
    )
    document = describe(job, count_bytes)
    if published:
        document["published"] = published_document()
    if plot is not None:
        from atoll.cli.simulate.bandwidth_chart import draw

        draw(document, plot)
    if as_json:
        print_json(document)
    else:
        show(page(), document)


def describe(job: Job, count_bytes: bool) -> dict[str, Any]:
    """Everything about a job, as plain values in Gbit/s."""
    needs = {system: need_of(job, system) for system in SYSTEMS}
    systems = {system: _plain(need) for system, need in needs.items()}
    base = needs["data-parallel"].needed_bytes_s[UTILISATION]
    for system, need in needs.items():
        own = need.needed_bytes_s[UTILISATION] if system in WAITING else need.average_bytes_s
        systems[system]["data_parallel_over_this"] = round(base / own, 1)
    document: dict[str, Any] = {
        "command": "simulate bandwidth",
        "unit": "Gbit/s per link and direction",
        "params": job.num_params,
        "step_s": job.step_s,
        "datacenters": job.num_sites,
        "precision": job.precision,
        "P": job.P,
        "H": job.H,
        "tau": job.tau,
        "systems": systems,
        "conventions": CONVENTIONS,
    }
    if count_bytes:
        for system in SYSTEMS:
            systems[system]["counted"] = _counted(job, system)
        average = average_bytes_s(job, "decoupled-apart")
        rates = [share * average for share in THIN_SHARES]
        document["thin_line"] = [_thin(thin_line(job, rate)) for rate in rates]
    return document


def published_document() -> list[dict[str, Any]]:
    """The published pairs, ours by formula and counted on the wire."""
    return [
        {
            "datacenters": pair.job.num_sites,
            "precision": pair.job.precision,
            "what": each.what,
            "convention": each.convention,
            "published": each.published,
            "ours": round(each.ours, 3),
            "difference": round(each.difference, 4),
            "chosen": each.chosen,
            "counted": _confirmed(pair.job, cast(System, each.what)) if each.chosen else {},
        }
        for pair in PAIRS
        for each in compare(pair)
    ]


WAITING: tuple[System, ...] = ("data-parallel", "diloco", "streaming")
CONVENTIONS = {
    "link": "the line of one data centre; each direction has the whole rate; bodies only",
    "utilisation": "compute time / (compute + stall); averages and peaks are those at full speed",
    "peak": "the fullest window of one step",
    "data-parallel": "ring all-reduce, 2 (D - 1) / D times the gradient (bf16; fp32 where that is "
    "the precision) each step, beside the backward pass, two thirds of it",
    "diloco": "the same ring over all parameters at wire precision every H steps; everybody waits",
    "streaming": "the same ring fragment by fragment; each has tau steps to come back",
    "decoupled": "bytes at wire precision / (H * step), up and down; a shard of the syncer in each "
    "data centre, so (D - 1) / D of it leaves. Learners never wait: utilisation is 1 on any line, "
    "and 'needed' is the rate at which that share of the rounds comes in time",
    "decoupled-apart": "the same with the syncer elsewhere: all bytes leave",
}


def _plain(need: Need) -> dict[str, Any]:
    average, peak = round(gigabits(need.average_bytes_s), 4), round(gigabits(need.peak_bytes_s), 4)
    return {
        "up": {"average": average, "peak": peak},
        "down": {"average": average, "peak": peak},
        "needed": {
            f"{share:.0%}".rstrip("%"): round(gigabits(rate), 4)
            for share, rate in need.needed_bytes_s.items()
        },
    }


def _counted(job: Job, system: System) -> dict[str, Any]:
    """At the rate for 99 %, or with some headroom over the average where nobody waits."""
    if system in WAITING:
        rate = needed_bytes_s(job, system, UTILISATIONS[-1])
    else:
        rate = HEADROOM * average_bytes_s(job, system)
    return _plain_count(count(job, system, rate), rate)


def _confirmed(job: Job, system: System) -> dict[str, Any]:
    if system in WAITING:
        rate = needed_bytes_s(job, system, UTILISATION)
        return _plain_count(count(job, system, rate), rate)
    return _counted(job, system)


def _plain_count(found: Counted, rate: float) -> dict[str, Any]:
    return {
        "line": round(gigabits(rate), 4),
        "up": {
            "average": round(gigabits(found.up_bytes_s), 4),
            "peak": round(gigabits(found.peak_up_bytes_s), 4),
        },
        "down": {
            "average": round(gigabits(found.down_bytes_s), 4),
            "peak": round(gigabits(found.peak_down_bytes_s), 4),
        },
        "utilisation": round(found.utilisation, 4),
    }


def _thin(thin: Thin) -> dict[str, Any]:
    return {
        "line": round(gigabits(thin.rate_bytes_s), 4),
        "rounds": round(thin.rounds, 4),
        "merged": round(thin.merged, 4),
        "participation": round(thin.participation, 4),
        "stall": round(thin.stall, 4),
    }


def show(console: Console, document: dict[str, Any]) -> None:
    """For people."""
    title = (
        f"{document['params'] / 1e9:g} billion parameters, {document['step_s']:g} s a step, "
        f"{document['datacenters']} data centres, {document['precision']}"
    )
    names = ("", "average", "peak", *(f"{share:.0%}" for share in UTILISATIONS), "counted")
    table = _table(title, names)
    table.caption = "Gbit/s per link and direction; under a share the rate that it takes"
    for system in SYSTEMS:
        each = document["systems"][system]
        rates = [each["up"]["average"], each["up"]["peak"], *each["needed"].values()]
        counted = each.get("counted")
        last = f"{counted['up']['average']:.3g}" if counted else ""
        table.add_row(TITLES[system], *(f"{rate:.3g}" for rate in rates), last)
    console.print(table)
    for what, text in CONVENTIONS.items():
        console.print(f"  [bold]{what}[/bold]: {text}", highlight=False)
    if "thin_line" in document:
        _show_thin(console, document["thin_line"])
    if "published" in document:
        _show_published(console, document["published"])


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False
    )
    for name in names:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _show_thin(console: Console, rows: list[dict[str, Any]]) -> None:
    names = ("Gbit/s", "rounds in time", "work merged", "participation", "waiting")
    table = _table("Decoupled on a thinner line (syncer apart)", names)
    for row in rows:
        shares = (row[each] for each in ("rounds", "merged", "participation", "stall"))
        table.add_row(f"{row['line']:.3g}", *(f"{each:.0%}" for each in shares))
    console.print(table)


def _show_published(console: Console, rows: list[dict[str, Any]]) -> None:
    names = ("", "read as", "published", "ours", "off", "counted")
    table = _table("Published for 5 billion parameters, 1 s a step (Gbit/s)", names)
    for row in rows:
        counted = row["counted"]
        said = ""
        if counted:
            is_rate = row["what"] in WAITING
            said = f"{counted['line'] if is_rate else counted['up']['average']:.3g}"
            said += f" ({counted['utilisation']:.1%})" if is_rate else ""
        figures = (f"{row['published']:g}", f"{row['ours']:.3g}", f"{row['difference']:+.1%}")
        style = "" if row["chosen"] else "dim"
        where = f"{row['what']}, {row['datacenters']} sites"
        table.add_row(where, row["convention"], *figures, said, style=style)
    console.print(table)
