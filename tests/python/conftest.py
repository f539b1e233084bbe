"""The operator library as any Python with torch loads it. FASTWAN_LIB_DIR names its folder."""
import os
import pathlib

import torch

LIBRARY = pathlib.Path(os.environ["FASTWAN_LIB_DIR"]) / "libfastwan_ops.so"

torch.ops.load_library(str(LIBRARY))
