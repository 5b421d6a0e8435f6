//! What `make bench-turn` does, on the real server: a few hundred packets, no speed.
#![cfg(target_os = "linux")]

use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::Result;
use postern_bench::client::{Allocation, allocate_many, answer, challenge_many};
use postern_bench::load::{
    Bound, Connection, Counts, Direction, Load, Path, Pattern, Session, open,
};
use postern_bench::subject::{Programs, Server, Subject};

const FEW: Bound = Bound {
    time: Duration::from_secs(10),
    packets: 320,
};

fn server() -> Result<Server> {
    Programs::new(FilePath::new(env!("CARGO_BIN_EXE_postern")))?.start(Subject::Postern)
}

fn all_arrive(server: &Server, path: Path, pattern: Pattern, sessions: usize) -> Result<()> {
    let sessions = (0..sessions).map(|_| open(server, path, 600));
    let sessions = sessions.collect::<Result<Vec<_>>>()?;
    let (flows, allocations): (Vec<_>, Vec<_>) =
        sessions.into_iter().map(Session::into_flow).unzip();
    let counts = Load::new(&flows, pattern).patient(FEW.time).run(FEW)?;
    let expected = Counts {
        sent: FEW.packets,
        arrived: FEW.packets,
    };
    assert_eq!(counts, expected, "{path:?}, {pattern:?}");
    let allocations = allocations.into_iter().flatten();
    allocations.into_iter().try_for_each(Allocation::delete)
}

#[test]
fn packets_of_every_load_come_out() -> Result<()> {
    let server = server()?;
    for path in [
        Path::Channel,
        Path::ChannelBack,
        Path::Indication,
        Path::IndicationBack,
        Path::Clients,
    ] {
        all_arrive(&server, path, Pattern::trains(32), 1)?;
        all_arrive(&server, path, Pattern::single(32), 1)?;
        all_arrive(&server, path, Pattern::single(1), 4)?;
    }
    all_arrive(&server, Path::Binding, Pattern::single(32), 1)?;
    assert!(server.cpu_micros()? > 0.0);
    assert!(server.resident()? > 0.0);
    Ok(())
}

#[test]
fn a_connection_carries_bytes_both_ways() -> Result<()> {
    let server = server()?;
    for direction in [Direction::ToPeer, Direction::ToClient] {
        let connection = Connection::open(&server)?;
        connection.check(direction)?;
        let bytes = connection.run(direction, FEW.time, 1 << 20)?;
        assert_eq!(bytes, 1 << 20);
        connection.end()?;
    }
    Ok(())
}

#[test]
fn many_allocations_are_made_at_once_and_strangers_are_challenged() -> Result<()> {
    let server = server()?;
    let allocations = allocate_many(server.udp(), 100)?;
    assert_eq!(allocations.len(), 100);
    allocations.into_iter().try_for_each(Allocation::delete)?;
    for stranger in challenge_many(server.udp(), 10)? {
        assert!(!answer(&stranger)?.is_empty());
    }
    Ok(())
}
