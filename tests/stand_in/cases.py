"""The runs that are driven on the stand-in device: every method, in the variants that compute differently."""

from typing import Any

LATE = "K=2, start=0.5"
MEMBERS = f"{LATE}, prediction=members"
MEASURES: dict[str, Any] = {
    "training_loss": True,
    "calibration_bins": 20,
    "flatness": {"sigmas": [0, 0.1], "draws": 1, "examples": 16},
    "path": {"points": 3},
    "plane": {"points": 2, "examples": 12, "train_examples": 12, "third": "sgd"},
    "each_epoch": ["test", "distances"],
}
QUICK = [
    "sgd", "mc_dropout(K=2)", "swa(start=0.5)", "swag(start=0.25, N=2, rank=2)", "fge(start=0.5)",
    "batch_ensemble(K=2)",
    f"late_phase_bn({LATE}, sigma0=0.2)", f"late_phase_bn({MEMBERS}) fused", f"late_phase_rank1({MEMBERS}) fused",
    f"hypernet_ensemble({LATE})", "line", f"branched({LATE}, prediction=mixtures, mixing=weight)", "deep_ensemble(K=2)",
    "text: sgd bfloat16", f"early_stopping(late_phase_bn({LATE}))",
]  # fmt: skip
"""The cases of `make test`."""
CASES: dict[str, dict[str, Any]] = {}
"""By name, a method and what else is set; see `write_case` in `drive`."""


def add(method: str, name: str = "", **given: Any) -> None:
    """Add a case."""
    CASES[name or method] = {"method": method, **given}


for each in [
    "sgd", "label_smoothing", "early_stopping", "early_stopping(metric=accuracy)", "dropout", "mc_dropout(K=2)",
    f"gradient_accumulation({LATE})", f"gradient_accumulation({LATE}, leftover=carry, gamma_theta='1/K')", "rank1",
    "swa(start=0.5)", "swa(start=0.5, checkpoints=2, prediction=checkpoints)",
    "swa(start=0.25, checkpoints=2, prediction=pair, alpha=[0.3, 0.7])",
    "swa(start=0.25, checkpoints=2, prediction=simplex, points=2)", "swa(start=0.25, rate=cyclic, checkpoints=2)",
    "swag(start=0.25, N=2, rank=2)", "swag(start=0.25, N=2, rank=0)", "snapshot(M=2)", "fge(start=0.5)",
    "batch_ensemble(K=2)", "batch_ensemble(K=2, init=sign)",
    f"late_phase_bn({LATE}, sigma0=0.2)", f"late_phase_bn({MEMBERS})",
    f"late_phase_bn({LATE}, leftover=carry)", f"late_phase_bn({LATE}, leftover=drop, gamma_theta='1/K')",
    f"late_phase_bn({LATE}, statistics=average)", f"late_phase_bn({LATE}, statistics=reestimate)",
    f"late_phase_bn({LATE}, statistics=reestimate_members)", f"late_phase_bn({LATE}, member_momentum=copy)",
    f"late_phase_bn({LATE}, frozen_base=true)", f"late_phase_bn({LATE}, member_optimizer=adam)",
    f"late_phase_bn({LATE}, member_optimizer=sgd, last_layer=false)", "late_phase_bn(K=3, start=1, sigma0=0.5)",
    f"late_phase_rank1({LATE}, sigma0=0.2)", f"late_phase_rank1({MEMBERS})",
    f"late_phase_hypernet({LATE})", f"late_phase_last_layer({LATE})", f"late_phase_last_layer({MEMBERS})",
    f"late_phase_last_layer({LATE}, statistics=reestimate)",
    f"late_phase_full({LATE})", f"late_phase_full({LATE}, data=full, prediction=members)", f"late_independent({LATE})",
    f"hypernet_ensemble({LATE})", f"hypernet_ensemble({LATE}, nested=false, batch_norm=shared, sigma0=0.5)",
    f"hypernet_ensemble({LATE}, embeddings=shared)", "hypernet_ensemble(K=2, start=0)",
    "line", "line(prediction=pair)", "line(prediction=random, points=2)", "line(layerwise=true)",
    "line(samples=2, lam=1.0, decay=point)", "curve", "simplex", "simplex(prediction=random, points=2)",
    "simplex(layerwise=true)", "integral", f"branched({LATE})", f"branched({LATE}, prediction=mixtures, mixing=weight)",
    f"branched({MEMBERS})", "deep_ensemble(K=2)", f"deep_ensemble(late_phase_bn({LATE}), K=2)",
    "deep_ensemble(swa(start=0.5), K=2)", f"swa(late_phase_bn({LATE}), start=0.75)",
    f"swa(hypernet_ensemble({LATE}), start=0.75)", f"swag(late_phase_bn({LATE}), start=0.5, N=2, rank=2)",
    "swa(line, start=0.5)", "swa(batch_ensemble(K=2), start=0.5)", f"snapshot(late_phase_bn({MEMBERS}), M=2)",
    "fge(batch_ensemble(K=2), start=0.5)", f"early_stopping(late_phase_bn({LATE}))", "early_stopping(swa(start=0.5))",
    f"label_smoothing(late_phase_full({LATE}))", "early_stopping(line)", "swa(mc_dropout(K=2), start=0.5)",
]:  # fmt: skip
    add(each)
for each in (
    "line", "simplex", f"late_phase_bn({MEMBERS})", f"hypernet_ensemble({LATE})", "batch_ensemble(K=2)",
    "swag(start=0.25, N=2, rank=2)", "deep_ensemble(K=2)", f"branched({LATE}, prediction=mixtures, mixing=weight)",
    f"late_phase_rank1({MEMBERS})", "swa(start=0.25, checkpoints=2, prediction=simplex, points=2)",
):  # fmt: skip
    add(each, f"measured: {each}", evaluate=MEASURES)
for each in ("late_phase_bn", "late_phase_rank1", "late_phase_last_layer"):
    add(f"{each}({MEMBERS})", f"{each}({MEMBERS}) fused", fuse="always")
add(f"gradient_accumulation({LATE})", f"gradient_accumulation({LATE}) fused", fuse="always")
add("late_phase_bn(K=4, start=1, prediction=members)", "cycles cut anew fused", fuse="always", recipe={"epochs": 8})
for each in (
    "sgd", f"late_phase_bn({MEMBERS})", f"late_phase_rank1({LATE})", f"hypernet_ensemble({LATE})",
    "batch_ensemble(K=2)", "line", "swag(start=0.25, N=2, rank=2)", "integral", "mc_dropout(K=2)",
):  # fmt: skip
    add(each, f"{each} bfloat16", precision="bfloat16", fuse="always")
for each in ("sgd", f"late_phase_bn({LATE}, member_momentum=copy)", f"late_phase_full({LATE}, member_momentum=copy)"):
    add(each, f"{each} adam", recipe={"optimizer": "adam"})
add("sgd", "sgd cutout", dataset={"cutout": 3, "label_noise": 0.2})
add("swa(start=0.5)", "swa plain statistics", recipe={"reestimate_on": "plain"})
add("sgd", "sgd corrupted", dataset={"corruptions": "generated"})
add(
    "line",
    "line corrupted",
    dataset={"corruptions": "generated"},
    evaluate={"path": {"points": 3, "corruptions": ["fog"]}},
)
stages = {"kind": "stages", "stages": [{"epochs": 2}, {"epochs": 2, "ratio": 0.1}]}
add("sgd", "sgd stages", recipe={"schedule": stages})
for each in (
    "sgd", "dropout", "mc_dropout(K=2)", f"late_phase_rank1({MEMBERS})", f"late_phase_rank1({LATE}, matrices=all)",
    "rank1", "swa(start=0.5)", "swag(start=0.25, N=2, rank=2)", "snapshot(M=2)", "line", "line(prediction=pair)",
    f"late_phase_last_layer({LATE})", f"late_phase_full({MEMBERS})", "early_stopping", "deep_ensemble(K=2)",
    f"gradient_accumulation({LATE})",
):  # fmt: skip
    add(each, f"text: {each}", data="text")
for each in ("sgd", f"late_phase_rank1({MEMBERS})"):
    add(each, f"text: {each} bfloat16", data="text", precision="bfloat16")
add("sgd", "files: sgd", data="files", decoders=0)
add("sgd", "files: sgd, 2 decoders", data="files", decoders=2)
for each in ("pyramidnet-20-16", "cresnet20", "wrn-10-1"):
    add("sgd", f"sgd {each}", architecture=each, data="colour")
for each in ("resnet18", "densenet161"):
    add("sgd", f"sgd {each}", architecture=each, data="colour", recipe={"epochs": 1})
