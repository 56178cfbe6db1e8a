"""What `gradleak screen` writes: the scores of all examples as files, and a page with the riskiest and the safest."""

from gradleak.audits.screened.rows import ExampleRow, Screened, rank_agreement
from gradleak.audits.screened.writing import write_screened

__all__ = ["ExampleRow", "Screened", "rank_agreement", "write_screened"]
