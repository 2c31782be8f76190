"""Evaluation: restore, embed the test images, retrieve, and tell."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sreml_jax import checkpoint, report
from sreml_jax import config as configs
from sreml_jax import mesh as meshes
from sreml_jax.data.dataset import Dataset
from sreml_jax.learning import step
from sreml_jax.run import Run, abstract_state
