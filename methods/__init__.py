"""The ensembling methods: each a subclass of `Method`, one file a family."""

from methods.base import About, Anchor, Batch, MakeMethod, Method, Need, Weights
from methods.batch_ensemble import BatchEnsemble
from methods.deep_ensemble import DeepEnsemble
from methods.dropout import Dropout, MCDropout
from methods.early_stopping import EarlyStopping
from methods.fge import FGE
from methods.gradient_accumulation import GradientAccumulation
from methods.hypernetwork import HypernetEnsemble, LatePhaseHypernet
from methods.integral import Integral
from methods.label_smoothing import LabelSmoothing
from methods.late_layers import LatePhaseBatchNorm, LatePhaseLastLayer
from methods.late_networks import Branched, LateIndependent, LatePhaseFull
from methods.rank1 import LatePhaseRank1, Rank1
from methods.recipe import Recipe
from methods.sgd import SGD
from methods.simplex import Simplex
from methods.snapshot import Snapshot
from methods.streams import MakeNet
from methods.subspace import Curve, Line
from methods.swa import SWA
from methods.swag import SWAG
from methods.wrapper import Wrapper

METHODS: dict[str, type[Method]] = {
    "sgd": SGD,
    "label_smoothing": LabelSmoothing,
    "early_stopping": EarlyStopping,
    "dropout": Dropout,
    "mc_dropout": MCDropout,
    "gradient_accumulation": GradientAccumulation,
    "rank1": Rank1,
    "swa": SWA,
    "swag": SWAG,
    "snapshot": Snapshot,
    "fge": FGE,
    "batch_ensemble": BatchEnsemble,
    "late_phase_bn": LatePhaseBatchNorm,
    "late_phase_rank1": LatePhaseRank1,
    "late_phase_hypernet": LatePhaseHypernet,
    "late_phase_last_layer": LatePhaseLastLayer,
    "late_phase_full": LatePhaseFull,
    "hypernet_ensemble": HypernetEnsemble,
    "late_independent": LateIndependent,
    "line": Line,
    "curve": Curve,
    "simplex": Simplex,
    "integral": Integral,
    "branched": Branched,
    "deep_ensemble": DeepEnsemble,
}

__all__ = [
    "FGE",
    "METHODS",
    "SGD",
    "SWA",
    "SWAG",
    "About",
    "Anchor",
    "Batch",
    "BatchEnsemble",
    "Branched",
    "Curve",
    "DeepEnsemble",
    "Dropout",
    "EarlyStopping",
    "GradientAccumulation",
    "HypernetEnsemble",
    "Integral",
    "LabelSmoothing",
    "LateIndependent",
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
    "Need",
    "Rank1",
    "Recipe",
    "Simplex",
    "Snapshot",
    "Weights",
    "Wrapper",
]
