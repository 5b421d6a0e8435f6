//! Whole messages: the vectors of RFC 5769 and RFC 8489, frames that must be refused, and
//! properties.

mod frames;
mod properties;
mod vectors;
