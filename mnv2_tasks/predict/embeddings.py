"""Embeddings: a tap of the trunk as one array a picture, in files for programs and for TensorBoard's projector."""

from pathlib import Path

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.predict.prediction_files import AppendedFile, Results, whole, write_whole
from mnv2_tasks.predict.predictor import Predictor

VECTORS, METADATA, ARRAYS = "vectors.tsv", "metadata.tsv", "embeddings.npz"


class Embeddings:
    """vectors.tsv, a line a picture as they come; in the end metadata.tsv and embeddings.npz, made from it.

    vectors.tsv and metadata.tsv are of the form that https://projector.tensorflow.org and TensorBoard's projector load:
    numbers without a header; and the pictures' names, with a header where there are columns beside them, the likeliest
    class by each head of labels. embeddings.npz holds `names` (N,) and `vectors` (N, C) float32, to the last bit.

    A run that goes on keeps the lines of the pictures that are done. Raises InputError where those are gone.
    """

    def __init__(self, predictor: Predictor, folder: Path, tap: str, results: Results) -> None:
        self.predictor = predictor
        self.folder = folder
        self.tap = tap
        self.results = results
        path = folder / VECTORS
        size = 0
        if results.done:
            with open(path, "a+b") as file:
                file.seek(0)
                lines = [line for line, _ in zip(file, results.done, strict=False) if line.endswith(b"\n")]
            if len(lines) < len(results.done):
                raise InputError(f"{path}: it has {len(lines)} of {len(results.done)} pictures; choose another name=")
            size = sum(map(len, lines))
        self._file = AppendedFile(path)
        self._file.cut(size)

    def add(self, images: list[Tensor]) -> None:
        """Embed pictures, which are then to be added to the results. Raises OSError where it cannot be written."""
        for vector in self.predictor.embed(images, self.tap).tolist():
            self._file.write(("\t".join(f"{value:.9g}" for value in vector) + "\n").encode())  # float32 whole

    def close(self) -> None:
        """Write the files that are made of it. Raises OSError."""
        self._file.close()
        tasks = [task for task, kind in self.predictor.kinds.items() if kind.table]
        rows = [[row["file"], *(row["predictions"][task]["label"] for task in tasks)] for row in self.results.rows()]
        lines = [["file", *tasks], *rows] if tasks else rows
        text = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)
        write_whole(self.folder / METADATA, text.encode("utf-8", "backslashreplace"))
        with open(self.folder / VECTORS, encoding="utf-8") as file:
            vectors = [np.array(line.split("\t"), np.float32) for line, _ in zip(file, rows, strict=False)]
        names, table = np.array([row[0] for row in rows], str), np.array(vectors, np.float32).reshape(len(rows), -1)
        with whole(self.folder / ARRAYS) as draft, draft.open("wb") as file:
            np.savez(file, names=names, vectors=table)
