"""Data validation before training: whether a training set may be trained on, said with numbers, by column.

Two Pandera schemas. The first holds the whole set against the spec: columns, types, one row per example, labels of 0 and 1. The second holds
the training split against the one that the live version was trained on (the profile in its contract): null rates, ranges, the population
stability index of every input, inputs that no longer vary, the base rate of the label, the number of rows. Every rule measures one number per column and has two bounds
(`ModelSpec.validation`): a warning from the first, an error from the second. That splits do not overlap in time is checked here as well.

Population stability index, over the former set's tenths and its nulls as bins: `sum((new - old) * ln(new / old))`. Two samples of the same
population have one of about `(bins - 1) * (1 / n + 1 / m)`; three times that is added to its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract, Finding, Histogram, Input
from feature_repo.spec.model import Bounds, ModelSpec
from training.data.splits import Part

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Floats = NDArray[np.float64]
TENTHS = np.linspace(0, 1, 11)[1:-1]
EXACT = 2**53
"""Integers up to here are exact as float64."""
SMALLEST_SHARE = 1e-4
"""An empty bin counts as this share, or its logarithm would be infinite."""


class DataError(ValueError):
    """The training set is not fit to be trained on; the message names each column, what was measured and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """One number per column, and from where on it is a warning and an error. `text` is formatted with `measured` and `bound`."""

    name: str
    measure: Callable[[Any], float]
    bounds: Bounds
    text: str

    def check(self) -> Any:
        """As a Pandera check: it fails from the first bound on."""
        from pandera.pandas import Check

        return Check(lambda values: self.measure(values) <= self.bounds[0], name=self.name, error=self.name, ignore_na=False)

    def finding(self, column: str, values: Any) -> Finding:
        measured = float(self.measure(values))
        warned, refused_from = self.bounds
        refused = refused_from is not None and not measured <= refused_from  # what is no number is beyond every bound
        bound = refused_from if refused else warned
        text = self.text.format(measured=measured, bound=bound)
        return Finding(self.name, "error" if refused else "warning", column, measured, bound, f"{column}: {text}")


def column_values(table: pa.Table, name: str) -> Floats:
    """A column as float64 `[n]`, NaN for null, before any null policy."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(table[name].cast(pa.float64(), safe=False), np.nan).to_numpy())


def _rounded(table: pa.Table, inputs: Iterable[Input]) -> list[Finding]:
    """Inputs that hold integers which a model's float64 cannot carry: they are rounded, here as in serving."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = []
    for one in inputs:
        if one.name in table.column_names and table.schema.field(one.name).type == pa.int64():
            numbers = pc.drop_null(table[one.name]).to_numpy()
            beyond = int(((numbers > EXACT) | (numbers < -EXACT)).sum())
            if beyond:
                text = (
                    f"{one.name}: {beyond:,} of its integers lie beyond 2^53, where a model's numbers are not exact: they are rounded. "
                    "If it is an identifier, it is no input"
                )
                found.append(Finding("exact", "warning", one.name, beyond, 0, text))
    return found


def histogram(values: Floats) -> Histogram:
    """Profile of one input, float64 `[n]`, NaN for null: shares between its tenths, null rate, smallest and largest finite value."""
    present = values[~np.isnan(values)]
    finite = present[np.isfinite(present)]
    null_rate = 1 - len(present) / max(len(values), 1)
    if not len(finite):
        return Histogram([], [], null_rate)
    edges = np.unique(np.quantile(finite, TENTHS, method="inverted_cdf"))
    return Histogram(edges.tolist(), _shares(present, edges).tolist(), null_rate, float(finite.min()), float(finite.max()))


def profile(table: pa.Table, inputs: Iterable[Input]) -> dict[str, Histogram]:
    """Histogram of every input of a training split."""
    return {one.name: histogram(column_values(table, one.name)) for one in inputs}


def _shares(present: Floats, edges: Any) -> Floats:
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
    return np.asarray(counts / max(len(present), 1))


def stability_index(values: Floats, former: Histogram) -> float:
    """Population stability index of values, float64 `[n]` with NaN for null, against a former profile.

    One without edges had no values (its only bins are: a number, null), or is of a contract that does not say how they were distributed: 0.
    """
    if not former.edges and former.minimum is not None:
        return 0.0
    present = values[~np.isnan(values)]
    filled = len(present) / max(len(values), 1)
    new = np.append(_shares(present, former.edges) * filled, 1 - filled)
    old = np.append(np.asarray(former.shares or [1.0]) * (1 - former.null_rate), former.null_rate)
    new, old = np.maximum(new, SMALLEST_SHARE), np.maximum(old, SMALLEST_SHARE)
    return float(np.sum((new - old) * np.log(new / old)))


def _outside(values: Floats, former: Histogram, widen: float) -> float:
    if former.minimum is None or former.maximum is None:
        return 0.0
    margin = widen * (former.maximum - former.minimum)
    present = values[~np.isnan(values)]
    beyond = (present < former.minimum - margin) | (present > former.maximum + margin)
    return float(beyond.sum() / max(len(present), 1))


def check_parts(spec: ModelSpec, table: pa.Table, inputs: list[Input]) -> list[Finding]:
    """Hold a whole training set against its spec: columns, types, one row per example, a moment in each, labels of 0 and 1, splits apart."""
    import pandas as pd
    import pyarrow as pa
    from pandera.pandas import Check, Column, DataFrameSchema

    spine = spec.spine
    arrow = {"double": pa.float64(), "float": pa.float32(), "int64": pa.int64(), "int32": pa.int32(), "bool": pa.bool_()}
    labels = Rule(
        "label", lambda v: (~v.dropna().astype(float).isin([0.0, 1.0])).sum(), (0, 0), "{measured:.0f} labels are neither 0 nor 1"
    )
    moments = Rule("moment", lambda v: v.isna().sum(), (0, 0), "{measured:.0f} examples have no moment")
    ids = ", ".join(spine.id)
    duplicates = Rule(
        "duplicate", lambda frame: frame.duplicated(spine.id).sum(), (0, 0), "{measured:.0f} rows repeat an example that is there already"
    )
    columns = {one.name: Column(pd.ArrowDtype(arrow[one.dtype]), nullable=True) for one in inputs}
    columns |= {name: Column(nullable=True) for name in (*spine.id, spine.label_timestamp, *spec.slices)}
    columns |= {spine.label: Column(checks=labels.check(), nullable=True), spine.timestamp: Column(checks=moments.check(), nullable=True)}
    rules = {"label": (labels, spine.label), "moment": (moments, spine.timestamp), "duplicate": (duplicates, ids)}
    frame = table.select([c for c in table.column_names if c in columns]).to_pandas(types_mapper=pd.ArrowDtype)
    whole: list[Check] = [duplicates.check()] if set(spine.id) <= set(frame.columns) else []
    found = []
    for column, name in _failures(DataFrameSchema(columns, checks=whole), frame):
        if name == "column_in_dataframe":
            found.append(Finding("column", "error", column, None, None, f"{column}: not in the training set"))
        elif name.startswith("dtype"):
            numeric = pd.api.types.is_numeric_dtype(frame[column].dtype)
            wanted = next(one.dtype for one in inputs if one.name == column)
            text = f"{column}: declared {wanted}, is {table.schema.field(column).type}"
            found.append(Finding("type", "warning" if numeric else "error", column, None, None, text))
        else:
            rule, column = rules[name]
            found.append(rule.finding(column, frame if name == "duplicate" else frame[column]))
    return [*found, *_rounded(table, inputs), *_overlaps(spec)]


def _overlaps(spec: ModelSpec) -> list[Finding]:
    spans = [(name, span) for name in ("train", "valid", "test") if (span := getattr(spec.split, name))]
    found = []
    for (earlier, first), (later, second) in pairwise(spans):
        if (days := (first.end - second.start).days) > 0:
            text = f"split: {earlier} ends {first.end}, {days} days after {later} starts ({second.start}): the later must lie after the earlier"
            found.append(Finding("split", "error", later, days, 0, text))
    return found


def _failures(schema: Any, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Column and check of whatever fails, once each."""
    from pandera.errors import SchemaErrors

    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        column = [str(case) if name == "column_in_dataframe" else str(of) for of, name, case in _rows(cases)]
        return list(dict.fromkeys(zip(column, map(str, cases["check"]), strict=True)))
    return []


def _rows(cases: pd.DataFrame) -> Iterable[tuple[Any, Any, Any]]:
    return zip(cases["column"], cases["check"], cases["failure_case"], strict=True)


def against_former(spec: ModelSpec, parts: Mapping[str, Part], inputs: list[Input], former: Contract) -> list[Finding]:
    """Hold the training split against the one a former version was trained on. Inputs that are new are not compared.

    A contract from before `training_profile` holds quantiles of its validation split only: those bound the nulls and ranges of this one's.
    """
    import pandas as pd
    from pandera.pandas import Column, DataFrameSchema

    bounds, part = spec.validation, parts["train"] if former.training_profile else parts["valid"]
    profiles = former.training_profile or _from_reference(former)
    rows, then = len(part.label), former.metrics.get("train" if former.training_profile else "valid", {})
    rules: dict[str, dict[str, Rule]] = {}
    for one in inputs:
        if (old := profiles.get(one.name)) is not None:
            rules[one.name] = {rule.name: rule for rule in _rules(spec, old, rows, then.get("rows", rows))}
    values = {name: column_values(part.table, name) for name in rules}
    columns = {name: Column(checks=[rule.check() for rule in mine.values()], nullable=True) for name, mine in rules.items()}
    frame = pd.DataFrame(values)
    found = [rules[column][name].finding(column, frame[column]) for column, name in _failures(DataFrameSchema(columns), frame)]
    found += _unknown(former, [one.name for one in inputs if one.name in former.names and one.name not in rules], not rules, then)
    label = spec.spine.label
    if "base_rate" in then:
        text = f"base rate {part.label.mean():.3f}, formerly {then['base_rate']:.3f}: {{measured:.3f}} apart, allowed {{bound:g}}"
        found += _one(Rule("base_rate", lambda v: abs(v.mean() - then["base_rate"]), bounds.base_rate, text), label, part.label)
    if "rows" in then:
        text = f"{rows:,} labelled rows to train on, formerly {then['rows']:,.0f}: {{measured:.0%}} fewer, allowed {{bound:.0%}}"
        found += _one(Rule("rows", lambda v: 1 - len(v) / max(then["rows"], 1), bounds.shrink, text), label, part.label)
    return found


def _unknown(former: Contract, inputs: list[str], nothing: bool, then: Mapping[str, float]) -> list[Finding]:
    """What the former contract does not say, so that nothing can be held against it: a warning, and an error where that is all of it."""
    severity: Literal["error", "warning"] = "error" if nothing else "warning"
    said = f"version {former.version} does not say how it was distributed: not compared"
    found = [Finding("unknown", severity, name, None, None, f"{name}: {said}") for name in inputs]
    for name in sorted({"base_rate", "rows"} - then.keys()):
        found.append(
            Finding("unknown", "warning", name, None, None, f"{name}: not in the metrics of version {former.version}: not compared")
        )
    return found


def _rules(spec: ModelSpec, old: Histogram, rows: int, former_rows: float) -> list[Rule]:
    bounds = spec.validation
    chance = 3 * (len(old.edges) + 1) * (1 / max(rows, 1) + 1 / max(former_rows, 1))
    drift = (bounds.drift[0] + chance, None if bounds.drift[1] is None else bounds.drift[1] + chance)
    nulls = f"null in {old.null_rate:.1%} of the former rows, now {{measured:.1%}} more, allowed {{bound:.1%}}"
    outside = f"{{measured:.2%}} of its values lie far outside the former range {old.minimum} to {old.maximum}, allowed {{bound:.2%}}"
    return [
        Rule("nulls", lambda v: float(v.isna().mean()) - old.null_rate, bounds.nulls, nulls),
        Rule("constant", lambda v: float(len(old.edges) > 1 and v.nunique() == 1), (0, 0), "one value only, and it used to vary"),
        Rule("range", lambda v: _outside(v.to_numpy(), old, bounds.widen), bounds.outside, outside),
        Rule(
            "drift", lambda v: stability_index(v.to_numpy(), old), drift, "population stability index {measured:.3f}, allowed {bound:.3f}"
        ),
    ]


def _from_reference(former: Contract) -> dict[str, Histogram]:
    inputs = {i.name: former.reference[i.name] for i in former.inputs if i.name in former.reference and i.null.action != "default"}
    return {n: Histogram([], [], p.null_rate, p.quantiles[0], p.quantiles[-1]) for n, p in inputs.items() if p.quantiles}


def _one(rule: Rule, column: str, values: Any) -> list[Finding]:
    return [] if rule.measure(values) <= rule.bounds[0] else [rule.finding(column, values)]


def require(spec: ModelSpec, findings: list[Finding], force: bool = False) -> None:
    """Raise DataError if there are errors.

    Args:
        force: let errors pass, but for a missing column: without it there is nothing to fit.
    """
    refused = [f.text for f in findings if f.severity == "error" and (not force or f.check == "column")]
    if refused:
        shown = "; ".join(refused[:12]) + (f"; and {len(refused) - 12} more" if len(refused) > 12 else "")
        raise DataError(f"model {spec.name!r} is not trained: {shown}")
