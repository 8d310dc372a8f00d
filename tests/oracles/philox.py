"""Philox 4x32-10 in plain integers (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy
as 1, 2, 3, SC 2011)."""

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key between rounds

Words4 = tuple[int, int, int, int]


def philox4x32(counter: Words4, key: tuple[int, int], rounds: int = 10) -> Words4:
    """Return the four 32-bit words that belong to a counter (4 words) and a key (2 words)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        product0 = MULTIPLIERS[0] * c0
        product1 = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & MASK,
        )
        k0 = (k0 + WEYL[0]) & MASK
        k1 = (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3
