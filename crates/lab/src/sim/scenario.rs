//! Worlds as data.
