"""The commands of the learning loop: archive, quality. Heavy things are imported where they are used."""

from __future__ import annotations

from infra.command_line import Model, Report, console, model_name, own_settings, write_report


def archive(report: Report = None) -> None:
    """Move logged predictions and their truths from Redis to the offline store: tables predictions_<model> and labels_<model>."""
    from feature_repo.use_case import UseCase
    from streaming.archive import of
    from streaming.store import connect

    own = own_settings()
    with console.status("archiving"):
        done = of(own, UseCase(own.repo).project).run(connect(own.redis()), keep_days=own.archive_days)
    console.print(f"{done.predictions:,} predictions and {done.labels:,} truths archived; {done.unreadable:,} entries were none")
    for before, after in done.gaps:
        console.print(f"[yellow]gap:[/yellow] entries between {before} and {after} may have been trimmed unread (HEADRACE_LOG_RETENTION)")
    write_report(report, done)


def quality(model: Model = "", report: Report = None) -> None:
    """How good the live answers are, by the truths that came in: by version, day and slice, with intervals."""
    from feature_repo.use_case import UseCase
    from streaming.archive import of
    from streaming.store import connect
    from training.loop_summary import days_table, quality_table
    from training.quality import measure, publish

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    archived, client = of(own, case.project), connect(own.redis())
    with console.status("measuring"):
        archived.run(client, keep_days=own.archive_days)
        found = measure(archived, spec)
    if found is None:
        raise ValueError(f"no prediction of {spec.name} has been logged yet: serve some first (`headrace replay`)")
    publish(client, case.project, found)
    console.print(quality_table(found))
    console.print(days_table(found))
    if found.delay_s:
        console.print(f"truth comes {found.delay_s['p50'] / 60:.0f} min after the answer (p50; p99 {found.delay_s['p99'] / 60:.0f} min)")
    console.print(f"{found.unlabelled:,} answers have no truth yet")
    write_report(report, found)
