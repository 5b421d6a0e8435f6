//! Connect programs that sit behind NATs and firewalls.

pub mod transfer;
