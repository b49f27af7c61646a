"""What a forked process has imported before it begins; see `tests.processes`."""

import matplotlib.figure  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import transformers  # noqa: F401
import tyro  # noqa: F401

import unweave.catalogue
import unweave.jobs  # noqa: F401

unweave.catalogue.methods()
