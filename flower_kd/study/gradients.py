"""How large the gradient of each dissimilarity is at the student's logits: `flower-kd gradients`.

Logits are those of a student that gives one class a probability at temperature 1; its teacher gives one to the same
class or to another. Gradients are those of the registered dissimilarity of both at a temperature, by autograd.

A large temperature makes them small by itself: they are multiplied by T^2, as rho = T^2 does (Hinton et al. 2015).
They are compared with the gradient of cross entropy on the teacher's own prediction, softmax - softmax of the teacher
at temperature 1: if the teacher is sure, that of the label loss on its class.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flower_kd import dissimilarity, folders
from flower_kd.errors import InputError
from flower_kd.failures import named
from flower_kd.parts import text as part_text
from flower_kd.ranges import require_number, require_whole
from flower_kd.report import gradient_tables, pictures

STEM = "gradients"
TEMPERATURES = (1.0, 2.0, 10.0, 100.0)
CLASSES = (10, 100, 1000)
MOST_CLASSES = 100_000

NEARLY_UNIFORM = 1.1  # times 1 / classes
CONFIDENCES = (0.5, 0.9, 0.99, 0.999, 0.999999)
LABELS_ONLY = 1.0  # a teacher that excludes all other classes, as with `wire = "labels"`

VANISHES = 0.01  # below this share of the gradient on the teacher's own prediction
EXPLODES = 10 * math.sqrt(2)  # ten times the largest gradient of the label loss
INEXACT = 0.01  # relative difference of float32 from float64

TITLE = (
    f"share of gradients at the student's logits, times T^2, that vanish at a temperature, %: they are below "
    f"{VANISHES:.0%}\nof the gradient on the teacher's own prediction. They explode above {EXPLODES:.3g}, ten times "
    "the largest of the label loss"
)
TITLE_BY_CONFIDENCE = "share that vanishes at T = {:g}, by the probability that the student gives its class, %"


def parse(dissimilarities: str, temperatures: str, classes: str) -> tuple[list[str], list[float], list[int]]:
    """Return what comma-separated options name; empty ones have their defaults.

    Raises
    ------
    InputError
        If a dissimilarity cannot be used, or a number is none or out of range.
    """
    try:
        names = part_text.split(dissimilarities) if dissimilarities else dissimilarity.names()
    except ValueError as problem:
        raise InputError(f"--dissimilarities {dissimilarities!r} cannot be read: {problem}") from None
    for name in names:
        dissimilarity.get(name)
    heats = _numbers("--temperatures", temperatures) or [*TEMPERATURES]
    for heat in heats:
        require_number("--temperatures", heat, above=0)
    sizes = _numbers("--classes", classes) or [*CLASSES]
    for size in sizes:
        require_whole("--classes", int(size) if size == int(size) else size, 2, MOST_CLASSES)
    return list(dict.fromkeys(names)), list(dict.fromkeys(heats)), list(dict.fromkeys(map(int, sizes)))


def measure(dissimilarities: Sequence[str], temperatures: Sequence[float], classes: Sequence[int]) -> pd.DataFrame:
    """Return the rows of gradients.csv: one per dissimilarity, number of classes, temperature and pair of predictions.

    Columns: `dissimilarity`, `classes`, `temperature`; `pair`, "agree" (on the class), "disagree" (on it) or "dark"
    (agree on it, and rank the others in opposite orders; where they are "agree" or "disagree", the others are equally
    likely); `student` and `teacher`, the probability of the class at temperature 1; `norm` and `norm-float64`, of the
    gradient with respect to the student's logits; `scaled`, T^2 norm; `reference`, the norm of the gradient of cross
    entropy on the teacher's prediction; `ratio`, scaled over reference, NaN if both predict the same; `state`:
    "vanishes" (ratio below `VANISHES`), "explodes" (scaled above `EXPLODES`), "not finite", "equal" (both predict the
    same) or "fine"; `float32-error`, the relative difference of both norms.

    Raises
    ------
    InputError
        If a dissimilarity fails, or does not give one value per row.
    """
    parts = []
    for size in classes:
        pairs, student, teacher = _predictions(size)
        reference = (student.softmax(-1) - teacher.softmax(-1)).norm(dim=-1).numpy()
        for name, temperature in product(dissimilarities, temperatures):
            norms = {
                dtype: gradient_norms(name, student.to(dtype), teacher.to(dtype), temperature).double().numpy()
                for dtype in (torch.float32, torch.float64)
            }
            found = pairs.assign(
                **{
                    "dissimilarity": name,
                    "classes": size,
                    "temperature": float(temperature),
                    "norm": norms[torch.float32],
                    "norm-float64": norms[torch.float64],
                    "scaled": temperature**2 * norms[torch.float32],
                    "reference": reference,
                }
            )
            parts.append(found)
    rows = pd.concat(parts, ignore_index=True)
    exact = rows["norm-float64"].where(rows["norm-float64"] > 0)
    rows["ratio"] = rows["scaled"] / rows["reference"].where(rows["reference"] > 0)
    rows["state"] = _states(rows)
    rows["float32-error"] = (rows["norm"] - exact).abs() / exact
    first = ["dissimilarity", "classes", "temperature", "pair", "student", "teacher"]
    return rows[[*first, *(column for column in rows if column not in first)]]


def gradient_norms(name: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the norm of each row's gradient with respect to the student's logits, [rows].

    Parameters
    ----------
    name : str
        A dissimilarity, as in `flower_kd.dissimilarity.get`.
    student, teacher : Tensor
        Logits [rows, classes]; -inf excludes a class.
    temperature : float
        Of both softmaxes.
    """
    logits = student.clone().requires_grad_()
    with named(f"dissimilarity {name!r}"):
        log_q = (teacher / temperature).softmax(-1).log()  # as a node gets it: probabilities
        values = dissimilarity.get(name, reduction="none")(dissimilarity.soften(logits, temperature), log_q)
        if values.shape != student.shape[:1]:
            raise InputError(
                f"dissimilarity {name!r} gives values of shape {list(values.shape)} for {len(student)} rows"
            )
        (gradient,) = torch.autograd.grad(values.sum(), logits)
    return gradient.norm(dim=-1)


def by_temperature(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often gradients vanish, by dissimilarity and classes (index), and temperature (columns); and more.

    The other columns: `explodes`, shares of all temperatures; `largest`, of the scaled norms; `inexact`, the share of
    norms in float32 that are off by more than `INEXACT`.
    """
    differ = rows[rows["state"] != "equal"]
    keys = ["classes", "dissimilarity"]
    shares = _share(differ, "vanishes", [*keys, "temperature"]).unstack("temperature")
    grouped = differ.groupby(keys, sort=False)
    return shares.assign(
        explodes=_share(differ, "explodes", keys) + _share(differ, "not finite", keys),
        largest=grouped["scaled"].max(),
        inexact=(differ["float32-error"] > INEXACT).groupby([differ[key] for key in keys], sort=False).mean(),
    )


def by_confidence(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often gradients vanish at the lowest temperature, by dissimilarity, pair and student's confidence."""
    differ = rows[(rows["state"] != "equal") & (rows["temperature"] == rows["temperature"].min())]
    right = np.where(differ["pair"] == "disagree", "another class", "the teacher's class")
    confidence = differ["student"].where(differ["student"] >= CONFIDENCES[0], 0.0)  # nearly uniform: by classes
    return _share(
        differ.assign(student=confidence, on=right), "vanishes", ["dissimilarity", "on", "student"]
    ).unstack("student")  # fmt: skip


def write(folder: Path, rows: pd.DataFrame) -> list[str]:
    """Write the rows, their table for a paper and their picture, and return the names of the files.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    folders.check_writable(folder)
    parquet = io.BytesIO()
    rows.to_parquet(parquet, index=False)
    parts = {
        f"{STEM}.csv": rows.to_csv(index=False, lineterminator="\n").encode(),
        f"{STEM}.parquet": parquet.getvalue(),
    }
    parts |= gradient_tables.for_paper(by_temperature(rows)).files(STEM)
    parts |= pictures.files(pictures.gradients(rows, VANISHES, EXPLODES), STEM)
    folders.write(folder, parts)
    return list(parts)


def _predictions(classes: int) -> tuple[pd.DataFrame, Tensor, Tensor]:
    """Return the pairs, and logits of students and teachers, [pairs, classes] in float64."""
    confidences = (NEARLY_UNIFORM / classes, *CONFIDENCES)
    # With ranks, a nearly uniform prediction has no probability left to be the highest.
    pairs = [
        *product(("agree", "disagree"), confidences, (*confidences, LABELS_ONLY)),
        *product(("dark",), CONFIDENCES, CONFIDENCES),
    ]
    ranked = 1 / np.arange(1.0, classes)
    rest = {"agree": np.ones(classes - 1), "disagree": np.ones(classes - 1), "dark": ranked}
    students = [_logits(student, 0, rest[pair]) for pair, student, _ in pairs]
    teachers = [_logits(teacher, int(pair == "disagree"), rest[pair][::-1]) for pair, _, teacher in pairs]
    table = pd.DataFrame(pairs, columns=["pair", "student", "teacher"])
    return table, torch.from_numpy(np.stack(students)), torch.from_numpy(np.stack(teachers))


def _logits(confidence: float, label: int, rest: np.ndarray) -> np.ndarray:
    """Return logits that give a class a probability, and the others the remaining one in proportion to `rest`."""
    with np.errstate(divide="ignore"):
        others = np.log((1 - confidence) * rest / rest.sum())
    return np.insert(others, label, math.log(confidence))


def _states(rows: pd.DataFrame) -> np.ndarray:
    cases = {
        "not finite": ~np.isfinite(rows["norm"]),
        "equal": rows["reference"] == 0,
        "explodes": rows["scaled"] > EXPLODES,
        "vanishes": rows["ratio"] < VANISHES,
    }
    return np.select(list(cases.values()), list(cases), "fine")


def _share(rows: pd.DataFrame, state: str, keys: list[str]) -> pd.Series:
    return (rows["state"] == state).groupby([rows[key] for key in keys], sort=False).mean()


def _numbers(option: str, listed: str) -> list[float]:
    try:
        found = [float(text) for text in listed.split(",")] if listed else []
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise InputError(f"{option} {listed!r} must be numbers with commas between them")
    return found
