"""Draw demo.png from a folder that `gradleak demo` wrote.

gradleak demo --out gradleak-demo && python docs/images/demo.py gradleak-demo docs/images/demo.png
"""

import sys
from pathlib import Path

from gradleak.audits.store import Store


def main(folder: str, target: str) -> None:
    """One column for each private image, one row for each attack."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    store = Store.open(Path(folder), create=False)
    records = store.records()
    attacks = list(dict.fromkeys(record.attack for record in records))
    images = list(dict.fromkeys((record.data, record.examples[0]) for record in records))
    figure = Figure(figsize=(9.2, 1.53 * (1 + len(attacks)) + 0.1), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(1 + len(attacks), len(images), gridspec_kw={"hspace": 0.28, "wspace": 0.06})
    figure.subplots_adjust(left=0.09, right=0.995, top=0.985, bottom=0.045)
    for record in records:
        column, row = images.index((record.data, record.examples[0])), 1 + attacks.index(record.attack)
        pair = store.images(record)
        for place, picture in ((0, pair.truth[0]), (row, pair.reconstruction[0])):
            axes = grid[place][column]
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        grid[row][column].set_xlabel(f"{record.numbers('psnr')[0]:.0f} dB", fontsize=9, labelpad=2)
    for row, name in enumerate(["private", *attacks]):
        grid[row][0].set_ylabel(name, fontsize=11, rotation=0, ha="right", va="center")
    figure.savefig(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
