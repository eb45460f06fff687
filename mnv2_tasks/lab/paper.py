"""Numbers that the paper and its authors published, as data."""

# The published width x resolution grid: parameters in M, and multiply-adds in M by input size.
# Source: github.com/tensorflow/models, research/slim/nets/mobilenet/README.md.
PARAMETERS = {0.35: 1.66, 0.5: 1.95, 0.75: 2.61, 1.0: 3.47, 1.3: 5.34, 1.4: 6.06}
SIZES = (224, 192, 160, 128, 96)
GRID: dict[float, dict[int, int]] = {
    0.35: dict(zip(SIZES, (59, 43, 30, 20, 11), strict=True)),
    0.5: dict(zip(SIZES, (97, 71, 50, 32, 18), strict=True)),
    0.75: dict(zip(SIZES, (209, 153, 107, 69, 39), strict=True)),
    1.0: dict(zip(SIZES, (300, 221, 154, 99, 56), strict=True)),
    1.3: {224: 509},
    1.4: {224: 582},
}
GRID_TOP1: dict[float, dict[int, float]] = {  # in percent
    1.4: {224: 75.0},
    1.3: {224: 74.4},
    1.0: {224: 71.8, 192: 70.7, 160: 68.8, 128: 65.3, 96: 60.3},
    0.75: {224: 69.8, 192: 68.7, 160: 66.4, 128: 63.2, 96: 58.8},
    0.5: {224: 65.4, 192: 63.9, 160: 61.0, 128: 57.7, 96: 51.2},
    0.35: {224: 60.3, 192: 58.2, 160: 55.7, 128: 50.8, 96: 45.5},
}
TABLE_2 = (  # t, c, n, s of the bottlenecks; not taken from `backbone.STAGES`, which it is compared with
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
