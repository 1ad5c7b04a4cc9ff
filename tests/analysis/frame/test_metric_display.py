"""How metrics are named."""

import pytest

from analysis.frame.metric_display import describe


@pytest.mark.parametrize(
    ("name", "title", "unit", "better"),
    [
        ("accuracy", "Accuracy", "%", "higher"),
        ("logit_average/nll", "NLL, logits averaged", "nats", "lower"),
        ("corruption_error/fog", "Corruption error, fog", "%", "lower"),
        ("relative_change/fog", "Relative change under corruption, fog", "", "higher"),
        ("generated/corruption_error", "Corruption error (generated)", "%", "lower"),
        ("generated/corruption_error/fog", "Corruption error, fog (generated)", "%", "lower"),
        ("ood_fpr95/svhn", "OOD FPR at 95 % TPR, svhn", "", "lower"),
        ("training/loss", "Training loss", "nats", "lower"),
        ("ece_20", "ECE, 20 bins", "", "lower"),
        ("logit_average/ece_20", "ECE, 20 bins, logits averaged", "", "lower"),
        ("never heard of", "never heard of", "", None),
    ],
)
def test_describe(name, title, unit, better):
    metric = describe(name)
    assert (metric.name, metric.title, metric.unit, metric.better) == (name, title, unit, better)


def test_metrics_are_described_in_one_place():
    assert (describe("nll").better, describe("accuracy").better) == ("lower", "higher")
    assert (describe("ood_auroc/svhn").title, describe("ood_auroc/svhn").better) == ("OOD AUROC, svhn", "higher")
    assert describe("spent/train_seconds").unit == "s"
    assert describe("brand_new").better is None
