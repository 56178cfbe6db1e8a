"""Audits: trials, the folder that keeps them, their summary and the report."""

from gradleak.audits.records import Course, TrialRecord
from gradleak.audits.store import Contents, Store
from gradleak.audits.summarizing import summarize
from gradleak.audits.summary import Summary
from gradleak.audits.texts import TrialTexts
from gradleak.audits.trial import Trial, TrialImages, run_trial

__all__ = [
    "Contents",
    "Course",
    "Store",
    "Summary",
    "Trial",
    "TrialImages",
    "TrialTexts",
    "TrialRecord",
    "run_trial",
    "summarize",
]
