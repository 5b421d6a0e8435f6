//! Round trips through the relay, alone and beside a flood.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Contender, Head};
use crate::client::{Allocation, allocate_many};
use crate::limit::Kind;
use crate::load::{Bound, Load, Path, Pattern, fairness, open, round_trips};
use crate::report::{Goal, quantile};
use crate::subject::{Server, Subject};

/// Bytes of data in a packet that goes there and back.
const PING: usize = 100;

/// Round trips of one sample.
const ROUND_TRIPS: usize = 10_000;

/// Allocations that the victim shares the server with.
const OTHERS: usize = 1000;

/// Bytes of data in a packet of the flood.
const FLOOD: usize = 1200;

/// How long the flooder measures what the server can do, and how long the victim measures.
const CAPACITY: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

pub(super) fn rows(bench: &mut Bench) -> Result<()> {
    let subjects = [
        Subject::Postern,
        Subject::Coturn,
        Subject::Limit(Kind::Packets),
    ];
    let heads = [
        Head::new("round trip 100 B, p50", "µs", &[]),
        Head::new("round trip 100 B, p99", "µs", &[]),
    ];
    let contenders = subjects.map(|subject| Contender::new(subject, idle));
    bench.measure(&heads, contenders.into())?;
    let subjects = [Subject::Postern, Subject::Coturn];
    let heads = [
        Head::new("fairness: victim's p99, no flood", "µs", &[]),
        Head::new("fairness: victim's p99, beside a flood", "µs", &[]),
        Head::new(
            "fairness: how much the flood adds",
            "times",
            &[Goal::AtMost(2.0)],
        ),
        Head::new("fairness: the flood", "packets/s", &[]),
    ];
    let contenders = subjects.map(|subject| Contender::new(subject, beside_a_flood).fresh());
    bench.measure(&heads, contenders.into())
}

fn idle(server: &Server) -> Result<Vec<f64>> {
    let session = open(server, Path::Channel, PING)?;
    round_trips(&session, ROUND_TRIPS / 10)?;
    let times = round_trips(&session, ROUND_TRIPS)?;
    session.end()?;
    Ok(vec![quantile(&times, 0.5), quantile(&times, 0.99)])
}

/// A flooder that sends half of what the server can do for it.
fn beside_a_flood(server: &Server) -> Result<Vec<f64>> {
    let others = allocate_many(server.udp(), OTHERS)?;
    let victim = open(server, Path::Channel, PING)?;
    let (flooder, allocation) = open(server, Path::Channel, FLOOD)?.into_flow();
    let flows = std::slice::from_ref(&flooder);
    let most = Load::new(flows, Pattern::single(32)).run(Bound::time(CAPACITY))?;
    let rate = most.arrived as f64 / CAPACITY.as_secs_f64() / 2.0;
    let alone = fairness(&victim, &flooder, 0.0, MEASURED)?;
    let beside = fairness(&victim, &flooder, rate, MEASURED)?;
    victim.end()?;
    others
        .into_iter()
        .chain(allocation)
        .try_for_each(Allocation::delete)?;
    Ok(vec![
        alone.p99,
        beside.p99,
        beside.p99 / alone.p99,
        beside.flood,
    ])
}
