"""The ensembling methods: each a subclass of `Method`, one file a family."""

from methods.base import About, Batch, MakeMethod, Method, Need, Weights
from methods.deep_ensemble import DeepEnsemble
from methods.dropout import Dropout, MCDropout
from methods.early_stopping import EarlyStopping
from methods.fge import FGE
from methods.gradient_accumulation import GradientAccumulation
from methods.hypernetwork import HypernetEnsemble, LatePhaseHypernet
from methods.label_smoothing import LabelSmoothing
from methods.late_layers import LatePhaseBatchNorm, LatePhaseLastLayer
from methods.late_networks import Branched, LateIndependent, LatePhaseFull
from methods.rank1 import LatePhaseRank1, Rank1
from methods.recipe import Recipe
from methods.sgd import SGD
from methods.snapshot import Snapshot
from methods.streams import MakeNet
from methods.subspace import Line
from methods.swa import SWA
from methods.swag import SWAG
from methods.wrapper import Wrapper

METHODS: dict[str, type[Method]] = {
    "sgd": SGD,
    "dropout": Dropout,
    "mc_dropout": MCDropout,
    "label_smoothing": LabelSmoothing,
    "early_stopping": EarlyStopping,
    "swa": SWA,
    "swag": SWAG,
    "snapshot": Snapshot,
    "fge": FGE,
    "late_phase_bn": LatePhaseBatchNorm,
    "late_phase_rank1": LatePhaseRank1,
    "late_phase_hypernet": LatePhaseHypernet,
    "late_phase_last_layer": LatePhaseLastLayer,
    "late_phase_full": LatePhaseFull,
    "late_independent": LateIndependent,
    "rank1": Rank1,
    "gradient_accumulation": GradientAccumulation,
    "hypernet_ensemble": HypernetEnsemble,
    "branched": Branched,
    "line": Line,
    "deep_ensemble": DeepEnsemble,
}

__all__ = [
    "FGE",
    "METHODS",
    "SGD",
    "SWA",
    "SWAG",
    "About",
    "Batch",
    "Branched",
    "DeepEnsemble",
    "Dropout",
    "EarlyStopping",
    "GradientAccumulation",
    "HypernetEnsemble",
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
    "Snapshot",
    "Weights",
    "Wrapper",
]
