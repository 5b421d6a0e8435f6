//! An HTTP proxy that opens tunnels (RFC 9110 section 9.3.6).

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use super::build::BuildError;
use super::world::World;

/// Where it listens.
const PORT: u16 = 3128;
/// The longest request.
const HEAD_MAX: u64 = 8192;

/// Starts one on a host; it runs for as long as the process does.
pub(super) fn start(world: &World, host: &str) -> Result<(), BuildError> {
    let listener = world.run(host, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    world.spawn(host, move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || pass_on(&client));
        }
    })?;
    Ok(())
}

fn pass_on(client: &TcpStream) -> io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        let read = reader.by_ref().take(HEAD_MAX).read_line(&mut head)?;
        if read == 0 || head.len() as u64 > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let server = TcpStream::connect(target)?;
    let mut client = client;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut to_server, mut from_server) = (server.try_clone()?, server);
    thread::spawn(move || io::copy(&mut reader, &mut to_server));
    io::copy(&mut from_server, &mut client).map(drop)
}
