"""Area under the ROC curve: how often a positive's score is above a negative's."""

from __future__ import annotations

import numpy as np

from feature_repo.metrics.base import NAN, Floats, Metric, Weighted, Z


class Auc(Metric):
    """Ties count half. Interval: DeLong, DeLong and Clarke-Pearson (1988), by ranks: Sun and Xu (2014)."""

    name = "auc"
    title = "AUC"
    better = 1

    def value(self, label: Floats, score: Floats) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(label, score)) if len(np.unique(label)) == 2 else NAN

    def interval(self, label: Floats, score: Floats) -> tuple[float, float]:
        from scipy.stats import rankdata

        positive, negative = score[label == 1], score[label == 0]
        m, n = len(positive), len(negative)
        if min(m, n) < 2:
            return NAN, NAN
        ranks = rankdata(np.concatenate([positive, negative]))
        above = (ranks[:m] - rankdata(positive)) / n  # per positive, the share of negatives below it
        below = 1 - (ranks[m:] - rankdata(negative)) / m
        auc, error = float(above.mean()), float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
        return max(auc - Z * error, 0.0), min(auc + Z * error, 1.0)

    def weighted(self, label: Floats, score: Floats) -> Weighted:
        """Positives above negatives, from cumulated weights over runs of equal scores."""
        order = np.argsort(score, kind="stable")
        ranked, positive = score[order], label[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        ties = len(starts) < len(ranked)

        def value(weights: Floats) -> float:
            weights = weights[order]
            above = weights * positive
            below = weights - above
            if ties:
                above, below = np.add.reduceat(above, starts), np.add.reduceat(below, starts)
            passed = np.cumsum(below)
            pairs = above.sum() * passed[-1]
            return float(above @ (passed - below / 2) / pairs) if pairs else NAN

        return value
