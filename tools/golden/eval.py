#!/usr/bin/env python3
"""Goldens of src/eval: distances between sets of features and similarity of videos, in plain numpy.

    .deps/venv/bin/python tools/golden/eval.py [--out tests/golden]

distances   Frechet distance by the eigenvalues of the unsymmetric product, KID and its jackknife by loops over
            samples, precision, recall and coverage by counting, the squared Wasserstein distance by repeating samples
            to a common number
similarity  mean squared error, PSNR and SSIM with the window moved place by place
"""

import argparse
import math

import numpy

import common

PRODUCER = "tools/golden/eval.py"
PACKAGES = ("numpy", "safetensors")


def frechet(a, b):
    ca, cb = numpy.cov(a, rowvar=False), numpy.cov(b, rowvar=False)
    cross = numpy.sqrt(numpy.linalg.eigvals(ca @ cb).astype(complex)).real.sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + numpy.trace(ca) + numpy.trace(cb) - 2 * cross


def kid(a, b):
    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    aa = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    bb = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    ab = sum(kernel(x, y) for x in a for y in b) / (n * m)
    return aa + bb - 2 * ab


def kid_error(a, b):
    without_a = numpy.array([kid(numpy.delete(a, i, 0), b) for i in range(len(a))])
    without_b = numpy.array([kid(a, numpy.delete(b, i, 0)) for i in range(len(b))])
    return math.sqrt(sum(((x - x.mean()) ** 2).sum() * (len(x) - 1) / len(x) for x in (without_a, without_b)))


def manifolds(real, model, k):
    def radius(x, points):
        return sorted(numpy.linalg.norm(points - x, axis=1))[k]  # the nearest is x itself

    in_real = numpy.array([[numpy.linalg.norm(f - r) <= radius(r, real) for f in model] for r in real])
    in_model = numpy.array([[numpy.linalg.norm(f - r) <= radius(f, model) for f in model] for r in real])
    return {"precision": in_real.any(0).mean(), "recall": in_model.any(1).mean(), "coverage": in_real.any(1).mean()}


def wasserstein(a, b):
    common_count = math.lcm(len(a), len(b))
    return ((numpy.repeat(numpy.sort(a), common_count // len(a))
             - numpy.repeat(numpy.sort(b), common_count // len(b))) ** 2).mean()


def ssim(a, b):
    x = numpy.arange(11) - 5
    row = numpy.exp(-(x**2) / (2 * 1.5**2))
    window = numpy.outer(row, row) / row.sum() ** 2
    values = []
    for frame_a, frame_b in zip(a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:])):
        for top in range(a.shape[2] - 10):
            for left in range(a.shape[3] - 10):
                u, v = frame_a[top:top + 11, left:left + 11], frame_b[top:top + 11, left:left + 11]
                mu, mv = (window * u).sum(), (window * v).sum()
                suu = (window * (u - mu) ** 2).sum()
                svv = (window * (v - mv) ** 2).sum()
                suv = (window * (u - mu) * (v - mv)).sum()
                values.append((2 * mu * mv + 1e-4) * (2 * suv + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (suu + svv + 9e-4)))
    return numpy.mean(values)


def scalars(values):
    return {name: numpy.array([value], numpy.float64) for name, value in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    root = parser.parse_args().out
    a = common.tensor("distances", "a", (40, 6)).astype(numpy.float64)
    b = common.tensor("distances", "b", (35, 6), 0.4, 1.3).astype(numpy.float64)
    common.write("eval", "distances", scalars({
        "frechet": frechet(a, b), "kid": kid(a, b), "kid_error": kid_error(a, b), **manifolds(a, b, 5),
        "wasserstein": wasserstein(a[:, 0], b[:, 0])}),
        what="distances between two sets of generated features [40, 6] and [35, 6]", producer=PRODUCER, packages=PACKAGES,
        tolerance=1e-10, tolerance_reason="both in fp64, a few thousand additions", root=root)

    video = numpy.clip(common.tensor("similarity", "a", (2, 3, 17, 19), 0.5, 0.2), 0, 1)
    other = numpy.clip(video + common.tensor("similarity", "noise", (2, 3, 17, 19), 0.02, 0.1), 0, 1)
    video, other = video.astype(numpy.float64), other.astype(numpy.float64)
    mse = ((video - other) ** 2).mean()
    common.write("eval", "similarity", scalars({"mse": mse, "psnr": -10 * math.log10(mse), "ssim": ssim(video, other)}),
                 what="similarity of two generated videos [2, 3, 17, 19]", producer=PRODUCER, packages=PACKAGES,
                 tolerance=1e-10, tolerance_reason="both in fp64 from equal fp32 videos; PSNR 1e-9", root=root)


if __name__ == "__main__":
    main()
