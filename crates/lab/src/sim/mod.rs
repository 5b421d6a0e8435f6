//! An internet in memory: virtual time, seeded, reproducible.
