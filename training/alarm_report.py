"""What a person who asks about an alarm is shown: what it is taken for, on what evidence, what is held, who is at work, and what to do."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from feature_repo.records.answers import Given
from feature_repo.records.held import Held
from feature_repo.records.verdict import Triage, Verdict
from feature_repo.triggers.base import Alarm
from infra.cli import print_indented
from infra.timestamps import minute_text
from training.retraining.alarm import QUIET, Row

if TYPE_CHECKING:
    from rich.console import Console

    from infra.settings import Settings

LEVEL = {"change": "a change", "suspicion": "a suspicion", "proof": "proven"}


@dataclass(frozen=True)
class Work:
    """How the watch and the autopilot of a model fare, in words; empty: nobody runs.

    Attributes:
        clock_us: where a rehearsal's clock stands; None: there is no rehearsal.
    """

    watch: str
    autopilot: str
    clock_us: int | None = None


def work_of(own: Settings, project: str, model: str) -> Work:
    """From what the parts say of themselves in Redis; where it is away, from the processes that this checkout has started."""
    import redis

    from infra import redis_client
    from infra.supervision import beat, process
    from streaming import clock

    names = [f"watch-{model}", f"autopilot-{model}"]
    try:
        with contextlib.closing(redis_client.connect(own.redis(), 2.0)) as client:
            fares = {part.name: part.detail or "runs" for part in beat.judge(*beat.read(client, project))}
            clock_us = clock.rehearsal_us(client, project)
    except (redis.RedisError, OSError):
        clock_us = None
        fares = {name: "runs, and Redis does not answer" for name in names if process.alive(own, name) is not None}
    watch, autopilot = (fares.get(name, "") for name in names)
    return Work(watch, autopilot, clock_us)


# wide: all that is known of an alarm
def print_alarm(console: Console, model: str, row: Row, held: list[Held], newest: Verdict | None, given: Given | None, work: Work) -> None:
    """
    Args:
        row: what the loop has made of the verdicts that it has read.
        newest: the newest verdict on the live version, whether the loop has read it or not.
        given: a person's word that the loop has not heard yet.
    """
    alarm, heard = row.alarm, newest is None or newest.id == row.seen
    if alarm is not None:
        console.print(f"[bold]{model}[/bold]: {LEVEL[alarm.kind]}, since {minute_text(alarm.since_us)} in the predictions' time")
        print_indented(console, escape(alarm.text), 2)
    elif newest is None or newest.triage is None or heard:
        console.print(f"no alarm on {model}")
    else:
        console.print(f"[bold]{model}[/bold]: the watch alarms, and the autopilot has not read it yet")
        print_indented(console, escape(f"{newest.triage.cause}: {newest.triage.detail}"), 2)
    _print_verdict(console, newest, row)
    if newest is not None and newest.triage is not None:
        aside = why_proof_does_not_decide(newest.triage)
        if aside:
            print_indented(console, f"[yellow]proven too:[/yellow] {escape(aside)}", 0)
        print_evidence(console, newest.triage)
    for one in held:
        until = "" if one.until_us is None else f", until {minute_text(one.until_us)} at the latest"
        print_indented(console, f"[yellow]held:[/yellow] {one.what}, since {minute_text(one.since_us)}{until}", 0)
        print_indented(console, escape(one.text.rpartition("; held: ")[2]), 2)
    _print_work(console, model, work)
    _print_words(console, model, alarm, given)


def _print_verdict(console: Console, newest: Verdict | None, row: Row) -> None:
    if newest is None:
        console.print("the watch has judged nothing of the live version yet: it waits for a whole window of predictions")
        return
    span = f"{minute_text(newest.window.from_us)} to {minute_text(newest.window.to_us)}"
    said = "says drift" if newest.drift else "says no drift"
    if newest.triage is None and row.alarm is not None:
        said += f", and raises no alarm: after {QUIET} such in a row this one is over"
    print_indented(console, f"newest verdict ({said}): made {made_text(newest)}, on {newest.window.rows:,} predictions of {span}", 0)


def made_text(verdict: Verdict) -> str:
    """When it was made, by the clock of Redis: the newest prediction's place in the log has it."""
    ms = verdict.id.rpartition("@")[2].partition("-")[0]
    return f"{minute_text(int(ms) * 1000)} UTC" if ms.isdigit() and int(ms) < 2**43 else "at a time that nobody noted"


def why_proof_does_not_decide(triage: Triage) -> str:
    """Where the evidence proves something beside a cause that is not it: why; else empty."""
    beside = [one for one in triage.evidence if one.proof and one.says != triage.cause]
    if triage.proof or not beside:
        return ""
    said = ", ".join(dict.fromkeys(one.says for one in beside))
    of = _few([one.of for one in beside if one.of])
    if any(one.place != "recomputation" for one in beside):
        return f"{said}{f' of {of}' if of else ''}. It does not explain what drifted, so it does not decide."
    return (
        f"{said}{f' of {of}' if of else ''}. It does not decide: with the values computed again, the window is odd all the same, and what is "
        f"left is taken for {'a' if triage.cause[0] not in 'aeiou' else 'an'} {triage.cause}. A training computes these values again, so "
        "it does not learn them as they were served."
    )


def _few(names: list[str], most: int = 3) -> str:
    once = list(dict.fromkeys(names))
    more = len(once) - most
    return ", ".join(once) if more <= 1 else f"{', '.join(once[:most])} and {more} others"


def print_evidence(console: Console, triage: Triage) -> None:
    """What was found at each place, the strongest first, with the rows that show it."""
    if triage.evidence:
        console.print("evidence, the strongest first")
    for one in triage.evidence:
        odds = f", {one.odds:.1f} to 1" if one.odds is not None else ""
        mark = "[red]proof[/red] of" if one.proof else "speaks for"
        print_indented(console, f"{one.place}{f', {escape(one.of)}' if one.of else ''}: {mark} {one.says}{odds}", 2)
        print_indented(console, escape(one.text), 4)
        for row in one.rows:
            print_indented(console, f"[dim]{escape(row)}[/dim]", 6)


def _print_work(console: Console, model: str, work: Work) -> None:
    """Who is at work, and the command that starts who is not."""
    for part, name, said in (("watch", "watch", work.watch), ("autopilot", "autopilot", work.autopilot)):
        console.print(f"the {part}: {escape(said)}" if said else f"the {part} does not run: `headrace up`, or `headrace {name} {model}`")


def _print_words(console: Console, model: str, alarm: Alarm | None, given: Given | None) -> None:
    if alarm is not None and alarm.answer:
        print_indented(console, f"a person has {alarm.answer} it: {escape(alarm.why)}", 0)
    if given is not None:
        print_indented(console, f"[yellow]given, not yet heard:[/yellow] {escape(str(given))}", 0)
    elif alarm is not None and not alarm.answer:
        console.print(f"a person's word: `headrace alarm {model} --confirm WHY` or `--dismiss WHY`")
