"""The ensembling methods: each a subclass of `Method`, one file a family."""

from methods.base import About, Batch, MakeMethod, Method, Need, Weights
from methods.deep_ensemble import DeepEnsemble
from methods.dropout import Dropout, MCDropout
from methods.late_phase import LatePhaseBatchNorm
from methods.recipe import Recipe
from methods.sgd import SGD
from methods.snapshot import Snapshot
from methods.streams import MakeNet
from methods.subspace import Line
from methods.swa import SWA
from methods.wrapper import Wrapper

METHODS: dict[str, type[Method]] = {
    "sgd": SGD,
    "dropout": Dropout,
    "mc_dropout": MCDropout,
    "swa": SWA,
    "snapshot": Snapshot,
    "late_phase_bn": LatePhaseBatchNorm,
    "line": Line,
    "deep_ensemble": DeepEnsemble,
}

__all__ = [
    "METHODS",
    "SGD",
    "SWA",
    "About",
    "Batch",
    "DeepEnsemble",
    "Dropout",
    "LatePhaseBatchNorm",
    "Line",
    "MCDropout",
    "MakeMethod",
    "MakeNet",
    "Method",
    "Need",
    "Recipe",
    "Snapshot",
    "Weights",
    "Wrapper",
]
