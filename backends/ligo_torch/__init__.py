"""The PyTorch backend of ligo-spec: apply operators on a CPU or GPU, fit them, compare forward passes."""

from ligo_torch.backend import TorchBackend
from ligo_torch.loss import fit_loss

__all__ = ["TorchBackend", "fit_loss"]
