//! Criterion benches of shmesh; see `benches/`.
