"""Rebuild one photograph from one shared gradient, and compare with a grey card."""

import gradleak as gl
from gradleak.scoring import baseline_scores
from gradleak.zoo.data import photographs
from gradleak.zoo.models import lenet


def main() -> None:
    data = photographs()
    inputs, targets = data.sample(1, seed=3)
    task = gl.Task(lenet(num_classes=10), gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets)
    reconstruction = gl.attacks.dlg(max_evaluations=300)(observation, seed=0)
    scores = gl.score(reconstruction, truth)
    grey = baseline_scores(truth, data.inputs)["grey"]
    print(f"threat model: {observation.threat.describe()}")
    print(f"{reconstruction.status}: {reconstruction.message}")
    print(f"PSNR {scores.median('psnr'):.1f} dB, grey card {grey.median('psnr'):.1f} dB")


if __name__ == "__main__":
    main()
