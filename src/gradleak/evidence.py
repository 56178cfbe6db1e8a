"""Updates on disk: one `.safetensors` file with the update and the facts that travel with it; never a pickle.

The tensors are named as the model's parameters. The facts lie in the file's metadata, all as JSON strings under
`gradleak`: format version, kind, client, defenses, threat model, batch size, targets if they are given, input space
and number of classes. A file without these facts can be read too, if its kind is said.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gradleak.clients import CLIENTS, ChecksBatch, Client
from gradleak.clients.settings import sent_state
from gradleak.components import from_plain, to_plain
from gradleak.defenses import DEFENSES, Defense
from gradleak.defenses.applying import changed_task, defense_problems
from gradleak.errors import BadInput, refuse
from gradleak.tasks import Classified, ImageSpace, InputSpace, TabularSpace, Task
from gradleak.tensorfiles import read_safetensors
from gradleak.threat import Observation, ThreatModel
from gradleak.tokens import TokenSpace
from gradleak.updates import Update, UpdateKind, buffer_problems, parted, update_problems

FORMAT_VERSION = 1
_KEY = "gradleak"
_SPACES: tuple[type[InputSpace], ...] = (ImageSpace, TabularSpace, TokenSpace)


class _Facts(BaseModel):
    """What the metadata hold; validated before anything is believed."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    kind: UpdateKind
    threat: dict[str, bool]
    client: dict[str, object] | None
    defenses: list[dict[str, object]] | None
    batch_size: int | None
    targets: list[int] | list[list[float]] | None
    space: dict[str, object]
    num_classes: int
    buffers: list[str] = []
    classified: Classified = "example"
    lengths: list[int] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """The content of an update file.

    Attributes:
        update: the shared tensors.
        threat: which facts are given.
        client: how the update was made, if given.
        defenses: what was done to it on purpose, if given.
        batch_size: number of private examples, if given.
        targets: class indices or probabilities, if given.
        space: the input space, if the file states it.
        num_classes: number of classes, if the file states it.
        classified: what has a class; see `Task`.
        lengths: tokens of each text `[N]`, if given.
    """

    update: Update
    threat: ThreatModel
    client: Client | None = None
    defenses: tuple[Defense, ...] | None = None
    batch_size: int | None = None
    targets: Tensor | None = None
    space: InputSpace | None = None
    num_classes: int | None = None
    classified: Classified = "example"
    lengths: Tensor | None = None

    def observation(self, task: Task) -> Observation:
        """What an attacker with this file and this public task holds.

        Args:
            task: the public task; its model holds the values from before the client's step. A defense that is a part
                of the model is built in, unless the model has it already.

        Returns:
            The observation.

        Raises:
            BadInput: when tensors, targets, batch size, client or defenses do not fit the task; every problem is
                listed.
        """
        problems = defense_problems(self.defenses or (), task)
        if not problems:
            task = changed_task(self.defenses or (), task)
        state = sent_state(self.client, task.state())
        problems += update_problems(self.update.tensors, state.parameters)
        problems += buffer_problems(self.update.buffers, state.constants)
        if self.batch_size is not None and self.batch_size < 1:
            problems.append(f"batch size: expected at least 1, got {self.batch_size}; correct the file or --batch-size")
        if self.targets is not None:
            problems += task.target_problems(self.targets, self.batch_size or len(self.targets))
        if self.client is not None:
            faults = self.client.problems(task)
            if not faults and self.batch_size is not None and isinstance(self.client, ChecksBatch):
                faults = self.client.batch_problems(self.batch_size)
            problems += faults
            if self.client.kind != self.update.kind:
                problems.append(
                    f"update kind: expected {self.client.kind!r}, which this client sends, got {self.update.kind!r}; "
                    "correct one of them"
                )
        refuse(problems)
        ordered = {name: self.update.tensors[name].to(task.device) for name in state.parameters}
        return Observation(
            task,
            state,
            replace(self.update, tensors=ordered),
            self.threat,
            client=self.client,
            defenses=self.defenses,
            batch_size=self.batch_size,
            targets=self.targets,
            lengths=self.lengths,
        )


def save_update(path: str | Path, observation: Observation) -> None:
    """Write an observation's update and its allowed facts; the model itself is not written.

    Args:
        path: the file to write, by custom named `*.safetensors`; it appears whole or not at all.
        observation: what an attacker holds.

    Raises:
        BadInput: when the folder does not exist or cannot be written.
    """
    path = Path(path)
    facts = _Facts(
        version=FORMAT_VERSION,
        kind=observation.update.kind,
        threat={name: bool(value) for name, value in vars(observation.threat).items()},
        client=None if observation.client is None else to_plain(observation.client),
        defenses=None if observation.defenses is None else [to_plain(defense) for defense in observation.defenses],
        batch_size=observation.batch_size,
        targets=None if observation.targets is None else observation.targets.tolist(),
        space=to_plain(observation.task.space),
        num_classes=observation.task.num_classes,
        buffers=list(observation.update.buffers),
        classified=observation.task.classified or "example",
        lengths=None if observation.lengths is None else observation.lengths.tolist(),
    )
    # What only texts have is left out elsewhere, so that earlier versions read those files.
    unused = set[str]() if isinstance(observation.task.space, TokenSpace) else {"classified", "lengths"}
    shared = {**observation.update.tensors, **observation.update.buffers}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in shared.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata={_KEY: facts.model_dump_json(exclude=unused)})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise BadInput([f"{path}: expected a place to write to, got: {error}; choose another folder"]) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_update(path: str | Path, *, kind: UpdateKind | None = None) -> Evidence:
    """Read an update file.

    Args:
        path: a `.safetensors` file.
        kind: what the tensors are; needed only for a file that does not say it itself.

    Returns:
        Its content, not yet compared with any model.

    Raises:
        BadInput: when the file is missing, truncated, a pickle or no safetensors file, when its facts are not valid,
            or when it does not say its kind and none is given.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path)
    text = metadata.get(_KEY)
    if text is None:
        if kind is None:
            raise BadInput(
                [f"{path}: expected the update's kind, got a file that does not state it; add --kind gradient or delta"]
            )
        return Evidence(
            Update(tensors, kind), ThreatModel(batch_size_known=False, client_known=False, defense_known=False)
        )
    try:
        facts = _Facts.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(
            f"{path}: metadata {'.'.join(map(str, fault['loc'])) or _KEY}: {fault['msg'].lower()}, "
            f"got {json.dumps(fault['input'], default=str)[:80]}; write the file with gradleak's save_update"
            for fault in error.errors()
        ) from error
    missing = [name for name in facts.buffers if name not in tensors]
    refuse(f"{path}: expected the buffer {name} that its metadata name, got none; write it again" for name in missing)
    shared, buffers = parted(tensors, {name: tensor for name, tensor in tensors.items() if name not in facts.buffers})
    return Evidence(
        update=Update(shared, kind or facts.kind, buffers),
        threat=from_plain(f"{path}: threat", {"name": "ThreatModel", **facts.threat}, (ThreatModel,)),
        client=None if facts.client is None else from_plain(f"{path}: client", facts.client, CLIENTS),
        defenses=None
        if facts.defenses is None
        else tuple(from_plain(f"{path}: defense", defense, DEFENSES) for defense in facts.defenses),
        batch_size=facts.batch_size,
        targets=None if facts.targets is None else _targets(facts),
        space=from_plain(f"{path}: space", facts.space, _SPACES),
        num_classes=facts.num_classes,
        classified=facts.classified,
        lengths=None if facts.lengths is None else torch.tensor(facts.lengths, dtype=torch.long),
    )


def _targets(facts: _Facts) -> Tensor:
    """Class indices or probabilities; of language models ids, which JSON's readers have as rows of numbers."""
    targets = torch.tensor(facts.targets)
    return targets.long() if facts.classified == "token" else targets
