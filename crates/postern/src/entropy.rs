//! The one place where randomness comes from: the machines take seeds.

/// A seed for one state machine.
pub(crate) fn seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}
