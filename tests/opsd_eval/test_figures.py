import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from opsd_eval import figures, plotstyle, report_data, scorecard

ARMS = ("base", "standard", "purified")
SETTINGS = scorecard.ScorecardSettings(
    arms=ARMS, contrasts=scorecard.default_contrasts(ARMS), primary=("avg@4", "pass@4"), margins={"avg@4": 0.05},
    gap_metrics=("avg@4",), out_of_distribution=("longer",),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_study):
    study = make_study(tmp_path_factory.mktemp("figures") / "demo", n=6, steps=(10, 20))
    return report_data.from_study(study, SETTINGS, config={}, about={})


@pytest.fixture(scope="module")
def drawn(data):
    return figures.draw_all(data)


def test_every_figure_with_data_is_drawn(drawn):
    assert set(drawn) == set(figures.FIGURES) - {"mechanism", "steps"}  # not measured in the made-up study


@pytest.mark.parametrize("name", ["contrasts", "accuracy", "pass_at_k", "series", "gap"])
def test_figures_of_estimates_say_n_and_interval(drawn, name):
    assert re.search(r"n = 6 problems", drawn[name]) and "95% interval" in drawn[name]


def test_figures_are_well_formed_and_deterministic(data, drawn):
    for name, svg in drawn.items():
        ElementTree.fromstring(svg)
        inline = plotstyle.inline_svg(svg, prefix=name)
        ElementTree.fromstring(inline.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert "http" not in inline and "<style" not in inline and "xlink" not in inline
        assert set(re.findall(r'href="#([^"]+)"', inline)) <= set(re.findall(r'id="([^"]+)"', inline))
    with plotstyle.style():
        again = figures.FIGURES["contrasts"].draw(data)
    assert plotstyle.to_svg(again) == drawn["contrasts"]


def test_theme_colours_become_variables(drawn):
    inline = plotstyle.inline_svg(drawn["pass_at_k"], prefix="x")
    assert "var(--arm-standard)" in inline and "var(--ink)" in inline
    assert plotstyle.ARM_COLOURS["standard"] not in inline


def test_arms_keep_their_colours_and_unknown_ones_get_others():
    assert plotstyle.colours(ARMS) == plotstyle.ARM_COLOURS
    more = plotstyle.colours((*ARMS, "no_anchor", "no_clip"))
    assert len(set(more.values())) == 5
    loose = plotstyle.colours(("before", "after"))
    assert loose["before"] == plotstyle.ARM_COLOURS["base"] and loose["after"] != loose["before"]
    assert len(set(plotstyle.colours([f"m{i}" for i in range(9)]).values())) == 9


def test_hostile_labels_are_text():
    with plotstyle.style():
        figure, axes = plotstyle.new_figure(1, 1)
        axes[0, 0].set_title(r"<script>alert(1)</script> $\frac{$ \x")
        svg = plotstyle.to_svg(figure)
    assert "<script" not in plotstyle.inline_svg(svg, prefix="x") and "&lt;script&gt;" in svg


def test_collapse_onset_needs_to_last():
    def onset(highs, margin=0.0):
        table = pd.DataFrame({"step": [10, 20, 30], "difference_high": highs})
        return report_data.collapse_onset(table, margin=margin)

    assert onset([0.1, -0.1, -0.2]) == 20
    assert onset([-0.1, 0.1, -0.2]) == 30
    assert onset([-0.1, -0.1, 0.0]) is None
    assert onset([-0.1, -0.1, -0.04], margin=0.05) is None
    assert onset([-0.1, -0.06, -0.1], margin=0.05) == 10


def test_series_starts_from_the_baseline_and_pairs_by_problem(data):
    table = report_data.series(data, "avg@4")
    part = table[(table.arm == "standard") & (table.split == "id")].sort_values("step")
    assert list(part.step) == [10, 20] and part["n_seeds"].eq(2).all()
    base = table[(table.arm == "base") & (table.split == "id")]
    assert (part["difference"] - (part["estimate"] - base["estimate"].item())).abs().max() < 1e-12


def test_distance_is_taken_from_diagnoses_where_the_loss_did_not_score_base():
    from opsd_eval.figures_training import with_distance

    table = pd.DataFrame({"kl_base": [None, 0.2, None], "diagnostics.kl_from_base": [0.1, 0.9, None]})
    assert with_distance(table)["kl_base"].tolist()[:2] == [0.1, 0.2]
    only = pd.DataFrame({"diagnostics.kl_from_base": [0.1]})
    assert with_distance(only)["kl_base"].tolist() == [0.1]


def test_a_figure_is_xml_whatever_a_log_calls_its_sets(recwarn):
    """Control characters, which XML forbids, and directional ones, in a label; glyphs no font has are no warning."""
    import xml.etree.ElementTree as ElementTree

    from opsd_eval.plotstyle import new_figure, to_svg

    figure, axes = new_figure(1, 1)
    axes[0, 0].set_title("a\x00b\x1b[31m\u202ec\u6c49")
    text = to_svg(figure)
    ElementTree.fromstring(text)
    assert not {"\x00", "\x1b", "\u202e"} & set(text) and "汉" in text
    assert not recwarn.list
