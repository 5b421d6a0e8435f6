//! The router's side of port mapping: rules in the kernel that lead outside ports to hosts
//! inside.

mod kernel;
mod rules;

#[cfg(test)]
mod tests;

pub(crate) use kernel::{Installed, Kernel, KernelError, Mapping, Outside, Pinhole, Protocol};
pub(crate) use rules::Rules;
