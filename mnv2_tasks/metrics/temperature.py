"""Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2)."""

import numpy as np

STEPS = 60  # of bisection: the bracket is smaller than a float64's last bits then


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The mean over images of -log softmax(logits / temperature) of the true class; logits (N, K), labels (N,)."""
    scaled = logits / temperature
    return float((_logsumexp(scaled) - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, coolest: float, hottest: float) -> float | None:
    """The temperature of the least negative log-likelihood; None where it is not between `coolest` and `hottest`.

    It has none where every image is right (the colder the better), or where classes are guessed (the hotter). In the
    inverse temperature the likelihood is concave, so that the one root of its slope is what bisection finds.
    """
    logits = logits.astype(np.float64)
    true = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Of the negative log-likelihood: the mean of the expected logit less the true one."""
        return float(((softmax(logits * inverse) * logits).sum(1) - true).mean())

    low, high = 1 / hottest, 1 / coolest
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K)."""
    return np.exp(logits - _logsumexp(logits)[:, None])


def _logsumexp(values: np.ndarray) -> np.ndarray:
    top = values.max(1)
    return top + np.log(np.exp(values - top[:, None]).sum(1))
