"""Grow a trained transformer into a bigger one: a declarative spec, a NumPy reference, pluggable backends."""

from ligo_spec.architecture import Architecture
from ligo_spec.backend import Backend, load_backend
from ligo_spec.certify import Broken, certify
from ligo_spec.checkpoint import Checkpoint, TensorInfo, read_checkpoint
from ligo_spec.compare import compare
from ligo_spec.contest import Comparison
from ligo_spec.convert import Converted, convert
from ligo_spec.diff import Diff, diff
from ligo_spec.errors import InputError, LigoError, NumericalError, OutputError, PlanError, VerificationError
from ligo_spec.events import Events
from ligo_spec.explain import Explanation, explain
from ligo_spec.family import Family, load_family
from ligo_spec.family_check import FamilyCheck, check_family
from ligo_spec.family_list import list_families
from ligo_spec.fitting import FitResult
from ligo_spec.grow import Grown, apply, fit, grow, grow_optimizer
from ligo_spec.inspection import Inspection, inspect
from ligo_spec.job import check
from ligo_spec.methods import build_operator
from ligo_spec.operator import Growth, Operator
from ligo_spec.operator_file import load_operator, save_operator
from ligo_spec.plan import Plan
from ligo_spec.schemas import json_schema
from ligo_spec.verify import Verification, verify

__all__ = [  # noqa: RUF022 (grouped by what a reader looks for)
    # the commands
    "check", "explain", "inspect", "fit", "apply", "grow", "verify", "diff", "json_schema",
    "check_family", "list_families", "grow_optimizer", "convert", "compare",
    # what they return
    "Explanation", "Inspection", "FitResult", "Grown", "Verification", "Events", "FamilyCheck", "Converted", "Diff",
    "Comparison",
    # the documents
    "Family", "load_family", "Plan", "Operator", "load_operator", "save_operator",
    # the parts
    "Architecture", "Growth", "build_operator", "certify", "Broken",
    "Checkpoint", "TensorInfo", "read_checkpoint", "Backend", "load_backend",
    # errors
    "LigoError", "PlanError", "InputError", "OutputError", "NumericalError", "VerificationError",
]  # fmt: skip
