"""Jobs: chains of stages, resumable, callable from Python; the command line only parses, calls and shows.

A job is made of settings, checked at once, and has one verb: `run(out)` does every stage in a run folder, goes on where
it was stopped, and returns what came out.
"""

from __future__ import annotations

from .audit import AuditJob
from .choice import Choice, choose
from .compare import Compared, CompareJob
from .condense import CondensedRun, CondenseJob
from .done import Done
from .erase import Erased, EraseJob
from .exact import ExactJob, ExactlyTrained, dense
from .explain import Explained, LatentsJob
from .explained_folders import open_image_latents, open_latents, open_regions
from .forget import ForgetJob, UnsuitedWarning
from .forget_exact import ForgetExactJob, ForgottenExactly
from .generate import Generated, GenerateJob
from .judging import Audited
from .language import Texts, language_subject
from .opened import Folder, embedded, open_subject
from .pipelines import PipelineSubject, embedded_pipeline, open_pipeline
from .prune import PruneJob
from .pruned import Pruned
from .regions import RegionsJob
from .restore import Restored, RestoreJob
from .restore_training import RestorerTraining
from .scan import ScanJob, Scanned
from .shrink_pipeline import ShrinkPipelineJob, Shrunk
from .subject import Subject
from .target import Target
from .train import Trained, TrainJob
from .uncertainty import UncertaintyJob, Unsure, open_uncertainty

__all__ = [
    "AuditJob", "Audited", "Choice", "CompareJob", "Compared", "CondenseJob", "CondensedRun", "Done", "EraseJob",
    "Erased", "ExactJob", "ExactlyTrained", "Explained", "Folder", "ForgetExactJob", "ForgetJob", "ForgottenExactly",
    "LatentsJob", "PipelineSubject", "PruneJob", "Pruned", "RegionsJob", "RestoreJob", "Restored", "RestorerTraining",
    "GenerateJob", "Generated", "ScanJob", "Scanned", "ShrinkPipelineJob", "Shrunk", "Subject", "Target", "Texts",
    "TrainJob", "Trained", "UncertaintyJob", "Unsure", "open_uncertainty",
    "UnsuitedWarning", "choose", "dense", "embedded", "embedded_pipeline", "language_subject", "open_image_latents",
    "open_latents",
    "open_pipeline", "open_regions", "open_subject",
]  # fmt: skip
