use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Flow, Session};
use crate::sys::Inbox;

/// Every packet comes sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Times of so many round trips, one after the other, in microseconds.
pub fn round_trips(session: &Session, count: usize) -> Result<Vec<f64>> {
    let back = session.back.as_ref().context("no way back")?;
    let mut inbox = Inbox::new(1, 8);
    let mut round_trip = || {
        let begin = Instant::now();
        pass(&session.flow, &mut inbox)?;
        pass(back, &mut inbox)?;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    };
    (0..count).map(|_| round_trip()).collect()
}

/// Sends a packet, and looks without sleeping until it is out.
fn pass(flow: &Flow, inbox: &mut Inbox) -> Result<()> {
    let begin = Instant::now();
    flow.send_one()?;
    while flow.take(inbox) == 0 {
        ensure!(begin.elapsed() < PATIENCE, "a packet was lost");
    }
    Ok(())
}
