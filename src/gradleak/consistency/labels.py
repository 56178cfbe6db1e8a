"""Which labels fit an update, when inputs and weights are known."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.head import Head, find_head
from gradleak.clients.stateless import stateless_copy
from gradleak.consistency.hypotheses import Hypothesis, Setting
from gradleak.tasks import Task

# Without a classifier to solve for, every class is tried for a single example up to this many.
_CLASSES_TRIED = 32
# Solved probabilities that stay this far from 0 and 1 are those of soft labels.
_SOFT = 0.02


def label_hypotheses(
    task: Task, setting: Setting, observed: Mapping[str, Tensor], seen: Tensor
) -> Iterator[Hypothesis]:
    """Labels that the classifier's gradient calls for, then the usual slips.

    Args:
        task: the public task.
        setting: what is believed.
        observed: the update as a gradient of the mean loss, by the model's names.
        seen: class indices `[N]` that are believed.

    Yields:
        Hypotheses of the group `labels`.
    """
    if task.classified == "token":
        return  # the targets of a language model are its inputs, so there are no labels to be wrong about
    head = find_head(task, setting.state)
    solved = None if head is None else solved_probabilities(task, setting, observed, head)
    if solved is not None:
        found = solved.argmax(dim=1)
        if not torch.equal(found, seen):
            yield _labels(task, found, seen)
        soft = solved.clamp(min=0)
        soft = soft / soft.sum(dim=1, keepdim=True).clamp(min=1e-12)
        peaks = float(soft.max(dim=1).values.mean())
        if peaks < 1 - _SOFT:
            why = (
                f"the client trained on soft labels, with {peaks:.2f} on the largest class (label smoothing or mixing?)"
            )
            yield Hypothesis(
                "soft_labels",
                f"{why}; give probabilities",
                "labels",
                lambda setting: replace(setting, probabilities=soft),
            )
    for shift in (1, -1):
        yield _labels(task, (seen + shift) % task.num_classes, seen)
    if len(seen) > 1:
        yield _labels(task, seen.flip(0), seen)
    elif solved is None and task.num_classes <= _CLASSES_TRIED:
        for label in range(task.num_classes):
            yield _labels(task, torch.tensor([label]), seen)


def solved_probabilities(task: Task, setting: Setting, observed: Mapping[str, Tensor], head: Head) -> Tensor | None:
    """Target probabilities `[N, C]` from the classifier's gradient, which is linear in them.

    With features O `[N, D]` and predictions P, the weight gradient of the mean cross-entropy is `(P - Y)^T O / N`;
    its least-squares solution is exact while the features (and a column of ones for the bias) are independent.

    Args:
        task: the public task.
        setting: client, weights and inputs.
        observed: gradient of the mean loss by the model's names.
        head: the classifier.

    Returns:
        Y, or None if the classifier's weight is not among the tensors.
    """
    if head.weight not in observed:
        return None
    features, outputs = _features_and_outputs(task, setting, head)
    rows = [observed[head.weight].double().cpu().T]
    columns = [features]
    if head.bias is not None and head.bias in observed:
        rows.append(observed[head.bias].double().cpu()[None])
        columns.append(torch.ones(len(features), 1, dtype=torch.float64))
    # The minimum-norm solver, since equal or dependent features are possible.
    residuals = torch.linalg.lstsq(torch.cat(columns, dim=1).T, torch.cat(rows), driver="gelsd").solution
    return (outputs.softmax(dim=1) - len(features) * residuals).to(setting.probabilities)


def _features_and_outputs(task: Task, setting: Setting, head: Head) -> tuple[Tensor, Tensor]:
    """What enters the classifier `[N, D]` and what leaves it `[N, C]`, in float64."""
    client = setting.client
    module = stateless_copy(
        task.model,
        mode=getattr(client, "mode", "eval"),
        dropout=getattr(client, "dropout", None) or "off",
        dropout_seed=getattr(client, "dropout_seed", 0),
    ).module
    kept: list[Tensor] = []
    layer = module.get_submodule(head.weight.rpartition(".")[0])
    layer.register_forward_hook(lambda _layer, inputs, _output: kept.append(inputs[0]))
    known = {name for name, _ in [*module.named_buffers(), *module.named_parameters()]}
    values = {
        name: value for name, value in {**setting.state.parameters, **setting.state.constants}.items() if name in known
    }
    with torch.no_grad():
        outputs = task.space.forward(module, values, setting.variable)
    return kept[-1].flatten(1).double().cpu(), outputs.double().cpu()


def _labels(task: Task, found: Tensor, seen: Tensor) -> Hypothesis:
    probabilities = functional.one_hot(found, task.num_classes)
    if torch.equal(found.sort().values, seen.sort().values):
        what = "belong to other examples of the batch"
    elif torch.equal((seen + 1) % task.num_classes, found) or torch.equal((seen - 1) % task.num_classes, found):
        what = "are shifted by one class"
    else:
        what = f"are others for {int((found != seen).sum())} of {len(seen)} examples"
    shown = ", ".join(map(str, found[:8].tolist())) + (", ..." if len(found) > 8 else "")
    return Hypothesis(
        "labels",
        f"the client's labels {what}; those that fit are {shown}",
        "labels",
        lambda setting: replace(setting, probabilities=probabilities.to(setting.probabilities)),
    )
