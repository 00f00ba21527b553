"""`atoll plan`: settings, cost and expectations of a run over several places, before it is paid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.cli.quantities import count_of
from atoll.core.settings import SettingsError
from atoll.runfile.planned import decoder_near, num_params, planned_text
from atoll.runfile.settings import read_run_file
from atoll.simulator.planning.ask import Ask, Site, SyncerPlace, read_ask
from atoll.simulator.planning.plan import (
    Advice,
    Plan,
    bottleneck,
    expectation_advice,
    make_plan,
    settings_advice,
    to_plain,
)


def plan(
    description: Annotated[
        Path | None,
        typer.Argument(help=r"TOML file with [\[site]] tables; or the flags, for sites alike."),
    ] = None,
    params: Annotated[str, typer.Option(help="Parameters of the model: 12e9, 12B.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="A run file: its model, instead of --params.")
    ] = None,
    sites: Annotated[int, typer.Option(help="Sites, a learner in each.")] = 4,
    step_s: Annotated[
        float, typer.Option(help="Seconds of a site's optimizer step; has to be given.")
    ] = 0.0,
    step_tokens: Annotated[str, typer.Option(help="Tokens of a site's step.")] = "1M",
    up_mbit_s: Annotated[float, typer.Option(help="Line of a site, sending; 0: no limit.")] = 1000,
    down_mbit_s: Annotated[float, typer.Option(help="The same, receiving; 0: as sending.")] = 0.0,
    latency_ms: Annotated[float, typer.Option(help="One way from a site to the syncer.")] = 40,
    chips: Annotated[int, typer.Option(help="Chips of a site.")] = 1,
    mtbi_years: Annotated[
        float, typer.Option(help="Mean time between interruptions of a chip; 0: never.")
    ] = 0.0,
    interruptions: Annotated[
        float, typer.Option(help="How often per hour a whole site is taken away (spot).")
    ] = 0.0,
    return_s: Annotated[float, typer.Option(help="Until it is back after that.")] = 600,
    price: Annotated[float, typer.Option(help="Of a site for an hour.")] = 0.0,
    egress: Annotated[float, typer.Option(help="Price of a GB that leaves anywhere.")] = 0.0,
    tokens: Annotated[str, typer.Option(help="Tokens to train: 1T; else 20 a parameter.")] = "",
    budget: Annotated[float, typer.Option(help="Money to spend, instead of tokens.")] = 0.0,
    write: Annotated[
        Path | None, typer.Option(help="Write a run file to start from; never overwrites.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Recommend settings for a run over several places, with reasons, cost and goodput."""
    if description is None:
        number = _params(params, model)
        site = Site(
            "site",
            step_s or float(_missing("--step-s", "3")),
            count_of(step_tokens, "--step-tokens"),
            up_mbit_s,
            down_mbit_s or up_mbit_s,
            latency_ms,
            chips,
            mtbi_years,
            interruptions,
            return_s,
            price,
            egress,
        )
        wanted = count_of(tokens, "--tokens") if tokens else 0
        ask = _alike(site, sites, Ask(number, (site,), tokens=wanted, budget_money=budget))
    elif params or step_s or model:
        raise SettingsError(
            f"{description} describes model and sites: leave out --params, --model and --step-s"
        )
    else:
        ask = read_ask(description)
    found = make_plan(ask)
    written = _write(found, write, model) if write is not None else ""
    if as_json:
        print_json({**to_plain(found), "run_file": written})
    else:
        show(page(), found, written)
    if found.trouble:
        raise typer.Exit(1)


def _alike(site: Site, sites: int, ask: Ask) -> Ask:
    """The same question with so many sites of one kind."""
    if sites < 1:
        raise SettingsError(f"--sites {sites}: set it to 1 or more")
    place = SyncerPlace(egress_per_gb=site.egress_per_gb)
    named = tuple(replace(site, name=f"site-{number}") for number in range(1, sites + 1))
    return replace(ask, sites=named, syncer=place)


def _missing(option: str, example: str) -> str:
    raise SettingsError(
        f"{option} is missing: give it, as in {option} {example}, or name a TOML file with "
        "[[site]] tables (examples/plan has one)"
    )


def _params(params: str, model: Path | None) -> int:
    if model is None:
        return count_of(params or _missing("--params", "12e9"), "--params")
    if params:
        raise SettingsError(f"--params {params} and --model {model}: leave one of them out")
    return num_params(read_run_file(model).train.model)


def _write(found: Plan, path: Path, model: Path | None) -> str:
    """A run file that was read back; nothing is left of one that cannot be read."""
    shape = read_run_file(model).train.model if model else decoder_near(found.ask.params)
    text = planned_text(found, shape)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"--write {path}: it is there already, name another file") from None
    except OSError as error:
        raise SettingsError(f"--write {path}: {error}") from error
    try:
        read_run_file(path)
    except SettingsError:
        path.unlink()
        raise
    return str(path)


def show(console: Console, found: Plan, written: str) -> None:
    """For people."""
    ask = found.ask
    console.print(
        f"[bold]{ask.params / 1e9:g} billion parameters over {len(ask.sites)} sites[/bold]: "
        f"{', '.join(each.name for each in ask.sites)}",
        highlight=False,
    )
    console.print(_table("Settings", settings_advice(found)))
    console.print(_table("To expect", expectation_advice(found)))
    if found.left_out:
        console.print(f"Left out, the line is too thin: {', '.join(found.left_out)}")
    held_back, helps = bottleneck(found)
    console.print(f"[bold]Bottleneck[/bold]: {held_back}", highlight=False)
    console.print(f"[bold]What helps[/bold]: {helps}", highlight=False)
    if written:
        console.print(f"\n{written} is a run file to start from. Begin the run with\n")
        console.print(f"  atoll syncer {written} --dir runs/{ask.run} --public HOST")
        console.print("\nwith HOST the name or address under which the sites reach it.")


def _table(title: str, advice: list[Advice]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(max_width=24)
    table.add_column(style="dim")
    for each in advice:
        table.add_row(each.name, each.value, each.reason)
    return table
