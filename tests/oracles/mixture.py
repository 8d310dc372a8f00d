"""The mixture density of Graves 2013 (arXiv 1308.0850, section 4.1), one point at a time.

Shapes: M components; e a number, pi, rho (M,), mu, sigma (M, 2), all with a hat as the network
gives them. The same for D independent coordinates, without rho: mu, sigma (M, D).
"""

import numpy as np


def normal(x: np.ndarray, mu: np.ndarray, sigma: np.ndarray, rho: float) -> float:
    """N(x | mu, sigma, rho) of a bivariate Gaussian, eq 24 and 25."""
    z = (
        (x[0] - mu[0]) ** 2 / sigma[0] ** 2
        + (x[1] - mu[1]) ** 2 / sigma[1] ** 2
        - 2 * rho * (x[0] - mu[0]) * (x[1] - mu[1]) / (sigma[0] * sigma[1])
    )
    scale = 2 * np.pi * sigma[0] * sigma[1] * np.sqrt(1 - rho**2)
    return float(np.exp(-z / (2 * (1 - rho**2))) / scale)


def bivariate(
    x: np.ndarray,
    e: float,
    pi: np.ndarray,
    mu: np.ndarray,
    sigma: np.ndarray,
    rho: np.ndarray,
) -> float:
    """Pr(x) of a point (x1, x2, end of stroke), eq 18-23."""
    e = 1 / (1 + np.exp(e))  # 18
    pi = np.exp(pi) / np.exp(pi).sum()  # 19
    sigma, rho = np.exp(sigma), np.tanh(rho)  # 20-22
    total = sum(pi[j] * normal(x[:2], mu[j], sigma[j], rho[j]) for j in range(len(pi)))
    return float(total * (e if x[2] == 1 else 1 - e))  # 23


def diagonal(x: np.ndarray, pi: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """The density of x (D,) under a mixture of Gaussians with independent coordinates."""
    pi, sigma = np.exp(pi) / np.exp(pi).sum(), np.exp(sigma)
    total = 0.0
    for j in range(len(pi)):
        each = np.exp(-0.5 * ((x - mu[j]) / sigma[j]) ** 2) / (np.sqrt(2 * np.pi) * sigma[j])
        total += pi[j] * np.prod(each)
    return float(total)
