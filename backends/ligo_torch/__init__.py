"""The PyTorch backend of ligo-spec: apply operators on a CPU or GPU, fit them, compare forward passes."""

from ligo_torch.backend import TorchBackend

__all__ = ["TorchBackend"]
