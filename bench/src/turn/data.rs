//! Packets of data, and Binding requests: processor time for each that comes out.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Contender, Head};
use crate::limit::Kind;
use crate::load::{Bound, Load, Path, Pattern, Session, open};
use crate::report::{Goal, say};
use crate::subject::{Server, Subject};

/// Before a sample is taken.
const WARM_UP: Duration = Duration::from_millis(150);

/// How long a sample is measured.
const MEASURED: Duration = Duration::from_millis(700);

/// Packets in a train, and single packets that leave with one system call.
const TRAIN: usize = 32;

/// What is sent.
#[derive(Debug, Clone, Copy)]
struct Spec {
    path: Path,
    /// Bytes of data in a packet.
    data: usize,
    pattern: Pattern,
    sessions: usize,
}

const TRAINS: Spec = Spec {
    path: Path::Channel,
    data: 1200,
    pattern: Pattern::trains(TRAIN),
    sessions: 1,
};

const UNIT: &str = "µs CPU a packet";

const NO_SLOWER: Goal = Goal::RatioAtMost("coturn", 1.0);

/// 70 % of what the bare relay carries.
const NEAR_LIMIT: Goal = Goal::RatioAtMost("limit", 1.0 / 0.7);

pub(super) fn rows(bench: &mut Bench) -> Result<()> {
    let goals = [Goal::AtMost(0.5), NEAR_LIMIT];
    pair(bench, "ChannelData 1200 B", TRAINS, &goals, &[NO_SLOWER])?;
    let small = Spec {
        data: 100,
        ..TRAINS
    };
    pair(
        bench,
        "ChannelData 100 B",
        small,
        &[NO_SLOWER],
        &[NO_SLOWER],
    )?;
    let twice = [Goal::RatioAtMost(CHANNEL, 2.0), NO_SLOWER];
    for (path, name) in [
        (Path::ChannelBack, "peer to client 1200 B"),
        (Path::Indication, "Send indications 1200 B"),
        (Path::IndicationBack, "Data indications 1200 B"),
    ] {
        pair(bench, name, Spec { path, ..TRAINS }, &twice, &twice)?;
    }
    let many = Spec {
        sessions: 64,
        ..TRAINS
    };
    pair(
        bench,
        "64 sessions 1200 B",
        many,
        &[NO_SLOWER],
        &[NO_SLOWER],
    )?;
    let clients = Spec {
        path: Path::Clients,
        ..TRAINS
    };
    pair(
        bench,
        "client to client 1200 B",
        clients,
        &[NO_SLOWER],
        &[NO_SLOWER],
    )?;
    let binding = Spec {
        path: Path::Binding,
        pattern: Pattern::single(TRAIN),
        ..TRAINS
    };
    row(
        bench,
        "STUN Binding",
        binding,
        &[Goal::RatioAtMost("limit", 1.0 / 0.9)],
    )
}

/// A row of trains and one of single packets, one of each session at a time.
fn pair(bench: &mut Bench, name: &str, spec: Spec, trains: &[Goal], single: &[Goal]) -> Result<()> {
    row(bench, &format!("{name}, trains of {TRAIN}"), spec, trains)?;
    let burst = (TRAIN / spec.sessions).max(1);
    let spec = Spec {
        pattern: Pattern::single(burst),
        ..spec
    };
    row(bench, &format!("{name}, single packets"), spec, single)
}

/// What the other ways are compared with.
const CHANNEL: &str = "postern, ChannelData there";

fn row(bench: &mut Bench, name: &str, spec: Spec, goals: &[Goal]) -> Result<()> {
    let measure = move |server: &Server| Ok(vec![cost(server, spec)?]);
    let limit = if spec.path == Path::Binding {
        Kind::Binding
    } else if spec.pattern.train > 1 {
        Kind::Trains
    } else {
        Kind::Packets
    };
    let mut contenders: Vec<_> = [Subject::Postern, Subject::Coturn, Subject::Limit(limit)]
        .map(|subject| Contender::new(subject, measure))
        .into();
    match spec.path {
        Path::Channel | Path::Binding => {}
        Path::Clients => contenders.truncate(2),
        Path::ChannelBack | Path::Indication | Path::IndicationBack => {
            let there = Spec {
                path: Path::Channel,
                ..spec
            };
            let measure = move |server: &Server| Ok(vec![cost(server, there)?]);
            contenders.push(Contender::new(Subject::Postern, measure).named(CHANNEL));
        }
    }
    bench.measure(&[Head::new(name, UNIT, goals)], contenders)
}

/// Microseconds of the server's processor time for each packet that came out.
fn cost(server: &Server, spec: Spec) -> Result<f64> {
    let sessions = (0..spec.sessions).map(|_| open(server, spec.path, spec.data));
    let sessions = sessions.collect::<Result<Vec<_>>>()?;
    let (flows, rest): (Vec<_>, Vec<_>) = sessions.into_iter().map(Session::into_flow).unzip();
    let mut load = Load::new(&flows, spec.pattern);
    load.run(Bound::time(WARM_UP))?;
    let before = server.cpu_micros()?;
    let counts = load.run(Bound::time(MEASURED))?;
    let spent = server.cpu_micros()? - before;
    rest.into_iter()
        .flatten()
        .try_for_each(crate::client::Allocation::delete)?;
    ensure!(counts.arrived > 0, "nothing came out");
    let share = counts.arrived as f64 / counts.sent as f64;
    if share < 0.98 {
        say(&format!(
            "    of these packets {:.1} % came out\n",
            share * 100.0
        ))?;
    }
    Ok(spent / counts.arrived as f64)
}
