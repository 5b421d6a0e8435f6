//! `postern demo`

use clap::Args;

use crate::failure::Failure;

/// Options of `postern demo`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::failed("system", "not here"))
}
