"""The portfolio: read the observation, try what applies, strongest first, and return the best by its own objective."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradleak.attacks.batch_defenses.restoration import BatchRestoration, changes_batch
from gradleak.attacks.batch_norm import batch_norm_inversion
from gradleak.attacks.closed_form import CLOSED_FORMS, linear_layer
from gradleak.attacks.defended.leftover import as_rounded, undefended
from gradleak.attacks.defended.likelihood import known_noise
from gradleak.attacks.defended.most_probable import maximum_a_posteriori
from gradleak.attacks.defended.posterior import Posterior
from gradleak.attacks.disturbance import is_plain
from gradleak.attacks.dropout import dropout_inversion
from gradleak.attacks.factories import Factory, on_another, with_share
from gradleak.attacks.labels.batch_size import NoBatchSize, recover_batch_size
from gradleak.attacks.latents.attack import precode_inversion
from gradleak.attacks.local import SIMULATED_EXAMPLES, local_training
from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.one_gradient import as_gradient
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Attack, Progress, not_applicable
from gradleak.attacks.recipes import finite_differences, inverting_gradients
from gradleak.attacks.relu import relu_inversion
from gradleak.attacks.residual import residual_peeling
from gradleak.attacks.second_derivative import NO_SECOND_DERIVATIVE, explained, lacks_derivative
from gradleak.attacks.smooth import staged
from gradleak.attacks.text.plan import text_plan
from gradleak.bottleneck import bottlenecks
from gradleak.clients import Aggregate, LocalTraining
from gradleak.clients.settings import stateful_layers
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation
from gradleak.tokens import NO_TOKEN, TokenSpace

# Reproduced this well, a single example leaves nothing that another attack could add beyond rounding.
_DONE = 1e-9

# Parts of the lines of a trace.
_NO = "does not apply"
_LOCAL = "local_training:"
_MASKED = frozenset({"dropout_inversion", "precode_inversion"})
_PROBABLE = "maximum_a_posteriori"
_EXACT = "dager"
_EXPLAINED = "; what is left is no more than the noise leaves of the truth"
# Variance relative to the update's squared norm at which candidates are compared where defenses add no noise: what
# searches reach within seconds, so that the last digits of the misfit do not outweigh how plausible an image is.
_COMPARED = 1e-9
# Of what is left, for a search after which another one follows.
_SHARE = 0.6

# Modules whose derivative jumps; a search that relies on curvature stalls at the jumps.
_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class Auto:
    """The attack of `auto`.

    Args:
        closed_forms: whether attacks by algebra are tried before any search.
        restarts: of every search.
        max_evaluations: over everything tried.
        max_seconds: over everything tried.
        name: the attack's name in tables.
    """

    closed_forms: bool = True
    restarts: int = 4
    max_evaluations: int | None = None
    max_seconds: float | None = 60.0
    name: str = "auto"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. The reconstruction's `trace` tells what was tried."""
        began = time.perf_counter()
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "no evidence: every entry of the update is zero")
        trace: list[str] = []
        texts = isinstance(observation.task.space, TokenSpace)
        # Exact recovery of texts finds how many there are.
        if observation.batch_size is None and not texts:
            size = recover_batch_size(observation)
            if isinstance(size, NoBatchSize):
                return not_applicable(self.name, observation, f"the batch size is withheld: {size.reason}")
            trace.append(f"batch size {size.size} from the rank of {size.layer}{'' if size.certain else ', uncertain'}")
            observation = replace(observation, batch_size=size.size)
        if changes_batch(observation):
            return self._restored(observation, seed, progress, trace, began)
        sent, observation = observation, self._one_gradient(undefended(observation), trace)
        done = max(_DONE, 10 * observation.update.coarseness**2)
        measure = _measure(observation)
        best: Reconstruction | None = None
        best_mismatch = float("inf")
        used = 0
        plain = is_plain(observation)
        plan = ((factory, False) for factory in text_plan(trace)) if texts else self._plan(observation, trace)
        for factory, is_closed_form in plan:
            evaluations = None if self.max_evaluations is None else self.max_evaluations - used
            seconds = None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began)
            if (evaluations is not None and evaluations <= 0) or (seconds is not None and seconds <= 0):
                trace.append("stopped: the budget is spent")
                break
            if is_closed_form and not plain:  # a search is to follow
                evaluations = None if evaluations is None else -(-evaluations // 2)
                seconds = None if seconds is None else seconds / 2
            attack = factory(max_evaluations=evaluations, max_seconds=seconds)
            try:
                found = attack(observation, seed=seed, progress=progress)
            except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]  # public, but not in the stubs
                words = str(error).splitlines()[0]
                found = not_applicable(
                    getattr(attack, "name", "attack"), observation, f"its equations cannot be factored: {words}"
                )
            except RuntimeError as error:
                if not lacks_derivative(error):
                    raise
                found = not_applicable(getattr(attack, "name", "search"), observation, explained(error))
            used += found.evaluations
            if found.status == "not_applicable":
                trace.append(f"{found.attack}: {_NO}, {found.message}")
                continue
            # Masks and latents that were searched are part of the answer, and no other measure knows them.
            error = found.objective if found.attack in _MASKED else measure(found)
            trace.append(f"{found.attack}: {found.message} ({found.seconds:.2g} s)")
            if best is None or error < best_mismatch:
                best, best_mismatch = found, error
            # Algebra takes the update at its word, so where it was defended, clipped or rounded, or may have been, or
            # where the subtraction of weights left few digits, the searches run too.
            decisive = is_closed_form and plain and not observation.update.coarseness
            settled = found.attack in {_PROBABLE, _EXACT} and found.status == "converged"
            exact = found.attack == _EXACT
            if decisive or error <= done or settled:
                reason = "algebra determines the answer" if decisive else "the update is reproduced"
                reason = "the update is explained as well as its noise allows" if settled and not exact else reason
                trace.append(f"stopped: {reason}")
                break
        seconds = time.perf_counter() - began
        if best is None:
            why = "no attack applies: " + "; ".join(trace)
            return replace(not_applicable(self.name, observation, why), trace=tuple(trace), seconds=seconds)
        if best.attack not in _MASKED:
            best_mismatch = _mismatch(sent, best)
        explained_by_noise = best.status == "budget" and best.attack not in _MASKED and _within_noise(observation, best)
        return replace(
            best,
            attack=self.name,
            status="converged" if explained_by_noise else best.status,
            message=f"by {best.attack}: {best.message}" + (_EXPLAINED if explained_by_noise else ""),
            objective=best_mismatch,
            evaluations=used,
            seconds=seconds,
            trace=tuple(trace),
        )

    def _restored(
        self, observation: Observation, seed: int, progress: Progress | None, trace: list[str], began: float
    ) -> Reconstruction:
        """The changed batch by this portfolio, and then what it was before."""
        left = None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began)

        def search(seconds: float | None, evaluations: int | None) -> Attack:
            return replace(self, max_seconds=seconds, max_evaluations=evaluations)

        found = BatchRestoration(search, left, self.max_evaluations)(observation, seed=seed, progress=progress)
        why = (f"{found.attack}: {found.message}",)
        return replace(found, attack=self.name, seconds=time.perf_counter() - began, trace=(*trace, *found.trace, *why))

    @staticmethod
    def _one_gradient(observation: Observation, trace: list[str]) -> Observation:
        """The observation as that of one gradient, where it is no more than that."""
        reduced = as_gradient(observation)
        if isinstance(reduced, str):
            trace.append(f"not one gradient: {reduced}")
            return observation
        if reduced is not observation:
            trace.append(f"{type(observation.client).__name__} sent one gradient, taken as such")
        return reduced

    def _plan(self, observation: Observation, trace: list[str]) -> Iterator[tuple[Factory, bool]]:
        """What to try in which order, and whether each is a closed form."""
        defended = bool(observation.defenses) or known_noise(observation).std > 0
        if defended:
            yield from self._by_posterior(observation, trace)
        elif self.closed_forms:
            # Of local training, only ratios of the same sums over all steps are left to algebra.
            for closed_form in CLOSED_FORMS if observation.update.kind == "gradient" else (linear_layer,):
                yield closed_form, True
        yield from self._by_client(observation, trace)
        if any(line.startswith(_LOCAL) and _NO not in line for line in trace):
            examples = _simulated_examples(observation)
            if examples is None or examples > SIMULATED_EXAMPLES:
                trace.append("stopped: a search through the local steps themselves is not possible or too costly")
                return
        kinked = sorted({type(m).__name__ for m in observation.task.model.modules() if isinstance(m, _KINKED)})
        images = len(observation.task.space.variable_shape) == 3
        if kinked and images:
            trace.append(f"search for networks with kinks: the model has {', '.join(kinked)}")
            yield self._with_restarts(residual_peeling, 1), False
            yield self._with_restarts(relu_inversion, 1), False
            yield self._with_restarts(inverting_gradients, 1), False
        else:
            trace.append("search for smooth networks")
            yield self._with_restarts(staged, self.restarts), False
        # The trace holds by now what the searches above said.
        if any(NO_SECOND_DERIVATIVE in line for line in trace):
            trace.append("search with first derivatives")
            yield self._with_restarts(finite_differences, 1), False

    def _by_posterior(self, observation: Observation, trace: list[str]) -> Iterator[tuple[Factory, bool]]:
        """Of a defended update: algebra where it holds for what is left, then what is most probable."""
        rounded = as_rounded(observation)
        if self.closed_forms and rounded is not None:
            trace.append(f"the defenses round to a relative error of {rounded.update.coarseness:.1e}")
            for closed_form in CLOSED_FORMS if rounded.update.kind == "gradient" else (linear_layer,):
                yield on_another(rounded, closed_form), True
        elif self.closed_forms:
            yield linear_layer, True
        if not _has_kinks(observation) and getattr(observation.client, "dropout", None) != "random":
            trace.append("search for the most probable batch behind the defenses")
            # Local steps have a search of their own, which follows.
            yield with_share(maximum_a_posteriori, _SHARE if observation.update.kind == "delta" else 1.0), False

    def _by_client(self, observation: Observation, trace: list[str]) -> Iterator[tuple[Factory, bool]]:
        """Searches made for a client; those for every update follow, except where local steps were searched through."""
        client, stateful = observation.client, bool(stateful_layers(observation.task.model))
        if observation.update.kind == "delta":
            trace.append("search for local training")
            yield self._with_restarts(local_training, self.restarts), False
        if getattr(client, "dropout", None) == "random":
            trace.append("search for images and dropout masks")
            yield self._with_restarts(dropout_inversion, 1), False
        # The model shows its bottleneck to all; who knows no defense takes its noise for zero.
        if observation.defenses is not None and bottlenecks(observation.task.model):
            trace.append("search for images and latent noise")
            yield self._with_restarts(precode_inversion, 1), False
        if stateful and getattr(client, "mode", "eval") == "train" and observation.batch_size != 1:
            trace.append("search with batch statistics")
            yield self._batch_statistics(bool(observation.update.buffers)), False

    @staticmethod
    def _batch_statistics(sent: bool) -> Factory:
        """Batch statistics inferred from what was sent, or the running ones in their place."""

        def make(*, max_evaluations: int | None, max_seconds: float | None) -> Attack:
            policy = "inferred" if sent else "running"
            seconds = None if max_seconds is None else _SHARE * max_seconds
            evaluations = None if max_evaluations is None else max(1, int(_SHARE * max_evaluations))
            return batch_norm_inversion(policy=policy, max_evaluations=evaluations, max_seconds=seconds)

        return make

    @staticmethod
    def _with_restarts(factory: Callable[..., Attack], restarts: int) -> Factory:
        """The factory with its restarts fixed."""

        def make(*, max_evaluations: int | None, max_seconds: float | None) -> Attack:
            return factory(restarts=restarts, max_evaluations=max_evaluations, max_seconds=max_seconds)

        return make


def _simulated_examples(observation: Observation) -> int | None:
    """How many examples pass in one simulation of all local steps; None where they are not known."""
    client, count = observation.client, observation.batch_size
    if count is None or not isinstance(client, LocalTraining | Aggregate):
        return None
    if isinstance(client, LocalTraining):
        return client.epochs * count
    parts = zip(client.members, client.parts(count), strict=True)
    return sum(getattr(member, "epochs", 1) * len(part) for member, part in parts)


def _candidate(observation: Observation, found: Reconstruction) -> Tensor | None:
    """The variable of what was found, in float64; None where there is none. Texts count by their tokens."""
    space = observation.task.space
    if not isinstance(space, TokenSpace):
        return found.variable.double() if bool(torch.isfinite(found.variable).all()) else None
    if bool((found.inputs == NO_TOKEN).all()):
        return None
    unknown = (found.inputs == NO_TOKEN)[..., None]
    # Where nothing is known, every token is as likely.
    return torch.where(unknown, 1 / space.vocabulary, space.encode(found.inputs.clamp(min=0)).double())


def _has_kinks(observation: Observation) -> bool:
    return any(isinstance(module, _KINKED) for module in observation.task.model.modules())


def _measure(observation: Observation) -> Callable[[Reconstruction], float]:
    """What candidates are compared by: the mismatch, or where the update is defended minus the log posterior."""
    noise = known_noise(observation)
    if not observation.defenses and not noise.std:
        return lambda found: _mismatch(observation, found)
    double = in_precision(observation, torch.float64)
    posterior = Posterior.of(double)
    level = posterior.level or _COMPARED

    def measure(found: Reconstruction) -> float:
        candidate = _candidate(observation, found)
        if candidate is None:
            return float("inf")
        with torch.no_grad():
            return float(posterior.value(candidate, found.target_probabilities.double(), level))

    return measure


def _within_noise(observation: Observation, found: Reconstruction) -> bool:
    """Whether a search that knows no noise ended at a batch that nothing in the update tells from the private one."""
    candidate = _candidate(observation, found)
    if not known_noise(observation).std or candidate is None:
        return False
    posterior = Posterior.of(in_precision(observation, torch.float64), prior=False)
    return posterior.misfit(candidate, found.target_probabilities.double()) <= posterior.expected


def _mismatch(observation: Observation, found: Reconstruction) -> float:
    """One measure for all that was tried: the relative squared error of the update, in float64."""
    candidate = _candidate(observation, found)
    if candidate is None:
        return float("inf")
    return mismatch(in_precision(observation, torch.float64), candidate, found.target_probabilities.double())


def auto(
    *,
    closed_forms: bool = True,
    restarts: int = 4,
    max_evaluations: int | None = None,
    max_seconds: float | None = 60.0,
) -> Auto:
    """The strongest attack that applies, without any parameter to set.

    It reads the model, tries closed forms, each of which says why if it does not apply, and goes on to searches for
    what is left of the budget: with a derivative for the masks where the network has kinks, by L-BFGS and
    Levenberg-Marquardt where it is smooth, and for the most probable batch where defenses are known. Texts are rebuilt
    exactly where the spans of their gradients allow it, and searched by their embeddings elsewhere. It returns the
    best by the relative squared error of the update, or by the posterior where it is defended, and what it tried in
    `Reconstruction.trace`.

    Args:
        closed_forms: False leaves the searches alone.
        restarts: of every search.
        max_evaluations: over everything tried; None for no limit.
        max_seconds: over everything tried; None for no limit.

    Returns:
        The attack.
    """
    return Auto(closed_forms=closed_forms, restarts=restarts, max_evaluations=max_evaluations, max_seconds=max_seconds)
