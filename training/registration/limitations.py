"""A model's limitations, said from its numbers: each sentence is there because a measurement is."""

from __future__ import annotations

from feature_repo.records.contract import Contract
from training.registration import tracking

NULLS, GAP, CALIBRATION, SHIFT = 0.2, 0.02, 0.02, 0.02
"""From where on: null rate of an input, fall of AUC, calibration error, change of the base rate."""


def found(made: Contract) -> list[str]:
    """Sentences; at least one."""
    held = "test" if "test" in made.metrics else "valid"
    metrics, train = made.metrics[held], made.metrics["train"]
    said = []
    if tracking.forced(made):
        said.append("It was registered by force: a gate or a check of its data failed (see there).")
    if held == "valid":
        said.append("There is no test split: the figures on valid are too good, since valid stopped the fitting.")
    if (gap := train.get("auc", 0.0) - metrics.get("auc", 0.0)) > GAP:
        said.append(f"AUC falls by {gap:.3f} from train to {held}: part of what was learnt does not carry over.")
    if abs(shift := metrics["base_rate"] - train["base_rate"]) > SHIFT:
        said.append(f"The base rate is {train['base_rate']:.3f} in train and {metrics['base_rate']:.3f} in {held}: the label itself moves.")
    if metrics["calibration_error"] > CALIBRATION:
        high = "too low" if shift > 0 else "too high"
        hint = f"; with the shift of the base rate, scores tend to be {high}" if abs(shift) > SHIFT else ""
        said.append(f"Scores are {metrics['calibration_error']:.3f} off the observed share on {held}, on average{hint}.")
    said += _weak_slices(made, held)
    nulls = {n: p.null_rate for n, p in made.training_profile.items() if p.null_rate > NULLS}
    if nulls:
        worst = sorted(nulls, key=lambda n: (-nulls[n], n))
        shown = ", ".join(f"{n} ({nulls[n]:.0%})" for n in worst[:5]) + (f" and {len(worst) - 5} more" if len(worst) > 5 else "")
        said.append(f"Often null in training: {shown}.")
    if warned := [f for f in made.validation if f.severity == "warning"]:
        said.append(f"The checks of the data warn {len(warned)} times (see Data).")
    if made.search:
        said.append("Parameters were searched on valid: the figures there are too good; those on test are not touched by it.")
    if made.parameters.get("rounds") == made.spec.get("rounds"):
        said.append(f"Fitting used all of its {made.parameters['rounds']} rounds: more might have helped.")
    end = made.split["train"][1]
    said.append(
        f"Nothing after {end} was learnt from, and inputs outside the ranges under Features are scored as if they were at the nearest split."
    )
    return said


def _weak_slices(made: Contract, held: str) -> list[str]:
    said = []
    for column, values in made.slices.items():
        overall = made.metrics["valid"].get("auc")
        weak = {v: m["auc"] for v, m in values.items() if overall is not None and "auc_high" in m and m["auc_high"] < overall}
        if weak:
            shown = ", ".join(f"{value} ({auc:.3f})" for value, auc in sorted(weak.items(), key=lambda one: one[1])[:6])
            said.append(f"On valid it ranks worse than overall ({overall:.3f}), beyond chance, for {column} {shown}.")
        if "other" in values:
            said.append(f"Values of {column} with few rows are measured together only ({values['other']['rows']:,.0f} rows on valid).")
    return said
