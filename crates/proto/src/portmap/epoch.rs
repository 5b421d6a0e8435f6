//! Whether a gateway has forgotten its mappings, told by its clock.

use std::time::{Duration, Instant};

/// What is known of a PCP server's clock (RFC 6887 section 8.5).
#[derive(Debug, Clone, Copy, Default)]
pub struct PcpEpoch(Option<(u32, Instant)>);

impl PcpEpoch {
    /// Takes the epoch of an answer; whether the server still has what it had before. The
    /// rule: the clock must not go back by more than one second, and must go as fast as ours
    /// within a sixteenth and two seconds.
    pub fn accept(&mut self, now: Instant, epoch: u32) -> bool {
        let previous = self.0.replace((epoch, now));
        let Some((previous, then)) = previous else {
            return true;
        };
        if epoch.saturating_add(1) < previous {
            return false;
        }
        let client = seconds(now, then);
        let server = u64::from(epoch.saturating_sub(previous));
        let least = |delta: u64| delta.saturating_sub(delta.div_euclid(16));
        client.saturating_add(2) >= least(server) && server.saturating_add(2) >= least(client)
    }
}

/// What is known of a NAT-PMP gateway's clock (RFC 6886 section 3.6).
#[derive(Debug, Clone, Copy, Default)]
pub struct NatPmpEpoch(Option<(u32, Instant)>);

impl NatPmpEpoch {
    /// Takes the epoch of an answer; whether the gateway still has what it had before. The
    /// rule: it must have grown by at least seven eighths of the time, less two seconds.
    pub fn accept(&mut self, now: Instant, epoch: u32) -> bool {
        let previous = self.0.replace((epoch, now));
        let Some((previous, then)) = previous else {
            return true;
        };
        let elapsed = seconds(now, then).saturating_mul(7).div_euclid(8);
        let least = u64::from(previous).saturating_add(elapsed);
        u64::from(epoch).saturating_add(2) >= least
    }
}

fn seconds(now: Instant, then: Instant) -> u64 {
    let elapsed: Duration = now.saturating_duration_since(then);
    elapsed.as_secs()
}
