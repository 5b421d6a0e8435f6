//! TCP relays (RFC 6062): what one connection carries.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Contender, Head};
use crate::limit::Kind;
use crate::load::{Connection, Direction};
use crate::report::Goal;
use crate::subject::{Server, Subject};

const WARM_UP: Duration = Duration::from_millis(150);
const MEASURED: Duration = Duration::from_millis(700);

pub(super) fn rows(bench: &mut Bench) -> Result<()> {
    for (direction, name) in [
        (Direction::ToPeer, "RFC 6062, client to peer"),
        (Direction::ToClient, "RFC 6062, peer to client"),
    ] {
        let subjects = [
            Subject::Postern,
            Subject::Coturn,
            Subject::Limit(Kind::Splice),
        ];
        let measure = move |server: &Server| Ok(vec![carried(server, direction)?]);
        let contenders = subjects.map(|subject| Contender::new(subject, measure));
        let goal = Goal::RatioAtLeast("limit", 0.85);
        let head = Head::new(name, "GB per CPU second", &[goal]);
        bench.measure(&[head], contenders.into())?;
    }
    Ok(())
}

/// Gigabytes for each second of the server's processor time.
fn carried(server: &Server, direction: Direction) -> Result<f64> {
    let connection = Connection::open(server)?;
    connection.check(direction)?;
    connection.run(direction, WARM_UP, u64::MAX)?;
    let before = server.cpu_micros()?;
    let bytes = connection.run(direction, MEASURED, u64::MAX)?;
    let spent = server.cpu_micros()? - before;
    connection.end()?;
    Ok(bytes as f64 / 1e3 / spent)
}
