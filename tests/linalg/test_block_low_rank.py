"""The inverse of block-diagonal plus low-rank matrices, against the matrix written out."""

import torch

from gradleak.linalg import BlockLowRankInverse


def test_inverse_and_diagonal_are_those_of_the_whole_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    rows = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    blocks = roots @ roots.transpose(1, 2) + torch.eye(4).double()
    found = BlockLowRankInverse.of(blocks, rows)
    assert found is not None
    inverse = torch.linalg.inv(torch.block_diag(*blocks) + rows.flatten(1).T @ rows.flatten(1))
    vector = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found(vector).flatten(), inverse @ vector.flatten())
    torch.testing.assert_close(found.diagonal().flatten(), inverse.diagonal())


def test_an_indefinite_matrix_has_none() -> None:
    assert BlockLowRankInverse.of(-torch.eye(2).double()[None], torch.zeros(1, 1, 2).double()) is None
