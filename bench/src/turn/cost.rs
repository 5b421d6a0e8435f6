//! What allocations and strangers cost: processor time and memory.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, Contender, Head};
use crate::client::{Allocation, allocate_many, answer, challenge_many};
use crate::load::{Bound, Load, Path, Pattern, open};
use crate::report::Goal;
use crate::subject::{Server, Subject};

/// Allocations whose processor time is measured.
const ALLOCATED: usize = 1000;

/// Allocations whose memory is measured.
const IDLE: usize = 4000;

/// Sources that ask for an allocation without credentials, in waves.
const WAVE: usize = 60;
const WAVES: usize = 100;

/// Until a server has done what it does after it has answered.
const SETTLE: Duration = Duration::from_millis(300);

pub(super) fn rows(bench: &mut Bench) -> Result<()> {
    let row = |bench: &mut Bench, name, unit, goal, sample: fn(&Server) -> Result<f64>| {
        let contenders = [Subject::Postern, Subject::Coturn].map(|subject| {
            Contender::new(subject, move |server| Ok(vec![sample(server)?])).fresh()
        });
        let head = Head::new(name, unit, &[Goal::AtMost(goal)]);
        bench.measure(&[head], contenders.into())
    };
    let name = "Allocate with 401 and authentication";
    row(bench, name, "µs CPU", 25.0, allocation)?;
    row(bench, "memory per idle allocation", "kB", 2.0, idle)?;
    let name = "memory per unauthenticated UDP source";
    // About a thousandth of coturn's: the pages of an allocator, not a record each.
    row(bench, name, "kB", 0.02, stranger)
}

fn allocation(server: &Server) -> Result<f64> {
    // The first of all pay for what is made once. They stay: a client that comes back from
    // the port of one that was deleted just now may find it still there.
    let first = allocate_many(server.udp(), WAVE)?;
    let before = server.cpu_micros()?;
    let allocations = allocate_many(server.udp(), ALLOCATED)?;
    let spent = server.cpu_micros()? - before;
    drop((first, allocations));
    Ok(spent / ALLOCATED as f64)
}

fn idle(server: &Server) -> Result<f64> {
    let before = used_before(server)?;
    let allocations = allocate_many(server.udp(), IDLE)?;
    let grown = growth(server, before)?;
    drop(allocations);
    Ok(grown / IDLE as f64)
}

fn stranger(server: &Server) -> Result<f64> {
    let before = used_before(server)?;
    // They stay open, so that each has an address of its own.
    let mut sources = Vec::with_capacity(WAVES);
    for _ in 0..WAVES {
        let wave = challenge_many(server.udp(), WAVE)?;
        wave.iter()
            .try_for_each(|socket| answer(socket).map(drop))?;
        sources.push(wave);
    }
    Ok(growth(server, before)? / (WAVE * WAVES) as f64)
}

/// The memory of a server that has served somebody: its buffers are not charged to those
/// who come next.
fn used_before(server: &Server) -> Result<f64> {
    let session = open(server, Path::Channel, 1200)?;
    let (flow, allocation) = session.into_flow();
    let few = Bound {
        time: Duration::from_secs(1),
        packets: 1000,
    };
    for pattern in [Pattern::single(32), Pattern::trains(32)] {
        Load::new(std::slice::from_ref(&flow), pattern).run(few)?;
    }
    allocation.into_iter().try_for_each(Allocation::delete)?;
    thread::sleep(SETTLE);
    server.resident()
}

/// Kilobytes since then.
fn growth(server: &Server, before: f64) -> Result<f64> {
    thread::sleep(SETTLE);
    Ok((server.resident()? - before) / 1000.0)
}
