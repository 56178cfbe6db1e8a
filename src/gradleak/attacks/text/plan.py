"""What the portfolio tries on texts: exact recovery where its theory holds, then searches, then the bag of tokens."""

from collections.abc import Iterator

from gradleak.attacks.factories import Factory, with_share
from gradleak.attacks.text.dager import dager
from gradleak.attacks.text.dlg_text import dlg_text
from gradleak.attacks.text.lamp import lamp
from gradleak.attacks.text.tag import tag
from gradleak.attacks.text.token_bag import token_bag

# Of what is left, for an attack after which another one follows.
_SHARE = 0.6


def text_plan(trace: list[str]) -> Iterator[Factory]:
    """Strongest first; each ends the plan if its tokens reproduce the update.

    Args:
        trace: what was tried so far; lines are added.

    Yields:
        How to make each attack.
    """
    trace.append("the inputs are texts: exact recovery from the spans of gradients")
    yield with_share(dager, _SHARE)
    trace.append("search for embeddings, and for the order of tokens")
    yield with_share(lamp, _SHARE)
    yield with_share(tag, _SHARE)
    yield dlg_text
    trace.append("which tokens the update shows, in no order")
    yield token_bag
