"""safetensors files: own strict reader, deterministic streaming writer.

`read` and `write` are the converter; `read_file` and `write_file` handle one file with metadata of its own.
"""

from ligo_safetensors._file import TensorFile, read_file
from ligo_safetensors._read import read
from ligo_safetensors._write import write, write_file

__all__ = ["TensorFile", "read", "read_file", "write", "write_file"]
