"""Statistics of per-problem numbers: one module for every metric.

The law of the house: a metric is one number per problem, a reported number is the mean over problems, the
problem (or the cluster it belongs to) is the unit that varies, and two models are compared problem by problem.

=============================================  ===========================================================
question                                       function
=============================================  ===========================================================
how high is it, on problems like these?        :func:`mean_estimate`, :func:`bootstrap_estimate`
... on these very problems, drawn again?       :func:`redraw_estimate`
did B change against A (these checkpoints)?    :func:`paired_difference`, :func:`sign_flip_p`
did it change more in than out of distribution? :func:`difference_in_differences`, :func:`retention`
does the *method* change it?                   :func:`across_seeds`, :func:`gap_across_seeds`
how much of the loss came back?                :func:`recovered_fraction`, :func:`recovered_fraction_across_seeds`
improved, degraded, preserved?                 :func:`verdict`, :func:`holm`, :func:`benjamini_hochberg`
what could we have seen?                       :func:`minimum_detectable_effect`, :func:`problems_needed`
buy problems, samples or seeds?                :func:`variance_split`
=============================================  ===========================================================

Coverage of every printed interval is simulated in ``tests/opsd_eval/test_stats_coverage.py``; a docstring
says by how much its interval misses where it does.
"""

from opsd_eval.stats_bootstrap import bca_estimate, bootstrap_estimate, bootstrap_means
from opsd_eval.stats_estimates import (
    Difference,
    Estimate,
    difference_in_differences,
    mean_estimate,
    paired_difference,
    redraw_estimate,
)
from opsd_eval.stats_power import (
    VarianceSplit,
    minimum_detectable_effect,
    power_of,
    problems_needed,
    variance_split,
)
from opsd_eval.stats_ratios import recovered_fraction, recovered_fraction_across_seeds, retention
from opsd_eval.stats_seeds import across_seeds, estimate_across_seeds, gap_across_seeds
from opsd_eval.stats_verdicts import benjamini_hochberg, holm, sign_flip_p, verdict

__all__ = [
    "Difference",
    "Estimate",
    "VarianceSplit",
    "across_seeds",
    "bca_estimate",
    "benjamini_hochberg",
    "bootstrap_estimate",
    "bootstrap_means",
    "difference_in_differences",
    "estimate_across_seeds",
    "gap_across_seeds",
    "holm",
    "mean_estimate",
    "minimum_detectable_effect",
    "paired_difference",
    "power_of",
    "problems_needed",
    "recovered_fraction",
    "recovered_fraction_across_seeds",
    "redraw_estimate",
    "retention",
    "sign_flip_p",
    "variance_split",
    "verdict",
]
