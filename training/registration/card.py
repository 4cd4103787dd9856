"""The model card: what a version is for, what it was made of, how good it is and where it is not, in Markdown and in one HTML page with plots.

Written into the version's folder beside the contract, of which it is a reading: every number in it is in the contract or measured with it. It
holds the contract's hash, so the contract does not hold the card's, and serving never reads it. The idea: Mitchell et al., "Model cards for
model reporting" (2019).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from feature_repo.metrics.table import METRICS
from feature_repo.records import contract
from feature_repo.records.contract import Contract
from feature_repo.spec.model import ModelSpec
from training.evaluation.fairness import RATES
from training.evaluation.metrics import Measured
from training.registration import limitations

MARKDOWN, HTML = "card.md", "card.html"
TOP = 15
"""Inputs in the plot of what the scores are made of."""


@dataclass(frozen=True)
class Table:
    """`rows` are texts, as many in each as in `head`."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """In this order: paragraphs, plots (HTML only), tables, points."""

    title: str
    text: list[str] = field(default_factory=list)
    plots: Sequence[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    points: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """For people; `-` for what is undefined."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def bounded(value: float | None, bounds: tuple[float, float] | None) -> str:
    return number(value) + (f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else "")


class Card:
    """
    Args:
        curves: split -> `roc` and `calibration`, from `training.evaluation.metrics.curves`.
    """

    def __init__(self, spec: ModelSpec, measured: Measured, curves: Mapping[str, Mapping[str, Any]]) -> None:
        from infra import charts
        from training.registration import card_plots

        self.spec, self.measured = spec, measured
        overall = measured.metrics[measured.held_out]["auc"]
        self.quality = [
            charts.roc([(n, c["roc"]) for n, c in curves.items()]),
            charts.calibration([(n, c["calibration"]) for n, c in curves.items()]),
        ]
        self.top = card_plots.importance(dict(list(measured.importance.items())[:TOP]))
        self.slices = {}
        for column, values in measured.slices[measured.held_out].items():
            known = [(v, m["auc"], m["auc_low"], m["auc_high"]) for v, m in values.items() if math.isfinite(m["auc_low"])]
            if known:
                self.slices[column] = card_plots.slices(column, known, overall)

    def write(self, folder: Path, made: Contract) -> None:
        """Write `card.md` and `card.html` into a folder that holds its contract already."""
        import jinja2

        sections = self.sections(made, contract.sha256(folder / contract.CONTRACT))
        title = f"{made.model}, version {made.version}"
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        environment.filters["code"] = _code
        facts = [(METRICS[k].title, bounded(v, made.intervals.get(self.measured.held_out, {}).get(k))) for k, v in self._held_out(made)]
        page = environment.get_template(HTML).render(
            title=title,
            made=made,
            sections=sections,
            facts=facts,
            held_out=self.measured.held_out,
            passed=all(g["passed"] for g in made.gates),
        )
        (folder / HTML).write_text(page, encoding="utf-8")
        (folder / MARKDOWN).write_text(f"# {title}\n\n" + "\n".join(_markdown(s) for s in sections), encoding="utf-8")

    def _held_out(self, made: Contract) -> list[tuple[str, float]]:
        return [
            (k, v) for k, v in made.metrics[self.measured.held_out].items() if k in ("auc", "log_loss", "calibration_error", "base_rate")
        ]

    def sections(self, made: Contract, contract_hash: str) -> list[Section]:
        return [
            self._use(made),
            self._data(made),
            self._quality(made),
            self._slices(made),
            self._gates(made),
            self._calibration(made),
            Section(
                "What the scores are made of", [f"Mean absolute SHAP value on {self.measured.held_out} rows, in log odds."], [self.top]
            ),
            Section(
                "Limitations",
                ["Said from the numbers above; a limit that nobody measured is not in this list."],
                points=limitations.found(made),
            ),
            self._features(made),
            _provenance(made, contract_hash),
        ]

    def _use(self, made: Contract) -> Section:
        spine, when = self.spec.spine, f", known {made.label_delay}" if made.label_delay else ""
        text = [
            self.spec.description or "The model's spec gives no description.",
            f"The score is the probability that `{made.label}` is 1{when}, for an example like those of `{spine.table}` at its `{spine.timestamp}`.",
        ]
        rows = [[f.name, f.kind, f.dtype, "-" if f.example is None else str(f.example)] for f in made.request]
        return Section("Intended use", text, tables=[Table(["asked with", "kind", "type", "example"], rows)])

    def _data(self, made: Contract) -> Section:
        spans = []
        for name, (start, end) in made.split.items():
            metrics = made.metrics[name]
            spans.append([name, start, end, f"{metrics['rows']:,.0f}", number(metrics["base_rate"])])
        data = made.training_set
        text = [
            f"Training set `{str(data['hash'])[:16]}`: {data['rows']:,} rows, those without a label included. "
            "Splits are apart in time, ends not included; a label trained on was known by the end of its split."
        ]
        if late := {name: n for name, n in data.get("late_labels", {}).items() if n}:
            left = " and ".join(f"{n:,} of {name}" for name, n in late.items())
            text.append(f"Left out, as their labels became known only after the end of their split: {left}.")
        checked = [f"{f.severity}: {f.text}" for f in made.validation] or ["The checks of the data found nothing."]
        return Section("Data", text, tables=[Table(["split", "from", "to", "labelled rows", "base rate"], spans)], points=checked)

    def _quality(self, made: Contract) -> Section:
        rows = []
        for name, metrics in made.metrics.items():
            bounds = made.intervals.get(name, {})
            rows.append([name, *(bounded(metrics.get(k), bounds.get(k)) for k in METRICS), f"{metrics['rows']:,.0f}"])
        text = [
            "95% intervals in brackets: AUC by DeLong, the others from the standard error of the mean. Rows are taken as independent, so "
            "intervals are too narrow where they are not. Fitting was stopped by valid's log loss: test is what stands for new data."
        ]
        return Section("Quality", text, self.quality, [Table(["split", *(m.title for m in METRICS.values()), "rows"], rows)])

    def _slices(self, made: Contract) -> Section:
        held, tables = self.measured.held_out, []
        for column, values in self.measured.slices[held].items():
            rows = []
            for value, m in values.items():
                auc = bounded(m["auc"], (m["auc_low"], m["auc_high"]) if math.isfinite(m["auc_low"]) else None)
                rows.append(
                    [
                        value,
                        f"{m['rows']:,.0f}",
                        number(m["base_rate"]),
                        auc,
                        number(m["calibration_error"]),
                        *(number(m[r]) for r in RATES),
                    ]
                )
            tables.append(Table([column, "rows", "base rate", "AUC", "calibration error", *(r.replace("_", " ") for r in RATES)], rows))
        if gaps := made.fairness.get(held):
            names = sorted({name for found in gaps.values() for name in found})
            rows = [[column, *(number(found.get(name)) for name in names)] for column, found in gaps.items()]
            tables.append(Table(["between values of", *(n.replace("_", " ") for n in names)], rows))
        text = [f"On {held}. Rates are of the decision score >= {self.spec.threshold:g}; values with few rows are pooled as `other`."]
        return Section("Slices and fairness", text if tables else ["The spec names no slices."], list(self.slices.values()), tables)

    def _gates(self, made: Contract) -> Section:
        rows = []
        for gate in made.gates:
            asked = " and ".join(f"{w} {gate[k]:g}" for k, w in (("min", "at least"), ("max", "at most")) if gate[k] is not None)
            measured = "not measured" if gate["measured"] is None else f"{gate['measured']:.4g}"
            rows.append(
                [str(gate["metric"]), str(gate["on"]), measured, asked, "passed" if gate["passed"] else "FAILED, registered by force"]
            )
        return Section("Gates", tables=[Table(["metric", "on", "measured", "asked", ""], rows)])

    def _calibration(self, made: Contract) -> Section:
        c = made.calibration
        said = {"none": "Scores are LightGBM's own, fitted to log loss.", "sigmoid": "Scores are calibrated on valid by Platt's sigmoid."}
        text = [said[c["method"]]]
        if c["positive_weight"] != 1:
            text.append(f"Positives counted {c['positive_weight']:g} times while fitting; that is taken back out of the scores.")
        if c["slope"] != 1 or c["intercept"] != 0:
            text.append(f"Log odds are multiplied by {c['slope']:.4g} and moved by {c['intercept']:.4g}, inside the exported trees.")
        moved = f"{c['error_before']:.4f} before it, {c['error']:.4f} with it" if c["error_before"] != c["error"] else f"{c['error']:.4f}"
        text.append(f"Calibration error on {c['on']} (mean distance of predicted from observed, ten bins of equal mass): {moved}.")
        return Section("Calibration", text)

    def _features(self, made: Contract) -> Section:
        rows = []
        for one in sorted(made.inputs, key=lambda i: -made.importance.get(i.name, 0.0)):
            p = made.training_profile.get(one.name)
            policy = one.null.action if one.null.value is None else f"{one.null.value:g}"
            span = "-" if p is None or p.minimum is None or p.maximum is None else f"{p.minimum:.4g} to {p.maximum:.4g}"
            nulls = "-" if p is None else f"{p.null_rate:.1%}"
            rows.append([one.name, one.source, one.dtype, nulls, policy, span, number(made.importance.get(one.name), 4)])
        head = ["input", "source", "type", "null in train", "null becomes", "range in train", "mean SHAP"]
        return Section(
            "Features",
            [f"Feature service `{made.feature_service}`, {len(rows)} inputs, those that move the scores most first."],
            tables=[Table(head, rows)],
        )


def _provenance(made: Contract, contract_hash: str) -> Section:
    known = made.training_set["known_upto_us"]
    rows = [["contract", contract_hash], ["training set", str(made.training_set["hash"])], ["definitions", made.definition_hash]]
    rows += [["known up to", f"{known} microseconds since 1970"], ["parent", f"version {made.parent}" if made.parent else "none was live"]]
    rows += [["MLflow run", made.run_id], ["made at", made.created], *([k, v] for k, v in made.provenance.items())]
    rows += [[f"parameter {k}", str(v)] for k, v in made.parameters.items()]
    rows += [[f"search {k}", str(v)] for k, v in made.search.items()]
    rows += [[f"file {name}", digest] for name, digest in made.files.items()] + [[name, value] for name, value in made.code.items()]
    again = f"`headrace reproduce {made.model} {made.version}` makes it again and compares the hashes."
    return Section("Provenance", [again], tables=[Table(["what", "value"], rows)])


def _code(text: str) -> Markup:
    """Text with `names in backticks` as HTML."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _markdown(section: Section) -> str:
    parts = [f"## {section.title}\n", *(f"{text}\n" for text in section.text)]
    for table in section.tables:
        lines = [table.head, ["---"] * len(table.head), *table.rows]
        parts.append(
            "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines) + "\n"
        )
    if section.points:
        parts.append("\n".join(f"- {point}" for point in section.points) + "\n")
    return "\n".join(parts)
