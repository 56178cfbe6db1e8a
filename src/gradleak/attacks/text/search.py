"""A search for inputs of any kind, carried out on the embeddings of a text."""

from dataclasses import dataclass

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.text.embedded import in_embeddings
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation


@dataclass(frozen=True)
class TextInversion:
    """Search embeddings by an `Inversion`, and take the nearest tokens.

    The reconstruction's objective is that of the embeddings, its variable the tokens' own.

    Args:
        search: objective, optimizer, start and budget.
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        touched_only: decode only to tokens whose row of the embedding's gradient is not zero, where there are zeros.
        rms: the search's unit is such that the entries of the embedding's rows have this root mean square; None for the
            model's own.
    """

    search: Inversion
    begin: int | None = None
    end: int | None = None
    touched_only: bool = False
    rms: float | None = None

    @property
    def name(self) -> str:
        """That of the search."""
        return self.search.name

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        embedded = in_embeddings(
            observation, begin=self.begin, end=self.end, touched_only=self.touched_only, rms=self.rms
        )
        if isinstance(embedded, str):
            return not_applicable(self.name, observation, embedded)
        return embedded.in_tokens(self.search(embedded.observation, seed=seed, progress=progress), self.name)
