use std::io;

use super::LocalTime;

use mio::net::UdpSocket;

pub(super) fn set_may_fragment(_socket: &UdpSocket, _may: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn keep_whole(_socket: &tokio::net::UdpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn set_unsent_limit(_stream: &tokio::net::TcpStream, _bytes: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn raise_file_limit() {}

pub(super) fn local_time(_seconds: i64) -> Option<LocalTime> {
    None
}
