"""Average ranks and their tests, against SciPy, scikit-posthocs, and the worked example of Demšar (2006)."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from analysis import average_ranks, leaderboard
from analysis.comparisons.average_ranks import critical_difference, explain_ranks

DEMSAR = [  # ranks of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 datasets: Table 6
    *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1]),
    *([2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5] * 4, [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2]),
]


def test_the_example_of_demsar(scored):
    ranks = average_ranks(scored([[-rank for rank in row] for row in DEMSAR])).set_index("label")["average_rank"]
    assert ranks[["m0", "m1", "m2", "m3"]].round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    k, n = 4, 14
    uncorrected = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    assert round(uncorrected, 2) == 9.28
    assert round(critical_difference(4, 14), 2) == 1.25 and round(critical_difference(4, 14, 0.1), 2) == 1.12


def test_the_critical_values_of_demsar():
    """Table 5a; a distance over √(k (k + 1) / (6 N))."""
    found = [critical_difference(k, 1) / math.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    expected = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    assert found == pytest.approx(expected, abs=1.1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_against_scipy_and_scikit_posthocs(scored, seed):
    random = np.random.default_rng(seed)
    scores = np.round(random.normal(0, 1, (9, 5)) + seed * np.arange(5), 0 if seed % 2 else 6)  # with ties and without
    ranks = average_ranks(scored(scores.tolist()))
    expected = stats.friedmanchisquare(*scores.T)
    assert ranks.attrs["statistic"] == pytest.approx(expected.statistic)
    places = stats.rankdata(-scores, axis=1).mean(axis=0)
    means = ranks.set_index("label")["average_rank"]
    assert means[[f"m{j}" for j in range(5)]].tolist() == pytest.approx(places)
    assert means.is_monotonic_increasing
    p = scikit_posthocs.posthoc_nemenyi_friedman(-scores)
    letters = ranks.set_index("label")["letters"]
    for i, j in itertools.combinations(range(5), 2):
        together = bool(set(letters[f"m{i}"]) & set(letters[f"m{j}"]))
        assert together == (ranks.attrs["p"] >= 0.05 or p.iloc[i, j] > 0.05), (i, j, p.iloc[i, j])


def test_p_is_that_of_iman_and_davenport(scored):
    scores = np.random.default_rng(5).normal(size=(8, 4))
    found = average_ranks(scored(scores.tolist())).attrs
    chi = stats.friedmanchisquare(*scores.T).statistic
    assert found["p"] == pytest.approx(stats.f.sf(7 * chi / (8 * 3 - chi), 3, 21))


def test_one_order_everywhere_and_none(scored):
    found = average_ranks(scored([[1, 2, 3]] * 6))
    assert found["label"].tolist() == ["m2", "m1", "m0"] and found["average_rank"].tolist() == [1, 2, 3]
    assert (found.attrs["statistic"], found.attrs["p"]) == (pytest.approx(12), 0.0)
    assert found.attrs["groups"] == [["m2", "m1"], ["m1", "m0"]]  # apart by 1 < 1.35 < 2
    assert found["letters"].tolist() == ["a", "ab", "b"]
    found = average_ranks(scored([[1, 1, 1]] * 6))
    assert (found.attrs["statistic"], found.attrs["p"]) == (0.0, 1.0)
    assert found["average_rank"].tolist() == [2, 2, 2] and found["letters"].tolist() == ["a", "a", "a"]


def test_without_a_difference_among_all_no_two_differ(scored):
    """Two of many methods may be a critical difference apart though the test of all finds none."""
    random = np.random.default_rng(15)  # which draws one soon
    tables = (random.permuted(np.tile(np.arange(12.0), (6, 1)), axis=1) for _ in range(500))
    for scores in tables:
        ranks = average_ranks(scored(scores.tolist()))
        apart = ranks["average_rank"].max() - ranks["average_rank"].min()
        if ranks.attrs["p"] >= 0.05 and apart > ranks.attrs["critical_difference"]:
            break
    else:
        pytest.fail("no such table was drawn")
    assert ranks.attrs["groups"] == [ranks["label"].tolist()]
    assert "No difference is shown at 5 %." in explain_ranks(ranks)


def test_seeds_are_averaged_first(scored):
    scores = np.random.default_rng(1).normal(size=(7, 3)).tolist()
    one, three = average_ranks(scored(scores)), average_ranks(scored(scores, seeds=3))
    assert one["average_rank"].tolist() == three["average_rank"].tolist()
    assert one.attrs["statistic"] == three.attrs["statistic"]


def test_less_may_be_better(scored):
    frame = scored([[1, 2, 3]] * 6).rename(columns={"accuracy": "nll"})
    assert average_ranks(frame, "nll")["label"].tolist() == ["m0", "m1", "m2"]


def test_methods_that_a_cell_lacks_are_left_out_by_name(scored):
    scores = [[1, 2, 3, 4]] * 5 + [[1, 2, 3, math.nan]]
    ranks = average_ranks(scored(scores))
    assert ranks["label"].tolist() == ["m2", "m1", "m0"] and ranks.attrs["left_out"] == {"m3": 5}
    assert explain_ranks(ranks).endswith("Left out, not in all 6 cells: m3 (5).")


def test_too_little_to_rank_is_said(scored):
    with pytest.raises(LookupError, match=r"at least 6 cells \(dataset and architecture\), there are 5"):
        average_ranks(scored([[1, 2, 3]] * 5))
    scores = [[1, 2, 3]] * 5 + [[1, 2, math.nan]]
    with pytest.raises(
        LookupError, match=r"at least 3 methods that all 6 cells have, there are 2 \(not in all: m2 in 5"
    ):
        average_ranks(scored(scores))
    with pytest.raises(ValueError, match="neither direction"):
        average_ranks(scored([[1, 2, 3]] * 6).assign(members=3.0), "members")
    with pytest.raises(ValueError, match="no run has 'nll'"):
        average_ranks(scored([[1, 2, 3]] * 6), "nll")


def test_five_wins_in_five_cells_would_not_count():
    assert stats.binomtest(5, 5).pvalue > 0.05 > stats.binomtest(6, 6).pvalue


def test_a_leaderboard_gives_the_same_ranks_and_holds_them(scored):
    frame = scored(np.random.default_rng(2).normal(size=(6, 4)).tolist(), ["sgd", "a", "b", "c"])
    board = leaderboard(frame)
    expected = average_ranks(frame)
    pd.testing.assert_frame_equal(average_ranks(board), expected)
    held = board.groupby("label")["average_rank"].first()
    assert held.to_dict() == expected.set_index("label")["average_rank"].to_dict()
    other = leaderboard(frame.assign(nll=-(frame["accuracy"] ** 2)), by="nll")
    assert average_ranks(other).attrs["by"] == "nll", "that of the leaderboard"
    with pytest.raises(ValueError, match="no run has 'ece' to rank by"):
        average_ranks(board, "ece")
    few = leaderboard(frame[frame["dataset"] == "d0"])
    assert few["average_rank"].isna().all()
