"""Other orders of the same tokens: LAMP's discrete moves (Balunovic et al. 2022, section 4.2)."""

import torch
from torch import Tensor


def proposed_orders(movable: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Orders of a text that differ from its own by one move each.

    In turn: swap two tokens, move one token, move a block of tokens, move a prefix to the end.

    Args:
        movable: which positions may change, bool `[T]`.
        count: how many orders.
        generator: draws the moves.

    Returns:
        For each position the one from which its token comes, int64 `[count, T]`; the first is the text's own order.
    """
    places = movable.nonzero().flatten()
    orders = torch.arange(len(movable)).repeat(count, 1)
    if len(places) < 2:
        return orders
    for number in range(1, count):
        orders[number, places] = places[_moved(len(places), number % 4, generator)]
    return orders


def random_orders(movable: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Orders drawn at random, int64 `[count, T]`; the first is the text's own."""
    places = movable.nonzero().flatten()
    orders = torch.arange(len(movable)).repeat(count, 1)
    for number in range(1, count):
        orders[number, places] = places[torch.randperm(len(places), generator=generator)]
    return orders


def _moved(size: int, kind: int, generator: torch.Generator) -> Tensor:
    """One order of `size` tokens."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    order = list(range(size))
    if kind == 0:
        first, second = below(size), below(size)
        order[first], order[second] = order[second], order[first]
    elif kind == 1:
        order.insert(below(size), order.pop(below(size)))
    elif kind == 2:
        first, second = sorted((below(size), below(size)))
        block, rest = order[first : second + 1], order[:first] + order[second + 1 :]
        place = below(len(rest) + 1)
        order = rest[:place] + block + rest[place:]
    else:
        cut = below(size)
        order = order[cut:] + order[:cut]
    return torch.tensor(order)
