//! Why something is not granted, and how often.

/// Why it is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The rules do not allow it.
    NotAuthorized,
    /// Another host, or another mapping, has the port.
    Conflict,
    /// The host has too many leases, or asks too fast.
    Quota,
    /// There is no room, or no port.
    NoResources,
    /// There is no outside address.
    NoExternal,
}

/// How many wishes were not granted, by what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// The rules do not allow it.
    pub by_rules: u64,
    /// The port is another one's.
    pub by_conflict: u64,
    /// The host has, or asks for, too much.
    pub by_quota: u64,
    /// There was no room, or no port, or the kernel failed.
    pub without_resources: u64,
    /// There was no outside address.
    pub without_address: u64,
}

impl Refused {
    pub(super) fn count(&mut self, why: Refusal) {
        let count = match why {
            Refusal::NotAuthorized => &mut self.by_rules,
            Refusal::Conflict => &mut self.by_conflict,
            Refusal::Quota => &mut self.by_quota,
            Refusal::NoResources => &mut self.without_resources,
            Refusal::NoExternal => &mut self.without_address,
        };
        *count = count.saturating_add(1);
    }
}
