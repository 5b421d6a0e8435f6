//! The system calls that have no safe wrapper, or only one that costs more than the call:
//! what is measured here is compared with the bare system calls.

use std::ffi::c_int;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// The most messages of one call.
pub(crate) const BATCH: usize = 64;

/// From linux/udp.h.
const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;

/// Room for one control message with a segment size.
type Control = [u64; 4];

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// What it is made of.
    pub(crate) parts: &'a [IoSlice<'a>],
    /// The length of the datagrams that it is cut into; 0: it is one datagram.
    pub(crate) segment: u16,
    /// Where it goes, if the socket is not connected.
    pub(crate) to: Option<SocketAddrV4>,
}

/// Sends up to [`BATCH`] messages with one call, and says how many were sent.
#[expect(unsafe_code, reason = "sendmmsg takes pointers")]
pub(crate) fn send(socket: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut headers = [const { MaybeUninit::uninit() }; BATCH];
    let mut names = [const { MaybeUninit::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::uninit() }; BATCH];
    let slots = headers.iter_mut().zip(&mut names).zip(&mut controls);
    for (message, ((header, name), control)) in messages.iter().zip(slots) {
        header.write(outgoing_header(message, name, control));
    }
    let count = messages.len().min(BATCH);
    // SAFETY: `count` headers are filled in, and all that they point to outlives the call.
    let sent = unsafe {
        let headers = headers.as_mut_ptr().cast();
        libc::sendmmsg(socket.as_raw_fd(), headers, count as u32, 0)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[expect(
    unsafe_code,
    reason = "the macros for control messages are functions of pointers"
)]
fn outgoing_header(
    message: &Outgoing<'_>,
    name: &mut MaybeUninit<libc::sockaddr_in>,
    control: &mut MaybeUninit<Control>,
) -> libc::mmsghdr {
    // SAFETY: numbers and pointers, for which zero is a value.
    let mut whole: libc::mmsghdr = unsafe { std::mem::zeroed() };
    let header = &mut whole.msg_hdr;
    // IoSlice has the layout of iovec, and sendmmsg does not write to it.
    header.msg_iov = message.parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = message.parts.len() as _;
    if let Some(to) = message.to {
        header.msg_name = std::ptr::from_mut(name.write(sockaddr(to))).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }
    if message.segment > 0 {
        header.msg_control = std::ptr::from_mut(control.write(Control::default())).cast();
        // SAFETY: a Control is as large as a message with two bytes needs, and aligned.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(2) as _;
            let control = libc::CMSG_FIRSTHDR(header);
            (*control).cmsg_level = libc::SOL_UDP;
            (*control).cmsg_type = UDP_SEGMENT;
            (*control).cmsg_len = libc::CMSG_LEN(2) as _;
            let size = libc::CMSG_DATA(control).cast::<u16>();
            size.write_unaligned(message.segment);
        }
    }
    whole
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// Buffers for the messages of one call.
#[derive(Debug)]
pub(crate) struct Inbox {
    headers: Vec<libc::mmsghdr>,
    // The headers point into these, which are never moved or grown.
    buffers: Vec<Box<[u8]>>,
    _parts: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
}

impl Inbox {
    /// Room for `count` messages, at most [`BATCH`], of `size` bytes each.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        let count = count.min(BATCH);
        let mut buffers = vec![vec![0; size].into_boxed_slice(); count];
        let mut parts: Vec<_> = buffers.iter_mut().map(|buffer| part(buffer)).collect();
        let mut names = vec![sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); count];
        let mut controls = vec![Control::default(); count];
        let headers = (0..count)
            .map(|index| header(&mut parts[index], &mut names[index], &mut controls[index]))
            .collect();
        Self {
            headers,
            buffers,
            _parts: parts,
            names,
            controls,
        }
    }

    /// Receives what is there, without waiting, and says how many messages that were.
    #[expect(unsafe_code, reason = "recvmmsg takes pointers")]
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, flags: c_int) -> io::Result<usize> {
        // SAFETY: the headers point into vectors of the same length that `self` owns.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as u32,
                flags | libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, control) in self.headers.iter_mut().zip(&mut self.controls).take(count) {
            // The kernel has written how much of the room it has used.
            if header.msg_hdr.msg_controllen == 0 {
                *control = Control::default();
            }
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        Ok(count)
    }

    /// The length of a message, which is more than was kept if it was cut off.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.headers[index].msg_len as usize
    }

    /// What was kept of a message.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        let buffer = &self.buffers[index];
        &buffer[..self.length(index).min(buffer.len())]
    }

    /// The length of the datagrams that the message is a train of, the last of which may
    /// be shorter; that of the message if it is not one.
    pub(crate) fn segment(&self, index: usize) -> usize {
        segment(&self.controls[index]).unwrap_or_else(|| self.length(index).max(1))
    }

    /// Who sent it.
    pub(crate) fn from(&self, index: usize) -> SocketAddrV4 {
        let name = &self.names[index];
        let ip = u32::from_be(name.sin_addr.s_addr);
        SocketAddrV4::new(ip.into(), u16::from_be(name.sin_port))
    }
}

fn part(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    }
}

#[expect(
    unsafe_code,
    reason = "mmsghdr has private padding, so it starts as zeroes"
)]
fn header(
    part: &mut libc::iovec,
    name: &mut libc::sockaddr_in,
    control: &mut Control,
) -> libc::mmsghdr {
    // SAFETY: numbers and pointers, for which zero is a value.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = std::ptr::from_mut(control).cast();
    header.msg_hdr.msg_controllen = size_of::<Control>() as _;
    header
}

/// What the control message with a train's segment size says, if it is one: its header is
/// the length, then level and type, and the size follows as an int.
fn segment(control: &Control) -> Option<usize> {
    let [_, kind, size, _] = control;
    let kind = kind.to_ne_bytes();
    let (level, kind) = kind.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).ok();
    if number(level)? != libc::SOL_UDP || number(kind)? != UDP_GRO {
        return None;
    }
    let size = number(&size.to_ne_bytes()[..4])?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// Lets a program that `command` starts end with the thread that starts it.
#[expect(
    unsafe_code,
    reason = "pre_exec runs between fork and exec: prctl is a plain system call"
)]
pub(crate) fn end_with_this_thread(command: &mut Command) {
    // SAFETY: see the reason above; the closure neither allocates nor locks.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
}

/// The address, which is one of loopback.
pub(crate) fn ipv4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn a_train_goes_out_in_one_call_and_comes_in_with_its_segment_size() {
        let (sender, receiver) = (
            UdpSocket::bind("127.0.0.1:0"),
            UdpSocket::bind("127.0.0.1:0"),
        );
        let (sender, receiver) = (sender.unwrap(), receiver.unwrap());
        setsockopt(&receiver, sockopt::UdpGroSegment, &true).unwrap();
        let parts = [IoSlice::new(&[1; 250]), IoSlice::new(&[2; 100])];
        let message = |segment| Outgoing {
            parts: &parts,
            segment,
            to: Some(ipv4(receiver.local_addr().unwrap()).unwrap()),
        };
        let sent = send(sender.as_fd(), &[message(100), message(0)]).unwrap();
        assert_eq!(sent, 2);
        let mut inbox = Inbox::new(4, 1000);
        assert_eq!(inbox.receive(receiver.as_fd(), 0).unwrap(), 2);
        assert_eq!(inbox.bytes(0), [[1; 250].as_slice(), &[2; 100]].concat());
        assert_eq!((inbox.segment(0), inbox.segment(1)), (100, 350));
        assert_eq!(SocketAddr::V4(inbox.from(1)), sender.local_addr().unwrap());
        let again = inbox.receive(receiver.as_fd(), 0).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_message_that_is_cut_off_still_tells_its_length() {
        let (sender, receiver) = (
            UdpSocket::bind("127.0.0.1:0"),
            UdpSocket::bind("127.0.0.1:0"),
        );
        let (sender, receiver) = (sender.unwrap(), receiver.unwrap());
        sender
            .send_to(&[7; 500], receiver.local_addr().unwrap())
            .unwrap();
        let mut inbox = Inbox::new(1, 8);
        assert_eq!(inbox.receive(receiver.as_fd(), libc::MSG_TRUNC).unwrap(), 1);
        assert_eq!((inbox.length(0), inbox.bytes(0)), (500, &[7; 8][..]));
    }
}
