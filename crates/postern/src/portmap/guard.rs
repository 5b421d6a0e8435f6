//! Tests must not ask the network of whoever runs them for ports.

use std::fs;
use std::path::Path;

/// The environment variable of the guard: set to `namespace`, nothing is searched or mapped in
/// the network of process 1; set to the name of a network, as `/proc/self/ns/net` links to it,
/// nothing is in that one.
pub const GUARD: &str = "POSTERN_NETWORK_GUARD";

/// Whether the guard is set and this is not a namespace that somebody made.
pub(crate) fn forbids() -> bool {
    let Some(value) = std::env::var_os(GUARD) else {
        return false;
    };
    let own = fs::read_link("/proc/self/ns/net");
    match own {
        Ok(own) if value == "namespace" => !is_made(&own),
        Ok(own) => own.as_os_str() == value,
        Err(_) => true,
    }
}

/// Whether this is another network than that of process 1. Whoever may not look at process 1
/// is in a user namespace, which was made for the purpose if it is not the first one.
fn is_made(own: &Path) -> bool {
    if let Ok(first) = fs::read_link("/proc/1/ns/net") {
        return own != first;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}
