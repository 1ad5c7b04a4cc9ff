"""The ensembling methods: one file per method, each a subclass of `Method`, all listed in `METHODS`.

The package `core` holds what methods are made of. To write a method, read `help(Method)` first. `harness` trains
methods by the interface that `Method` defines.
"""

from methods.batch_ensemble import BatchEnsemble
from methods.branched import Branched
from methods.core.batch_norm import reestimate, reestimate_each
from methods.core.declarations import (
    PLAIN_TRUNK,
    About,
    Anchor,
    Batch,
    DataSizes,
    Need,
    PreparationData,
    Sharing,
    Trunk,
    Weights,
)
from methods.core.late_phase import LatePhase
from methods.core.layers import NamedBuffers, last_layer
from methods.core.member_average import average_members
from methods.core.method import MakeMethod, Method, prepare_for_prediction
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.core.wrapper import Collector, Wrapper
from methods.curve import Curve
from methods.deep_ensemble import DeepEnsemble
from methods.dropout import Dropout
from methods.early_stopping import EarlyStopping
from methods.fge import FGE
from methods.gradient_accumulation import GradientAccumulation
from methods.hypernet_ensemble import HypernetEnsemble
from methods.integral import Integral
from methods.label_smoothing import LabelSmoothing
from methods.late_independent import LateIndependent
from methods.late_phase_bn import LatePhaseBatchNorm
from methods.late_phase_full import LatePhaseFull
from methods.late_phase_hypernet import LatePhaseHypernet
from methods.late_phase_last_layer import LatePhaseLastLayer
from methods.late_phase_rank1 import LatePhaseRank1
from methods.line import Line
from methods.mc_dropout import MCDropout
from methods.rank1 import Rank1
from methods.sgd import SGD
from methods.simplex import Simplex
from methods.snapshot import Snapshot
from methods.swa import SWA
from methods.swag import SWAG

METHODS: dict[str, type[Method]] = {
    # one network is trained: plain training, regularisation, dropout, controls
    "sgd": SGD,
    "label_smoothing": LabelSmoothing,
    "early_stopping": EarlyStopping,
    "dropout": Dropout,
    "mc_dropout": MCDropout,
    "gradient_accumulation": GradientAccumulation,
    "rank1": Rank1,
    # states of one training are averaged, or kept as members
    "swa": SWA,
    "swag": SWAG,
    "snapshot": Snapshot,
    "fge": FGE,
    # members share most weights, or a common start
    "batch_ensemble": BatchEnsemble,
    "late_phase_bn": LatePhaseBatchNorm,
    "late_phase_rank1": LatePhaseRank1,
    "late_phase_hypernet": LatePhaseHypernet,
    "late_phase_last_layer": LatePhaseLastLayer,
    "late_phase_full": LatePhaseFull,
    "hypernet_ensemble": HypernetEnsemble,
    "late_independent": LateIndependent,
    # subspaces of weights are trained, or branches of one run
    "line": Line,
    "curve": Curve,
    "simplex": Simplex,
    "integral": Integral,
    "branched": Branched,
    # independent runs are combined
    "deep_ensemble": DeepEnsemble,
}
"""The methods by the names that study files and the command line use."""

__all__ = [
    "FGE",
    "METHODS",
    "PLAIN_TRUNK",
    "SGD",
    "SWA",
    "SWAG",
    "About",
    "Anchor",
    "Batch",
    "BatchEnsemble",
    "Branched",
    "Collector",
    "Curve",
    "DataSizes",
    "DeepEnsemble",
    "Dropout",
    "EarlyStopping",
    "GradientAccumulation",
    "HypernetEnsemble",
    "Integral",
    "LabelSmoothing",
    "LateIndependent",
    "LatePhase",
    "LatePhaseBatchNorm",
    "LatePhaseFull",
    "LatePhaseHypernet",
    "LatePhaseLastLayer",
    "LatePhaseRank1",
    "Line",
    "MCDropout",
    "MakeMethod",
    "MakeNet",
    "Method",
    "NamedBuffers",
    "Need",
    "PreparationData",
    "Rank1",
    "Recipe",
    "Sharing",
    "Simplex",
    "Snapshot",
    "Trunk",
    "Weights",
    "Wrapper",
    "average_members",
    "last_layer",
    "prepare_for_prediction",
    "reestimate",
    "reestimate_each",
]
